"""Image files written byte by byte, so that tests know what is in them without asking the decoder they test."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: XYZ's columns for red, green and blue of Display P3, adapted to D50 (as in Apple's profile).
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Samples of a pixel, by PNG's color type.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: Adam7: first column, first row, and the steps between columns and rows.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the image in a format of Pillow's."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def b64(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """Return the image in a format of Pillow's, as base64."""
    return base64.b64encode(encoded(image, kind, **options)).decode()


def of_b64(text: str) -> Image.Image:
    """Return the image of a file in base64."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def encoded_pixels(pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG of gray values, uint8 [H, W], or of RGB, [H, W, 3], by Pillow."""
    return encoded(Image.fromarray(pixels))


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: NDArray[Any], depth: int, color_type: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """Return a PNG of ``samples`` [H, W, C], each of ``depth`` bits; ``extra`` chunks stand before the pixels."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, int(interlaced))
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [samples]
    rows = b"".join(b"\0" + _packed(row, depth) for part in parts if part.size for row in part)
    return (
        SIGNATURE + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def _packed(row: NDArray[Any], depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :]
    return np.packbits(bits.reshape(-1)).tobytes()


def jpeg_with(exif: bytes) -> bytes:
    """Return a red JPEG of 16x8 with this as its first APP1 segment."""
    data = encoded(Image.new("RGB", (16, 8), "red"), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def tiff(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """Return EXIF with one directory of ``entries``: tag, type, count, value."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    packed = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + _value(entry, order) for entry in entries)
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, len(entries)) + packed + bytes(4)


def _value(entry: tuple[int, int, int, int], order: str) -> bytes:
    return struct.pack(f"{order}HH", entry[3] & 65535, 0) if entry[1] == 3 else struct.pack(f"{order}I", entry[3])


def profile(primaries: NDArray[np.float64], gamma: float) -> bytes:
    """Return an ICC profile of a display: ``primaries`` [3, 3] are XYZ's columns for red, green, blue, under D50."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {kind: b"XYZ " + bytes(4) + _fixed(*primaries[:, i]) for i, kind in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= {b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1, 0.8249)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _icc(b"RGB ", tags)


def gray_profile(gamma: float) -> bytes:
    """Return an ICC profile of grays."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    return _icc(b"GRAY", {b"wtpt": b"XYZ " + bytes(4) + _fixed(0.9642, 1, 0.8249), b"kTRC": curve})


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _icc(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags |= {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78 + 3)}
    start, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for kind, content in tags.items():
        table += kind + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = bytes(4) + b"lcms" + b"\x02\x10\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += _fixed(0.9642, 1, 0.8249) + bytes(48)
    size = struct.pack(">I", len(header) + len(table) + len(body))
    return size + header[4:] + table + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WebP file of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a WebP file: kind and content."""
    start = 12
    while start + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, start)
        yield kind, data[start + 8 : start + 8 + size]
        start += 8 + size + size % 2


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG: kind and content."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        yield kind, data[start + 8 : start + 8 + size]
        start += 12 + size


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield a JPEG's segments up to its pixels: marker and content; the pixels are the last one's."""
    start = 2
    while data[start + 1] != 0xDA:
        size = int.from_bytes(data[start + 2 : start + 4], "big")
        yield data[start + 1], data[start + 4 : start + 2 + size]
        start += 2 + size
    yield 0xDA, data[start + 2 :]
