"""One network's packages with other weights: changed ones in a file of their own, everything else linked to the base's files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.checksums import FileSum
from converter.folder import ModelFolder
from converter.merging.changes import Change
from converter.merging.program import Placed, Program
from converter.mil.package import WEIGHTS, WEIGHTS_FOLDER, link
from converter.runtime.chunks import chunk_paths
from converter.weights.blob import BlobWriter, release_pages

#: The name of the file with the changed weights, beside the base's weights file.
_FILE = "merged.bin"
#: Weights that are computed while another is written.
_AHEAD = 2


@dataclass(frozen=True)
class Packages:
    """Packages of a network with one weights file, and which weights they have: names with shapes, of the changed and of all."""

    paths: tuple[str, ...]
    changed: dict[str, tuple[int, ...]]
    weights: frozenset[str]


def packages_of(base: ModelFolder, network: str, changes: Mapping[str, Change]) -> list[Packages]:
    """Return a network's packages, those together that share a weights file. Raises MergeError as `Program.scales` does."""
    together: dict[FileSum, list[str]] = {}
    for package in base.manifest.networks[network]:
        for chunk in chunk_paths(base.path / package.path):
            paths = together.setdefault(base.manifest.files[f"{chunk.name}/{WEIGHTS}"], [])
            if chunk.name not in paths:
                paths.append(chunk.name)
    found = []
    for paths in together.values():
        changed: dict[str, tuple[int, ...]] = {}
        weights: set[str] = set()
        for path in paths:
            program = Program(base.path / path)
            _ = program.scales
            weights |= set(program)
            changed |= {name: changes[name].shape(program.shape(name)) for name in changes.keys() & set(program)}
        found.append(Packages(tuple(paths), changed, frozenset(weights)))
    return found


def _ahead(
    names: Iterable[str], compute: Callable[[str], NDArray[Any]], pool: ThreadPoolExecutor
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each name with its result in order; the next ones are computed meanwhile."""
    waiting: deque[tuple[str, Any]] = deque()
    for name in names:
        waiting.append((name, pool.submit(compute, name)))
        if len(waiting) > _AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def write_packages(
    base: ModelFolder, packages: Packages, changes: Mapping[str, Change], out: Path, written: Callable[[int], None]
) -> dict[str, FileSum]:
    """Write the packages with their changed weights into ``out``; return the checksums that are known, by paths in it.

    ``written`` is called with the bytes of each changed weight. In memory is one layer at a time, those computed ahead, and
    one program. Raises MergeError.
    """
    blob = out / _FILE
    new: dict[str, Placed | NDArray[Any]] = {}
    known: dict[str, FileSum] = {}
    with BlobWriter(blob) as writer, ThreadPoolExecutor(_AHEAD, "merging") as pool:
        for path in packages.paths:
            program = Program(base.path / path)
            scales = program.scales
            names = [name for name in packages.changed if name in program]

            def changed(name: str, program: Program, scales: Mapping[str, float]) -> NDArray[Any]:
                weight = program.array(name)
                result = changes[name].apply(weight, scales.get(name.rpartition("_")[0], 1.0))
                release_pages(weight)
                return result

            left = [name for name in names if name not in new]
            for name, array in _ahead(left, partial(changed, program=program, scales=scales), pool):
                if program.inline(name):
                    new[name] = array
                else:
                    new[name] = Placed(_FILE, writer.write(array), array.shape, array.dtype)
                written(array.nbytes)
            for name in names:
                program.replace(name, new[name])
            known |= _write(base, path, program, out)
    for path in packages.paths:
        if any(isinstance(each, Placed) for each in new.values()):
            name = f"{path}/{WEIGHTS_FOLDER}/{_FILE}"
            link(blob, out / name)
            known[name] = writer.sum
    blob.unlink()
    return known


def _write(base: ModelFolder, path: str, program: Program, out: Path) -> dict[str, FileSum]:
    """Write a package: its program, and links to the base's other files; return the checksums of these."""
    linked = {name: each for name, each in base.files(path).items() if base.path / name != program.file}
    (out / path / WEIGHTS_FOLDER).mkdir(parents=True)
    for name in linked:
        link(base.path / name, out / name)
    program.write(out / program.file.relative_to(base.path))
    return linked
