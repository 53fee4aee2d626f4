"""Compares the bundled model's compressed forms with fp16: their sizes, their images, and what `demo.check` sees in these.

python -m demo.compression --images 60 --plot docs/compression.png
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import table
from converter.conversion.convert import convert
from converter.folder import ModelFolder
from converter.mil.package import WEIGHTS
from converter.options import ConvertOptions
from demo.check import judge, prompts
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from server.settings import BUNDLED_MODEL

#: Forms of the bundled model, from the largest.
FORMS = (
    ConvertOptions(),
    ConvertOptions(bits=8),
    ConvertOptions(bits=8, quantization="linear"),
    ConvertOptions(bits=6, group_size=32, target="macOS15"),
    ConvertOptions(bits=6),
    ConvertOptions(bits=4, group_size=32, target="macOS15"),
    ConvertOptions(bits=4, quantization="linear", group_size=32, target="macOS15"),
    ConvertOptions(bits=4),
    ConvertOptions(bits=3, target="macOS15"),
    ConvertOptions(bits=2),
    ConvertOptions(bits=1),
)


@dataclass(frozen=True)
class Form:
    """A form of the bundled model: the bytes of its compressed networks' weights, and its images with their marks."""

    name: str
    nbytes: int
    images: list[NDArray[np.uint8]]
    right: int
    asked: int


def _bytes(model: ModelFolder) -> int:
    packages = [each for network in ("unet", "text_encoder") for each in model.manifest.networks[network]]
    files = {os.stat(model.path / package.path / WEIGHTS) for package in packages}
    return sum({stat.st_ino: stat.st_size for stat in files}.values())


def measure_form(options: ConvertOptions, count: int, scratch: Path) -> Form:
    """Convert the bundled model, and make and judge an image of each of ``count`` held-out prompts."""
    made = convert(BUNDLED_MODEL, scratch / f"{options.bits}-{options.quantization}-{options.group_size}", options)
    model, images, right, asked = StableDiffusion(made, {}), [], 0, 0
    for number, (prompt, scene) in enumerate(prompts(count, 2026)):
        request = bind(made.manifest, prompt=prompt, steps=20, seed=number)
        image = next(e for e in model.generate(request, {}) if isinstance(e, GeneratedImage))
        marks = judge(scene, image.pixels)
        images.append(image.pixels)
        right, asked = right + sum(marks.values()), asked + len(marks)
    return Form(made.manifest.precision, _bytes(made), images, right, asked)


def images_psnr(form: Form, exact: Form) -> float:
    """Return the median PSNR in dB of a form's images against those in fp16; inf if they are equal."""
    errors = [float(np.square(a.astype(np.float64) - b).mean()) for a, b in zip(form.images, exact.images, strict=True)]
    median = float(np.median(errors))
    return float("inf") if median == 0 else 10 * float(np.log10(255**2 / median))


def _plot(forms: Sequence[Form], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    exact = forms[0]
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for form in forms[1:]:
        x, y = form.nbytes / exact.nbytes, images_psnr(form, exact)
        axes.plot(x, y, "o" if "palettes" in form.name else "s", color="#2a6f97" if "each" in form.name else "#e07a1f")
        axes.annotate(form.name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("weights of UNet and text encoder, as a part of fp16's")
    axes.set_ylabel("PSNR of images against fp16's, dB (median)")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def measure_images(count: int, plot: Path | None, scratch: Path) -> None:
    """Print a table of the bundled model's forms, and plot quality against size."""
    forms: list[Form] = []
    for options in FORMS:
        forms.append(measure_form(options, count, scratch))
        print(f"{forms[-1].name}: {forms[-1].right} of {forms[-1].asked}", flush=True)
    rows = [
        [
            form.name,
            f"{form.nbytes / 1e6:.1f} MB",
            f"{form.nbytes / forms[0].nbytes:.2f}",
            "" if form is forms[0] else f"{images_psnr(form, forms[0]):.1f} dB",
            f"{form.right / form.asked:.0%}",
        ]
        for form in forms
    ]
    print(table(["weights", "size", "of fp16", "images", "of the prompt seen"], rows))
    if plot is not None:
        _plot(forms, plot)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="compare images of so many held-out prompts")
    parser.add_argument("--plot", type=Path, help="plot the images' quality against size into this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure_images(args.images, args.plot, Path(scratch))


if __name__ == "__main__":
    main()
