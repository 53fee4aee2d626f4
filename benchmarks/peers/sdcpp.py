"""stable-diffusion.cpp through stable-diffusion-cpp-python, which paints whole pictures only.

So a step is the median of a short picture's, as its progress callback tells them: two evaluations of the UNet, one for
each prompt, which is what others do as a batch of two. Decoding is what comes after the last step. Its numbers are not
comparable with the others', which are given theirs.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from safetensors.numpy import load_file, save_file
from stable_diffusion_cpp import StableDiffusion

from benchmarks.peers.exported import exported
from benchmarks.peers.step import Step, Taken
from benchmarks.picture import GUIDANCE, PROMPT, SEED
from benchmarks.workload import Arrays, Workload

#: The first step pays for its buffers and is left out.
_STEPS = {"unet": 3, "vae_decoder": 1}


def _folder(workload: Workload) -> Path:
    return workload.beside("sdcpp")


def prepare(workload: Workload) -> None:
    """The checkpoint's folder once more, its text encoder under the names of transformers before 5, which it looks for."""

    def write(folder: Path) -> None:
        tensors = load_file(workload.checkpoint / "text_encoder" / "model.safetensors")
        (folder / "text_encoder").mkdir()
        for name in ("unet", "vae"):
            (folder / name).symlink_to(workload.checkpoint / name)
        named = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
        save_file(named, folder / "text_encoder" / "model.safetensors")

    exported(_folder(workload), write)


def load(workload: Workload) -> Step:
    """The model in the types of its file (fp16)."""
    # Left alone it takes half of the cores.
    model = StableDiffusion(model_path=str(_folder(workload)), n_threads=os.cpu_count() or 1, verbose=False)

    def step(inputs: Arrays) -> Taken:
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
            return Taken(done - ends[-1], None)
        return Taken(median(after - before for before, after in pairwise(ends)), None)

    return step
