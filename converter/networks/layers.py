"""The layers of all networks; each reads its weights from the checkpoint by its module path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from converter.mil import FP16, Graph, Tensor
from converter.sources.tensors import Tensors, expect_shape
from converter.weights.encodings import UNCOMPRESSED, Encodings

FP16Array = NDArray[np.float16]
Change: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
#: Implementations of attention; see `converter.networks.attention`.
Attention = Literal["split_einsum", "split_einsum_v2", "original"]
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)


class Layers:
    """A graph and the checkpoint tensors of its layers; module paths are the checkpoint's."""

    def __init__(
        self,
        graph: Graph,
        tensors: Tensors,
        attention: Attention = "split_einsum",
        encodings: Encodings = UNCOMPRESSED,
    ) -> None:
        self.graph = graph
        self.tensors = tensors
        self.attention = attention
        self.encodings = encodings

    def has(self, path: str) -> bool:
        """Return whether the checkpoint has this tensor."""
        return path in self.tensors

    def weight(self, path: str, shape: tuple[int, ...], change: Change | None = None) -> Tensor:
        """Return the checkpoint tensor ``path`` as an fp16 constant of ``shape``.

        ``change`` is applied in fp32 before rounding to fp16. Raises CheckpointError as `expect_shape` does.
        """
        return self.graph.weight(path, shape, FP16, self._values(path, shape, change))

    def _values(self, path: str, shape: tuple[int, ...], change: Change | None) -> Callable[[], FP16Array]:
        expect_shape(self.tensors, path, shape)

        def values() -> FP16Array:
            array = self.tensors.array(path)
            if change is not None:
                array = change(array.astype(np.float32))
            return array.astype(np.float16, copy=False).reshape(shape)

        return values

    def kernel(self, path: str, shape: tuple[int, ...], change: Change | None = None) -> Tensor:
        """Return the weight of the layer at ``path`` as `weight` does, stored in the encoding of this layer."""
        name, encoding = f"{path}.weight", self.encodings.of(path, shape)
        if encoding is None:
            return self.weight(name, shape, change)
        return self.graph.compressed_weight(name, shape, self._values(name, shape, change), encoding)

    def _rounded(self, x: Tensor, path: str) -> Tensor:
        """Return the input of the layer at ``path``, rounded to 8 bits if the conversion asks for that."""
        scale = self.encodings.activations.get(path)
        return x if scale is None else self.graph.rounded(x, scale, f"{path}.input")

    def conv(
        self, x: Tensor, path: str, out: int, kernel: int, *, stride: int = 1, pad: int | None = None, bias: bool = True
    ) -> Tensor:
        """Apply the convolution at ``path`` to [B, C, H, W], to ``out`` channels with a square ``kernel``.

        ``pad`` None pads half the kernel on every side, which keeps the size at stride 1.
        """
        x = self._rounded(x, path)
        weight = self.kernel(path, (out, x.shape[1], kernel, kernel))
        offset = self.weight(f"{path}.bias", (out,)) if bias else None
        return self.graph.conv(x, weight, offset, path, stride=stride, pad=kernel // 2 if pad is None else pad)

    def linear(self, x: Tensor, path: str, out: int, *, scale: float = 1.0, bias: bool = True) -> Tensor:
        """Apply the linear layer (or 1x1 convolution) at ``path`` to [B, C, 1, S], to ``out`` channels, as a 1x1 convolution.

        ``scale`` multiplies weight and bias in fp32 before they are rounded to fp16; powers of two are exact.
        """
        change = None if scale == 1 else lambda w: w * np.float32(scale)
        if change is not None:
            self.graph.note_scale(path, scale)
        x = self._rounded(x, path)
        weight = self.kernel(path, (out, x.shape[1], 1, 1), change)
        offset = self.weight(f"{path}.bias", (out,), change) if bias else None
        return self.graph.conv(x, weight, offset, path)

    def silu(self, x: Tensor, name: str) -> Tensor:
        """Return x * sigmoid(x)."""
        return self.graph.unary("silu", x, name)

    def layer_norm(self, x: Tensor, path: str, epsilon: float = 1e-5) -> Tensor:
        """Apply layer norm over the channels of [B, C, 1, S]."""
        gamma, beta = (self.weight(f"{path}.{kind}", (x.shape[1],)) for kind in ("weight", "bias"))
        return self.graph.layer_norm(x, 1, gamma, beta, epsilon, path)

    def group_norm(self, x: Tensor, path: str, groups: int, epsilon: float) -> Tensor:
        """Apply group norm to [B, C, H, W], lowered as coremltools lowers it (rank-5 moments, then batch_norm)."""
        g = self.graph
        b, c, h, w = x.shape
        grouped = g.reshape(x, (b, groups, c // groups, h, w), f"{path}.groups")
        centered = g.sub(grouped, g.reduce_mean(grouped, [2, 3, 4], f"{path}.mean"), f"{path}.centred")
        variance = g.reduce_mean(g.unary("square", centered, f"{path}.square"), [2, 3, 4], f"{path}.variance")
        std = g.unary("sqrt", g.add(variance, epsilon, f"{path}.floored"), f"{path}.deviation")
        normalized = g.reshape(g.real_div(centered, std, f"{path}.normal"), x.shape, f"{path}.whole")
        return self.scale_and_shift(normalized, path)

    def scale_and_shift(self, normalized: Tensor, path: str) -> Tensor:
        """Apply the scale and shift at ``path`` to a normalized [B, C, H, W], as coremltools lowers them (batch_norm)."""
        g, c = self.graph, normalized.shape[1]
        zeros = g.weight(f"zeros_{c}", (c,), FP16, lambda: np.zeros(c, np.float16))
        ones = g.weight(f"ones_{c}", (c,), FP16, lambda: np.ones(c, np.float16))
        gamma, beta = (self.weight(f"{path}.{kind}", (c,)) for kind in ("weight", "bias"))
        return g.batch_norm(normalized, zeros, ones, gamma, beta, 1e-5, path)

    def resnet(self, x: Tensor, path: str, out: int, time: Tensor | None, groups: int, epsilon: float) -> Tensor:
        """Apply a residual block with ``out`` channels; ``time`` is SiLU of the time embedding, [B, T, 1, 1], or None in autoencoders."""
        g = self.graph
        h = self.silu(self.group_norm(x, f"{path}.norm1", groups, epsilon), f"{path}.act1")
        h = self.conv(h, f"{path}.conv1", out, 3)
        if time is not None:
            h = g.add(h, self.linear(time, f"{path}.time_emb_proj", out), f"{path}.timed")
        h = self.silu(self.group_norm(h, f"{path}.norm2", groups, epsilon), f"{path}.act2")
        h = self.conv(h, f"{path}.conv2", out, 3)
        if x.shape[1] != out:
            x = self.conv(x, f"{path}.conv_shortcut", out, 1)
        return g.add(x, h, f"{path}.sum")
