"""A model for tests: real worker process, real messages, pictures of one colour. The prompt says how it behaves.

"slow" takes a tenth of a second a step; "fail" raises an error for people, "bug" one for programmers; "die" kills the
worker at the first step, "die late" a second later, "die once" only at the first attempt; "busy" keeps a core busy.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from converter.errors import AnemoneError
from converter.folder import Conditions, Defaults, Manifest, SchedulerSettings, Source, Versions
from server.jobs.messages import Preparing
from server.jobs.request import GenerationRequest
from server.jobs.start import ModelChoice

STEP_SECONDS = 0.1
#: A model folder's name that makes the preparation fail, kill its process, or take long.
UNABLE, DEADLY, SLOW = "unable", "deadly", "slow"

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
    networks={},
    source=Source("diffusers", "fake", "0" * 64, "0" * 64),
    converter=Versions("0", "0"),
    plan="",
)


class FakePainter:
    manifest = MANIFEST

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def generate(self, request: GenerationRequest) -> Iterator[object]:
        from server.pipeline.denoise import Step
        from server.pipeline.images import decode_image
        from server.pipeline.stable_diffusion import Picture

        words = request.prompt
        for index in range(request.n):
            seed = (request.seed + index) % 2**32
            for step in range(request.steps):
                self._behave(words)
                yield Step(step + 1, request.steps, np.zeros((1, 4, 8, 8), np.float32))
            colour = np.random.default_rng(seed).integers(0, 256, 3, np.uint8)
            if request.image is not None:
                colour = np.asarray(decode_image(request.image))[0, 0]
            yield Picture(index, seed, np.broadcast_to(colour, (request.height, request.width, 3)).copy())

    def _behave(self, words: str) -> None:
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
        if "die once" in words:
            mark = self._folder / f"died {words}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif "die" in words:
            time.sleep(1.0 if "late" in words else 0.0)
            os.kill(os.getpid(), signal.SIGKILL)


def _prepare(choice: ModelChoice, progress: Callable[[Preparing], None]) -> tuple[FakePainter, Path]:
    if choice.source.name == UNABLE:
        raise AnemoneError("the checkpoint is of an unknown architecture")
    if choice.source.name == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    for done in range(3):
        progress(Preparing("converting", "unet", 100 * done, 200))
        if choice.source.name == SLOW:
            time.sleep(1)
    folder = choice.data_dir / "models" / "fake"
    folder.mkdir(parents=True, exist_ok=True)
    MANIFEST.write(folder)
    return FakePainter(folder), folder


def start(orders: Connection, choice: ModelChoice) -> None:
    """The worker process's entry point."""
    from server.jobs.worker import work

    work(orders, choice, _prepare)
