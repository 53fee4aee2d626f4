"""One function of an ML program: its inputs, constants and outputs, and operations of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.mil.compressed import stored_form
from converter.mil.mlproto import mil
from converter.mil.target import MACOS13, MACOS15, Target
from converter.mil.tensor import (
    FP16,
    FP32,
    INT32,
    Array,
    Tensor,
    identifier,
    is_identifier,
    set_array,
    set_string,
    set_type,
    type_number,
)
from converter.mil.weights import INLINE_BELOW, Placed, Weights
from converter.weights.dtypes import stored_as
from converter.weights.encodings import Encoding, Part

_WEIGHTS_FILE = "@model_path/weights/weight.bin"
#: A parameter of an operation: tensors, or the value of a constant.
Parameter = Tensor | Sequence[Tensor] | Array | np.generic | str | bool | int | list[int] | list[bool]


class Function:
    """A function under construction. ``function`` is its message (MIL.proto), complete once the outputs are added.

    scales: the layers whose weights are stored multiplied by a factor, each with the factor (`note_scale`).
    """

    def __init__(self, weights: Weights, target: Target = MACOS13) -> None:
        self.weights = weights
        self.target = target
        self._names: set[str] = set()
        self.function = mil().Function()
        self.function.opset = target.opset
        self._block = self.function.block_specializations[target.opset]
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.scales: dict[str, float] = {}
        self._parameters: dict[tuple[str, str, tuple[int, ...], bytes], Tensor] = {}

    # --- names and constants --------------------------------------------------------------------------------------

    def _unique(self, name: str) -> str:
        base = identifier(name)
        unique, count = base, 0
        while unique in self._names:
            count += 1
            unique = f"{base}_{count}"
        self._names.add(unique)
        return unique

    def _own(self, name: str) -> None:
        if not is_identifier(name):
            raise ValueError(f"{name!r} cannot name an input or output: ML programs accept letters, digits and _")
        if name in self._names:
            raise ValueError(f"{name!r} is already in use; give another name")
        self._names.add(name)

    def input(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """Declare an input of the program with exactly this name. Raises ValueError if the name is not valid or in use."""
        self._own(name)
        entry = self.function.inputs.add()
        entry.name = name
        set_type(entry.type, shape, type_number(dtype))
        tensor = Tensor(name, shape, dtype)
        self.inputs.append(tensor)
        return tensor

    def _const(self, name: str) -> tuple[Any, str]:
        op = self._block.operations.add()
        op.type = "const"
        unique = self._unique(name)
        set_string(op.attributes["name"], unique)
        return op, unique

    def constant(self, name: str, value: Array | np.generic | str | bool | int | list[int] | list[bool]) -> Tensor:
        """Add a constant inside the program: text, flags, integers, fewer than ten floats.

        Raises ValueError for ten floats or more: coremltools would put them in the weights file. Any number of integers
        stays inside on every target, so that targets share one weights file.
        """
        op, unique = self._const(name)
        val = op.attributes["val"]
        if isinstance(value, str):
            set_string(val, value)
            set_type(op.outputs.add(name=unique).type, (), mil().STRING)
            return Tensor(unique, (), np.dtype(np.str_))
        array = np.asarray(value)
        if array.dtype == np.int64:
            array = array.astype(INT32)
        if array.dtype in (FP16, FP32) and array.size >= INLINE_BELOW:
            raise ValueError(f"{name!r} has {array.size} floats; add {INLINE_BELOW} or more with Graph.weight")
        set_array(val, array)
        set_type(op.outputs.add(name=unique).type, array.shape, type_number(array.dtype))
        return Tensor(unique, array.shape, array.dtype)

    def weight(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], values: Callable[[], Array]) -> Tensor:
        """Add a constant in the weights file; ``values()`` must return an array of that shape and type."""
        if int(np.prod(shape)) < INLINE_BELOW:
            return self.constant(name, values())
        op, unique = self._const(name)
        val = op.attributes["val"]
        set_type(val.type, shape, type_number(dtype))
        val.blobFileValue.fileName = _WEIGHTS_FILE
        val.blobFileValue.offset = self.weights.place(name, values)
        set_type(op.outputs.add(name=unique).type, shape, type_number(dtype))
        return Tensor(unique, shape, dtype)

    def note_scale(self, path: str, factor: float) -> None:
        """Note that weight and bias of the layer at ``path`` are stored multiplied by ``factor``."""
        self.scales[identifier(path)] = factor

    def compressed_weight(
        self, name: str, shape: tuple[int, ...], values: Callable[[], NDArray[np.float16]], encoding: Encoding
    ) -> Tensor:
        """Add an fp16 constant that is stored in an encoding, with the operation that decodes it.

        Up to macOS 14 what it is decoded from is in the operation's attributes, since macOS 15 in its inputs. Raises
        TargetError if the target has no such encoding.
        """
        kind, parts, constants = stored_form(encoding, shape, self.target)
        fp16_bytes = 2 * int(np.prod(shape, dtype=np.int64))
        placed = self.weights.place_encoded(name, parts, fp16_bytes, lambda: encoding.encode(values()))
        op = self._block.operations.add()
        op.type = kind
        unique = self._unique(f"{name}_{'palettized' if encoding.kind == 'palette' else 'quantized'}")
        set_string(op.attributes["name"], unique)
        is_input = self.target.at_least(MACOS15)

        def parameter(key: str) -> Any:
            return op.inputs[key].arguments.add().value if is_input else op.attributes[key]

        for part, place in zip(parts, placed, strict=True):
            self._set_part(parameter(part.name), part, place)
        for key, array in constants.items():
            if array.size < INLINE_BELOW:
                set_array(parameter(key), array)
            else:
                part = Part(key, stored_as(array.dtype), array.shape)
                shared = f"{key}_{array.dtype}_{'x'.join(map(str, array.shape))}"
                self._set_part(parameter(key), part, self.weights.place(shared, partial(np.copy, array)))
        set_type(op.outputs.add(name=unique).type, shape, type_number(FP16))
        return Tensor(unique, shape, FP16)

    @staticmethod
    def _set_part(value: Any, part: Part, place: Placed) -> None:
        set_type(value.type, part.shape, part.dtype.number)
        if isinstance(place, int):
            value.blobFileValue.fileName = _WEIGHTS_FILE
            value.blobFileValue.offset = place
        else:
            value.immediateValue.tensor.bytes.values = place.tobytes()

    # --- operations -----------------------------------------------------------------------------------------------

    def _bound(self, op_name: str, parameters: Mapping[str, Parameter]) -> dict[str, list[Tensor]]:
        """Return every parameter as tensors; other values become constants before the first operation that uses them.

        Operations share them: the program of SDXL's UNet, whose layers all slice their heads in the same way, is 9 MB, not 17.
        """
        bound: dict[str, list[Tensor]] = {}
        for key, value in parameters.items():
            if isinstance(value, Tensor):
                bound[key] = [value]
            elif isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
                bound[key] = [v for v in value if isinstance(v, Tensor)]
            else:
                bound[key] = [self._shared(op_name, key, value)]  # type: ignore[arg-type]
        return bound

    def _shared(self, op_name: str, key: str, value: Array | str | bool | int | list[int] | list[bool]) -> Tensor:
        array = np.asarray(value)
        same = (key, array.dtype.str, array.shape, array.tobytes())
        if same not in self._parameters:
            self._parameters[same] = self.constant(f"{op_name}_{key}_0", value)
        return self._parameters[same]

    def _emit(self, kind: str, op_name: str, bound: Mapping[str, list[Tensor]], outputs: Sequence[Tensor]) -> None:
        op = self._block.operations.add()
        op.type = kind
        for key, tensors in bound.items():
            for tensor in tensors:
                op.inputs[key].arguments.add().name = tensor.name
        set_string(op.attributes["name"], op_name)
        for tensor in outputs:
            set_type(op.outputs.add(name=tensor.name).type, tensor.shape, type_number(tensor.dtype))

    def _op(
        self, kind: str, name: str, results: Sequence[tuple[tuple[int, ...], np.dtype[Any]]], **parameters: Parameter
    ) -> list[Tensor]:
        unique = self._unique(name)
        bound = self._bound(unique, parameters)
        outputs = []
        for index, (shape, dtype) in enumerate(results):
            out = unique if len(results) == 1 else self._unique(f"{unique}_{index}")
            outputs.append(Tensor(out, tuple(shape), dtype))
        self._emit(kind, unique, bound, outputs)
        return outputs

    def output(self, x: Tensor, name: str) -> None:
        """Make ``x`` an output called ``name``, in fp32 whatever its type. Raises ValueError as `input` does.

        An fp32 tensor passes through ``identity``, as coremltools does with an output that has another name too.
        """
        self._own(name)
        parameters: dict[str, Parameter] = {} if x.dtype == FP32 else {"dtype": "fp32"}
        kind = "cast" if parameters else "identity"
        op_name = f"{name}_{kind}"
        bound = {"x": [x]} | self._bound(op_name, parameters)
        tensor = Tensor(name, x.shape, FP32)
        self._emit(kind, self._unique(op_name), bound, [tensor])
        self._block.outputs.append(name)
        self.outputs.append(tensor)

    # --- parts of other functions ---------------------------------------------------------------------------------

    def append(self, operation: Any) -> None:
        """Add an operation message as it is, names included."""
        self._block.operations.append(operation)

    def hand_over(self, x: Tensor) -> None:
        """Make ``x`` an output under its own name and in its own type."""
        self._block.outputs.append(x.name)
        self.outputs.append(x)
