"""A model for tests: real worker process, real messages, images of one color. The prompt sets the behavior.

"slow" takes a tenth of a second a step; "fail" raises an error with a message for users, "bug" an unexpected one; "die"
kills the worker at the first step, "die late" a second later, "die once" only at the first attempt; "hang" closes the worker's
pipe and stays, as a process that hangs as it exits; "busy" keeps a core busy; "noted" yields a
note; "flagged" makes images in which a safety checker finds something, and "unsafe" has it refuse them; "trying" leaves the note of a compute unit's
trial (``NOTE`` in the model's folder).
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from converter.errors import AnemoneError, DamagedModel, MemoryShortage, SpaceError
from converter.manifest import Conditions, Defaults, Manifest, Package, SchedulerSettings, Source, Versions
from converter.progress import OnProgress, Progress
from server.jobs.messages import ModelRef
from server.models.paths import told
from server.models.upscalers import InstalledUpscalers
from server.pipeline.request import GenerationRequest

if TYPE_CHECKING:
    from server.pipeline.denoising.denoiser import GeneratedImage, Note, Step

STEP_SECONDS = 0.1
NOTE = ".anemone-trying-1-0"
#: A file in a model's folder that makes it a damaged one, until it is converted again.
DAMAGE = "damage"
#: Names of models: a usable one, one that cannot be loaded, one whose loading raises an unexpected error, one that needs too
#: much memory, one that loads slowly (any name with "lingering" takes a tenth of a second for each of ten networks), and one
#: whose loading kills the worker.
OTHER, BROKEN, FAULTY, HUGE, LINGERING, DEADLY = "other", "broken", "faulty", "huge", "lingering", "deadly"
#: One whose LoRA was replaced, one whose LoRA does not fit it, one for whose merging the disk has no
#: room, and one for which that is known before.
CHANGED, MISFIT, FULL, SCARCE = "changed", "misfit", "full", "scarce"

MANIFEST = Manifest(
    name="fake",
    family="sd1",
    prediction_type="epsilon",
    attention="split_einsum",
    precision="float16",
    sizes=((64, 64), (96, 64)),
    latent_channels=4,
    vae_scale_factor=8,
    vae_scaling_factor=0.18215,
    tokens=77,
    conditions=Conditions(inpainting=False, guidance_width=None, time_ids=None, zeros_for_no_prompt=False),
    scheduler=SchedulerSettings(1000, 0.00085, 0.012, "scaled_linear", "leading", 1, False),
    defaults=Defaults(steps=3, guidance_scale=4.5, scheduler="euler"),
    networks={"vae_encoder": (Package("vae_encoder.mlpackage", 64, 64, 1),)},
    source=Source("diffusers", "fake", "0" * 64, "0" * 64),
    converter=Versions("0", "0"),
    plan="",
)


def write_model(folder: Path, manifest: Manifest = MANIFEST) -> Path:
    """Write a model folder that only the fake pipeline can load, with an empty folder for each package; return it."""
    for package in (package for packages in manifest.networks.values() for package in packages):
        (folder / package.path).mkdir(parents=True, exist_ok=True)
    replace(manifest, name=folder.name).write(folder)
    return folder


class FakePipeline:
    def __init__(self, folder: Path, trying: Callable[[str], None], name: str = "fake") -> None:
        self._folder, self._trying = folder, trying
        self.manifest = replace(MANIFEST, name=name)

    def generate(
        self, request: GenerationRequest, attachments: Mapping[str, bytes], refiner: FakePipeline | None = None
    ) -> Generator[Step | Note | GeneratedImage, None, None]:
        from server.pipeline.denoising.denoiser import GeneratedImage, Note, Step
        from server.pipeline.images import decode_image
        from server.pipeline.safety import UnsafeImage

        words = request.prompts.prompt
        latents = np.zeros((1, 4, 8, 8), np.float32)
        if "noted" in words:
            yield Note("the mask was scaled from 8x8 to 64x64 – bilinearly")
        yield from map(Note, request.notes)
        for index, seeds in enumerate(request.seeds.of_images):
            for step in range(request.sampling.steps):
                began = time.perf_counter()
                self._behave(words)
                yield Step(step + 1, request.sampling.steps, latents, latents, time.perf_counter() - began, index)
            color = np.random.default_rng(seeds.seed).integers(0, 256, 3, np.uint8)
            if request.source is not None:
                color = np.asarray(decode_image(attachments[request.source.image]))[0, 0]
            if "unsafe" in words:
                raise UnsafeImage("the model's safety checker found something in the image")
            pixels = np.broadcast_to(color, (request.size.height, request.size.width, 3)).copy()
            yield GeneratedImage(index, seeds, pixels, "flagged" in words)

    def preview(self, step: Step, request: GenerationRequest) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (16, 16), "gray").save(file, "JPEG")
        return file.getvalue()

    def _behave(self, words: str) -> None:
        if "trying" in words:
            (self._folder / NOTE).touch()
            self._trying(NOTE)
        if "slow" in words:
            time.sleep(STEP_SECONDS)
        if "busy" in words:
            until = time.monotonic() + STEP_SECONDS
            while time.monotonic() < until:
                sum(range(10_000))
        if "fail" in words:
            raise AnemoneError("the UNet's output is not finite")
        if "bug" in words:
            raise RuntimeError("a bug")
        if "hang" in words:
            for descriptor in range(3, 256):
                with suppress(OSError):  # not open
                    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                        os.close(descriptor)
            time.sleep(3600)
        if "die once" in words:
            mark = self._folder / f"died {words}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif "die" in words:
            time.sleep(1.0 if "late" in words else 0.0)
            os.kill(os.getpid(), signal.SIGKILL)


def _open(
    data_dir: Path, model: ModelRef, progress: OnProgress, trying: Callable[[str], None], beside: object
) -> FakePipeline:
    name = model.name
    networks = 10 if LINGERING in name else 2
    for done in range(networks):
        progress(Progress("loading", f"network {done}", done, networks))
        if LINGERING in name:
            time.sleep(0.1)
    if name == BROKEN:
        raise AnemoneError(f"{data_dir / 'models' / name / 'unet'} uses operators this runtime does not have")
    if name == FAULTY:
        raise ValueError("a bug")
    if name == HUGE:
        raise MemoryShortage("its unet takes 99 GB")
    if name == CHANGED:
        from server.jobs.worker import AddonChanged

        raise AddonChanged("the lora film was replaced")
    if name == MISFIT:
        from server.jobs.worker import AddonMisfit

        raise AddonMisfit("film changes what the model does not have")
    if name == FULL:
        raise OSError(errno.ENOSPC, "No space left on device", str(data_dir / "merged" / "a" / "merged.bin"))
    if name == SCARCE:
        raise SpaceError(f"the model needs 9 GB in {data_dir / 'merged'}; 1 GB are free")
    if name == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    folder = data_dir / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / DAMAGE).exists():
        raise DamagedModel(f"{folder} is damaged", "unet has other content than was written")
    return FakePipeline(folder, trying, name)


def start(pipe: Connection, data_dir: Path, previews: bool = True) -> None:
    """The worker process's entry point."""
    from server.jobs.local_worker import upscaler_opener
    from server.jobs.worker import work

    hide = partial(told, parents=(data_dir / "models",), log=logging.getLogger("anemone.worker"))
    open_upscaler = upscaler_opener(InstalledUpscalers(data_dir), {}, "fp32")
    work(pipe, partial(_open, data_dir), open_upscaler, previews=previews, without_paths=hide)
