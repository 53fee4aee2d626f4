"""Every preprocessor by name, with what it makes; and those that need networks of their own, which are not offered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.pipeline.images import Pixels
from server.pipeline.preprocessors.colors import blur, color_grid, tile
from server.pipeline.preprocessors.edges import canny, invert, lines, soft_edge


@dataclass(frozen=True)
class Preprocessor:
    """Makes a control map, uint8 [h, w, 3], from an image of the same size.

    about: what the map shows.
    title: its name in AUTOMATIC1111's ControlNet extension, for the infotext.
    thresholds: whether ``run`` takes a low and a high threshold after the image.
    """

    name: str
    about: str
    title: str
    run: Callable[..., Pixels]
    thresholds: bool = False


def _unchanged(image: Pixels) -> Pixels:
    return image


_ALL = (
    Preprocessor("none", "the image is a map already", "none", _unchanged),
    Preprocessor("canny", "thin edges, white on black", "canny", canny, thresholds=True),
    Preprocessor("soft_edge", "blurred outlines, white on black", "softedge_gradient", soft_edge),
    Preprocessor("lines", "the dark lines of a drawing, white on black", "lineart_standard", lines),
    Preprocessor("invert", "the negative", "invert", invert),
    Preprocessor("color_grid", "the mean colors of blocks", "t2ia_color_grid", color_grid),
    Preprocessor("tile", "the image without its details", "tile_resample", tile),
    Preprocessor("blur", "the image, blurred", "blur_gaussian", blur),
)
PREPROCESSORS = {each.name: each for each in _ALL}
NONE = _ALL[0].name
#: Kinds of maps that only a trained network makes.
LEARNED = ("depth", "normal", "pose", "openpose", "segmentation", "hed", "mlsd", "lineart")


_BY_TITLE = {name.lower(): each for each in _ALL for name in (each.name, each.title)}


def find_preprocessor(title: str) -> Preprocessor | None:
    """Return the preprocessor of a name that the ControlNet extension or this server has for it, in any case; None if unknown.

    The extension adds remarks to some: "invert (from white bg & black line)".
    """
    return _BY_TITLE.get(title.partition("(")[0].strip().lower())


def accepted_preprocessors(asked: str) -> str:
    """Return what is accepted in place of an unknown preprocessor, and the reason if it is a learned one."""
    return ", ".join(PREPROCESSORS) + learned_reason(asked)


def learned_reason(asked: str) -> str:
    """Return why a learned preprocessor is not here, to follow the names of those that are; "" for other names."""
    if asked not in LEARNED:
        return ""
    return (
        f"; {asked} needs a trained network, and this server has no weights for it: make the "
        f"map elsewhere and send it with the preprocessor {NONE}"
    )
