"""stable-diffusion.cpp through stable-diffusion-cpp-python, which makes whole images only.

A step is the median step of a short run, timed by its progress callback: two evaluations of the UNet, one for each prompt,
which other peers do as a batch of two. The time after the last step counts as decoding. Its outputs cannot be compared,
because it does not take our inputs.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from safetensors.numpy import load_file, save_file
from stable_diffusion_cpp import StableDiffusion

from benchmarks.image import GUIDANCE, PROMPT, SEED
from benchmarks.peers.exported import export_once
from benchmarks.peers.step import Run, Step
from benchmarks.workload import Arrays, Workload

#: The number of steps; the first allocates buffers and is not counted.
_STEPS = {"unet": 3, "vae_decoder": 1}


def _folder(workload: Workload) -> Path:
    return workload.derived("sdcpp")


def prepare(workload: Workload) -> None:
    """Copy the checkpoint's folder, with the text encoder's tensor names of transformers 4, which it expects."""

    def write(folder: Path) -> None:
        tensors = load_file(workload.checkpoint / "text_encoder" / "model.safetensors")
        (folder / "text_encoder").mkdir()
        for name in ("unet", "vae"):
            (folder / name).symlink_to(workload.checkpoint / name)
        named = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
        save_file(named, folder / "text_encoder" / "model.safetensors")

    export_once(_folder(workload), write)


def load(workload: Workload) -> Step:
    """Load the model in its file's type (fp16)."""
    # By default it uses half of the cores.
    model = StableDiffusion(model_path=str(_folder(workload)), n_threads=os.cpu_count() or 1, verbose=False)

    def step(inputs: Arrays) -> Run:
        ends: list[float] = []
        model.generate_image(
            PROMPT,
            width=workload.width,
            height=workload.height,
            cfg_scale=GUIDANCE,
            seed=SEED,
            sample_method="euler",
            sample_steps=_STEPS[workload.network],
            progress_callback=lambda step, steps, taken: ends.append(time.perf_counter()),
        )
        done = time.perf_counter()
        if workload.network == "vae_decoder":
            return Run(done - ends[-1], None)
        return Run(median(after - before for before, after in pairwise(ends)), None)

    return step
