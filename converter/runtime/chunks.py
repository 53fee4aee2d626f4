"""Networks that run one after the other: the models of a pipeline, or the chunks of a network.

>>> Chunked([load(Path("encoder.mlpackage")), load(Path("decoder.mlpackage"))])
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import Feature, Network, PackageError, check_inputs

#: A network's inputs and outputs, by name.
Features: TypeAlias = tuple[Mapping[str, Feature], Mapping[str, Feature]]
#: The name of a chunk, by Apple's converter (torch2coreml.py) and its Swift package; its others are in the same folder.
#: ControlNets and IP-Adapters, which are never cut, have names of their own that may end like a chunk's.
_CHUNK = re.compile(
    r"(?P<network>(?!ControlNet_|IPAdapter_).+_chunk"
    r"|(?:Unet|UnetRefiner|ControlledUnet|MultiModalDiffusionTransformer)Chunk)"
    r"(?P<number>[1-9]\d*)(?P<kind>\.mlpackage|\.mlmodelc)"
)


def chunk_name(package: str, number: int) -> str:
    """Return the name of a chunk, numbered from 1, of the network that would be ``package`` as a whole."""
    stem, _, suffix = package.rpartition(".")
    return f"{stem}_chunk{number}.{suffix}"


def _first(path: PurePath) -> re.Match[str] | None:
    match = _CHUNK.fullmatch(path.name)
    return match if match is not None and match["number"] == "1" else None


def chunk_pattern(part: str) -> re.Pattern[str]:
    """Return what matches the files of a folder ``part`` (of all chunks, if it is a first one) by their paths."""
    match = _first(path := PurePosixPath(part))
    if match is None:
        return re.compile(f"{re.escape(part)}/")
    folder = "" if path.parent == PurePosixPath() else f"{path.parent}/"
    return re.compile(f"{re.escape(folder + match['network'])}[1-9][0-9]*{re.escape(match['kind'])}/")


def chunk_paths(path: Path) -> tuple[Path, ...]:
    """Return the packages of the network at ``path`` in running order: itself, and after a first chunk the others.

    Raises PackageError naming a chunk that is missing: the second, or one before the last there is.
    """
    first = _first(path)
    if first is None:
        return (path,)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    matches = (match for other in beside if (match := _CHUNK.fullmatch(other.name)) is not None)
    numbers = {int(m["number"]) for m in matches if (m["network"], m["kind"]) == (first["network"], first["kind"])}
    count = max(numbers | {2})
    chunks = [path.with_name(f"{first['network']}{number}{first['kind']}") for number in range(1, count + 1)]
    for number, chunk in enumerate(chunks[1:], 2):
        if not chunk.is_dir():
            raise PackageError(f"{chunk}, chunk {number} of the network that begins with {path.name}, is missing")
    return tuple(chunks)


def _check_fit(name: str, output: Feature, entry: Feature) -> None:
    """Raise PackageError unless a network's output (or input) fits the input of the same name of a later network."""
    # A package need not declare an output's shape.
    if output.shape and not entry.accepts(output.shape):
        raise PackageError(f"{name} has shape {list(output.shape)}, but a later network accepts {entry.accepted}")
    if output.dtype.kind != entry.dtype.kind:
        raise PackageError(f"{name} is {output.dtype}, but a later network accepts {entry.dtype}")


def chained_features(networks: Iterable[Features]) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return the inputs and outputs of networks in a row: inputs that none before gives, outputs that no later one takes.

    Raises PackageError if the networks do not fit together.
    """
    inputs: dict[str, Feature] = {}
    outputs: dict[str, Feature] = {}
    unused: dict[str, Feature] = {}
    for own_inputs, own_outputs in networks:
        for name, feature in own_inputs.items():
            if name in outputs:
                _check_fit(name, outputs[name], feature)
                unused.pop(name, None)
            elif name in inputs:
                _check_fit(name, inputs[name], feature)
            else:
                inputs[name] = feature
        outputs |= own_outputs
        unused |= own_outputs
    return inputs, unused


def chunk_features(path: Path, chunks: Iterable[Features]) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return the inputs and outputs of the network at ``path`` from those of each of its `chunk_paths`.

    Raises PackageError if the chunks do not fit together.
    """
    try:
        return chained_features(chunks)
    except PackageError as error:
        if _first(path) is None:
            raise
        raise PackageError(f"{path} and the chunks after it do not fit together: {error}") from error


class Chunked:
    """Several networks as one: each takes the caller's inputs and the outputs of those before it, by name.

    Its outputs are ``outputs``; by default, those that no later network takes. Raises PackageError if the networks do
    not fit together.
    """

    def __init__(self, networks: Sequence[Network], outputs: Iterable[str] | None = None) -> None:
        self._networks = tuple(networks)
        self.inputs, unused = chained_features((n.inputs, n.outputs) for n in self._networks)
        every = {name: feature for network in self._networks for name, feature in network.outputs.items()}
        if missing := [name for name in outputs or () if name not in every]:
            raise PackageError(f"no network gives {', '.join(missing)}; they give {', '.join(every)}")
        self.outputs = unused if outputs is None else {name: every[name] for name in outputs}

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the networks once; raises InputError before anything runs."""
        live: dict[str, NDArray[Any]] = check_inputs(inputs, self.inputs)
        for network in self._networks:
            outputs = network.predict({name: _typed(live[name], f) for name, f in network.inputs.items()})
            live |= outputs
        return {name: live[name] for name in self.outputs}


def _typed(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    return np.asarray(array, feature.dtype)
