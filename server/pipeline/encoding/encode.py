"""Encodes images: as the PNG that is stored, and from it as the format that a client takes."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from server.pipeline.encoding.formats import JPEG, PNG, USUAL_QUALITY, OutputFormat
from server.pipeline.encoding.xmp import SourceType, xmp_packet

_PARAMETERS, _XMP = "parameters", "XML:com.adobe.xmp"
#: The last chunk of every PNG; Pillow does not look at its checksum.
_PNG_END = b"IEND\xaeB`\x82"
#: The character code of EXIF's UserComment (EXIF 2.32, table 9) for UTF-16, which A1111 writes and reads big-endian.
_UNICODE = b"UNICODE\0"
#: TIFF's numbers of types.
_LONG, _UNDEFINED = 4, 7
#: Bytes that a segment of a JPEG may have beside its length.
_LONGEST_SEGMENT = 2**16 - 3
#: libwebp's effort, 0 to 6: its default, 4, takes twice as long for files 4 % smaller (20 against 10 ms at 512x512).
_WEBP_METHOD = 2


def encode_png(pixels: NDArray[np.uint8], parameters: str, kind: SourceType | None = None) -> bytes:
    """Return a PNG of uint8 [H, W, 3] with ``parameters`` as AUTOMATIC1111's text chunk (iTXt if it is not
    Latin-1, or would be read otherwise as UTF-8).

    With ``kind`` it also says how the image came about, in XMP.
    """
    info = PngInfo()
    (info.add_itxt if _may_be_misread(parameters) else info.add_text)(_PARAMETERS, parameters)
    if kind is not None:
        info.add_itxt(_XMP, xmp_packet(kind).decode())
    file = io.BytesIO()
    # zlib's default level, 6, takes twice as long for files 4 to 8 % smaller (57 against 27 ms at 512x512).
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info, compress_level=4)
    return file.getvalue()


def _may_be_misread(text: str) -> bool:
    """Return whether the text in Latin-1 is another text in UTF-8, which readers of tEXt, ours too, would take it for."""
    try:
        return text.encode("latin-1").decode() != text
    except UnicodeError:
        return False


def is_whole_png(data: bytes) -> bool:
    """Return whether a stored PNG is as `encode_png` made it, by its checksums: 0.9 ms for 3 MB."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return data.endswith(_PNG_END)


def encode_as(png: bytes, to: OutputFormat, quality: int | None = None) -> bytes:
    """Return a PNG of `encode_png` in another format, with the same parameters (EXIF's UserComment) and XMP.

    ``quality``: 1 to 100, for lossy formats; None for the usual one. Parameters of more than 32,700 UTF-16 units do not fit
    into a JPEG, which is then without them.
    """
    if to == PNG:
        return png
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        assert isinstance(image, PngImageFile)
        exif = _exif(str(image.text.get(_PARAMETERS, "")))
        if to == JPEG and len(exif) > _LONGEST_SEGMENT:
            exif = b""
        # Colors at full resolution: halved, they bleed over the edges of saturated shapes.
        options = {"subsampling": 0} if to == JPEG else {"method": _WEBP_METHOD}
        file = io.BytesIO()
        image.save(
            file,
            to.name,
            quality=USUAL_QUALITY if quality is None else quality,
            exif=exif,
            xmp=str(image.text.get(_XMP, "")).encode(),
            **options,
        )
    return file.getvalue()


def _exif(parameters: str) -> bytes:
    """Return EXIF with the parameters in the comment where A1111 writes and, by piexif, reads them in JPEG and WebP.

    Two directories, the first of which has the place of the second. Pillow would write the comment as numbers, which piexif
    does not read as text.
    """
    comment = _UNICODE + parameters.encode("utf-16-be")
    tiff = struct.pack(">2sHI", b"MM", 42, 8)
    tiff += struct.pack(">HHHIII", 1, ExifTags.IFD.Exif, _LONG, 1, 26, 0)
    tiff += struct.pack(">HHHIII", 1, ExifTags.Base.UserComment, _UNDEFINED, len(comment), 44, 0)
    return b"Exif\0\0" + tiff + comment
