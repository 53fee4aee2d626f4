"""One interface to sources of weights: a diffusers folder, a checkpoint in one file, or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from converter.errors import CheckpointError
from converter.progress import OnProgress, ignore
from converter.sources.checkpoint import PICKLES, Checkpoint, pickle_refused
from converter.sources.config_tables import PREDICTION_TYPES
from converter.sources.single_file import SingleFile
from converter.sources.tensors import Tensors
from converter.sources.upscaler import UpscalerFile

ACCEPTED = (
    "a diffusers checkpoint folder, a .safetensors file with a whole checkpoint, or owner/name of a repository on the "
    "Hugging Face hub (also owner/name/file.safetensors; an address that ends in @main or another revision is never a "
    "path) is accepted"
)


class Source(Protocol):
    """A Stable Diffusion checkpoint from any kind of source, in the form of a diffusers folder."""

    @property
    def name(self) -> str:
        """The model's default name."""

    @property
    def kind(self) -> str:
        """``diffusers`` (a folder), ``single_file`` or ``hub``."""

    def has(self, component: str) -> bool:
        """Return whether it has this component (one of `converter.sources.component_kinds.COMPONENTS`)."""

    def config(self, component: str) -> dict[str, Any]:
        """Return a network's config.json, or for ``scheduler`` its scheduler_config.json."""

    def tensors(self, component: str) -> Tensors:
        """Return a network's weights under diffusers' names, as memory-mapped arrays."""

    @property
    def index(self) -> dict[str, Any]:
        """The content of model_index.json."""

    @property
    def part_classes(self) -> dict[str, Any]:
        """Part of the pipeline -> its class in model_index.json; parts without a class are left out."""

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings that its makers recommend, by their keys in anemone-defaults.json; missing ones are left out."""

    @property
    def leftovers(self) -> tuple[str, ...]:
        """Sentences about its contents that are not converted and change no image."""

    @property
    def controlnets(self) -> dict[str, Path]:
        """Name -> folder of each ControlNet that comes with it."""

    def tokenizer_files(self) -> dict[str, dict[str, bytes]]:
        """Return each tokenizer (tokenizer, tokenizer_2): file name -> content of vocab.json, merges.txt, tokenizer_config.json."""

    @property
    def sha256(self) -> str:
        """A hash of the content of all that a conversion reads, and of the requested prediction type."""

    @property
    def stamp(self) -> str:
        """A hash of the files' names, sizes and modification times; changes when a file does, and reads no weights."""


def _from_hub(text: str, prediction_type: str | None, progress: OnProgress) -> Checkpoint | SingleFile | None:
    # huggingface_hub takes a fifth of a second to import; local files do not need it.
    from converter.sources.hub import HubAddress, fetch

    address = HubAddress.parse(text)
    if address is None:
        return None
    path = fetch(address, progress)
    kind = Checkpoint if address.file is None else SingleFile
    return kind.open(path, prediction_type, hub_name=address.name)


def _is_a_path(text: str) -> bool:
    """Return whether a missing path is meant as a path, so that a mistyped one is not looked up on the hub."""
    first, slash, _ = text.partition("/")
    return not slash or text.startswith(("/", ".", "~")) or ("@" not in text and Path(first).is_dir())


def open_source(
    source: str | Path,
    *,
    prediction_type: str | None = None,
    progress: OnProgress = ignore,
) -> Source:
    """Return the checkpoint that ``source`` names: a folder, a .safetensors file, or else an address on the hub.

    ``prediction_type`` (one of PREDICTION_TYPES) replaces the checkpoint's. ``progress`` is called during a download. Even
    if a folder has the owner's name, ``owner/name@main`` means the hub. Raises CheckpointError that says what is wrong
    and what is accepted, and SpaceError.
    """
    if prediction_type not in (None, *PREDICTION_TYPES):
        raise CheckpointError(f"prediction_type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
    text = str(source)
    path = Path(text).expanduser()
    if path.is_dir():
        return Checkpoint.open(path, prediction_type)
    if path.suffix.lower() in PICKLES:
        raise pickle_refused(text)
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise CheckpointError(f"{text} is not a safetensors file; {ACCEPTED}")
        return SingleFile.open(path, prediction_type)
    if _is_a_path(text):
        raise CheckpointError(f"{text} does not exist; {ACCEPTED}")
    checkpoint = _from_hub(text, prediction_type, progress)
    if checkpoint is None:
        raise CheckpointError(f"{text!r} is neither a path nor an address on the hub; {ACCEPTED}")
    return checkpoint


def open_upscaler(source: str | Path, progress: OnProgress = ignore) -> UpscalerFile | None:
    """Return the upscaling network in the .safetensors file that ``source`` names: a path, or an address of one on the hub.

    None if it names something else. Raises CheckpointError if the upscaler is not supported, and what `open_source` raises
    of the hub.
    """
    path = Path(source).expanduser()
    if path.exists() or _is_a_path(str(source)):
        is_file = path.suffix.lower() == ".safetensors" and path.is_file()
        return UpscalerFile.open(path) if is_file else None
    from converter.sources.hub import HubAddress, fetch

    address = HubAddress.parse(str(source))
    if address is None or address.file is None:
        return None
    return UpscalerFile.open(fetch(address, progress))
