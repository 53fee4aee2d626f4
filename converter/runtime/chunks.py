"""Networks that run one after the other: a pipeline's models, or the chunks of one that Apple's converter cut in two.

>>> Chunked([load(Path("encoder.mlpackage")), load(Path("decoder.mlpackage"))])
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import Feature, Network, PackageError, checked

#: What a network declares: its inputs and its outputs, by name.
Declared: TypeAlias = tuple[Mapping[str, Feature], Mapping[str, Feature]]
#: A first chunk (chunk_mlprogram.py); the second lies beside it. The packages' ends of names (torch2coreml.py) and the
#: compiled models' (the Swift package's).
_FIRST = re.compile(r"(?P<network>.+(?:_chunk|Chunk))1(?P<kind>\.mlpackage|\.mlmodelc)")


def chunk_paths(path: Path) -> tuple[Path, ...]:
    """Return the packages of the network at ``path`` in the order they run in: itself, and after a first chunk its second.

    Raises PackageError naming the second chunk if it is missing.
    """
    named = _FIRST.fullmatch(path.name)
    if named is None:
        return (path,)
    second = path.with_name(f"{named['network']}2{named['kind']}")
    if not second.is_dir():
        raise PackageError(f"{second}, the second half of {path.name}, is missing")
    return path, second


def _fitting(name: str, given: Feature, taken: Feature) -> None:
    """Refuse a tensor that one network gives in a form which a later one does not take."""
    # An output's shape need not be declared; it shows when it is there.
    if given.shape and not taken.accepts(given.shape):
        raise PackageError(f"{name} is given as {list(given.shape)} and taken as {taken.accepted}")
    if given.dtype.kind != taken.dtype.kind:
        raise PackageError(f"{name} is given as {given.dtype} and taken as {taken.dtype}")


def chained_features(networks: Iterable[Declared]) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return the inputs and outputs of networks in a row: what none before gives, and what no later one takes.

    Raises PackageError if they do not fit together.
    """
    inputs: dict[str, Feature] = {}
    given: dict[str, Feature] = {}
    unused: dict[str, Feature] = {}
    for taken, made in networks:
        for name, feature in taken.items():
            if name in given:
                _fitting(name, given[name], feature)
                unused.pop(name, None)
            elif name in inputs:
                _fitting(name, inputs[name], feature)
            else:
                inputs[name] = feature
        given |= made
        unused |= made
    return inputs, unused


def chunk_features(path: Path, declared: Iterable[Declared]) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """Return the inputs and outputs of the network at ``path``, given those of each of its `chunk_paths`.

    Raises PackageError if they do not fit together.
    """
    try:
        return chained_features(declared)
    except PackageError as error:
        if _FIRST.fullmatch(path.name) is None:
            raise
        raise PackageError(f"{path} and its second half do not fit together: {error}") from error


class Chunked:
    """Several networks as one: each takes the caller's inputs and what those before it give, by name.

    Its outputs are ``outputs``, or else what no later network takes. Raises PackageError if the networks do not fit
    together.
    """

    def __init__(self, networks: Sequence[Network], outputs: Iterable[str] | None = None) -> None:
        self._networks = tuple(networks)
        self.inputs, unused = chained_features((n.inputs, n.outputs) for n in self._networks)
        given = {name: feature for network in self._networks for name, feature in network.outputs.items()}
        if lost := [name for name in outputs or () if name not in given]:
            raise PackageError(f"no network gives {', '.join(lost)}; they give {', '.join(given)}")
        self.outputs = unused if outputs is None else {name: given[name] for name in outputs}

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the networks once; raises InputError before anything runs."""
        live: dict[str, NDArray[Any]] = checked(inputs, self.inputs)
        for network in self._networks:
            outputs = network.predict({name: _typed(live[name], f) for name, f in network.inputs.items()})
            live |= outputs
        return {name: live[name] for name in self.outputs}


def _typed(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    return np.asarray(array, feature.dtype)
