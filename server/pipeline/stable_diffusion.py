"""The Stable Diffusion pipeline: makes a request's images with text encoder, UNet and autoencoder."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from converter.devices.trials import Trials
from converter.folder import Manifest, ModelFolder
from converter.networks.registry import SAFETY_CHECKER, UNET, UNET_PROMPT, VAE_DECODER, VAE_ENCODER, text_encoders
from converter.progress import OnProgress, Progress, ignore
from converter.runtime import Network
from server.pipeline.conditioning import Conditioner
from server.pipeline.controls import controls_of
from server.pipeline.denoiser import GeneratedImage, Note, NotFinite, Predictor, Step, denoise
from server.pipeline.guidance import Guidance
from server.pipeline.images import Pixels, to_network, to_pixels
from server.pipeline.networks import ComputeUnits, Loader, Networks, load_package
from server.pipeline.noise import ImageNoise
from server.pipeline.preview import Previewer
from server.pipeline.request import GenerationRequest, Size
from server.pipeline.safety import SafetyChecker
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule
from server.pipeline.schedulers.schedule import Latents
from server.pipeline.tasks.canvas import Canvas, canvas_of
from server.pipeline.tasks.start import EncodedImage, Start
from server.pipeline.unet import GuidedUNet
from server.settings import Safety

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
        safety: Safety = "blur",
    ) -> None:
        """``memory_budget`` is the limit for the weights of loaded networks, in bytes; see `Networks`."""
        self._folder = folder
        self._networks = Networks(folder, compute_units, loader, memory_budget, trials)
        self._schedule = NoiseSchedule.of(folder.manifest)
        self._conditioner = Conditioner(folder, self.network)
        self._previewer = Previewer(folder.manifest, self.network)
        self._checker = SafetyChecker(folder, self.network, safety)

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self._folder.manifest

    def network(
        self,
        name: str,
        width: int | None = None,
        height: int | None = None,
        *,
        batch: int = 1,
        tokens: int = 0,
        control: bool = False,
    ) -> Network:
        """Return one of the model's networks; see `Networks.get`."""
        return self._networks.get(name, width, height, batch=batch, tokens=tokens, control=control)

    def load(self, progress: OnProgress = ignore) -> None:
        """Load the networks for a request of the default size; ``progress`` is called for each.

        If they do not fit into memory together, each is still loaded once: a model that cannot run fails here, and Core ML
        compiles each network before a request needs it.
        """
        wanted = (*_TXT2IMG, SAFETY_CHECKER.name) if self._checker.active else _TXT2IMG
        names = [n for n in self.manifest.networks if n in text_encoders([n]) or n in wanted]
        for done, name in enumerate(names):
            progress(Progress("loading", name, done, len(names)))
            package = self._folder.default(name)
            self.network(name, package.width, package.height, batch=package.batch)
        progress(Progress("loading", names[-1], len(names), len(names)))

    def preview(self, step: Step, request: GenerationRequest) -> bytes | None:
        """Return a small JPEG of a step; None if its network does not fit the memory budget beside the UNet.

        None, too, if a safety checker is active: what it would find in the image could be seen in a preview.
        """
        if self._checker.active:
            return None
        size = {"width": request.computed.width, "height": request.computed.height}
        needed = self._previewer.needs(**size)
        if needed is not None and not self._networks.fit_together(UNET.name, needed, **size):
            return None
        return self._previewer.jpeg(step.denoised, **size)

    def generate(
        self, request: GenerationRequest, attachments: Mapping[str, bytes]
    ) -> Generator[Step | Note | GeneratedImage, None, None]:
        """Make the request's images; yield notes, every finished step and every finished image.

        Random numbers are those of the request's ``rng``, drawn in the order of the software it comes from, so that a seed
        gives the same image here and there. If UNet and decoder do not fit into memory together, all images come after the
        last step. Closing the iterator cancels. Raises ImageError if an attachment cannot be used, and UnsafeImage.
        """
        size = request.computed
        shape = self._latent_shape(size)
        unet = self._guided_unet(request, attachments)
        for text in unet.conditioning.notes:
            yield Note(text)
        canvas = canvas_of(request, attachments)
        start = self._start(request, canvas)
        fit_together = self._networks.fit_together(UNET.name, VAE_DECODER.name, width=size.width, height=size.height)
        of_images = request.seeds.of_images
        waiting: list[tuple[int, Latents]] = []
        for number, seeds in enumerate(of_images):
            noise = ImageNoise(request.seeds.rng, seeds, request.seeds.variation_strength, shape)
            for step in self._denoise(request, unet, start, noise):
                latents = step.latents
                yield replace(step, image=number)
            waiting.append((number, latents))
            if fit_together or number == len(of_images) - 1:
                for finished, latents in waiting:
                    pixels, flagged = self._checker.checked(canvas.finish(self._decode(latents, size)))
                    yield GeneratedImage(finished, of_images[finished], pixels, flagged)
                waiting.clear()

    def _latent_shape(self, size: Size) -> tuple[int, int, int, int]:
        factor = self.manifest.vae_scale_factor
        return 1, self.manifest.latent_channels, size.height // factor, size.width // factor

    def _guided_unet(self, request: GenerationRequest, attachments: Mapping[str, bytes]) -> GuidedUNet:
        """Return the UNet for all images of a request."""
        size = request.computed
        conditioning = self._conditioner.conditioning(request)

        def network(name: str, rows: int, *, control: bool = False) -> Network:
            shape = {"batch": rows, "tokens": conditioning.tokens}
            return self.network(name, size.width, size.height, control=control, **shape)

        controls = controls_of(
            request, attachments, size, lambda control: partial(network, control.network(self.manifest))
        )
        unet = partial(network, UNET.name, control=controls is not None)
        guidance = Guidance.of(request.sampling)
        return GuidedUNet(unet, conditioning, guidance, self._extra_channels(size), controls)

    def _start(self, request: GenerationRequest, canvas: Canvas) -> Start:
        return Start(None if canvas.source is None else self._encode(canvas.source), request.skipped_steps)

    def _encode(self, pixels: Pixels) -> EncodedImage:
        """Return the latents of an image, uint8 [H, W, 3]."""
        height, width, _ = pixels.shape
        encoder = self.network(VAE_ENCODER.name, width, height)
        return EncodedImage.of(encoder.predict({"x": to_network(pixels)})["latent"], self.manifest.vae_scaling_factor)

    def _extra_channels(self, size: Size) -> NDArray[np.float16]:
        """Return the channels that follow those of the noisy latents.

        An inpainting model takes a mask, here of the whole image, and the latents of the image without the masked part.
        Other models take no extra channels.
        """
        shape = self._latent_shape(size)
        if not self.manifest.conditions.inpainting:
            return np.empty((1, 0, *shape[2:]), np.float16)
        encoder = self.network(VAE_ENCODER.name, size.width, size.height)
        blank = np.zeros((1, 3, size.height, size.width), np.float16)
        mean, _ = np.split(encoder.predict({"x": blank})["latent"], 2, 1)
        mask = np.ones((1, 1, *shape[2:]), np.float16)
        return np.concatenate([mask, (mean * np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)], 1)

    def _denoise(
        self, request: GenerationRequest, predictor: Predictor, start: Start, noise: ImageNoise
    ) -> Iterator[Step]:
        """Yield the steps of one image."""
        sampling = request.sampling
        scheduler = SCHEDULERS[sampling.scheduler].make(self._schedule, sampling.steps)
        latents = start.latents(scheduler, noise)
        first_call = start.first_call(scheduler)
        yield from denoise(predictor, self._schedule, scheduler, latents, first_call, noise.step)

    def _decode(self, latents: Latents, size: Size) -> Pixels:
        """Return the image of latents at the computed size, uint8 [H, W, 3]. Raises NotFinite."""
        decoder = self.network(VAE_DECODER.name, size.width, size.height)
        z = (latents / np.float32(self.manifest.vae_scaling_factor)).astype(np.float16)
        image = decoder.predict({"z": z})["image"]
        if not np.isfinite(image).all():
            raise NotFinite("the VAE decoder's output is not finite: its numbers overflowed")
        return to_pixels(image)
