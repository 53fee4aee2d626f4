"""Our runtime on our converter's packages; for txt2img, the server's pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.image import GUIDANCE, PROMPT, SEED
from benchmarks.peers.step import Step, timed
from benchmarks.workload import Arrays, Workload
from converter.folder import ModelFolder
from converter.networks.layers import Attention
from converter.runtime import Network
from converter.runtime import load as load_package


def converted(workload: Workload, attention: Attention = "split_einsum") -> Path:
    """Return the model folder of the checkpoint at the workload's size."""
    return workload.derived(f"{attention}-{workload.width}x{workload.height}")


def package(workload: Workload, attention: Attention = "split_einsum") -> Path:
    """Return the .mlpackage of the workload's network."""
    folder = ModelFolder.open(converted(workload, attention))
    return folder.path / folder.packages(workload.network, workload.width, workload.height)[0].path


def prepare(
    workload: Workload, *, precision: str, attention: Attention = "split_einsum", path: str | None = None
) -> None:
    """Convert the checkpoint once, unless ``path`` names a package."""
    from converter.conversion.convert import convert
    from converter.options import ConvertOptions

    folder = converted(workload, attention)
    if path is None and not folder.exists():
        size = (workload.width, workload.height)
        options = ConvertOptions(sizes=(size,), attention=attention, batches=(workload.batch,), verify=False)
        convert(workload.checkpoint, folder, options)


def _as_package_inputs(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Convert the inputs to a package's: fp16, with the states' channels first."""
    arrays = {name: array.astype(np.float16) for name, array in inputs.items()}
    if "states" in arrays:
        arrays["encoder_hidden_states"] = np.ascontiguousarray(arrays.pop("states").transpose(0, 2, 1)[:, :, None])
    return arrays


def _loader(precision: str) -> Callable[[Path, str, str], Network]:
    def open_package(path: Path, function: str, compute_units: str) -> Network:
        return load_package(path, function=function, compute_units=compute_units, precision=precision)

    return open_package


def _pipeline(workload: Workload, precision: str, attention: Attention) -> Step:
    from server.pipeline.denoising.denoiser import GeneratedImage
    from server.pipeline.request import bind
    from server.pipeline.stable_diffusion import StableDiffusion

    model = StableDiffusion(ModelFolder.open(converted(workload, attention)), {}, _loader(precision))
    model.load()
    request = bind(
        model.manifest, prompt=PROMPT, steps=workload.steps, guidance_scale=GUIDANCE, seed=SEED, scheduler="ddim"
    )

    def generate(inputs: Arrays) -> NDArray[np.uint8]:
        (image,) = (event for event in model.generate(request, {}) if isinstance(event, GeneratedImage))
        return image.pixels

    return timed(generate)


def load(workload: Workload, *, precision: str, attention: Attention = "split_einsum", path: str | None = None) -> Step:
    """Load the network's package (``path`` replaces the converted one), or for txt2img the model, in ``precision``."""
    if workload.network == "txt2img":
        return _pipeline(workload, precision, attention)
    network = _loader(precision)(Path(path) if path else package(workload, attention), "main", "CPU_ONLY")

    def run(inputs: Arrays) -> NDArray[np.float32]:
        (output,) = network.predict(_as_package_inputs(inputs)).values()
        return output

    return timed(run)
