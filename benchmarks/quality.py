"""Compares the bundled model's compressed forms with fp16: sizes, the UNet's predictions, images and what these show.

    python -m benchmarks.quality --images 40 --plot docs/compression.png

Recipes of mixed palettes are those of ``anemone analyze``. Predictions are compared on steps of images, and images judged,
of held-out prompts: ones that neither the model's training nor the analysis saw. All forms run in fp32, since the usual
engine would round the weights again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import table
from converter.conversion.convert import convert
from converter.folder import ModelFolder
from converter.mil.package import WEIGHTS
from converter.networks.registry import TEXT_ENCODER, UNET
from converter.options import ConvertOptions
from converter.verification.sensitivity import guided, mean_psnr
from demo.check import judge, prompts
from server.cli.analyzing import AnalyzeOptions, analyze_checkpoint
from server.cli.calibration import calibrate
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.networks import load_package
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from server.settings import BUNDLED_MODEL
from server.terminal import Bar

_TARGET: Final = "macOS15"
_GROUPS: dict[str, Any] = {"group_size": 32, "target": _TARGET}
#: Forms of the bundled model, by name, from the largest.
FORMS: dict[str, ConvertOptions] = {
    "fp16": ConvertOptions(),
    "8-bit palettes": ConvertOptions(bits=8),
    "8-bit integers": ConvertOptions(bits=8, quantization="linear"),
    "6-bit palettes": ConvertOptions(bits=6),
    "6-bit palettes of 32 channels": ConvertOptions(bits=6, **_GROUPS),
    "4-bit palettes": ConvertOptions(bits=4),
    "4-bit palettes of 32 channels": ConvertOptions(bits=4, **_GROUPS),
    "4-bit integers of 32 channels": ConvertOptions(bits=4, quantization="linear", **_GROUPS),
    "3-bit palettes": ConvertOptions(bits=3, target=_TARGET),
    "2-bit palettes": ConvertOptions(bits=2),
    "1-bit palettes": ConvertOptions(bits=1),
}
_AVERAGES = (6.0, 4.5, 3.0)
#: The forms that are compared with each other at the end: mixed palettes, and the uniform ones that they should equal.
_COMPARED = (
    ("mixed palettes, 6 bits", "6-bit palettes"),
    ("mixed palettes, 4.5 bits", "6-bit palettes"),
    ("mixed palettes of 32 channels, 4.5 bits", "6-bit palettes of 32 channels"),
)
_PREDICTED_PROMPTS = 16
_load = partial(load_package, precision="fp32")


def mixed_forms(recipes: Path) -> dict[str, ConvertOptions]:
    """Analyze the bundled model's UNet into the file ``recipes``, and return the forms with its recipes, by name."""
    analyze_checkpoint(str(BUNDLED_MODEL), recipes, AnalyzeOptions(_AVERAGES, target=_TARGET))
    forms = {}
    for average in _AVERAGES:
        chosen = partial(ConvertOptions, bits=6, recipe=f"{recipes}#recipe_{average:.2f}_bit_mixedpalette")
        forms[f"mixed palettes, {average:g} bits"] = chosen(target=_TARGET)
        forms[f"mixed palettes of 32 channels, {average:g} bits"] = chosen(**_GROUPS)
    return forms


@dataclass(frozen=True)
class Form:
    """A form of the model: the bytes of its compressed networks' weights, and what it predicts and paints.

    predictions: of the UNet for the same inputs, two rows each: a negative prompt's and a prompt's.
    guidance: the scale by which these two are combined into the guided prediction.
    right, asked: what prompts ask for that is seen in the images, and all that they ask for.
    """

    nbytes: int
    predictions: list[NDArray[Any]]
    guidance: float
    images: list[NDArray[np.uint8]]
    right: int
    asked: int

    @property
    def guided(self) -> list[NDArray[Any]]:
        """The guided predictions."""
        return [guided(rows.astype(np.float32), self.guidance) for rows in self.predictions]


def _bytes(model: ModelFolder) -> int:
    packages = [each for network in (UNET, TEXT_ENCODER) for each in model.manifest.networks[network.name]]
    files = {os.stat(model.path / package.path / WEIGHTS) for package in packages}
    return sum({stat.st_ino: stat.st_size for stat in files}.values())


def measure_form(model: ModelFolder, inputs: Sequence[dict[str, NDArray[Any]]], count: int) -> Form:
    """Predict by the model's UNet from ``inputs``, and make and judge an image of each of ``count`` held-out prompts."""
    pipeline, images, right, asked = StableDiffusion(model, {}, _load), [], 0, 0
    for number, (prompt, scene) in enumerate(prompts(count, 2026)):
        request = bind(model.manifest, prompt=prompt, steps=20, seed=number)
        image = next(e for e in pipeline.generate(request, {}) if isinstance(e, GeneratedImage))
        marks = judge(scene, image.pixels)
        images.append(image.pixels)
        right, asked = right + sum(marks.values()), asked + len(marks)
    unet = pipeline.network(UNET.name, *model.manifest.sizes[0])
    predictions = [unet.predict(each)["noise_pred"] for each in inputs]
    return Form(_bytes(model), predictions, model.manifest.defaults.guidance_scale, images, right, asked)


