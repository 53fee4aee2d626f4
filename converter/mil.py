"""An ML program under construction: tensors with inferred shapes, operations spelled as coremltools spells them.

Core ML's own compiler is stricter than the documented language, so every operation here carries exactly the
parameters, names and types that ``ct.convert`` (coremltools 9.0, target macOS 13, opset CoreML6) gives it. Weights are
streamed into one weights file; a `Graph` holds no tensor's values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.blob import BlobWriter
from converter.mlproto import mil

Array = NDArray[Any]
OPSET = "CoreML6"
FP16, FP32, INT32, BOOL = (np.dtype(t) for t in (np.float16, np.float32, np.int32, np.bool_))
#: Below this many elements coremltools keeps a constant inside the program (backend/mil/load.py).
_INLINE_BELOW = 10


@dataclass(frozen=True)
class Tensor:
    """The result of an operation, an input or a constant: its name in the program, shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Weights:
    """The weights file of one network, shared by its programs for several picture sizes.

    A weight is written when it is first placed and found again by name afterwards, so the programs of further sizes
    add nothing to the file.
    """

    def __init__(self, writer: BlobWriter, written: Callable[[int], None]) -> None:
        self._writer = writer
        self._written = written
        self._offsets: dict[str, int] = {}

    def place(self, name: str, values: Callable[[], Array]) -> int:
        """The offset of weight ``name``; ``values`` is called only when it has not been written yet."""
        if name not in self._offsets:
            array = values()
            self._offsets[name] = self._writer.write(array)
            self._written(array.nbytes)
        return self._offsets[name]


def _set_type(target: Any, shape: Sequence[int], number: int) -> None:
    target.tensorType.dataType = number
    if shape:
        target.tensorType.rank = len(shape)
        for size in shape:
            target.tensorType.dimensions.add().constant.size = size


def _number(dtype: np.dtype[Any]) -> int:
    m = mil()
    return int({FP16: m.FLOAT16, FP32: m.FLOAT32, INT32: m.INT32, BOOL: m.BOOL}[dtype])


def _set_string(value: Any, text: str) -> None:
    _set_type(value.type, (), mil().STRING)
    value.immediateValue.tensor.strings.values.append(text)


