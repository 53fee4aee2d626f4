"""The Stable Diffusion pipeline: makes a request's images with text encoder, UNet and autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from PIL import Image

from converter.devices.trials import Trials
from converter.errors import ManifestError
from converter.folder import ModelFolder
from converter.manifest import Manifest
from converter.networks.registry import SAFETY_CHECKER, UNET, UNET_PROMPT, VAE_DECODER, text_encoders
from converter.progress import OnProgress, Progress, ignore
from converter.runtime import Network
from server.pipeline.autoencoder import Autoencoder
from server.pipeline.boxes.windows import Windows
from server.pipeline.canvas.canvas import Canvas, Painting, View, canvas_of
from server.pipeline.denoising.conditioning import Conditioner
from server.pipeline.denoising.controls import ControlImages, control_images
from server.pipeline.denoising.denoiser import GeneratedImage, Note, Predictor, Step, denoise
from server.pipeline.denoising.guidance import Guidance
from server.pipeline.denoising.image_prompt import image_prompt_of
from server.pipeline.denoising.refining import Refining, for_refiner
from server.pipeline.denoising.unet import GuidedUNet
from server.pipeline.images import Pixels, resize_and_crop
from server.pipeline.networks import Call, ComputeUnits, LoadedNetworks, Loader, Networks, load_package
from server.pipeline.noise import ImageNoise
from server.pipeline.preview import Previewer
from server.pipeline.prompts.editing import Walk
from server.pipeline.request import Extent, GenerationRequest, ImageSeeds
from server.pipeline.request.controls import Control
from server.pipeline.request.prompting import second_walk
from server.pipeline.safety import SafetyChecker
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule, Scheduler
from server.pipeline.schedulers.schedule import Latents
from server.pipeline.tasks.hires import SecondPass, WindowedAutoencoder, WindowedPredictor
from server.pipeline.tasks.palette import PaletteReference, palette_of_request
from server.pipeline.tasks.start import Start, start_of
from server.pipeline.tasks.upscale import OpenUpscaler, no_upscaler
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
        words: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        notes: Sequence[str] = (),
        beside: StableDiffusion | None = None,
        open_upscaler: OpenUpscaler = no_upscaler,
    ) -> None:
        """``memory_budget`` is the limit for the weights of loaded networks, in bytes; see `LoadedNetworks`.

        ``words`` has the words that stand for embeddings in prompts, by the names of those that are merged into the model;
        ``notes`` are told of every request.
        ``beside`` is a pipeline that this one shares memory and budget with; ``open_upscaler`` loads upscalers for hires fix.
        """
        self._open_upscaler, self._notes = open_upscaler, notes
        self._folder = folder
        memory = LoadedNetworks(memory_budget) if beside is None else beside._networks.memory
        self._networks: Networks = Networks(folder, compute_units, loader, memory, trials)
        #: Returns one of the model's networks, loaded.
        self.network = self._networks.get
        self._schedule = NoiseSchedule.of(folder.manifest)
        self._coder = Autoencoder(folder.manifest, self.network)
        self._conditioner = Conditioner(folder, self.network, words)
        self._previewer = Previewer(folder.manifest, self.network)
        self._checker = SafetyChecker(folder, self.network, safety)

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self._folder.manifest

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

        None, too, if a safety checker is active: what it would find in the image could be seen in a preview; and in the
        second pass of hires fix, whose latents are larger.
        """
        if self._checker.active or step.denoised.shape != self._coder.latent_shape(request.computed):
            return None
        size = {"width": request.computed.width, "height": request.computed.height}
        needed = self._previewer.needs(**size)
        if needed is not None and not self._networks.fit_together(UNET.name, needed, **size):
            return None
        return self._previewer.jpeg(step.denoised, **size)

    def generate(
        self, request: GenerationRequest, attachments: Mapping[str, bytes], refiner: StableDiffusion | None = None
    ) -> Generator[Step | Call | Note | GeneratedImage, None, None]:
        """Make the request's images; yield notes, every call and finished step, and every finished image.

        Random numbers are those of the request's ``rng``, drawn in the order of the software it comes from, so that a seed
        gives the same image here and there. If UNet and decoder do not fit into memory together, all images come after the
        last step. ``refiner`` is the pipeline of the request's refiner. Closing the iterator cancels. Raises ImageError if
        an attachment cannot be used, and UnsafeImage.
        """
        size = request.computed
        palette = palette_of_request(request, attachments, self._coder.encode)
        unet = self._guided_unet(request, attachments)
        for text in (*request.notes, *self._notes, *unet.conditioning.notes):
            yield Note(text)
        refining = self._refining(request, attachments, refiner)
        controls = self._controls(request, attachments, unet.conditioning.tokens)
        second = self._second_pass(request, attachments)
        canvas = canvas_of(request, attachments)
        boxes = [(box, None if controls is None else controls.at(box, canvas.shape)) for box in canvas.boxes]
        first = self._start(request, canvas.painting().view(canvas.boxes[0]), palette)
        fit_together = self._networks.fit_together(UNET.name, VAE_DECODER.name, width=size.width, height=size.height)
        of_images = request.seeds.of_images
        further = len(request.timesteps(self.manifest)[1])
        waiting: list[tuple[int, Painting, Latents]] = []
        for number, seeds in enumerate(of_images):
            painting, before = canvas.painting(), 0
            for done, (box, controls_of_box) in enumerate(boxes):
                start = self._start(request, painting.view(box), palette) if done else first
                noise = self._noise(request, seeds.of_box(done), size)
                guided = replace(unet, controls=controls_of_box)
                for event in self._denoise(request, guided, start, noise, refining, palette):
                    if isinstance(event, Step):
                        latents, steps = event.latents, event.total
                        event = event.of(number, before, len(boxes) * steps + further)
                    yield event
                before += steps
                if done + 1 < len(boxes):
                    painting.paint(box, self._coder.decode(latents, size))
            if second is not None:
                noise = self._noise(request, seeds, second.target)
                for event in second.events(latents, noise):
                    if isinstance(event, Step):
                        latents = event.latents
                        event = event.of(number, before, before + further)
                    yield event
            waiting.append((number, painting, latents))
            if fit_together or number == len(of_images) - 1:
                for finished, painting, latents in waiting:
                    pixels = yield from self._finished(request, canvas, painting, latents)
                    pixels, flagged = self._checker.checked(pixels)
                    yield GeneratedImage(finished, of_images[finished], pixels, flagged)
                waiting.clear()

    def _finished(
        self, request: GenerationRequest, canvas: Canvas, painting: Painting, latents: Latents
    ) -> Generator[Call, None, Pixels]:
        """Yield the decoder's calls; return an image whose last latents these are."""
        if request.hires is None:
            painting.paint(canvas.boxes[-1], self._coder.decode(latents, request.computed))
            return painting.pixels
        coder = WindowedAutoencoder(self._coder, self._second_window(request))
        image = Image.fromarray((yield from coder.decoded(latents)))
        return resize_and_crop(image, request.result.width, request.result.height)

    def _second_window(self, request: GenerationRequest) -> Extent:
        """Return the size that the networks of the second pass compute."""
        return request.computed if request.in_windows(self.manifest) else request.finest(self.manifest.vae_scale_factor)

    def _second_pass(self, request: GenerationRequest, attachments: Mapping[str, bytes]) -> SecondPass | None:
        """Return the second pass of hires fix for all images of a request; None if it asks for none."""
        if request.hires is None:
            return None
        target, window = request.finest(self.manifest.vae_scale_factor), self._second_window(request)
        whole, skipped = request.hires.scheduled(request.sampling.steps)
        guided = self._guided_unet(request.model_copy(update={"computed": window}), attachments, second_walk(request))
        (_, _, *rows), (_, _, *shape) = self._coder.latent_shape(window), self._coder.latent_shape(target)
        return SecondPass(
            upscaler=request.hires.hires_upscaler,
            target=target,
            predictor=WindowedPredictor(Windows((shape[0], shape[1]), (rows[0], rows[1])), guided),
            first=WindowedAutoencoder(self._coder, request.computed),
            second=WindowedAutoencoder(self._coder, window),
            schedule=self._schedule,
            make_scheduler=lambda: self._scheduler(request, whole),
            skipped_steps=skipped,
            open_upscaler=self._open_upscaler,
        )

    def _noise(self, request: GenerationRequest, seeds: ImageSeeds, size: Extent) -> ImageNoise:
        """Return the noise of an image that is computed at a size."""
        return ImageNoise(request.seeds.rng, seeds, request.seeds.variation_strength, self._coder.latent_shape(size))

    def _scheduler(self, request: GenerationRequest, steps: int) -> Scheduler:
        """Return the request's scheduler for a run of so many steps."""
        return SCHEDULERS[request.sampling.scheduler].make(self._schedule, steps, request.sampling.sigmas)

    def _guided_unet(
        self, request: GenerationRequest, attachments: Mapping[str, bytes], walk: Walk | None = None
    ) -> GuidedUNet:
        """Return the UNet for all images of a request, without the residuals of its ControlNets.

        ``walk`` has the steps of a further pass; None: those of the request.
        """
        size, conditioning = request.computed, self._conditioner.conditioning(request, walk)
        image = image_prompt_of(request, attachments, self.manifest, self.network)
        if image is not None:
            conditioning = image.beside(conditioning)

        # Outside the guidance interval a package of one row is used only if it need not take the other's place in memory.
        both = self._networks.fit_together(UNET.name, UNET.name, width=size.width, height=size.height)
        fewest = 1 if both or not request.sampling.is_guided(self.manifest) else 2

        def network(rows: int) -> Network:
            shape = {"batch": max(rows, fewest), "tokens": conditioning.tokens}
            image_tokens = None if image is None else image.tokens
            return self.network(
                UNET.name,
                size.width,
                size.height,
                control=bool(request.controls),
                image_tokens=image_tokens,
                **shape,
            )

        return GuidedUNet(network, conditioning, Guidance.of(request.sampling))

    def _controls(
        self, request: GenerationRequest, attachments: Mapping[str, bytes], tokens: int
    ) -> ControlImages | None:
        """Return the ControlNets of a request with their images; None if it has none."""
        size = request.computed

        def network(control: Control) -> Callable[[int], Network]:
            name = control.network(self.manifest)
            return lambda rows: self.network(name, size.width, size.height, batch=rows, tokens=tokens)

        return control_images(request, attachments, network)

    def _refining(
        self, request: GenerationRequest, attachments: Mapping[str, bytes], refiner: StableDiffusion | None
    ) -> Refining | None:
        """Return what takes over a request's last steps; None if nothing does."""
        if request.refiner is None:
            return None
        if refiner is None:
            raise ManifestError(f"the refiner {request.refiner.refiner} is not loaded")
        switch = request.refiner.switch_timestep(self.manifest.scheduler.num_train_timesteps)
        return Refining(refiner._guided_unet(for_refiner(request), attachments), switch)

    def _start(self, request: GenerationRequest, view: View, palette: PaletteReference | None) -> Start:
        """Return what the images of a request start from in a box of the canvas."""
        return start_of(
            request, view if palette is None else palette.recolored(view), self.manifest, self._coder.encode
        )

    def _denoise(
        self,
        request: GenerationRequest,
        unet: GuidedUNet,
        start: Start,
        noise: ImageNoise,
        refining: Refining | None,
        palette: PaletteReference | None,
    ) -> Iterator[Call | Step]:
        """Yield the calls and steps of one box of an image."""
        scheduler = self._scheduler(request, request.sampling.steps)
        beginning = start.begin(scheduler, noise)
        predictor: Predictor = replace(unet, extra_channels=beginning.extra_channels)
        if refining is not None:
            predictor = refining.after(predictor)
        if palette is not None:
            predictor = palette.guided(predictor, self._schedule)
        yield from denoise(
            predictor,
            self._schedule,
            scheduler,
            beginning.latents,
            start.first_call(scheduler),
            noise.step,
            beginning.after_step,
        )
