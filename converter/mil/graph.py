"""The operations of an ML program, each in the form that coremltools writes for the program's target.

Sizes follow the operations' documented semantics (coremltools' ops/defs). Targets differ in three operations: since
iOS17 ``gather`` and ``gather_nd`` say whether indices are checked, and ``reduce_argmax`` names its result's type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from converter.mil.function import Function
from converter.mil.target import MACOS13, MACOS14, Target
from converter.mil.tensor import BOOL, FP16, FP32, INT8, INT32, UINT16, Tensor
from converter.mil.weights import Weights

#: Operations whose multiplications are nearly all the work of a network.
HEAVY = frozenset({"conv", "conv_transpose", "linear", "matmul", "einsum", "scaled_dot_product_attention"})


class Graph(Function):
    """One function of an ML program, built by calling its operations in order.

    Every operation takes tensors of this graph and an output name, made unique in the program; it infers the output's
    shape and type.
    """

    def __init__(self, weights: Weights, target: Target = MACOS13) -> None:
        super().__init__(weights, target)
        #: (name, scale) -> the tensor rounded by that scale.
        self._rounded: dict[tuple[str, float], Tensor] = {}

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, name: str, *, stride: int = 1, pad: int = 0
    ) -> Tensor:
        """Convolve ``x`` [B, C, H, W] with ``weight`` [O, C, kh, kw]; ``pad`` is the number of zeros on every side."""
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
        """Return x + y, broadcast as in NumPy."""
        return self._binary("add", x, y, name)

    def sub(self, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        """Return x - y, broadcast as in NumPy."""
        return self._binary("sub", x, y, name)

    def mul(self, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        """Return x * y, broadcast as in NumPy."""
        return self._binary("mul", x, y, name)

    def real_div(self, x: Tensor, y: Tensor | float, name: str) -> Tensor:
        """Return x / y, broadcast as in NumPy."""
        return self._binary("real_div", x, y, name)

    def equal(self, x: Tensor, y: int, name: str) -> Tensor:
        """Return x == y as bool."""
        return self._op("equal", name, [(x.shape, BOOL)], x=x, y=x.dtype.type(y))[0]

    def greater(self, x: Tensor, y: float, name: str) -> Tensor:
        """Return x > y as bool."""
        return self._op("greater", name, [(x.shape, BOOL)], x=x, y=x.dtype.type(y))[0]

    def less(self, x: Tensor, y: int, name: str) -> Tensor:
        """Return x < y as bool."""
        return self._op("less", name, [(x.shape, BOOL)], x=x, y=x.dtype.type(y))[0]

    def unary(self, kind: str, x: Tensor, name: str) -> Tensor:
        """Apply an elementwise operation without parameters: silu, sigmoid, square, sqrt, sin, cos."""
        return self._op(kind, name, [(x.shape, x.dtype)], x=x)[0]

    def gelu(self, x: Tensor, name: str) -> Tensor:
        """Apply GELU, computed with the error function."""
        return self._op("gelu", name, [(x.shape, x.dtype)], x=x, mode="EXACT")[0]

    def cast(self, x: Tensor, dtype: np.dtype[Any], name: str) -> Tensor:
        """Return x in another type."""
        word = {FP16: "fp16", FP32: "fp32", INT32: "int32", UINT16: "uint16"}[dtype]
        return self._op("cast", name, [(x.shape, dtype)], x=x, dtype=word)[0]

    def rounded(self, x: Tensor, scale: float, name: str) -> Tensor:
        """Round an fp16 tensor to -128 ... 127 times ``scale``: the pair of operations that coremltools writes before a layer
        whose inputs have 8 bits (insert_prefix_quantize_dequantize_pair). Needs macOS 14.

        Engines with 8-bit products (A17 Pro, M4 and later) run the layer in 8 bits if its weights have 8 bits too.
        """
        step, kept = np.float16(scale), (x.name, float(np.float16(scale)))
        if kept not in self._rounded:
            result = [(x.shape, INT8)]
            integers = self._op("quantize", f"{name}_quantized", result, input=x, scale=step, output_dtype="int8")[0]
            result = [(x.shape, x.dtype)]
            self._rounded[kept] = self._op("dequantize", f"{name}_dequantized", result, input=integers, scale=step)[0]
        return self._rounded[kept]

    def softmax(self, x: Tensor, axis: int, name: str) -> Tensor:
        """Apply softmax over ``axis``."""
        return self._op("softmax", name, [(x.shape, x.dtype)], x=x, axis=axis)[0]

    def reduce_mean(self, x: Tensor, axes: list[int], name: str) -> Tensor:
        """Return the mean over ``axes``, which stay with size 1."""
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return self._op("reduce_mean", name, [(shape, x.dtype)], x=x, axes=axes, keep_dims=True)[0]

    def reduce_max(self, x: Tensor, axes: list[int], name: str) -> Tensor:
        """Return the greatest value over ``axes``, which stay with size 1."""
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        return self._op("reduce_max", name, [(shape, x.dtype)], x=x, axes=axes, keep_dims=True)[0]

    def reduce_argmax(self, x: Tensor, axis: int, name: str) -> Tensor:
        """Return the first index of the greatest value along ``axis``, int32, without that axis."""
        shape = tuple(n for i, n in enumerate(x.shape) if i != axis % len(x.shape))
        typed = {"output_dtype": "int32"} if self.target.at_least(MACOS14) else {}
        return self._op("reduce_argmax", name, [(shape, INT32)], x=x, axis=axis, keep_dims=False, **typed)[0]

    def layer_norm(self, x: Tensor, axis: int, gamma: Tensor, beta: Tensor, epsilon: float, name: str) -> Tensor:
        """Apply layer norm over one axis, with scale and shift."""
        eps = x.dtype.type(epsilon)
        result = [(x.shape, x.dtype)]
        return self._op("layer_norm", name, result, x=x, axes=[axis], gamma=gamma, beta=beta, epsilon=eps)[0]

    def batch_norm(
        self, x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, name: str
    ) -> Tensor:
        """Return gamma * (x - mean) / sqrt(variance + epsilon) + beta, with one of each per channel."""
        eps = x.dtype.type(epsilon)
        result = [(x.shape, x.dtype)]
        return self._op(
            "batch_norm", name, result, x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=eps
        )[0]

    def reshape(self, x: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
        """Return the same values in another shape, row-major."""
        return self._op("reshape", name, [(shape, x.dtype)], x=x, shape=list(shape))[0]

    def transpose(self, x: Tensor, order: tuple[int, ...], name: str) -> Tensor:
        """Return x with its axes in another order."""
        shape = tuple(x.shape[i] for i in order)
        return self._op("transpose", name, [(shape, x.dtype)], x=x, perm=list(order))[0]

    def expand_dims(self, x: Tensor, axes: list[int], name: str) -> Tensor:
        """Insert axes of size 1 at the positions ``axes`` of the result."""
        rest = iter(x.shape)
        shape = tuple(1 if i in axes else next(rest) for i in range(len(x.shape) + len(axes)))
        return self._op("expand_dims", name, [(shape, x.dtype)], x=x, axes=axes)[0]

    def concat(self, values: Sequence[Tensor], axis: int, name: str) -> Tensor:
        """Join tensors along ``axis``; return a single tensor as it is."""
        first = values[0]
        if len(values) == 1:
            return first
        shape = tuple(sum(v.shape[i] for v in values) if i == axis else n for i, n in enumerate(first.shape))
        return self._op("concat", name, [(shape, first.dtype)], values=list(values), axis=axis, interleave=False)[0]

    def stack(self, values: Sequence[Tensor], axis: int, name: str) -> Tensor:
        """Join tensors along a new axis."""
        shape = list(values[0].shape)
        shape.insert(axis, len(values))
        return self._op("stack", name, [(tuple(shape), values[0].dtype)], values=list(values), axis=axis)[0]

    def split(self, x: Tensor, parts: int, axis: int, name: str) -> list[Tensor]:
        """Split into ``parts`` equal tensors along ``axis``."""
        size = x.shape[axis] // parts
        shape = tuple(size if i == axis else n for i, n in enumerate(x.shape))
        return self._op("split", name, [(shape, x.dtype)] * parts, x=x, split_sizes=[size] * parts, axis=axis)

    def slice(self, x: Tensor, axis: int, begin: int, end: int, name: str) -> Tensor:
        """Return ``x`` from ``begin`` to ``end`` along one axis; return ``x`` itself if that is the whole axis."""
        rank = len(x.shape)
        if begin == 0 and end == x.shape[axis]:
            return x
        starts = [begin if i == axis else 0 for i in range(rank)]
        ends = [end if i == axis else n for i, n in enumerate(x.shape)]
        shape = tuple(end - begin if i == axis else n for i, n in enumerate(x.shape))
        whole = [i != axis or end == n for i, n in enumerate(x.shape)]
        result = [(shape, x.dtype)]
        return self._op("slice_by_index", name, result, x=x, begin=starts, end=ends, end_mask=whole)[0]

    def einsum(self, equation: str, a: Tensor, b: Tensor, name: str) -> Tensor:
        """Return the product of two tensors of rank 4 by an equation that the Neural Engine supports (coremltools' einsum)."""
        left, right = equation.split("->")[0].split(",")
        sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
        shape = tuple(sizes[i] for i in equation.split("->")[1])
        return self._op("einsum", name, [(shape, a.dtype)], values=[a, b], equation=equation)[0]

    def matmul(
        self, x: Tensor, y: Tensor, name: str, *, transpose_x: bool = False, transpose_y: bool = False
    ) -> Tensor:
        """Return matrix products over the last two axes, transposed first if asked; the leading axes must be equal."""
        rows = x.shape[-1] if transpose_x else x.shape[-2]
        columns = y.shape[-2] if transpose_y else y.shape[-1]
        result = [((*x.shape[:-2], rows, columns), x.dtype)]
        return self._op("matmul", name, result, x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)[0]

    def _unchecked(self) -> dict[str, bool]:
        return {"validate_indices": False} if self.target.at_least(MACOS14) else {}

    def gather(self, x: Tensor, indices: Tensor, name: str) -> Tensor:
        """Return the rows of ``x`` at ``indices`` (int32, 0 or more).

        For macOS 14 and later coremltools also adds the number of rows to indices below 0, and narrows indices into fewer
        than 2**15 rows to int16. CLIP's table has 49408 rows, and no token id is below 0.
        """
        shape = (*indices.shape, *x.shape[1:])
        result = [(shape, x.dtype)]
        return self._op("gather", name, result, x=x, indices=indices, axis=0, batch_dims=0, **self._unchecked())[0]

    def gather_nd(self, x: Tensor, indices: Tensor, name: str) -> Tensor:
        """Return the slices of ``x`` at the index tuples in the last axis of ``indices`` (int32, 0 or more)."""
        depth = indices.shape[-1]
        shape = (*indices.shape[:-1], *x.shape[depth:])
        if self.target.at_least(MACOS14) and max(x.shape[:depth]) <= 2**16:
            indices = self.cast(indices, UINT16, f"{name}_indices_to_uint16")
        result = [(shape, x.dtype)]
        return self._op("gather_nd", name, result, x=x, indices=indices, batch_dims=0, **self._unchecked())[0]

    def upsample(self, x: Tensor, name: str, times: int = 2) -> Tensor:
        """Multiply height and width by repeating pixels."""
        b, c, h, w = x.shape
        factor = np.float32(times)
        result = [((b, c, times * h, times * w), x.dtype)]
        return self._op(
            "upsample_nearest_neighbor", name, result, x=x, scale_factor_height=factor, scale_factor_width=factor
        )[0]

    def pixel_shuffle(self, x: Tensor, times: int, name: str) -> Tensor:
        """Move channels into blocks of ``times`` x ``times`` pixels.

        The Neural Engine is wrong for more than 256 channels (public measurements); no network here comes near.
        """
        b, c, h, w = x.shape
        result = [((b, c // times**2, times * h, times * w), x.dtype)]
        return self._op("pixel_shuffle", name, result, x=x, upscale_factor=np.int32(times))[0]

    def leaky_relu(self, x: Tensor, alpha: float, name: str) -> Tensor:
        """Return x where it is 0 or more, and elsewhere alpha * x."""
        return self._op("leaky_relu", name, [(x.shape, x.dtype)], x=x, alpha=x.dtype.type(alpha))[0]

    def prelu(self, x: Tensor, alpha: Tensor, name: str) -> Tensor:
        """Return x where it is above 0, and elsewhere alpha * x, with one alpha per channel."""
        return self._op("prelu", name, [(x.shape, x.dtype)], x=x, alpha=alpha)[0]

    def pad_bottom_right(self, x: Tensor, name: str) -> Tensor:
        """Pad with one row of zeros below and one column to the right."""
        b, c, h, w = x.shape
        result = [((b, c, h + 1, w + 1), x.dtype)]
        zero = x.dtype.type(0)
        return self._op("pad", name, result, x=x, pad=[0] * 5 + [1, 0, 1], mode="constant", constant_val=zero)[0]
