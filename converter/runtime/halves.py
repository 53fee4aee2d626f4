"""Networks that Apple's converter cut in two (chunk_mlprogram.py): the second half lies beside the first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from converter.runtime.chunks import Declared, chained
from converter.runtime.feature import Feature, PackageError

#: The packages' ends of names (torch2coreml.py) and the compiled models' (the Swift package's).
_FIRST = re.compile(r"(?P<network>.+(?:_chunk|Chunk))1(?P<kind>\.mlpackage|\.mlmodelc)")


def parts(path: Path) -> tuple[Path, ...]:
    """The packages of the network at ``path`` in the order they run in: itself, and if it is a first half its second.

    Raises PackageError naming the second half where that is missing.
    """
    named = _FIRST.fullmatch(path.name)
    if named is None:
        return (path,)
    second = path.with_name(f"{named['network']}2{named['kind']}")
    if not second.is_dir():
        raise PackageError(f"{second}, the second half of {path.name}, is missing")
    return path, second


def whole(path: Path, declared: Iterable[Declared]) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """The inputs and outputs of the network at ``path``, whose parts declare these; raises PackageError.

    What the first half hands to the second is neither.
    """
    try:
        return chained(declared)
    except PackageError as error:
        if _FIRST.fullmatch(path.name) is None:
            raise
        raise PackageError(f"{path} and its second half do not fit together: {error}") from error
