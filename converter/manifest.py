"""anemone.json: what a server needs to know to use a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from converter.checksums import FileSum, error_words
from converter.errors import ManifestError, quoted
from converter.options import DEFAULT_OPTIONS, ConvertOptions

FORMAT = 3
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
M = TypeVar("M")


def read_manifest(
    folder: Path,
    file: str,
    what: str,
    adapter: TypeAdapter[M],
    newest: int,
    upgrades: Sequence[Callable[[dict[str, Any]], None]] = (),
) -> M:
    """Return the manifest in ``file`` of ``folder``, upgraded from an earlier format; unknown fields are ignored.

    ``what`` says in messages what such a folder is. Raises ManifestError naming the field that is missing or wrong.
    """
    path = folder / file
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        why = f"is not {what}: it has no {file}" if folder.exists() else "does not exist"
        raise ManifestError(f"{folder} {why}") from error
    except OSError as error:
        raise ManifestError(f"{path} {error_words(error)}") from error
    try:
        manifest = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is not JSON: {error}") from error
    number = manifest.get("format") if isinstance(manifest, dict) else manifest
    if not isinstance(manifest, dict) or type(number) is not int or not 1 <= number <= newest:
        raise ManifestError(f"{path} has format {quoted(number)}; this version reads 1 to {newest}")
    for upgrade in upgrades[number - 1 :]:
        upgrade(manifest)
    try:
        # From JSON pydantic accepts lists as tuples.
        return adapter.validate_json(content if number == newest else json.dumps(manifest), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        value = "" if first["type"] == "missing" else f" (it is {quoted(first['input'])})"
        raise ManifestError(f"{path}: {where}: {first['msg']}{value}") from error


@dataclass(frozen=True)
class SchedulerSettings:
    """The noise schedule the model was trained on (diffusers' scheduler_config.json).

    timestep_spacing: how a run's timesteps are spaced; None: the checkpoint does not say, and each scheduler has its own way.
    trained_betas: the variance added at each training timestep, in place of what the other beta settings give.
    rescale_betas_zero_snr: whether the schedule is rescaled to end at pure noise (Lin et al. 2023, algorithm 1).
    """

    num_train_timesteps: Count
    beta_start: Finite
    beta_end: Finite
    beta_schedule: str
    timestep_spacing: str | None
    steps_offset: int
    set_alpha_to_one: bool
    trained_betas: tuple[Finite, ...] | None = None
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class Defaults:
    """Values of the fields that a request does not set."""

    steps: Count
    guidance_scale: Finite
    scheduler: str


STANDARD = Defaults(steps=20, guidance_scale=7.5, scheduler="euler")
#: Defaults of few-step models: with the guidance scale as an input (LCM's own), and without guidance.
GUIDED = Defaults(steps=4, guidance_scale=8.0, scheduler="lcm")
UNGUIDED = Defaults(steps=4, guidance_scale=1.0, scheduler="euler")


#: The kind of source of a folder in Apple's layout.
APPLE = "apple"


@dataclass(frozen=True)
class Source:
    """The weights' source, the hash of all data read, and a stamp of the files' sizes and times."""

    kind: str
    path_or_id: str
    sha256: str
    stamp: str


@dataclass(frozen=True)
class Versions:
    """Versions of the software that made the packages.

    revision: the release that last changed their content; empty for other converters.
    """

    anemone: str
    coremltools: str
    revision: str = ""


@dataclass(frozen=True)
class Package:
    """The package (or the function of it) of one variant of a network.

    path: the package; of a network in chunks, the first chunk's (see `converter.runtime.chunks`).
    width, height: the images' size in pixels; None if it does not matter.
    batch: how many rows it takes at once.
    tokens: the length of the prompt's states; None if it takes no prompt.
    control: whether it takes a ControlNet's residuals.
    image_tokens: how many tokens of an IP-Adapter's image it takes; None if it takes no image.
    function: its function in the package; main in a package of one.
    """

    path: Within
    width: Count | None
    height: Count | None
    batch: Count
    tokens: Count | None = None
    control: bool = False
    function: str = "main"
    image_tokens: Count | None = None


@dataclass(frozen=True)
class Conditions:
    """The denoiser's inputs besides latents, timestep and prompt.

    inpainting: whether a mask and the masked image's latents follow the noisy ones.
    guidance_width: the width of the guidance scale's embedding (LCM); None if the guidance scale is not an input.
    time_ids: how many numbers for sizes and crops SDXL takes, with the pooled text; None for other families.
    zeros_for_no_prompt: whether an empty negative prompt means states of zeros (SDXL).
    text_width: the width of the prompt's states; None in folders of earlier versions.
    """

    inpainting: bool
    guidance_width: Count | None
    time_ids: Count | None
    zeros_for_no_prompt: bool
    text_width: Count | None = None


#: Raised when a merge of the same files (`converter.merging`) gives other packages.
MERGE_REVISION = 1


@dataclass(frozen=True)
class MergedLora:
    """A LoRA in a merged model: its name, the SHA-256 of its file (and of settings beside it), and the weight it was merged with."""

    name: str
    sha256: str
    weight: Finite


@dataclass(frozen=True)
class MergedEmbedding:
    """A textual inversion in a merged model.

    sha256: of its file.
    vectors: how many tokens it takes.
    first: the id of its first token, by text encoder; the others follow.
    """

    name: str
    sha256: str
    vectors: Count
    first: dict[str, Count]


@dataclass(frozen=True)
class Merged:
    """What was merged into a model, and the plan that made the model it was merged into."""

    base: str
    loras: tuple[MergedLora, ...]
    embeddings: tuple[MergedEmbedding, ...]


@dataclass(frozen=True)
class Manifest:
    """anemone.json. Sizes are images' (width, height) in pixels, the first the default.

    plan: the fingerprint of the plan that made it (see `converter.conversion.plan`), or the key of the merge (see
        `converter.merging`); empty for other converters.
    options: the options of the conversion.
    left_out: the parts of the checkpoint that are not in the folder and change no image, in sentences.
    clip_skip: the largest clip skip that the text encoders have outputs for; 1, as in folders of earlier versions, skips no
        layer.
    files: the checksum of each file of packages and tokenizers, by its path in the folder; empty in folders of formats 1
        and 2, whose damage shows only when a network is loaded.
    merged: what was merged into it; None for a model as it was converted.
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
    options: ConvertOptions = DEFAULT_OPTIONS
    format: int = FORMAT
    left_out: tuple[str, ...] = ()
    clip_skip: Count = 1
    files: dict[Within, FileSum] = field(default_factory=dict)
    merged: Merged | None = None

    @property
    def no_base(self) -> str | None:
        """Why LoRAs and embeddings cannot be merged into it, to follow its name; None if they can."""
        if self.merged is not None:
            return "is a merged model; take the one that it was made from"
        if self.source.kind == APPLE:
            return "is a folder in Apple's layout; take one that `anemone convert` makes of its checkpoint"
        return None

    def write(self, folder: Path) -> None:
        """Write anemone.json into ``folder``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Return the manifest of a model folder, upgraded from an earlier format; unknown fields are ignored.

        Raises ManifestError naming the field that is missing or wrong.
        """
        return read_manifest(folder, FILE, "a converted model", _MANIFEST, FORMAT, _UPGRADES)


_MANIFEST = TypeAdapter(Manifest)


def _to_2(manifest: dict[str, Any]) -> None:
    """Add options and revision. ``prompt_once`` is the only option that changes which networks a source is compared by."""
    networks, converter = manifest.get("networks"), manifest.get("converter")
    manifest["options"] = {"prompt_once": isinstance(networks, dict) and "unet_prompt" in networks}
    if isinstance(converter, dict) and isinstance(converter.get("anemone"), str):
        converter["revision"] = converter["anemone"]
    manifest["format"] = 2


def _to_3(manifest: dict[str, Any]) -> None:
    """Add files. No earlier format has checksums."""
    manifest["files"] = {}
    manifest["format"] = 3


#: The first upgrades format 1 to 2, and so on. Validation afterwards refuses damaged manifests.
_UPGRADES: tuple[Callable[[dict[str, Any]], None], ...] = (_to_2, _to_3)
