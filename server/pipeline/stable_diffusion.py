"""A loaded model: text encoder, UNet and autoencoder, and the way from a request to pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converter.folder import Manifest, ModelFolder
from converter.runtime import Network, load
from server.jobs.request import GenerationRequest
from server.pipeline.denoise import Step, denoise
from server.pipeline.images import Pixels, decode_image, fitted, to_network, to_pixels
from server.pipeline.prompt import PromptTokenizer
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule

Loader = Callable[[Path, str], Network]
#: Network -> compute unit; a network that is not named takes the default.
ComputeUnits = dict[str, str]


@dataclass(frozen=True)
class Picture:
    """A finished picture: its number in the request, its seed and pixels, uint8 [H, W, 3]."""

    index: int
    seed: int
    pixels: Pixels


def _load(path: Path, compute_units: str) -> Network:
    return load(path, compute_units=compute_units)


class StableDiffusion:
    """Holds a model's networks. Those of a size are loaded when a request first needs that size."""

    def __init__(self, folder: ModelFolder, compute_units: ComputeUnits, loader: Loader = _load) -> None:
        self._folder, self._units, self._loader = folder, compute_units, loader
        self._networks: dict[Path, Network] = {}
        self._schedule = NoiseSchedule.of(folder.manifest)
        self._tokenizer = PromptTokenizer(folder.tokenizer, folder.manifest.tokens)

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self._folder.manifest

    def network(self, name: str, width: int | None = None, height: int | None = None) -> Network:
        """A network, loaded once."""
        path = self._folder.package(name, width, height)
        if path not in self._networks:
            units = self._units.get(name, self._units.get("default", "CPU_AND_NE"))
            self._networks[path] = self._loader(path, units)
        return self._networks[path]

    def load(self, progress: Callable[[str, int, int], None]) -> None:
        """Load what a request of the default size needs; ``progress`` hears network, number done, number in all."""
        size = self.manifest.sizes[0]
        sized: list[tuple[str, tuple[int, ...]]] = [("text_encoder", ()), ("unet", size), ("vae_decoder", size)]
        for done, (name, at) in enumerate(sized):
            progress(name, done, len(sized))
            self.network(name, *at)
        progress(sized[-1][0], len(sized), len(sized))

    def _states(self, request: GenerationRequest) -> NDArray[np.float16]:
        """The prompts' states in the UNet's layout, [2, D, 1, T], the negative one first."""
        encoder = self.network("text_encoder")
        rows = []
        for text in (request.negative_prompt, request.prompt):
            ids, _ = self._tokenizer.ids(text)
            rows.append(encoder.predict({"input_ids": ids})["last_hidden_state"])
        return np.ascontiguousarray(np.concatenate(rows).transpose(0, 2, 1)[:, :, None]).astype(np.float16)

    def _encoded(
        self, image: bytes, request: GenerationRequest, noise: Callable[[], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """The first picture's latents: a draw from the encoder's distribution, scaled (Kingma and Welling 2014)."""
        pixels = to_network(fitted(decode_image(image), request.width, request.height))
        encoder = self.network("vae_encoder", request.width, request.height)
        mean, log_variance = np.split(encoder.predict({"x": pixels})["latent"], 2, 1)
        deviation = np.exp(0.5 * np.clip(log_variance, -30, 20))
        return np.asarray((mean + deviation * noise()) * np.float32(self.manifest.vae_scaling_factor), np.float32)

    def generate(self, request: GenerationRequest) -> Iterator[Step | Picture]:
        """Make the request's pictures, yielding every step and every picture as it is done.

        Random numbers are PyTorch's on the CPU, drawn in diffusers' order, so that one seed gives one picture here and
        there. Closing the iterator cancels.
        """
        factor = self.manifest.vae_scale_factor
        shape = (1, self.manifest.latent_channels, request.height // factor, request.width // factor)
        unet = self.network("unet", request.width, request.height)
        states = self._states(request)
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
            for step in denoise(unet, sampler, latents, states, request.guidance_scale, begin, noise):
                latents = step.latents
                yield step
            decoder = self.network("vae_decoder", request.width, request.height)
            z = (latents / np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)
            yield Picture(number, seed, to_pixels(decoder.predict({"z": z})["image"]))
