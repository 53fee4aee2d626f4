"""Networks run one after the other: a pipeline's models, or a UNet that Apple's converter cut in two.

>>> unet = Chunked([load(Path("unet_chunk1.mlpackage")), load(Path("unet_chunk2.mlpackage"))])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import Feature, Network, PackageError, checked


def _fitting(name: str, given: Feature, taken: Feature) -> None:
    """Refuse a tensor that one network gives in a form which a later one does not take."""
    # An output's shape need not be declared; it shows when it is there.
    if given.shape and not taken.accepts(given.shape):
        raise PackageError(f"{name} is given as {list(given.shape)} and taken as {taken.accepted}")
    if given.dtype.kind != taken.dtype.kind:
        raise PackageError(f"{name} is given as {given.dtype} and taken as {taken.dtype}")


class Chunked:
    """Several networks as one: each takes the caller's inputs and what those before it give, by name.

    Its outputs are ``outputs``, or else what no later network takes. Raises PackageError where the networks do not fit
    together.
    """

    def __init__(self, networks: Sequence[Network], outputs: Iterable[str] | None = None) -> None:
        self._networks = tuple(networks)
        self.inputs: dict[str, Feature] = {}
        given: dict[str, Feature] = {}
        unused: dict[str, Feature] = {}
        for network in self._networks:
            for name, feature in network.inputs.items():
                if name in given:
                    _fitting(name, given[name], feature)
                    unused.pop(name, None)
                else:
                    known = self.inputs.setdefault(name, feature)
                    _fitting(name, known, feature)
            given |= network.outputs
            unused |= network.outputs
        if lost := [name for name in outputs or () if name not in given]:
            raise PackageError(f"no network gives {', '.join(lost)}; they give {', '.join(given)}")
        self.outputs = dict(unused) if outputs is None else {name: given[name] for name in outputs}

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the networks once; raises InputError before anything runs."""
        live: dict[str, NDArray[Any]] = checked(inputs, self.inputs)
        for network in self._networks:
            found = network.predict({name: _typed(live[name], f) for name, f in network.inputs.items()})
            live |= found
        return {name: live[name] for name in self.outputs}


def _typed(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    return np.asarray(array, feature.dtype)
