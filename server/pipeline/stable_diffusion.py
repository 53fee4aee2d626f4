"""A loaded model: text encoder, UNet and autoencoder, and the way from a request to pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from converter.devices.trials import Trials
from converter.folder import Manifest, ModelFolder
from converter.networks.registry import UNET, UNET_PROMPT, VAE_DECODER, VAE_ENCODER, text_encoders
from converter.progress import OnProgress, Progress, ignore
from converter.runtime import Network
from server.pipeline.conditioning import Conditioner, Conditioning
from server.pipeline.cost import first_call
from server.pipeline.denoise import NotFinite, Picture, Step, denoise
from server.pipeline.images import Pixels, decode_image, fitted, to_network, to_pixels
from server.pipeline.networks import ComputeUnits, Loader, Networks, load_package
from server.pipeline.noise import PictureNoise
from server.pipeline.preview import Previewer
from server.pipeline.request import GenerationRequest
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule
from server.pipeline.schedulers.schedule import Latents

#: What a picture takes beside the text encoders.
_TXT2IMG = (UNET.name, UNET_PROMPT.name, VAE_DECODER.name)


@dataclass(frozen=True)
class Encoded:
    """The distribution of latents that an encoder gives a picture, [1, C, h, w] each."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


class StableDiffusion:
    """A model ready to paint. Networks of a size are loaded when a request first needs that size."""

    def __init__(
        self,
        folder: ModelFolder,
        compute_units: ComputeUnits,
        loader: Loader = load_package,
        memory_budget: int | None = None,
        trials: Trials | None = None,
    ) -> None:
        """``memory_budget`` is what the loaded networks' weights may take, in bytes; see `Networks`."""
        self._folder = folder
        self._networks = Networks(folder, compute_units, loader, memory_budget, trials)
        self._schedule = NoiseSchedule.of(folder.manifest)
        self._conditioner = Conditioner(folder, self.network)
        self._previewer = Previewer(folder.manifest, self.network)

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self._folder.manifest

    def network(
        self, name: str, width: int | None = None, height: int | None = None, *, batch: int = 1, tokens: int = 0
    ) -> Network:
        """One of its networks; see `Networks.get`."""
        return self._networks.get(name, width, height, batch=batch, tokens=tokens)

    def load(self, progress: OnProgress = ignore) -> None:
        """Load what a request of the default size needs; ``progress`` is called for each network.

        Where not all of it fits into memory at once, each is loaded once all the same: a model that cannot run shows it
        here, and Core ML has compiled it when it is loaded again.
        """
        names = [n for n in self.manifest.networks if n in text_encoders([n]) or n in _TXT2IMG]
        for done, name in enumerate(names):
            progress(Progress("loading", name, done, len(names)))
            package = self._folder.default(name)
            self.network(name, package.width, package.height, batch=package.batch)
        progress(Progress("loading", names[-1], len(names), len(names)))

    def preview(self, step: Step, request: GenerationRequest) -> bytes | None:
        """A small JPEG of a step; None where it would take more memory than there is beside the UNet."""
        at = {"width": request.width, "height": request.height}
        needed = self._previewer.needs(**at)
        if needed is not None and not self._networks.together(UNET.name, needed, **at):
            return None
        return self._previewer.jpeg(step.clean, **at)

    def _encoded(self, image: bytes, request: GenerationRequest) -> Encoded:
        """The first picture as the encoder's distribution of latents (Kingma and Welling 2014)."""
        pixels = to_network(fitted(decode_image(image), request.width, request.height))
        encoder = self.network(VAE_ENCODER.name, request.width, request.height)
        mean, log_variance = np.split(encoder.predict({"x": pixels})["latent"], 2, 1)
        return Encoded(mean, np.exp(0.5 * np.clip(log_variance, -30, 20)))

    def _beside(self, request: GenerationRequest, shape: tuple[int, ...]) -> NDArray[np.float16]:
        """What follows the noisy latents' channels: of an inpainting model a mask, here all of the picture, and the
        latents of the picture with all of that taken out; of other models nothing.
        """
        if not self.manifest.conditions.inpainting:
            return np.empty((1, 0, *shape[2:]), np.float16)
        encoder = self.network(VAE_ENCODER.name, request.width, request.height)
        nothing = np.zeros((1, 3, request.height, request.width), np.float16)
        mean, _ = np.split(encoder.predict({"x": nothing})["latent"], 2, 1)
        mask = np.ones((1, 1, *shape[2:]), np.float16)
        return np.concatenate([mask, (mean * np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)], 1)

    def generate(self, request: GenerationRequest) -> Iterator[Step | Picture]:
        """Make the request's pictures, yielding every step and every picture as it is done.

        Random numbers are those of the request's ``rng`` in the order its owner draws them, so that one seed gives one
        picture here and there. Where memory does not hold UNet and decoder at once, the pictures come after the last
        step. Closing the iterator cancels.
        """
        factor = self.manifest.vae_scale_factor
        shape = (1, self.manifest.latent_channels, request.height // factor, request.width // factor)
        conditioning = self._conditioner.conditioning(request)
        beside = self._beside(request, shape)
        at_once = self._networks.together(UNET.name, VAE_DECODER.name, width=request.width, height=request.height)
        first = None if request.image is None else self._encoded(request.image, request)
        waiting: list[tuple[int, Latents]] = []
        for number, seeds in enumerate(request.picture_seeds):
            noise = PictureNoise(request.rng, seeds, request.variation_strength, shape)
            for step in self._denoised(request, conditioning, beside, first, noise):
                latents = step.latents
                yield replace(step, image=number)
            waiting.append((number, latents))
            if at_once or number == request.n - 1:
                for finished, latents in waiting:
                    yield Picture(finished, request.picture_seeds[finished], self._decoded(latents, request))
                waiting.clear()

    def _denoised(
        self,
        request: GenerationRequest,
        conditioning: Conditioning,
        beside: NDArray[np.float16],
        first: Encoded | None,
        noise: PictureNoise,
    ) -> Iterator[Step]:
        """The steps of one picture, from noise or from a draw of the ``first`` picture's latents."""
        unet = self.network(
            UNET.name, request.width, request.height, batch=2 if conditioning.guided else 1, tokens=conditioning.tokens
        )
        sampler = SCHEDULERS[request.scheduler].make(self._schedule, request.steps)
        begin = first_call(request, sampler)
        if first is None:
            latents = noise.start() * np.float32(sampler.init_noise_sigma)
        else:
            drawn = (first.mean + first.deviation * noise.encoding()) * np.float32(self.manifest.vae_scaling_factor)
            latents = sampler.add_noise(np.asarray(drawn, np.float32), noise.start(), begin)
        yield from denoise(
            unet, self._schedule, sampler, latents, beside, conditioning, request.guidance_scale, begin, noise.step
        )

    def _decoded(self, latents: Latents, request: GenerationRequest) -> Pixels:
        decoder = self.network(VAE_DECODER.name, request.width, request.height)
        z = (latents / np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)
        image = decoder.predict({"z": z})["image"]
        if not np.isfinite(image).all():
            raise NotFinite("the VAE decoder's output is not finite: its numbers overflowed")
        return to_pixels(image)
