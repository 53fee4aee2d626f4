"""An image file taken apart: what the pixels need, and the two things that metadata says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from converter.errors import AnemoneError

LONGEST_SIDE = 8192
#: 128 MB once decoded: Pillow has four bytes for a pixel of three colors, too.
MOST_PIXELS = 32_000_000
#: The formats that are read, in words.
READABLE = "PNG, JPEG, WebP or GIF"
ACCEPTED = f"a complete {READABLE} image up to {LONGEST_SIDE} pixels a side and {MOST_PIXELS // 10**6} megapixels"
#: Bytes of EXIF or XMP, as unpacked, and of a color profile; what is longer is ignored.
LONGEST_TEXT, LONGEST_PROFILE = 1 << 16, 1 << 22

#: The first of EXIF's orientations that swaps width and height.
FIRST_SIDEWAYS = 5

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]
Parts = tuple[memoryview | bytes, ...]


class ImageError(AnemoneError):
    """An uploaded image cannot be used.

    accepted: what is; None if that is no question of the image.
    """

    def __init__(self, wrong: str, accepted: str | None = None) -> None:
        super().__init__(wrong if accepted is None else f"{wrong}; accepted: {accepted}")
        self.accepted = accepted


@dataclass(frozen=True)
class ImageFile:
    """An image file without metadata.

    parts: the bytes that the decoder needs, in order; they are views of the file, so that they take no memory.
    width, height: as in the file's header, before the image is turned upright.
    orientation: EXIF's, 1 to 8.
    profile: the ICC profile of its colors; None stands for sRGB.
    transparent: the gray value or the color that is transparent, with 8 or (gray only) 16 bits; see `png`.
    coefficients: bytes that the decoder takes beside the pixels, for a JPEG whose first scan does not complete any pixel.
    left, top: where the first frame of an animated WebP lies in the image.
    animated: whether the file has further frames, which are not used.
    """

    format: Format
    parts: Parts
    width: int
    height: int
    orientation: int = 1
    profile: bytes | None = None
    transparent: int | tuple[int, int, int] | None = None
    coefficients: int = 0
    left: int = 0
    top: int = 0
    animated: bool = False

    @property
    def name(self) -> str:
        """The format's name in messages."""
        return "WebP" if self.format == "WEBP" else self.format

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.width * self.height

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height once the image is turned upright."""
        return (self.height, self.width) if self.orientation >= FIRST_SIDEWAYS else (self.width, self.height)

    def __post_init__(self) -> None:
        if max(self.width, self.height) > LONGEST_SIDE or self.pixels > MOST_PIXELS or self.pixels < 1:
            raise ImageError(f"this image is {self.width}x{self.height}", ACCEPTED)


def damaged(name: str, reason: str) -> ImageError:
    """Return the error for an image of a format's ``name`` that cannot be decoded."""
    return ImageError(f"this {name} image is damaged or cut short: {reason}", ACCEPTED)
