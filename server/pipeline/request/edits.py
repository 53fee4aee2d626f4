"""The images that a request starts from or takes colors from, and which part of them changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from server.pipeline.fields import Attachment, Derived, Infotext, Part, named, plain, unless
from server.pipeline.limits import OneOf, Real, Whole, Within
from server.pipeline.palette.extraction import FEWEST, MOST, USUAL, Color

#: What a masked part starts from, and A1111's names for it in the infotext.
FILLS = {"original": "original", "fill": "fill", "noise": "latent noise", "nothing": "latent nothing"}
ORIGINAL = "original"
#: Pixels by which an image may be extended at one side.
_LONGEST_EXTENSION = 2048
EXTENSIONS = ("extend_left", "extend_right", "extend_top", "extend_bottom")
#: The strength of what is painted by a mask or beyond an edge, unless it is sent: what is there does not show through.
PAINTING_STRENGTH = 1.0


class Source(Part):
    """The source image of img2img. ``image`` is the attachment's name."""

    image: Annotated[str, Attachment()] = Field(description="The image to start from")
    strength: Annotated[Real, Within(0.0, 1.0, above=True), Infotext("Denoising strength", plain)] = Field(
        0.75,
        description="How much of the image to change, from 0 (nothing) to 1 (everything); left out with a mask or an "
        f"extension: {PAINTING_STRENGTH:g}",
    )

    absent: ClassVar[str] = "leave it out without an image; it belongs to img2img"


class Mask(Part):
    """The part of the source image that is painted again. ``mask`` is the attachment's name."""

    mask: Annotated[str, Attachment()] = Field(
        description="White where the image is painted again, black or transparent where not; another size than the image's is "
        "scaled to it"
    )
    mask_blur: Annotated[Real, Within(0.0, 64.0), Infotext("Mask blur", plain)] = Field(
        4.0, description="Softness of the mask's edge: the standard deviation of a Gaussian in pixels of the image"
    )
    invert_mask: Annotated[
        bool, named("Mask mode", {True: "Inpaint not masked", False: "Inpaint masked"}, usual=False)
    ] = Field(False, description="Paint where the mask is black, and not where it is white")
    mask_fill: Annotated[str, OneOf(tuple(FILLS)), named("Masked content", FILLS)] = Field(
        ORIGINAL,
        description="What the masked part starts from below strength 1: the image (original), its blurred surroundings "
        "(fill), noise, or nothing (latents of zero)",
    )
    only_masked: Annotated[bool, named("Inpaint area", {True: "Only masked", False: "Whole picture"}, usual=False)] = (
        Field(False, description="Compute only the box around the mask, at full resolution, and paste it back")
    )
    mask_padding: Annotated[Whole, Within(0, 256), Infotext("Masked area padding")] = Field(
        32, description="Pixels of the surroundings that only_masked computes, too"
    )
    keep_unmasked: Annotated[bool, Infotext("Keep unmasked", unless(True))] = Field(
        True, description="Keep what the mask leaves out exactly as it was in the image"
    )

    absent: ClassVar[str] = "leave it out without a mask; it belongs to inpainting"


class Outpaint(Part):
    """By how many pixels the source image is extended at each side."""

    extend_left: Annotated[Whole, Within(0, _LONGEST_EXTENSION), Infotext("Outpaint left", unless(0))] = Field(
        0, description="Pixels to add at the left"
    )
    extend_right: Annotated[Whole, Within(0, _LONGEST_EXTENSION), Infotext("Outpaint right", unless(0))] = Field(
        0, description="Pixels to add at the right"
    )
    extend_top: Annotated[Whole, Within(0, _LONGEST_EXTENSION), Infotext("Outpaint top", unless(0))] = Field(
        0, description="Pixels to add at the top"
    )
    extend_bottom: Annotated[Whole, Within(0, _LONGEST_EXTENSION), Infotext("Outpaint bottom", unless(0))] = Field(
        0, description="Pixels to add at the bottom"
    )
    feather: Annotated[Whole, Within(0, 256), Infotext("Outpaint feather")] = Field(
        16, description="Pixels of the image's own edge over which old and new are blended"
    )

    absent: ClassVar[str] = "leave it out unless a side is extended; it belongs to outpainting"

    @classmethod
    def is_asked(cls, sent: Mapping[str, Any]) -> bool:
        """Return whether a side is extended."""
        return any(sent.get(side) for side in EXTENSIONS)


class Palette(Part):
    """A reference whose colors the image takes. ``palette_image`` is the attachment's name.

    palette_colors: the reference's colors, for the client to see.
    """

    palette_image: Annotated[str, Attachment()] = Field(description="An image whose colors to take up")
    palette_strength: Annotated[Real, Within(0.0, 1.0), Infotext("Palette strength", plain)] = Field(
        1.0, description="How far the colors go towards the reference's, from 0 (not at all) to 1 (completely)"
    )

    palette_colors: Annotated[tuple[Color, ...], Derived()] = ()

    absent: ClassVar[str] = "leave it out without a palette_image"


class PaletteQuestion(Part):
    """An image whose colors are asked for. ``image`` is the attachment's name."""

    image: Annotated[str, Attachment()] = Field(description="The image whose colors to find")
    colors: Annotated[Whole, Within(FEWEST, MOST)] = Field(
        USUAL, description="How many colors to find at most; fewer are found where no more differ"
    )
