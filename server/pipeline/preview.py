"""Previews of an image while it is made: small JPEGs of the latents.

The model's tiny autoencoder (TAESD) decodes them if it has one. Otherwise each latent becomes one pixel, whose color is a
linear function of the channels: published for the autoencoders of Stable Diffusion, and fitted to the decoder for others.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converter.manifest import Manifest
from converter.networks.registry import PREVIEW_DECODER, VAE_DECODER
from converter.runtime import Network
from server.pipeline.images import Pixels, to_pixels
from server.pipeline.schedulers.schedule import Latents

#: Pixels of a preview's longer side at most.
LONGEST_SIDE = 256
_JPEG_QUALITY = 75
#: Rows: each latent channel, and a constant; columns: red, green, blue in [-1, 1].
Factors = NDArray[np.float32]
#: Published autoencoders of four latent channels: scaling factor, and factors. Stable Diffusion 1 and 2: measured by keturn,
#: https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204; SDXL: by T. A. Vass,
#: https://huggingface.co/blog/TimothyAlexisVass/explaining-the-sdxl-latent-space (there for 0 to 255).
_PUBLISHED = (
    (
        0.18215,
        np.asarray(
            [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473], [0, 0, 0]],
            np.float32,
        ),
    ),
    (
        0.13025,
        np.asarray(
            [[60, 60, 60], [-60, -5, 10], [25, 15, -5], [-70, -50, -35], [150 - 127.5, 140 - 127.5, 130 - 127.5]],
            np.float32,
        )
        / np.float32(127.5),
    ),
)
#: A fit decodes at most so many patches of one color a side.
_PATCHES = 8


def _rows(latents: Latents) -> NDArray[np.float32]:
    """Reshape [1, C, h, w] to [h * w, C + 1], the last column of ones."""
    channels = latents[0].reshape(latents.shape[1], -1).T
    return np.concatenate([channels, np.ones((len(channels), 1), np.float32)], 1)


def published_factors(manifest: Manifest) -> Factors | None:
    """Return the published factors of the model's autoencoder; None if it has no published ones."""
    if manifest.latent_channels != 4:
        return None
    scaling = manifest.vae_scaling_factor
    return next((factors for factor, factors in _PUBLISHED if math.isclose(factor, scaling, abs_tol=5e-6)), None)


def fitted_factors(decoder: Network, scaling_factor: float) -> Factors:
    """Return the factors that fit a decoder best (least squares), from one call with patches of random color."""
    _, channels, height, width = decoder.inputs["z"].shape
    count = min(_PATCHES, height, width)
    down, across = height // count, width // count
    patches = np.random.default_rng(0).standard_normal((1, channels, count, count)).astype(np.float32)
    margins = ((0, 0), (0, 0), (0, height - down * count), (0, width - across * count))
    latents = np.pad(patches.repeat(down, 2).repeat(across, 3), margins)
    image = decoder.predict({"z": (latents / np.float32(scaling_factor)).astype(np.float16)})["image"]
    scale = image.shape[2] // height
    decoded = image[0, :, : count * down * scale, : count * across * scale]
    colors = decoded.reshape(3, count, down * scale, count, across * scale).mean((2, 4))
    factors, *_ = np.linalg.lstsq(_rows(patches), colors.reshape(3, -1).T)
    return np.asarray(factors, np.float32)


def apply_factors(latents: Latents, factors: Factors) -> Pixels:
    """Return a pixel for each latent, uint8 [h, w, 3]."""
    colors = (_rows(latents) @ factors).T.reshape(1, 3, *latents.shape[2:])
    return to_pixels(colors)


class Previewer:
    """Makes a model's previews."""

    def __init__(self, manifest: Manifest, network: Callable[..., Network]) -> None:
        self._manifest, self._network = manifest, network
        self._factors = published_factors(manifest)

    def needs(self, width: int, height: int) -> str | None:
        """Return the network that a preview of this size (pixels) needs now; None if it needs none."""
        tiny = self._manifest.networks.get(PREVIEW_DECODER.name, ())
        if any((p.width, p.height) == (width, height) for p in tiny):
            return PREVIEW_DECODER.name
        return None if self._factors is not None else VAE_DECODER.name

    def _pixels(self, denoised: Latents, width: int, height: int) -> Pixels:
        if self.needs(width, height) == PREVIEW_DECODER.name:
            decoder = self._network(PREVIEW_DECODER.name, width, height)
            return to_pixels(decoder.predict({"z": denoised.astype(np.float16)})["image"])
        if self._factors is None:
            self._factors = fitted_factors(
                self._network(VAE_DECODER.name, width, height), self._manifest.vae_scaling_factor
            )
        return apply_factors(denoised, self._factors)

    def jpeg(self, denoised: Latents, width: int, height: int) -> bytes:
        """Return a JPEG of denoised latents [1, C, h, w] for an image of that size (pixels); the JPEG is not larger."""
        image = Image.fromarray(self._pixels(denoised, width, height))
        scale = min(1.0, LONGEST_SIDE / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        file = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=_JPEG_QUALITY)
        return file.getvalue()
