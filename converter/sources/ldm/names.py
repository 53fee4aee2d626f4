"""Rename a network's tensors to diffusers' names by module path."""

from __future__ import annotations

from collections.abc import Iterable

from converter.errors import CheckpointError
from converter.sources.tensors import Part, Tensors


def module_paths(names: Iterable[str]) -> set[str]:
    """Return every module on the way to these tensors: a.b.weight has a and a.b."""
    found: set[str] = set()
    for name in names:
        path = name.rpartition(".")[0]
        while path and path not in found:
            found.add(path)
            path = path.rpartition(".")[0]
    return found


def beneath(tensors: Tensors, prefix: str) -> list[str]:
    """Return the names that begin with ``prefix``, without it."""
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]


def count(paths: set[str], list_path: str) -> int:
    """Return how many modules a module list has: a.0, a.1, ... up to the first that is missing."""
    number = 0
    while f"{list_path}.{number}" in paths:
        number += 1
    return number


def renamed_parts(
    where: str, tensors: Tensors, prefix: str, modules: dict[str, str], ignored: tuple[str, ...] = ()
) -> dict[str, Part]:
    """Return diffusers name -> part, for every tensor under ``prefix``; each by the longest of ``modules`` it lies in.

    What follows the module's path stays. Raises CheckpointError naming a tensor that lies in none of them: a network
    with further layers is another network. Names that begin with one of ``ignored`` are left out.
    """
    found: dict[str, Part] = {}
    for name in beneath(tensors, prefix):
        if name.startswith(ignored):
            continue
        path = name
        while path and path not in modules:
            path = path.rpartition(".")[0]
        if not path:
            raise CheckpointError(f"{where} has {prefix}{name}, which this converter does not know")
        found[modules[path] + name[len(path) :]] = Part(prefix + name)
    return found
