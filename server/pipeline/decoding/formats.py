"""Names what a file is that is not an accepted image, so that a client knows what it sent."""

from __future__ import annotations

_MAGIC = (
    (b"GIF8", "a GIF image whose first bytes are damaged"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF or camera raw image"),
    (b"MM\0*", "a TIFF or camera raw image"),
    (b"II+\0", "a TIFF image"),
    (b"MM\0+", "a TIFF image"),
    (b"\0\0\1\0", "an ICO icon"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop document"),
    (b"qoif", "a QOI image"),
    (b"%PDF", "a PDF document"),
    (b"PK\3\4", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\x89PNG", "a PNG image whose first bytes are damaged"),
    (b"\xff\xd8", "a JPEG image whose first bytes are damaged"),
    (b"RIFF", "a RIFF file that is no WebP image"),
)
#: Images that Preview and sips convert.
_CONVERTIBLE = (
    "a BMP image",
    "a TIFF image",
    "a TIFF or camera raw image",
    "a JPEG 2000 image",
    "an AVIF image",
    "a JPEG XL image",
    "a Photoshop document",
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BASE64 = (b"data:", b"iVBORw0KGgo", b"/9j/", b"UklGR")
#: Bytes looked at to tell text from binary data.
_SAMPLE = 1024


def is_picture(data: bytes) -> bool:
    """Return whether the file is an image of a kind that macOS converts."""
    name = name_of(data)
    return name in _CONVERTIBLE or name.startswith("a HEIC image")


def name_of(data: bytes) -> str:
    """Return what the file is, in words that follow "this is"."""
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp":
        return _of_iso_media(data)
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    return _of_text(data[:_SAMPLE]) or f"a file of {len(data)} bytes in no known format"


def _of_iso_media(data: bytes) -> str:
    brands = [data[start : start + 4] for start in range(8, min(int.from_bytes(data[:4], "big"), 64), 4)]
    if b"avif" in brands or b"avis" in brands:
        return "an AVIF image"
    if any(brand in _HEIC for brand in brands):
        return "a HEIC image, as iPhones save it"
    return "an MP4 or QuickTime video"


def _of_text(sample: bytes) -> str | None:
    """Return the kind of text, None for binary data."""
    text = sample.removeprefix(b"\xef\xbb\xbf").lstrip()
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in text):
        return None
    low = text.lower()
    if b"<svg" in low:
        return "an SVG drawing"
    if low.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, perhaps one that was saved in place of an image"
    if text.startswith(_BASE64):
        return "base64 text; in a form, send the image itself"
    try:
        # A character may be cut in two at the sample's end.
        text[: len(text) - 3 if len(sample) == _SAMPLE else None].decode()
    except UnicodeDecodeError:
        return None
    return "text"
