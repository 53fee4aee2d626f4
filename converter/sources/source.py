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

ACCEPTED = (
    "a diffusers checkpoint folder, a .safetensors file with a whole checkpoint, or owner/name of a repository on the "
    "Hugging Face hub (also owner/name/file.safetensors; with @main or another revision behind it, it is never taken "
    "for a path) is accepted"
)


class Source(Protocol):
    """A Stable Diffusion checkpoint, wherever it is from, as a diffusers folder has it."""

    @property
    def name(self) -> str:
        """What the model is called where nobody says otherwise."""

    @property
    def kind(self) -> str:
        """``diffusers`` (a folder), ``single_file`` or ``hub``."""

    def has(self, component: str) -> bool:
        """Return whether it has this component (one of `converter.sources.component_kinds.COMPONENTS`)."""

    def config(self, component: str) -> dict[str, Any]:
        """Return a network's config.json, or for ``scheduler`` its scheduler_config.json."""

    def tensors(self, component: str) -> Tensors:
        """Return a network's weights under diffusers' names, mapped."""

    @property
    def index(self) -> dict[str, Any]:
        """model_index.json."""

    @property
    def part_classes(self) -> dict[str, Any]:
        """Part of the pipeline -> the class that model_index.json names for it, where there is one."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Steps, guidance scale and scheduler its makers recommend, where they say."""

    @property
    def leftovers(self) -> tuple[str, ...]:
        """What it has beside its networks that is not converted and changes no image, in sentences."""

    def tokenizer_files(self) -> dict[str, dict[str, bytes]]:
        """Return each tokenizer (tokenizer, tokenizer_2): file name -> content of vocab.json, merges.txt, tokenizer_config.json."""

    @property
    def sha256(self) -> str:
        """A hash over the content of all that a conversion reads, and how it is to be read."""

    @property
    def stamp(self) -> str:
        """A hash that changes when a file does, found from names, sizes and times without reading weights."""


def _from_hub(given: str, prediction_type: str | None, progress: OnProgress) -> Checkpoint | SingleFile | None:
    # huggingface_hub takes a fifth of a second to import, which files on this disk need not wait for.
    from converter.sources.hub import HubAddress, fetch

    address = HubAddress.parse(given)
    if address is None:
        return None
    path = fetch(address, progress)
    kind = Checkpoint if address.file is None else SingleFile
    return kind.open(path, prediction_type, hub_name=address.name)


def _is_a_path(given: str) -> bool:
    """Return whether what is not there must have been meant as a path, so that a mistyped one is not asked for on the hub."""
    first, slash, _ = given.partition("/")
    return not slash or given.startswith(("/", ".", "~")) or ("@" not in given and Path(first).is_dir())


def open_source(
    source: str | Path,
    *,
    prediction_type: str | None = None,
    progress: OnProgress = ignore,
) -> Source:
    """Return the checkpoint that ``source`` names: a folder, a .safetensors file, or an address on the hub where neither exists.

    ``prediction_type`` (one of PREDICTION_TYPES) overrules what the checkpoint says of itself. ``progress`` is called
    during a download. Where a folder bears the owner's name, ``owner/name@main`` still means the hub. Raises CheckpointError that
    says what is wrong and what is accepted, and SpaceError.
    """
    if prediction_type not in (None, *PREDICTION_TYPES):
        raise CheckpointError(f"prediction_type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
    given = str(source)
    path = Path(given).expanduser()
    if path.is_dir():
        return Checkpoint.open(path, prediction_type)
    if path.suffix.lower() in PICKLES:
        raise pickle_refused(given)
    if path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise CheckpointError(f"{given} is no safetensors file; {ACCEPTED}")
        return SingleFile.open(path, prediction_type)
    if _is_a_path(given):
        raise CheckpointError(f"there is no {given}; {ACCEPTED}")
    found = _from_hub(given, prediction_type, progress)
    if found is None:
        raise CheckpointError(f"{given!r} is neither a path nor an address on the hub; {ACCEPTED}")
    return found
