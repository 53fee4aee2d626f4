"""A network's states, which keep their values between predictions, and the operations that read and write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.runtime.feature import Feature, InputError
from converter.runtime.program import Operation


class State:
    """The states of one sequence of predictions, zero at first; a network may have several sequences at a time."""

    def __init__(self, features: Mapping[str, Feature]) -> None:
        self.features = features
        #: Name -> its values; floating ones are fp32, as everywhere between operations.
        self.tensors = {name: _tensor(np.zeros(f.shape, f.dtype)) for name, f in features.items()}

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of a state, in its declared type."""
        return self.tensors[name].numpy().astype(self.features[name].dtype)

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Replace a state, rounded to its declared type; raises InputError if it has another shape."""
        feature = self.features[name]
        if array.shape != feature.shape:
            raise InputError(f"state {name} has shape {list(array.shape)}; {list(feature.shape)} is accepted")
        self.tensors[name] = _tensor(array.astype(feature.dtype))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)


def checked_state(state: State | None, declared: Mapping[str, Feature]) -> dict[str, torch.Tensor]:
    """Return the tensors of a prediction's states; raises InputError if they are not the network's."""
    if state is None and declared:
        raise InputError(f"the network has states ({', '.join(declared)}); pass a state from its make_state()")
    tensors = {} if state is None else state.tensors
    if {name: f.shape for name, f in declared.items()} != {name: tuple(t.shape) for name, t in tensors.items()}:
        raise InputError(f"the state has {', '.join(tensors)}; the network has {', '.join(declared) or 'no state'}")
    return dict(tensors)


#: Operators on states as plain operators, after `without_states` has added the state to their results. coremltools
#: writes its ``coreml_update_state`` as a ``write_state`` and a ``read_state``.
STATE_OPERATORS: dict[str, Callable[..., Any]] = {
    "coreml_update_state": lambda value: [value, value],
    "read_state": lambda input: input,
    "write_state": lambda data: data,
}


def without_states(op: Operation, states: Mapping[str, Feature]) -> Operation:
    """Return the operation with the value that it writes to a state as its first result, under the state's name."""
    if op.kind == "write_state":
        (name,) = op.inputs["input"]
    elif op.kind == "coreml_update_state":
        (name,) = op.inputs["state"]
    else:
        return op
    inputs = {parameter: names for parameter, names in op.inputs.items() if parameter not in ("input", "state")}
    return replace(op, inputs=inputs, outputs=[name, *op.outputs], dtypes=[states[name].dtype, *op.dtypes])
