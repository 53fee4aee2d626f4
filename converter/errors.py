"""Errors of conversion and of model folders.

AnemoneError
├── CheckpointError   the source is missing, damaged, unsafe or of an architecture we do not convert
├── ManifestError     a folder is not a converted model, or its anemone.json is damaged
│   └── DamagedModel  a file of a converted model is missing or is not what was written
├── SpaceError        the disk cannot hold the result
└── MemoryShortage    the machine has not enough free memory to begin
"""

from __future__ import annotations

from collections.abc import Sequence


def shown(names: Sequence[str], most: int = 3) -> str:
    """Return the first ``most`` names and the number of the others, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def cut(text: str, most: int) -> str:
    """Return a text; a longer one as its first ``most`` characters and its length."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def quoted(value: object, most: int = 200) -> str:
    """Return the repr of a value from a file, cut after ``most`` characters, for a message."""
    return cut(repr(value), most)


class AnemoneError(Exception):
    """An error with a message for the user: what was wrong and what is accepted."""


class CheckpointError(AnemoneError):
    """The source checkpoint cannot be converted."""


class ManifestError(AnemoneError):
    """A folder is not a converted model, or its manifest is damaged."""


class DamagedModel(ManifestError):
    """A file of a converted model is missing, or is not what was written.

    wrong: what is wrong, in words that begin with the file's path in the model's folder.
    """

    def __init__(self, message: str, wrong: str) -> None:
        super().__init__(message)
        self.wrong = wrong


class SpaceError(AnemoneError):
    """The disk has not enough free space."""


class MemoryShortage(AnemoneError):
    """The machine has not enough free memory."""
