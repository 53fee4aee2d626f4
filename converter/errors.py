"""What can go wrong between a checkpoint and a model folder.

AnemoneError
├── CheckpointError   the source is missing, damaged, unsafe or of an architecture we do not convert
├── ManifestError     a model folder's anemone.json is not one
├── SpaceError        the disk cannot hold the result
└── MemoryShortage    there is not enough memory to begin
"""

from __future__ import annotations

from collections.abc import Sequence


def shown(names: Sequence[str], most: int = 3) -> str:
    """The first few of the names, and how many more there are, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def cut(text: str, most: int) -> str:
    """Return a text, or its first ``most`` characters and how many there are."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def quoted(value: object, most: int = 200) -> str:
    """Return a value of a file as Python writes it, cut where it is long, for a message."""
    return cut(repr(value), most)


class AnemoneError(Exception):
    """An error whose message is meant for the person who asked: what was wrong and what is accepted."""


class CheckpointError(AnemoneError):
    """The source checkpoint cannot be converted."""


class ManifestError(AnemoneError):
    """A folder is not a converted model, or its manifest is damaged."""


class SpaceError(AnemoneError):
    """There is not enough free disk space."""


class MemoryShortage(AnemoneError):
    """There is not enough memory for what was asked."""
