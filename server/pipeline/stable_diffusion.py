"""The Stable Diffusion pipeline: makes a request's images with text encoder, UNet and autoencoder."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from converter.devices.trials import Trials
from converter.folder import Manifest, ModelFolder
from converter.networks.registry import UNET, UNET_PROMPT, VAE_DECODER, VAE_ENCODER, text_encoders
from converter.progress import OnProgress, Progress, ignore
from converter.runtime import Network
from server.pipeline.conditioning import Conditioner, Conditioning
from server.pipeline.cost import first_call
from server.pipeline.decoding.file import ImageError
from server.pipeline.denoiser import Denoiser, GeneratedImage, NotFinite, Step
from server.pipeline.images import (
    Pixels,
    fit_image,
    resize_pixels,
    to_network,
    to_pixels,
)
from server.pipeline.networks import ComputeUnits, Loader, Networks, load_package
from server.pipeline.noise import ImageNoise
from server.pipeline.preview import Previewer
from server.pipeline.request import GenerationRequest
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule
from server.pipeline.schedulers.schedule import Latents
from server.pipeline.tasks import EncodedImage, img2img, txt2img

#: The networks that txt2img uses in addition to the text encoders.
_TXT2IMG = (UNET.name, UNET_PROMPT.name, VAE_DECODER.name)


class StableDiffusion:
    """A model's pipeline. The networks of a size are loaded when a request first needs that size."""

    def __init__(
        self,
        folder: ModelFolder,
        compute_units: ComputeUnits,
        loader: Loader = load_package,
        memory_budget: int | None = None,
        trials: Trials | None = None,
    ) -> None:
        """``memory_budget`` is the limit for the weights of loaded networks, in bytes; see `Networks`."""
        self._folder = folder
        self._networks = Networks(folder, compute_units, loader, memory_budget, trials)
        self._schedule = NoiseSchedule.of(folder.manifest)
        self._conditioner = Conditioner(folder, self.network)
        self._previewer = Previewer(folder.manifest, self.network)

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self._folder.manifest

    def network(
        self, name: str, width: int | None = None, height: int | None = None, *, batch: int = 1, tokens: int = 0
    ) -> Network:
        """Return one of the model's networks; see `Networks.get`."""
        return self._networks.get(name, width, height, batch=batch, tokens=tokens)

    def load(self, progress: OnProgress = ignore) -> None:
        """Load the networks for a request of the default size; ``progress`` is called for each.

        If they do not fit into memory together, each is still loaded once: a model that cannot run fails here, and Core ML
        compiles each network before a request needs it.
        """
        names = [n for n in self.manifest.networks if n in text_encoders([n]) or n in _TXT2IMG]
        for done, name in enumerate(names):
            progress(Progress("loading", name, done, len(names)))
            package = self._folder.default(name)
            self.network(name, package.width, package.height, batch=package.batch)
        progress(Progress("loading", names[-1], len(names), len(names)))

    def preview(self, step: Step, request: GenerationRequest) -> bytes | None:
        """Return a small JPEG of a step; None if its network does not fit the memory budget beside the UNet."""
        size = {"width": request.computed.width, "height": request.computed.height}
        needed = self._previewer.needs(**size)
        if needed is not None and not self._networks.fit_together(UNET.name, needed, **size):
            return None
        return self._previewer.jpeg(step.denoised, **size)

    def generate(
        self, request: GenerationRequest, attachments: Mapping[str, bytes]
    ) -> Generator[Step | GeneratedImage, None, None]:
        """Make the request's images; yield every finished step and every finished image.

        Random numbers are those of the request's ``rng``, drawn in the order of the software it comes from, so that a seed
        gives the same image here and there. If UNet and decoder do not fit into memory together, all images come after the
        last step. Closing the iterator cancels. Raises ImageError if an attachment cannot be used.
        """
        size = request.computed
        factor = self.manifest.vae_scale_factor
        shape = (1, self.manifest.latent_channels, size.height // factor, size.width // factor)
        conditioning = self._conditioner.conditioning(request)
        extra_channels = self._extra_channels(request, shape)
        fit_together = self._networks.fit_together(UNET.name, VAE_DECODER.name, width=size.width, height=size.height)
        source = self._encode_source(request, attachments)
        of_images = request.seeds.of_images
        waiting: list[tuple[int, Latents]] = []
        for number, seeds in enumerate(of_images):
            noise = ImageNoise(request.seeds.rng, seeds, request.seeds.variation_strength, shape)
            for step in self._denoise(request, conditioning, extra_channels, source, noise):
                latents = step.latents
                yield replace(step, image=number)
            waiting.append((number, latents))
            if fit_together or number == len(of_images) - 1:
                for finished, latents in waiting:
                    yield GeneratedImage(finished, of_images[finished], self._decode(latents, request))
                waiting.clear()

    def _encode_source(self, request: GenerationRequest, attachments: Mapping[str, bytes]) -> EncodedImage | None:
        """Encode the image that img2img starts from; None for txt2img."""
        if request.source is None:
            return None
        data, size = attachments.get(request.source.image), request.computed
        if data is None:
            raise ImageError(f"the file of {request.source.image} is missing from the data folder; send it again")
        pixels = to_network(fit_image(data, size.width, size.height))
        encoder = self.network(VAE_ENCODER.name, size.width, size.height)
        mean, log_variance = np.split(encoder.predict({"x": pixels})["latent"], 2, 1)
        return EncodedImage(mean, np.exp(0.5 * np.clip(log_variance, -30, 20)))

    def _extra_channels(self, request: GenerationRequest, shape: tuple[int, ...]) -> NDArray[np.float16]:
        """Return the channels that follow those of the noisy latents.

        An inpainting model takes a mask, here of the whole image, and the latents of the image without the masked part.
        Other models take no extra channels.
        """
        if not self.manifest.conditions.inpainting:
            return np.empty((1, 0, *shape[2:]), np.float16)
        size = request.computed
        encoder = self.network(VAE_ENCODER.name, size.width, size.height)
        blank = np.zeros((1, 3, size.height, size.width), np.float16)
        mean, _ = np.split(encoder.predict({"x": blank})["latent"], 2, 1)
        mask = np.ones((1, 1, *shape[2:]), np.float16)
        return np.concatenate([mask, (mean * np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)], 1)

    def _denoise(
        self,
        request: GenerationRequest,
        conditioning: Conditioning,
        extra_channels: NDArray[np.float16],
        source: EncodedImage | None,
        noise: ImageNoise,
    ) -> Iterator[Step]:
        """Yield the steps of one image."""
        size, sampling = request.computed, request.sampling
        rows = 2 if conditioning.guided else 1
        unet = self.network(UNET.name, size.width, size.height, batch=rows, tokens=conditioning.tokens)
        scheduler = SCHEDULERS[sampling.scheduler].make(self._schedule, sampling.steps)
        denoiser = Denoiser(unet, self._schedule, conditioning, sampling.guidance_scale, extra_channels)
        if source is None:
            yield from txt2img(denoiser, scheduler, noise)
        else:
            scaling_factor, first = self.manifest.vae_scaling_factor, first_call(request, scheduler)
            yield from img2img(denoiser, scheduler, noise, source, scaling_factor, first)

    def _decode(self, latents: Latents, request: GenerationRequest) -> Pixels:
        """Return the image at the requested size."""
        computed = request.computed
        decoder = self.network(VAE_DECODER.name, computed.width, computed.height)
        z = (latents / np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)
        image = decoder.predict({"z": z})["image"]
        if not np.isfinite(image).all():
            raise NotFinite("the VAE decoder's output is not finite: its numbers overflowed")
        pixels = to_pixels(image)
        return pixels if request.size == computed else resize_pixels(pixels, request.size.width, request.size.height)
