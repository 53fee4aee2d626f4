"""The formats of images that go out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OutputFormat:
    """A format: its name in requests, its media type, the suffixes of its files (the usual one first).

    lossy: whether it has a quality.
    """

    name: str
    media_type: str
    suffixes: tuple[str, ...]
    lossy: bool


PNG = OutputFormat("png", "image/png", (".png",), lossy=False)
JPEG = OutputFormat("jpeg", "image/jpeg", (".jpg", ".jpeg"), lossy=True)
WEBP = OutputFormat("webp", "image/webp", (".webp",), lossy=True)
#: By name. Of those that a client prefers equally, the server sends the first: PNG loses nothing, and is what is stored.
FORMATS = {each.name: each for each in (PNG, WEBP, JPEG)}
#: The quality of lossy formats, 1 to 100, that is used if none is asked for: the bundled model's images at 512x512 then
#: differ from their PNG by 1 level in 255 on average, and take half of its bytes as JPEG, a fifth as WebP.
USUAL_QUALITY = 90


def format_of_suffix(suffix: str) -> OutputFormat | None:
    """Return the format of files with this suffix (``.jpg``), in upper or lower case; None for other suffixes."""
    return next((each for each in FORMATS.values() if suffix.lower() in each.suffixes), None)
