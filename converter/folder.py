"""The model folder: packages, tokenizers, and a manifest with everything a server needs to use them."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from converter.checksums import FileSum, error_words, wrong_content, wrong_size
from converter.errors import DamagedModel, ManifestError, quoted
from converter.options import DEFAULT_OPTIONS, ConvertOptions
from converter.progress import OnProgress, Progress, ignore
from converter.runtime.chunks import chunk_paths, chunk_pattern

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


def package_folders(folder: Path, packages: Iterable[Package]) -> tuple[str, ...]:
    """Return the folders of packages, those of all chunks included, by their paths in ``folder``.

    Raises PackageError naming a chunk that is missing.
    """
    chunks = (chunk for package in packages for chunk in chunk_paths(folder / package.path))
    return tuple(dict.fromkeys(chunk.relative_to(folder).as_posix() for chunk in chunks))


def package_files(files: Mapping[str, FileSum], packages: Iterable[Package]) -> dict[str, FileSum]:
    """Return those of a folder's files that are in packages, those of all chunks included."""
    patterns = [chunk_pattern(package.path) for package in packages]
    return {name: each for name, each in files.items() if any(pattern.match(name) for pattern in patterns)}


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
    """A LoRA in a merged model: its name, the SHA-256 of its file, and the weight it was merged with."""

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


@dataclass(frozen=True)
class ModelFolder:
    """A converted model on disk."""

    path: Path
    manifest: Manifest

    @staticmethod
    def read(path: Path) -> ModelFolder:
        """Return the model in ``path``, whose packages may be damaged; raises ManifestError if it is not one."""
        return ModelFolder(path, Manifest.read(path))

    @staticmethod
    def open(path: Path) -> ModelFolder:
        """Open the model in ``path``; raises ManifestError if it is not one.

        Raises DamagedModel if a package or a file is missing, unreadable or of another size.
        """
        folder = ModelFolder.read(path)
        packages = [package for each in folder.manifest.networks.values() for package in each]
        if (wrong := folder.wrong_package(packages) or wrong_size(path, folder.manifest.files)) is not None:
            raise folder.damaged(wrong)
        return folder

    def files(self, *parts: str) -> dict[str, FileSum]:
        """Return the checksums of all files in these packages or tokenizers."""
        inside = tuple(f"{part}/" for part in parts)
        return {name: each for name, each in self.manifest.files.items() if name.startswith(inside)}

    def wrong_package(self, packages: Iterable[Package]) -> str | None:
        """Say of the first of these packages that is no folder what is wrong; None if all are folders."""
        for name in dict.fromkeys(package.path for package in packages):
            try:
                is_folder = stat.S_ISDIR((self.path / name).stat().st_mode)
            except OSError as error:
                return f"{name} {error_words(error)}"
            if not is_folder:
                return f"{name} is a file; a package is a folder"
        return None

    def compare(self, progress: OnProgress = ignore, *, again: bool = False) -> None:
        """Compare all files with their checksums; unless ``again``, those that changed since they were compared last.

        ``progress`` is called with bytes. Raises DamagedModel. Takes half a second per GB.
        """

        def on_read(done: int, total: int) -> None:
            progress(Progress("loading", "checksums", done, total))

        if (wrong := wrong_content(self.path, self.manifest.files, on_read, again=again)) is not None:
            raise self.damaged(wrong)

    def damaged(self, wrong: str) -> DamagedModel:
        """Return the error for damage, in words that begin with the file, with its cure."""
        source = self.manifest.source
        if self.manifest.merged is not None:
            cure = "remove it, and merge it again"
        elif source.kind == "apple":
            cure = f"put the original file back, or after a change of your own `anemone adopt {quote(str(self.path))}` again"
        else:
            cure = f"convert {source.path_or_id} again: `anemone convert SOURCE -o {quote(str(self.path))}`"
        return DamagedModel(f"{self.path} is damaged: {wrong}; {cure}", wrong)

    def tokenizer(self, name: str) -> Path:
        """Return the folder of a tokenizer (vocab.json and merges.txt); without one of this name, that of the common one."""
        own = self.path / name
        return own if own.is_dir() else self.path / "tokenizer"

    def packages(self, network: str, width: int | None = None, height: int | None = None) -> tuple[Package, ...]:
        """Return a network's packages for images of a size (pixels; None if it does not matter), smallest first.

        Raises ManifestError if it has none.
        """
        packages = self.manifest.networks.get(network, ())
        of_size = [p for p in packages if (p.width, p.height) == (width, height)]
        if not of_size:
            sizes = dict.fromkeys("any size" if p.width is None else f"{p.width}x{p.height}" for p in packages)
            have = ", ".join(sizes) or "none"
            wanted = "any size" if width is None else f"{width}x{height}"
            raise ManifestError(f"{self.path} has no {network} for {wanted}; it has {have}")
        return tuple(sorted(of_size, key=lambda p: (p.control, p.image_tokens or 0, p.tokens or 0, p.batch)))

    def best(
        self,
        network: str,
        width: int | None = None,
        height: int | None = None,
        *,
        batch: int = 1,
        tokens: int = 0,
        control: bool = False,
        image_tokens: int | None = None,
    ) -> Package:
        """Return the smallest package that takes ``batch`` rows at once, or the one that takes most if none does.

        ``tokens``, ``control`` and ``image_tokens`` must fit. Raises ManifestError if no package fits.
        """
        form = (control, image_tokens)
        packages = [p for p in self.packages(network, width, height) if (p.control, p.image_tokens) == form]
        long = [p for p in packages if p.tokens is None or p.tokens >= tokens]
        if not long:
            have = sorted({p.tokens or 0 for p in packages})
            raise ManifestError(
                f"{self.path} has no {network} {'with' if control else 'without'} ControlNet for {tokens} tokens"
                f"{'' if image_tokens is None else f' and {image_tokens} tokens of an image'}; "
                f"it has {have or 'none'}"
            )
        shortest = [p for p in long if p.tokens == long[0].tokens]
        return next((p for p in shortest if p.batch >= batch), shortest[-1])

    def default(self, network: str) -> Package:
        """Return the package of a network that a request with the model's defaults runs. Raises ManifestError."""
        defaults, conditions = self.manifest.defaults, self.manifest.conditions
        guided = defaults.guidance_scale > 1 and conditions.guidance_width is None
        packages = self.manifest.networks.get(network, ())
        size = self.manifest.sizes[0] if any(package.width is not None for package in packages) else ()
        takes_prompts = any(package.tokens is not None for package in packages)
        return self.best(network, *size, batch=2 if guided and takes_prompts else 1)

    def package(self, network: str, width: int | None = None, height: int | None = None) -> Path:
        """Return the folder of a network's package for a size: the one with the largest batch."""
        return self.path / max(self.packages(network, width, height), key=lambda p: p.batch).path
