"""The model folder: packages, tokenizers, and a manifest with everything a server needs to use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from converter.errors import ManifestError, quoted
from converter.options import AS_USUAL, ConvertOptions

FORMAT = 2
FILE = "anemone.json"


def _within(path: str) -> str:
    """Return the path; raises ValueError if it leads out of the folder it is relative to."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or pure == PurePosixPath() or "\0" in path:
        raise ValueError("a path inside the model folder is accepted")
    return path


Count = Annotated[int, Field(ge=1, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Within = Annotated[str, AfterValidator(_within)]


@dataclass(frozen=True)
class SchedulerSettings:
    """The noise schedule the model was trained on (diffusers' scheduler_config.json).

    trained_betas: the variance added at each training timestep, in place of what the other beta settings give.
    rescale_betas_zero_snr: whether the schedule is rescaled to end at pure noise (Lin et al. 2023, algorithm 1).
    """

    num_train_timesteps: Count
    beta_start: Finite
    beta_end: Finite
    beta_schedule: str
    timestep_spacing: str
    steps_offset: int
    set_alpha_to_one: bool
    trained_betas: tuple[Finite, ...] | None = None
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class Defaults:
    """Values for what a request leaves out."""

    steps: Count
    guidance_scale: Finite
    scheduler: str


USUAL = Defaults(steps=20, guidance_scale=7.5, scheduler="euler")
#: Few-step models: with the guidance scale as an input (LCM's own default), and without guidance at all.
GUIDED = Defaults(steps=4, guidance_scale=8.0, scheduler="lcm")
UNGUIDED = Defaults(steps=4, guidance_scale=1.0, scheduler="euler")


@dataclass(frozen=True)
class Source:
    """The weights' source, the hash of all that was read, and a stamp of the files' sizes and times."""

    kind: str
    path_or_id: str
    sha256: str
    stamp: str


@dataclass(frozen=True)
class Versions:
    """What made the packages; ``revision`` is the release that last changed what they hold, empty for other converters."""

    anemone: str
    coremltools: str
    revision: str = ""


@dataclass(frozen=True)
class Package:
    """One program of a network and what it is for.

    width, height: the images' size in pixels; None where it does not matter.
    batch: how many rows it takes at once.
    tokens: how long the prompt's states are; None where it takes none.
    control: whether it takes a ControlNet's residuals.
    function: which function of the package it is; main where the package has one alone.
    """

    path: Within
    width: Count | None
    height: Count | None
    batch: Count
    tokens: Count | None = None
    control: bool = False
    function: str = "main"


@dataclass(frozen=True)
class Conditions:
    """What the denoiser takes beside latents, timestep and prompt.

    inpainting: whether a mask and the masked picture's latents follow the noisy ones.
    guidance_width: the width of the guidance scale's embedding (LCM); None where guidance is no input.
    time_ids: how many numbers of sizes and crops SDXL takes, with the pooled text; None for other families.
    zeros_for_no_prompt: whether an empty negative prompt means states of zeros (SDXL).
    """

    inpainting: bool
    guidance_width: Count | None
    time_ids: Count | None
    zeros_for_no_prompt: bool


@dataclass(frozen=True)
class Manifest:
    """anemone.json. Sizes are images' (width, height) in pixels, the first the default.

    plan: the fingerprint of the conversion that made it (see `converter.conversion.plan`); empty where another converter did.
    options: what the conversion was asked for.
    left_out: what the checkpoint has that is not in the folder and changes no image, in sentences.
    """

    name: str
    family: str
    prediction_type: str
    attention: str
    precision: str
    sizes: Annotated[tuple[tuple[Count, Count], ...], Field(min_length=1)]
    latent_channels: Count
    vae_scale_factor: Count
    vae_scaling_factor: Positive
    tokens: Count
    conditions: Conditions
    scheduler: SchedulerSettings
    defaults: Defaults
    networks: dict[str, Annotated[tuple[Package, ...], Field(min_length=1)]]
    source: Source
    converter: Versions
    plan: str
    options: ConvertOptions = AS_USUAL
    format: int = FORMAT
    left_out: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write anemone.json into ``folder``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Return the manifest of a model folder, upgraded from an earlier format; fields that are not known are ignored.

        Raises ManifestError naming the field that is missing or wrong.
        """
        path = folder / FILE
        if not path.is_file():
            raise ManifestError(f"{folder} is not a converted model: it has no {FILE}")
        try:
            content = path.read_bytes()
            found = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path} is not JSON: {error}") from error
        number = found.get("format") if isinstance(found, dict) else found
        if not isinstance(found, dict) or type(number) is not int or not 1 <= number <= FORMAT:
            raise ManifestError(f"{path} has format {quoted(number)}; this version reads 1 to {FORMAT}")
        for upgrade in _UPGRADES[number - 1 :]:
            upgrade(found)
        try:
            # As JSON, in which pydantic takes lists for tuples.
            return _MANIFEST.validate_json(content if number == FORMAT else json.dumps(found), strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            has = "" if first["type"] == "missing" else f" (it is {quoted(first['input'])})"
            raise ManifestError(f"{path}: {where}: {first['msg']}{has}") from error


_MANIFEST = TypeAdapter(Manifest)


def _to_2(manifest: dict[str, Any]) -> None:
    """Add options and revision. Of the options only ``prompt_once`` changes which networks a source is compared by."""
    networks, converter = manifest.get("networks"), manifest.get("converter")
    manifest["options"] = {"prompt_once": isinstance(networks, dict) and "unet_prompt" in networks}
    if isinstance(converter, dict) and isinstance(converter.get("anemone"), str):
        converter["revision"] = converter["anemone"]
    manifest["format"] = 2


#: The first makes format 2 of 1, and so on. They leave it to validation to refuse what is damaged.
_UPGRADES: tuple[Callable[[dict[str, Any]], None], ...] = (_to_2,)


@dataclass(frozen=True)
class ModelFolder:
    """A converted model on disk."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: Path) -> ModelFolder:
        """Open the model in ``path``; raises ManifestError if it is not one or a package is missing."""
        folder = ModelFolder(path, Manifest.read(path))
        for packages in folder.manifest.networks.values():
            for package in packages:
                if not (path / package.path).is_dir():
                    raise ManifestError(f"{path} lacks the package {package.path} that its {FILE} names")
        return folder

    def tokenizer(self, name: str) -> Path:
        """Return the folder of the tokenizer (vocab.json and merges.txt) of this name, or of the one for all encoders."""
        own = self.path / name
        return own if own.is_dir() else self.path / "tokenizer"

    def packages(self, network: str, width: int | None = None, height: int | None = None) -> tuple[Package, ...]:
        """Return a network's programs for images of a size (pixels; None where it does not matter), smallest first.

        Raises ManifestError where there is none.
        """
        found = self.manifest.networks.get(network, ())
        right = [p for p in found if (p.width, p.height) == (width, height)]
        if not right:
            sizes = dict.fromkeys("any size" if p.width is None else f"{p.width}x{p.height}" for p in found)
            have = ", ".join(sizes) or "none"
            wanted = "any size" if width is None else f"{width}x{height}"
            raise ManifestError(f"{self.path} has no {network} for {wanted}; it has {have}")
        return tuple(sorted(right, key=lambda p: (p.control, p.tokens or 0, p.batch)))

    def best(
        self,
        network: str,
        width: int | None = None,
        height: int | None = None,
        *,
        batch: int = 1,
        tokens: int = 0,
        control: bool = False,
    ) -> Package:
        """Return the smallest program that takes ``batch`` rows at once, or the one that takes most if none does.

        ``tokens`` and ``control`` must fit. Raises ManifestError where no program does.
        """
        found = [p for p in self.packages(network, width, height) if p.control == control]
        long = [p for p in found if p.tokens is None or p.tokens >= tokens]
        if not long:
            have = sorted({p.tokens or 0 for p in found})
            raise ManifestError(
                f"{self.path} has no {network} {'with' if control else 'without'} ControlNet for {tokens} tokens; "
                f"it has {have or 'none'}"
            )
        shortest = [p for p in long if p.tokens == long[0].tokens]
        return next((p for p in shortest if p.batch >= batch), shortest[-1])

    def default(self, network: str) -> Package:
        """Return the program of a network that a request with the model's defaults runs. Raises ManifestError."""
        defaults, conditions = self.manifest.defaults, self.manifest.conditions
        guided = defaults.guidance_scale > 1 and conditions.guidance_width is None
        packages = self.manifest.networks.get(network, ())
        size = self.manifest.sizes[0] if any(package.width is not None for package in packages) else ()
        takes_prompts = any(package.tokens is not None for package in packages)
        return self.best(network, *size, batch=2 if guided and takes_prompts else 1)

    def package(self, network: str, width: int | None = None, height: int | None = None) -> Path:
        """Return the folder of a network's package for a size: the one with the largest batch."""
        return self.path / max(self.packages(network, width, height), key=lambda p: p.batch).path
