"""How an image that a request brings along is fitted to its size."""

from __future__ import annotations

from dataclasses import dataclass

from server.errors import quoted
from server.pipeline.boxes.box import Shape


@dataclass(frozen=True)
class Fit:
    """The way that a client asks for, by AUTOMATIC1111's name, of an attachment; ``place`` is where it was asked for."""

    attachment: str
    place: str
    mode: str

    def note(self, image: Shape, size: Shape) -> str | None:
        """Return a note if the image is scaled to cover the size and cropped, and the way asked for would differ."""
        is_crop = self.mode.casefold() == "crop and resize"
        if is_crop or abs(image[0] * size[1] - image[1] * size[0]) < max(size):
            return None
        width, height = size
        return f"{self.place} {quoted(self.mode)} is not done here: the image was scaled to cover {width}x{height} and cropped"
