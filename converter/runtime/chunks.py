"""Networks run one after the other: a pipeline's models, or the halves of one that was cut in two.

>>> Chunked([load(Path("encoder.mlpackage")), load(Path("decoder.mlpackage"))])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import Feature, Network, PackageError, checked

#: What a network declares: its inputs and its outputs, by name.
Declared: TypeAlias = tuple[Mapping[str, Feature], Mapping[str, Feature]]


def _fitting(name: str, given: Feature, taken: Feature) -> None:
    """Refuse a tensor that one network gives in a form which a later one does not take."""
    # An output's shape need not be declared; it shows when it is there.
    if given.shape and not taken.accepts(given.shape):
        raise PackageError(f"{name} is given as {list(given.shape)} and taken as {taken.accepted}")
    if given.dtype.kind != taken.dtype.kind:
        raise PackageError(f"{name} is given as {given.dtype} and taken as {taken.dtype}")


def chained(networks: Iterable[Declared]) -> tuple[dict[str, Feature], dict[str, Feature]]:
    """The inputs and outputs of networks in a row: what none before gives, and what no later one takes.

    Raises PackageError where they do not fit together.
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


class Chunked:
    """Several networks as one: each takes the caller's inputs and what those before it give, by name.

    Its outputs are ``outputs``, or else what no later network takes. Raises PackageError where the networks do not fit
    together.
    """

    def __init__(self, networks: Sequence[Network], outputs: Iterable[str] | None = None) -> None:
        self._networks = tuple(networks)
        self.inputs, unused = chained((n.inputs, n.outputs) for n in self._networks)
        given = {name: feature for network in self._networks for name, feature in network.outputs.items()}
        if lost := [name for name in outputs or () if name not in given]:
            raise PackageError(f"no network gives {', '.join(lost)}; they give {', '.join(given)}")
        self.outputs = unused if outputs is None else {name: given[name] for name in outputs}

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the networks once; raises InputError before anything runs."""
        live: dict[str, NDArray[Any]] = checked(inputs, self.inputs)
        for network in self._networks:
            found = network.predict({name: _typed(live[name], f) for name, f in network.inputs.items()})
            live |= found
        return {name: live[name] for name in self.outputs}


def _typed(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    return np.asarray(array, feature.dtype)
