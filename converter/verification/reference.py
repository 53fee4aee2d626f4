"""Run a checkpoint's original network on a package's inputs, as the reference that verifies the package."""

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
    """Return an output in the package's shape; with ``original`` attention a package has its keys transposed.

    Packages of Apple's converter declare no output shapes.
    """
    return array if feature.shape in ((), array.shape) else array.transpose(0, 3, 2, 1)


class ReferenceNetwork:
    """A network run by its makers' library in fp32, with a package's input and output names.

    Weights are read from the mapped checkpoint layer by layer, so it needs the memory of its largest layer.
    """

    def __init__(
        self,
        network: str,
        config: dict[str, Any],
        tensors: Tensors,
        inputs: Mapping[str, Feature],
        outputs: Mapping[str, Feature],
    ) -> None:
        """``inputs`` and ``outputs`` are those of the package."""
        self.inputs, self.outputs = inputs, outputs
        kind = kind_of(network)
        self._network, self._run = network, kind.reference.run
        self._module = streamed(lambda: kind.reference.make(config, outputs), tensors, kind.component.canonical_name)

    def layer(self, path: str) -> torch.nn.Module:
        """Return the module at ``path`` of the original network."""
        return self._module.get_submodule(path)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, torch.Tensor]:
        """Run the network once, and return its outputs in fp32 as it makes them; with gradients where they are enabled.

        Raises InputError before anything runs, and CheckpointError if the sizes do not fit.
        """
        arrays = check_inputs(inputs, self.inputs)
        try:
            return self._run(self._module, {n: torch.from_numpy(np.asarray(a, np.float32)) for n, a in arrays.items()})
        except RuntimeError as error:  # PyTorch's, of sizes that do not fit
            raise CheckpointError(
                f"the source's {self._network} cannot run on the package's inputs, so the package was not made from it "
                f"({str(error).strip().splitlines()[0]})"
            ) from error

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once, and return its outputs as the package declares them; raises as `run`."""
        outputs = self.run(inputs)
        return {name: _as_declared(outputs[name].numpy(), feature) for name, feature in self.outputs.items()}
