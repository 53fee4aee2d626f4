"""A checkpoint's own network, run on a package's inputs: the reference every package is verified against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.errors import CheckpointError
from converter.networks.registry import kind_of
from converter.runtime import Feature
from converter.runtime.feature import check_inputs
from converter.sources.tensors import Tensors
from converter.verification.streamed import streamed


def _as_declared(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    """Return an output in the package's shape: keys are transposed there in the ``original`` implementation of attention.

    Packages of Apple's converter declare no shapes of outputs.
    """
    return array if feature.shape in ((), array.shape) else array.transpose(0, 3, 2, 1)


class ReferenceNetwork:
    """A network as its makers' libraries run it, in fp32, under a package's input and output names.

    Weights are fetched from the mapped checkpoint layer by layer, so that it needs the memory of its largest layer.
    """

    def __init__(
        self,
        network: str,
        config: dict[str, Any],
        tensors: Tensors,
        inputs: Mapping[str, Feature],
        outputs: Mapping[str, Feature],
    ) -> None:
        """``inputs`` and ``outputs`` are those of the package it stands for."""
        self.inputs, self.outputs = inputs, outputs
        kind = kind_of(network)
        self._network, self._run = network, kind.reference.run
        self._module = streamed(lambda: kind.reference.make(config, outputs), tensors, kind.component.canonical_name)

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once. Raises InputError before anything runs, and CheckpointError where the sizes do not fit."""
        given = check_inputs(inputs, self.inputs)
        try:
            found = self._run(self._module, {n: torch.from_numpy(np.asarray(a, np.float32)) for n, a in given.items()})
        except RuntimeError as error:  # PyTorch's, of sizes that do not fit
            raise CheckpointError(
                f"the source's {self._network} cannot be run on what the package takes, so the package is not made of it "
                f"({str(error).strip().splitlines()[0]})"
            ) from error
        return {name: _as_declared(found[name].numpy(), feature) for name, feature in self.outputs.items()}