def images_psnr(form: Form, exact: Form) -> float:
    """Return the median PSNR in dB of a form's images against those in fp16; inf if they are equal."""
    errors = [float(np.square(a.astype(np.float64) - b).mean()) for a, b in zip(form.images, exact.images, strict=True)]
    median = float(np.median(errors))
    return float("inf") if median == 0 else 10 * float(np.log10(255**2 / median))


@dataclass(frozen=True)
class Row:
    """A line of the table: a form's size in bytes and as a part of fp16's, its PSNR in dB, and the part of prompts that is seen."""

    name: str
    nbytes: int
    share: float
    prediction_db: float
    guided_db: float
    images_db: float
    seen: float

    @classmethod
    def of(cls, name: str, form: Form, exact: Form) -> Row:
        """Compare a form with fp16."""
        return cls(
            name,
            form.nbytes,
            form.nbytes / exact.nbytes,
            mean_psnr(form.predictions, exact.predictions),
            mean_psnr(form.guided, exact.guided),
            images_psnr(form, exact),
            form.right / form.asked,
        )

    def cells(self) -> list[str]:
        """Return the line's text."""
        decibels = [f"{db:.1f} dB" for db in (self.prediction_db, self.guided_db, self.images_db)]
        return [self.name, f"{self.nbytes / 1e6:.1f} MB", f"{self.share:.2f}", *decibels, f"{self.seen:.0%}"]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot the images' quality against size; each palette has its bits."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    markers = dict(
        zip(("palettes", "palettes of 32 channels", "integers", "integers of 32 channels"), "os^v", strict=True)
    )
    points = [(row.name.partition("-bit ")[2] or row.name.partition(",")[0], row) for row in rows]
    for kind in dict.fromkeys(kind for kind, _ in points):
        own = [row for other, row in points if other == kind]
        axes.plot([r.share for r in own], [r.images_db for r in own], markers.get(kind, "D"), label=kind, alpha=0.8)
        for row in own if kind in ("palettes", "mixed palettes") else []:
            bits = row.name.removeprefix("mixed palettes, ").replace("-", " ").split()[0]
            beside = (6, -11) if kind == "palettes" else (-7, 7)
            axes.annotate(
                bits, (row.share, row.images_db), xytext=beside, textcoords="offset points", fontsize=9, ha="center"
            )
    axes.set_xlabel("weights of UNet and text encoder, as a part of fp16's")
    axes.set_ylabel("PSNR of images against fp16's, dB (median)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _differences(rows: Sequence[Row]) -> list[str]:
    named = {row.name: row for row in rows}
    lines = []
    for name, other in _COMPARED:
        a, b = named[name], named[other]
        lines.append(
            f"{name} against {other}: prediction {a.prediction_db - b.prediction_db:+.1f} dB, guided "
            f"{a.guided_db - b.guided_db:+.1f} dB, images {a.images_db - b.images_db:+.1f} dB"
        )
    return lines


def compare(count: int, picture: Path | None, scratch: Path) -> None:
    """Print a table of the bundled model's forms and of images of ``count`` prompts, and plot quality against size."""
    exact: Form | None = None
    rows: list[Row] = []
    for number, (name, options) in enumerate((FORMS | mixed_forms(scratch / "recipes.json")).items()):
        model = convert(BUNDLED_MODEL, scratch / str(number), options)
        if exact is None:
            asked = {str(number): prompt for number, (prompt, _) in enumerate(prompts(_PREDICTED_PROMPTS, 2026))}
            seen = calibrate(model, asked, Bar())
            inputs = [*seen.measured, *seen.compared]
            exact = measure_form(model, inputs, count)
            print(
                f"{name}: {exact.nbytes / 1e6:.1f} MB, {exact.right / exact.asked:.0%} of the prompts seen", flush=True
            )
            continue
        rows.append(Row.of(name, measure_form(model, inputs, count), exact))
        print(" ".join(rows[-1].cells()), flush=True)
    head = ["weights", "size", "of fp16", "prediction", "guided", "images", "of the prompt seen"]
    print("", table(head, [row.cells() for row in rows]), "", *_differences(rows), sep="\n")
    if picture is not None:
        plot(rows, picture)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="images of so many held-out prompts, in each form")
    parser.add_argument("--plot", type=Path, help="plot the images' quality against size into this file")
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f"--images is {args.images}; accepted: 1 or more")
    with tempfile.TemporaryDirectory() as scratch:
        compare(args.images, args.plot, Path(scratch))


if __name__ == "__main__":
    main()
