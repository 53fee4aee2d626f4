"""ControlNets in the steps of an image: the residuals that the UNet adds to its own (Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converter.networks.features import RESIDUAL
from converter.runtime import Network
from server.pipeline.boxes.box import Box, Shape
from server.pipeline.canvas.canvas import attached, taken
from server.pipeline.denoising.denoiser import Moment
from server.pipeline.denoising.rows import Float16, Inputs, predict_rows
from server.pipeline.images import Pixels, fit_image, to_unit
from server.pipeline.request import GenerationRequest
from server.pipeline.request.controls import Control, applies


@dataclass(frozen=True)
class AppliedControl:
    """A ControlNet with its map.

    network: rows -> the ControlNet's package that takes so many rows at once, or fewer if none does.
    condition: the map, [1, 3, H, W] in 0 to 1.
    weight: what its residuals are multiplied by.
    start, end: the shares of the steps between which it is called.
    """

    network: Callable[[int], Network]
    condition: Float16
    weight: float
    start: float
    end: float

    def applies(self, moment: Moment) -> bool:
        """Return whether the ControlNet is called at a step."""
        return applies(self, moment.call - moment.first_call, moment.calls - moment.first_call)

    def residuals(self, noisy: Float16, moment: Moment, rows: Sequence[Inputs]) -> dict[str, NDArray[np.float32]]:
        """Return its residuals for each row, by the names of the UNet's inputs, times the weight."""
        with_map = [{**row, "controlnet_cond": self.condition} for row in rows]
        outputs = predict_rows(self.network(len(rows)), with_map, noisy, moment.timestep)
        return {name: np.asarray(output * np.float32(self.weight), np.float32) for name, output in outputs.items()}


@dataclass(frozen=True)
class Controls:
    """The ControlNets of a request; several add up."""

    applied: tuple[AppliedControl, ...]

    def rows(self, unet: Network, noisy: Float16, moment: Moment, rows: Sequence[Inputs]) -> list[Inputs]:
        """Return the rows of a step with the residuals that ``unet`` takes.

        Steps in which no ControlNet is called have residuals of zero, so that the UNet is not in memory a second time,
        without them.
        """
        parts = [each.residuals(noisy, moment, rows) for each in self.applied if each.applies(moment)]
        shapes = {name: input_.shape[1:] for name, input_ in unet.inputs.items() if name.startswith(RESIDUAL)}
        summed = {name: np.zeros((len(rows), *shape), np.float32) for name, shape in shapes.items()}
        for part in parts:
            for name, residual in part.items():
                summed[name] += residual
        return [
            {**row, **{name: array[i : i + 1].astype(np.float16) for name, array in summed.items()}}
            for i, row in enumerate(rows)
        ]


@dataclass(frozen=True)
class ControlImage:
    """What a request's control says, its ControlNet by the number of rows, and its image at the finished image's size."""

    asked: Control
    network: Callable[[int], Network]
    pixels: Pixels


@dataclass(frozen=True)
class ControlImages:
    """The images of a request's controls, which lie on the whole canvas."""

    images: tuple[ControlImage, ...]

    def at(self, box: Box, shape: Shape) -> Controls:
        """Return the ControlNets for a box of the canvas, whose maps are made at the computed ``shape``."""
        return Controls(tuple(self._applied(image, box, shape) for image in self.images))

    @staticmethod
    def _applied(image: ControlImage, box: Box, shape: Shape) -> AppliedControl:
        pixels = image.asked.map_of(taken(image.pixels, box, shape, Image.Resampling.LANCZOS))
        return AppliedControl(image.network, to_unit(pixels), image.asked.weight, image.asked.start, image.asked.end)


def control_images(
    request: GenerationRequest, attachments: Mapping[str, bytes], network: Callable[[Control], Callable[[int], Network]]
) -> ControlImages | None:
    """Return the images of a request's controls; None if it has none. Raises ImageError if one is gone or cannot be read.

    ``network`` returns a control's ControlNet. An image is fitted to the finished image as a source image is.
    """
    size = request.size
    images = tuple(
        ControlImage(each, network(each), fit_image(attached(attachments, each.image), size.width, size.height))
        for each in request.controls
    )
    return ControlImages(images) if images else None
