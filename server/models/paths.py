"""Messages for clients, which name models and files without the folders of this machine."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

#: The folders of an absolute path: in quotes, as errors of the system have it, or up to a space; not those of an address.
_FOLDERS = re.compile(r"""(?<=['"])/(?:[^/'"]+/)+|(?<![\w.~/:-])/(?:[^/\s'",;:()]+/)+""")


def without_paths(text: str, parents: Iterable[Path]) -> str:
    """Return a message with paths relative to these folders, and with the last part of other absolute paths.

    ``parents`` may have spaces in their names, at which other paths seem to end.
    """
    for parent in sorted({str(path) for path in parents}, key=len, reverse=True):
        text = text.replace(f"{parent.rstrip('/')}/", "") if parent != "/" else text
    return _FOLDERS.sub("", text)


def told(text: str, parents: Iterable[Path], log: logging.Logger) -> str:
    """Return `without_paths`; a message that it shortens is logged as it is."""
    short = without_paths(text, parents)
    if short != text:
        log.warning("%s", text)
    return short
