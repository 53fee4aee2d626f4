"""Compares the bundled model's compressed forms with fp16: their sizes, their images, and what `demo.check` sees in these.

python -m demo.compression --images 60 --plot docs/compression.png
"""

from __future__ import annotations

import argparse
import json
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
    made = convert(BUNDLED_MODEL, Path(tempfile.mkdtemp(dir=scratch)) / "model", options)
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


@dataclass(frozen=True)
class Row:
    """A line of the table: a form's size as a part of fp16's, its images' PSNR in dB, and the part of prompts that is seen."""

    name: str
    nbytes: int
    share: float
    psnr_db: float
    seen: float


def _kind(name: str) -> str:
    if "mixed" in name:
        return "mixed palettes"
    return ("palettes" if "palettes" in name else "integers") + (" of 32 channels" if "each" in name else "")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot quality against size; each point has its bits."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    markers = {"palettes": "o", "palettes of 32 channels": "s", "integers": "^", "integers of 32 channels": "v"}
    for kind in dict.fromkeys(_kind(row.name) for row in rows[1:]):
        own = [row for row in rows[1:] if _kind(row.name) == kind]
        axes.plot([r.share for r in own], [r.psnr_db for r in own], markers.get(kind, "D"), label=kind, alpha=0.8)
        for row in own if kind in ("palettes", "mixed palettes") else []:
            bits = row.name.partition("-")[0]
            axes.annotate(bits, (row.share, row.psnr_db), xytext=(6, -11), textcoords="offset points", fontsize=9)
    axes.set_xlabel("weights of UNet and text encoder, as a part of fp16's")
    axes.set_ylabel("PSNR of images against fp16's, dB (median)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def measure_images(count: int, recipes: Path | None, picture: Path | None, scratch: Path) -> None:
    """Print a table of the bundled model's forms, with mixed palettes by a file of recipes, and plot quality against size."""
    forms: list[Form] = []
    names = [] if recipes is None else json.loads(recipes.read_text(encoding="utf-8"))["recipes"]
    mixed = [ConvertOptions(bits=6, recipe=f"{recipes}#{name}", target="macOS15") for name in names]
    for options in (*FORMS, *mixed):
        forms.append(measure_form(options, count, scratch))
        print(f"{forms[-1].name}: {forms[-1].right} of {forms[-1].asked}", flush=True)
    exact = forms[0]
    rows = [Row(f.name, f.nbytes, f.nbytes / exact.nbytes, images_psnr(f, exact), f.right / f.asked) for f in forms]
    lines = [
        [r.name, f"{r.nbytes / 1e6:.1f} MB", f"{r.share:.2f}", f"{r.psnr_db:.1f} dB", f"{r.seen:.0%}"] for r in rows
    ]
    print(table(["weights", "size", "of fp16", "images", "of the prompt seen"], lines))
    if picture is not None:
        plot(rows, picture)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="compare images of so many held-out prompts")
    parser.add_argument(
        "--recipes", type=Path, help="also mixed palettes by the recipes in this file of `anemone analyze`"
    )
    parser.add_argument("--plot", type=Path, help="plot the images' quality against size into this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure_images(args.images, args.recipes, args.plot, Path(scratch))


if __name__ == "__main__":
    main()
