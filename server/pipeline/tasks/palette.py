"""Images in another image's colors: the source is recolored, and each step's prediction is moved to the reference's moments.

A filter on the finished image could only replace colors. Moving the predicted latents in every step lets the network paint
what fits the colors: what would have been a red circle becomes an evenly yellow one, with its own edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from server.pipeline.autoencoder import EncodedImage
from server.pipeline.canvas.canvas import View, attached
from server.pipeline.denoising.denoiser import Moment, Predicting, Predictor
from server.pipeline.images import Pixels, fit_image, to_network
from server.pipeline.palette.moments import Moments, matched
from server.pipeline.palette.oklab import to_oklab, to_srgb
from server.pipeline.request import GenerationRequest
from server.pipeline.schedulers import NoiseSchedule


def _rows(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return latents [1, C, h, w] as vectors [h * w, C]."""
    return np.ascontiguousarray(latents[0].reshape(latents.shape[1], -1).T)


def recolored(pixels: Pixels, wanted: Moments, strength: float) -> Pixels:
    """Return the image, uint8 [H, W, 3], with its colors moved by ``strength`` (0 to 1) to these moments in OKLab."""
    colors = to_oklab(pixels).reshape(-1, 3)
    moved = colors + np.float32(strength) * (matched(colors, wanted) - colors)
    return to_srgb(moved.reshape(pixels.shape))


@dataclass(frozen=True)
class GuidedByPalette:
    """A predictor whose denoised latents are moved by ``strength`` (0 to 1) to the reference's moments, in every step."""

    predictor: Predictor
    schedule: NoiseSchedule
    wanted: Moments
    strength: float

    def predict(self, noisy: NDArray[np.float16], moment: Moment) -> Predicting:
        """Return the prediction that denoises to the moved latents."""
        prediction = yield from self.predictor.predict(noisy, moment)
        if not np.isfinite(prediction).all():
            return prediction  # denoise says so
        model_input = noisy.astype(np.float32)
        denoised = self.schedule.denoised_at(moment.timestep, prediction, model_input)
        change = matched(_rows(denoised), self.wanted).T.reshape(denoised.shape) - denoised
        # The denoised latents are a linear function of the prediction, whatever the model predicts.
        zero, one = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
        slope = self.schedule.denoised_at(moment.timestep, one, zero)
        return np.asarray(prediction + np.float32(self.strength) * change / slope, np.float32)


@dataclass(frozen=True)
class PaletteReference:
    """A reference's moments of color, in OKLab, and of its latents; and how far an image goes towards them."""

    colors: Moments
    latents: Moments
    strength: float

    def recolored(self, view: View) -> View:
        """Return what the networks see of a box, with its source in the reference's colors."""
        if view.source is None:
            return view
        return replace(view, source=recolored(view.source, self.colors, self.strength))

    def guided(self, predictor: Predictor, schedule: NoiseSchedule) -> Predictor:
        """Return the predictor guided by the reference."""
        return GuidedByPalette(predictor, schedule, self.latents, self.strength)


def palette_of_request(
    request: GenerationRequest,
    attachments: Mapping[str, bytes],
    encode: Callable[[NDArray[np.float16]], EncodedImage],
) -> PaletteReference | None:
    """Return a request's reference; None if it has none, or if its strength is 0. Raises ImageError.

    ``encode`` returns the latents of an image of the computed size, fp16 [1, 3, H, W] in [-1, 1].
    """
    asked, size = request.palette, request.computed
    if asked is None or asked.palette_strength == 0:
        return None
    pixels = fit_image(attached(attachments, asked.palette_image), size.width, size.height)
    encoded = encode(to_network(pixels))
    latents = encoded.mean * np.float32(encoded.scaling_factor)
    colors = to_oklab(pixels).reshape(-1, 3)
    return PaletteReference(Moments.of(colors), Moments.of(_rows(latents)), asked.palette_strength)
