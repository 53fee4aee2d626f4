"""A loaded model: text encoder, UNet and autoencoder, and the way from a request to pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converter.folder import Manifest, ModelFolder, prompted, sized
from converter.runtime import Network, load
from server.jobs.request import GenerationRequest
from server.pipeline.conditioning import Conditioner
from server.pipeline.denoise import Step, denoise
from server.pipeline.images import Pixels, decode_image, fitted, to_network, to_pixels
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule

#: Loads a function of a package on a compute unit.
Loader = Callable[[Path, str, str], Network]
#: Network -> compute unit; a network that is not named takes the default.
ComputeUnits = dict[str, str]


#: What a picture takes beside the text encoders.
_TXT2IMG = ("unet", "unet_prompt", "vae_decoder")


@dataclass(frozen=True)
class Picture:
    """A finished picture: its number in the request, its seed and pixels, uint8 [H, W, 3]."""

    index: int
    seed: int
    pixels: Pixels


def _load(path: Path, function: str, compute_units: str) -> Network:
    return load(path, function=function, compute_units=compute_units)


class StableDiffusion:
    """Holds a model's networks. Those of a size are loaded when a request first needs that size."""

    def __init__(self, folder: ModelFolder, compute_units: ComputeUnits, loader: Loader = _load) -> None:
        self._folder, self._units, self._loader = folder, compute_units, loader
        self._networks: dict[tuple[str, str], Network] = {}
        self._schedule = NoiseSchedule.of(folder.manifest)
        self._conditioner = Conditioner(folder, self.network)

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self._folder.manifest

    def network(
        self, name: str, width: int | None = None, height: int | None = None, *, batch: int = 1, tokens: int = 0
    ) -> Network:
        """A network, loaded once: the smallest of its programs for that size and so many rows and tokens at once."""
        package = self._folder.best(name, width, height, batch=batch, tokens=tokens)
        key = (package.path, package.function)
        if key not in self._networks:
            units = self._units.get(name, self._units.get("default", "CPU_AND_NE"))
            self._networks[key] = self._loader(self._folder.path / package.path, package.function, units)
        return self._networks[key]

    def load(self, progress: Callable[[str, int, int], None]) -> None:
        """Load what a request of the default size needs; ``progress`` hears network, number done, number in all."""
        size = self.manifest.sizes[0]
        guided = self.manifest.defaults.guidance_scale > 1 and self.manifest.conditions.guidance_width is None
        names = [n for n in self.manifest.networks if n.startswith("text_encoder") or n in _TXT2IMG]
        for done, name in enumerate(names):
            progress(name, done, len(names))
            at = size if sized(name) else ()
            self.network(name, *at, batch=2 if guided and prompted(name) else 1)
        progress(names[-1], len(names), len(names))

    def _encoded(
        self, image: bytes, request: GenerationRequest, noise: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """The first picture's latents: a draw from the encoder's distribution, scaled (Kingma and Welling 2014)."""
        pixels = to_network(fitted(decode_image(image), request.width, request.height))
        encoder = self.network("vae_encoder", request.width, request.height)
        mean, log_variance = np.split(encoder.predict({"x": pixels})["latent"], 2, 1)
        deviation = np.exp(0.5 * np.clip(log_variance, -30, 20))
        return np.asarray((mean + deviation * noise()) * np.float32(self.manifest.vae_scaling_factor), np.float32)

    def _beside(self, request: GenerationRequest, shape: tuple[int, ...]) -> NDArray[np.float16]:
        """What follows the noisy latents' channels: of an inpainting model a mask, here all of the picture, and the
        latents of the picture with all of that taken out; of other models nothing.
        """
        if not self.manifest.conditions.inpainting:
            return np.empty((1, 0, *shape[2:]), np.float16)
        encoder = self.network("vae_encoder", request.width, request.height)
        nothing = np.zeros((1, 3, request.height, request.width), np.float16)
        mean, _ = np.split(encoder.predict({"x": nothing})["latent"], 2, 1)
        mask = np.ones((1, 1, *shape[2:]), np.float16)
        return np.concatenate([mask, (mean * np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)], 1)

    def generate(self, request: GenerationRequest) -> Iterator[Step | Picture]:
        """Make the request's pictures, yielding every step and every picture as it is done.

        Random numbers are PyTorch's on the CPU, drawn in diffusers' order, so that one seed gives one picture here and
        there. Closing the iterator cancels.
        """
        factor = self.manifest.vae_scale_factor
        shape = (1, self.manifest.latent_channels, request.height // factor, request.width // factor)
        conditioning = self._conditioner.conditioning(request)
        beside = self._beside(request, shape)
        unet = self.network(
            "unet", request.width, request.height, batch=2 if conditioning.guided else 1, tokens=conditioning.tokens
        )
        for number in range(request.n):
            seed = (request.seed + number) % 2**32
            generator = torch.Generator("cpu").manual_seed(seed)

            def noise(generator: torch.Generator = generator) -> NDArray[np.float32]:
                drawn: NDArray[np.float32] = torch.randn(shape, generator=generator).numpy()
                return drawn

            sampler = SCHEDULERS[request.scheduler].make(self._schedule, request.steps)
            begin = 0
            if request.image is None or request.strength is None:
                latents = noise() * np.float32(sampler.init_noise_sigma)
            else:
                clean = self._encoded(request.image, request, noise)
                begin = (request.steps - int(request.steps * request.strength)) * sampler.order
                latents = sampler.add_noise(clean, noise(), begin)
            for step in denoise(unet, sampler, latents, beside, conditioning, request.guidance_scale, begin, noise):
                latents = step.latents
                yield step
            decoder = self.network("vae_decoder", request.width, request.height)
            z = (latents / np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)
            yield Picture(number, seed, to_pixels(decoder.predict({"z": z})["image"]))
