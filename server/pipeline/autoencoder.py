"""A model's autoencoder: latents of images, and images of latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.manifest import Manifest
from converter.networks.registry import VAE_DECODER, VAE_ENCODER
from converter.runtime import Network
from server.pipeline.denoising.denoiser import NotFinite
from server.pipeline.images import Pixels, to_pixels
from server.pipeline.request import Extent
from server.pipeline.schedulers.schedule import Latents


@dataclass(frozen=True)
class EncodedImage:
    """The distribution of latents that the encoder returns for an image, [1, C, h, w] each (Kingma and Welling 2014).

    scaling_factor: what the latents are multiplied by for the UNet.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    scaling_factor: float

    @staticmethod
    def of(latent: NDArray[np.float32], scaling_factor: float) -> EncodedImage:
        """Return the distribution from the encoder's output, means and then log variances, [1, 2 C, h, w]."""
        mean, log_variance = np.split(latent, 2, 1)
        return EncodedImage(mean, np.exp(0.5 * np.clip(log_variance, -30, 20)), scaling_factor)

    @staticmethod
    def exact(latents: Latents) -> EncodedImage:
        """Return scaled latents as a distribution that has no others."""
        return EncodedImage(latents, np.zeros_like(latents), 1.0)

    @property
    def middle(self) -> Latents:
        """The scaled latents at the mean."""
        return self.draw(np.zeros_like(self.mean))

    def draw(self, noise: NDArray[np.float32]) -> Latents:
        """Return scaled latents, ``noise`` standard deviations from the mean."""
        return np.asarray((self.mean + self.std * noise) * np.float32(self.scaling_factor), np.float32)


@dataclass(frozen=True)
class Autoencoder:
    """A model's encoder and decoder, for the sizes that it was converted for.

    network: name, width, height -> the network for images of that size.
    """

    manifest: Manifest
    network: Callable[..., Network]

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return self.manifest.vae_scale_factor

    def latent_shape(self, size: Extent) -> tuple[int, int, int, int]:
        """Return the shape of an image's latents, [1, C, h, w]."""
        return 1, self.manifest.latent_channels, size.height // self.factor, size.width // self.factor

    def encode(self, image: NDArray[np.float16]) -> EncodedImage:
        """Return the latents of an image, fp16 [1, 3, H, W] in [-1, 1]."""
        encoder = self.network(VAE_ENCODER.name, image.shape[3], image.shape[2])
        return EncodedImage.of(encoder.predict({"x": image})["latent"], self.manifest.vae_scaling_factor)

    def decode(self, latents: Latents, size: Extent) -> Pixels:
        """Return the image of latents at a converted size, uint8 [H, W, 3]. Raises NotFinite."""
        decoder = self.network(VAE_DECODER.name, size.width, size.height)
        z = (latents / np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)
        image = decoder.predict({"z": z})["image"]
        if not np.isfinite(image).all():
            raise NotFinite("the VAE decoder's output is not finite: its numbers overflowed")
        return to_pixels(image)