class Graph:
    """One function of an ML program, built by calling its operations in order.

    Every operation takes tensors of this graph and an output name, unique in the program; it infers the output's
    shape and type. Sizes follow the operations' documented semantics (coremltools' iOS15/iOS16 opset).
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._names: set[str] = set()
        self.function = mil().Function()
        self.function.opset = OPSET
        self._block = self.function.block_specializations[OPSET]
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    # --- names and constants --------------------------------------------------------------------------------------

    def _unique(self, name: str) -> str:
        base = re.sub(r"\W", "_", name)
        found, count = base, 0
        while found in self._names:
            count += 1
            found = f"{base}_{count}"
        self._names.add(found)
        return found

    def input(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """Declare an input of the program; its name is kept as it is."""
        self._names.add(name)
        entry = self.function.inputs.add()
        entry.name = name
        _set_type(entry.type, shape, _number(dtype))
        tensor = Tensor(name, shape, dtype)
        self.inputs.append(tensor)
        return tensor

    def _const(self, name: str) -> tuple[Any, str]:
        op = self._block.operations.add()
        op.type = "const"
        unique = self._unique(name)
        _set_string(op.attributes["name"], unique)
        return op, unique

    def constant(self, name: str, value: Array | np.generic | str | bool | int | list[int] | list[bool]) -> Tensor:
        """A constant kept inside the program: text, flags, integers, small float arrays."""
        op, unique = self._const(name)
        val = op.attributes["val"]
        if isinstance(value, str):
            _set_string(val, value)
            _set_type(op.outputs.add(name=unique).type, (), mil().STRING)
            return Tensor(unique, (), np.dtype(np.str_))
        array = np.asarray(value)
        if array.dtype == np.int64:
            array = array.astype(np.int32)
        _set_type(val.type, array.shape, _number(array.dtype))
        held = val.immediateValue.tensor
        if array.dtype == FP16:
            held.bytes.values = array.tobytes()
        elif array.dtype == FP32:
            held.floats.values.extend(array.reshape(-1).tolist())
        elif array.dtype == BOOL:
            held.bools.values.extend(array.reshape(-1).tolist())
        else:
            held.ints.values.extend(array.reshape(-1).tolist())
        _set_type(op.outputs.add(name=unique).type, array.shape, _number(array.dtype))
        return Tensor(unique, array.shape, array.dtype)

    def weight(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], values: Callable[[], Array]) -> Tensor:
        """A constant of the weights file; ``values()`` must give an array of that shape and type."""
        if int(np.prod(shape)) < _INLINE_BELOW:
            return self.constant(name, values())
        op, unique = self._const(name)
        val = op.attributes["val"]
        _set_type(val.type, shape, _number(dtype))
        val.blobFileValue.fileName = "@model_path/weights/weight.bin"
        val.blobFileValue.offset = self._weights.place(name, values)
        _set_type(op.outputs.add(name=unique).type, shape, _number(dtype))
        return Tensor(unique, shape, dtype)

    # --- operations -----------------------------------------------------------------------------------------------

    def _op(
        self,
        kind: str,
        name: str,
        results: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
        **parameters: Tensor | Sequence[Tensor] | Array | np.generic | str | bool | int | list[int] | list[bool],
    ) -> list[Tensor]:
        bound: dict[str, list[Tensor]] = {}
        unique = self._unique(name)
        for key, value in parameters.items():
            if isinstance(value, Tensor):
                bound[key] = [value]
            elif isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
                bound[key] = [v for v in value if isinstance(v, Tensor)]
            else:
                bound[key] = [self.constant(f"{unique}_{key}_0", value)]  # type: ignore[arg-type]
        op = self._block.operations.add()
        op.type = kind
        for key, tensors in bound.items():
            for tensor in tensors:
                op.inputs[key].arguments.add().name = tensor.name
        _set_string(op.attributes["name"], unique)
        found = []
        for index, (shape, dtype) in enumerate(results):
            out = unique if len(results) == 1 else self._unique(f"{unique}_{index}")
            _set_type(op.outputs.add(name=out).type, shape, _number(dtype))
            found.append(Tensor(out, tuple(shape), dtype))
        return found

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, name: str, *, stride: int = 1, pad: int = 0
    ) -> Tensor:
        """2-D convolution of ``x`` [B, C, H, W] with ``weight`` [O, C, kh, kw]; ``pad`` zeros on every side."""
        b, _, h, w = x.shape
        o, _, kh, kw = weight.shape
        shape = (b, o, (h + 2 * pad - kh) // stride + 1, (w + 2 * pad - kw) // stride + 1)
        parameters: dict[str, Any] = {"x": x, "weight": weight}
        if bias is not None:
            parameters["bias"] = bias
        parameters |= {
            "strides": [stride, stride],
            "pad_type": "custom" if pad else "valid",
            "pad": [pad] * 4,
            "dilations": [1, 1],
            "groups": 1,
        }
        return self._op("conv", name, [(shape, x.dtype)], **parameters)[0]

    def _binary(self, kind: str, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        other = y if isinstance(y, Tensor) else x.dtype.type(y)
        shape = np.broadcast_shapes(x.shape, other.shape)
        return self._op(kind, name, [(shape, x.dtype)], x=x, y=other)[0]

    def add(self, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        """x + y, broadcasting as NumPy does."""
        return self._binary("add", x, y, name)

    def sub(self, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        """x - y, broadcasting as NumPy does."""
        return self._binary("sub", x, y, name)

    def mul(self, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        """x * y, broadcasting as NumPy does."""
        return self._binary("mul", x, y, name)

    def real_div(self, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        """x / y, broadcasting as NumPy does."""
        return self._binary("real_div", x, y, name)

    def equal(self, x: Tensor, y: int, name: str) -> Tensor:
        """x == y as bool."""
        return self._op("equal", name, [(x.shape, BOOL)], x=x, y=x.dtype.type(y))[0]

    def unary(self, kind: str, x: Tensor, name: str) -> Tensor:
        """An elementwise operation without parameters: silu, sigmoid, square, sqrt, sin, cos."""
        return self._op(kind, name, [(x.shape, x.dtype)], x=x)[0]

    def gelu(self, x: Tensor, name: str) -> Tensor:
        """GELU by the error function."""
        return self._op("gelu", name, [(x.shape, x.dtype)], x=x, mode="EXACT")[0]

    def cast(self, x: Tensor, dtype: np.dtype[Any], name: str) -> Tensor:
        """x as another type."""
        word = {FP16: "fp16", FP32: "fp32", INT32: "int32"}[dtype]
        return self._op("cast", name, [(x.shape, dtype)], x=x, dtype=word)[0]

    def softmax(self, x: Tensor, axis: int, name: str) -> Tensor:
        """Softmax over ``axis``."""
        return self._op("softmax", name, [(x.shape, x.dtype)], x=x, axis=axis)[0]

    def reduce_mean(self, x: Tensor, axes: list[int], name: str) -> Tensor:
        """The mean over ``axes``, which stay as ones."""
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return self._op("reduce_mean", name, [(shape, x.dtype)], x=x, axes=axes, keep_dims=True)[0]

    def reduce_argmax(self, x: Tensor, axis: int, name: str) -> Tensor:
        """The first index of the greatest value along ``axis``, int32; the axis goes."""
        shape = tuple(n for i, n in enumerate(x.shape) if i != axis % len(x.shape))
        return self._op("reduce_argmax", name, [(shape, INT32)], x=x, axis=axis, keep_dims=False)[0]

    def layer_norm(self, x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float, name: str) -> Tensor:
        """Layer norm over one axis with scale and shift."""
        eps = x.dtype.type(epsilon)
        result = [(x.shape, x.dtype)]
        return self._op("layer_norm", name, result, x=x, axes=[axis], gamma=gamma, beta=beta, epsilon=eps)[0]

    def batch_norm(
        self, x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, name: str
    ) -> Tensor:
        """gamma * (x - mean) / sqrt(variance + epsilon) + beta, a channel each."""
        eps = x.dtype.type(epsilon)
        result = [(x.shape, x.dtype)]
        return self._op(
            "batch_norm", name, result, x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=eps
        )[0]

    def reshape(self, x: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
        """The same values in another shape, row-major."""
        return self._op("reshape", name, [(shape, x.dtype)], x=x, shape=list(shape))[0]

    def transpose(self, x: Tensor, order: tuple[int, ...], name: str) -> Tensor:
        """Axes in another order."""
        shape = tuple(x.shape[i] for i in order)
        return self._op("transpose", name, [(shape, x.dtype)], x=x, perm=list(order))[0]

    def expand_dims(self, x: Tensor, axes: list[int], name: str) -> Tensor:
        """Ones inserted at ``axes`` of the result."""
        rest = iter(x.shape)
        shape = tuple(1 if i in axes else next(rest) for i in range(len(x.shape) + len(axes)))
        return self._op("expand_dims", name, [(shape, x.dtype)], x=x, axes=axes)[0]

    def concat(self, values: Sequence[Tensor], axis: int, name: str) -> Tensor:
        """Tensors side by side along ``axis``."""
        first = values[0]
        shape = tuple(sum(v.shape[i] for v in values) if i == axis else n for i, n in enumerate(first.shape))
        return self._op("concat", name, [(shape, first.dtype)], values=list(values), axis=axis, interleave=False)[0]

    def stack(self, values: Sequence[Tensor], axis: int, name: str) -> Tensor:
        """Tensors along a new axis."""
        shape = list(values[0].shape)
        shape.insert(axis, len(values))
        return self._op("stack", name, [(tuple(shape), values[0].dtype)], values=list(values), axis=axis)[0]

    def split(self, x: Tensor, parts: int, axis: int, name: str) -> list[Tensor]:
        """``parts`` equal pieces along ``axis``."""
        size = x.shape[axis] // parts
        shape = tuple(size if i == axis else n for i, n in enumerate(x.shape))
        return self._op("split", name, [(shape, x.dtype)] * parts, x=x, split_sizes=[size] * parts, axis=axis)

    def slice(self, x: Tensor, axis: int, begin: int, end: int, name: str) -> Tensor:
        """``x`` from ``begin`` to ``end`` along one axis, whole along the others."""
        rank = len(x.shape)
        starts = [begin if i == axis else 0 for i in range(rank)]
        ends = [end if i == axis else n for i, n in enumerate(x.shape)]
        shape = tuple(end - begin if i == axis else n for i, n in enumerate(x.shape))
        whole = [i != axis or end == n for i, n in enumerate(x.shape)]
        result = [(shape, x.dtype)]
        return self._op("slice_by_index", name, result, x=x, begin=starts, end=ends, end_mask=whole)[0]

    def einsum(self, equation: str, a: Tensor, b: Tensor, name: str) -> Tensor:
        """A product of two tensors of rank 4 in the two forms the Neural Engine has: see coremltools' einsum."""
        left, right = equation.split("->")[0].split(",")
        sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
        shape = tuple(sizes[i] for i in equation.split("->")[1])
        return self._op("einsum", name, [(shape, a.dtype)], values=[a, b], equation=equation)[0]

    def gather(self, x: Tensor, indices: Tensor, name: str) -> Tensor:
        """Rows of ``x`` by index."""
        shape = (*indices.shape, *x.shape[1:])
        return self._op("gather", name, [(shape, x.dtype)], x=x, indices=indices, axis=0, batch_dims=0)[0]

    def gather_nd(self, x: Tensor, indices: Tensor, name: str) -> Tensor:
        """Slices of ``x`` by the index tuples in the last axis of ``indices``."""
        shape = (*indices.shape[:-1], *x.shape[indices.shape[-1] :])
        return self._op("gather_nd", name, [(shape, x.dtype)], x=x, indices=indices, batch_dims=0)[0]

    def upsample(self, x: Tensor, name: str) -> Tensor:
        """Twice the height and width by repeating pixels."""
        b, c, h, w = x.shape
        two = np.float32(2)
        result = [((b, c, 2 * h, 2 * w), x.dtype)]
        return self._op(
            "upsample_nearest_neighbor", name, result, x=x, scale_factor_height=two, scale_factor_width=two
        )[0]

    def pad_bottom_right(self, x: Tensor, name: str) -> Tensor:
        """One row of zeros below and one column to the right."""
        b, c, h, w = x.shape
        result = [((b, c, h + 1, w + 1), x.dtype)]
        zero = x.dtype.type(0)
        return self._op("pad", name, result, x=x, pad=[0] * 5 + [1, 0, 1], mode="constant", constant_val=zero)[0]

    def output(self, x: Tensor, name: str) -> None:
        """Make ``x`` an output called ``name``, in fp32 whatever the type inside."""
        if name in self._names:
            raise ValueError(f"{name!r} is taken")
        self._names.add(name)
        op_name = f"{name}_cast"
        kind = self.constant(f"{op_name}_dtype_0", "fp32")
        op = self._block.operations.add()
        op.type = "cast"
        op.inputs["x"].arguments.add().name = x.name
        op.inputs["dtype"].arguments.add().name = kind.name
        _set_string(op.attributes["name"], self._unique(op_name))
        _set_type(op.outputs.add(name=name).type, x.shape, mil().FLOAT32)
        self._block.outputs.append(name)
        self.outputs.append(Tensor(name, x.shape, FP32))
