"""Rename a network's tensors to diffusers' names by module path."""

from __future__ import annotations

from collections.abc import Iterable

from converter.errors import CheckpointError
from converter.sources.entry import Part
from converter.sources.tensors import Tensors


def module_paths(names: Iterable[str]) -> set[str]:
    """Return the paths of all modules that contain these tensors: a.b.weight gives a and a.b."""
    paths: set[str] = set()
    for name in names:
        path = name.rpartition(".")[0]
        while path and path not in paths:
            paths.add(path)
            path = path.rpartition(".")[0]
    return paths


def beneath(tensors: Tensors, prefix: str) -> list[str]:
    """Return the names that begin with ``prefix``, without it."""
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]


def count(paths: set[str], list_path: str) -> int:
    """Return the number of modules in a module list: a.0, a.1, ... up to the first that is missing."""
    number = 0
    while f"{list_path}.{number}" in paths:
        number += 1
    return number


def renamed_parts(
    where: str, tensors: Tensors, prefix: str, modules: dict[str, str], ignored: tuple[str, ...] = ()
) -> dict[str, Part]:
    """Return diffusers name -> part for every tensor under ``prefix``; the longest matching path of ``modules`` is replaced.

    The rest of the name stays. Raises CheckpointError naming a tensor in none of the modules: a network with further
    layers is another network. Names that begin with one of ``ignored`` are left out.
    """
    parts: dict[str, Part] = {}
    for name in beneath(tensors, prefix):
        if name.startswith(ignored):
            continue
        path = name
        while path and path not in modules:
            path = path.rpartition(".")[0]
        if not path:
            raise CheckpointError(f"{where} has {prefix}{name}, which this converter does not know")
        parts[modules[path] + name[len(path) :]] = Part(prefix + name)
    return parts
