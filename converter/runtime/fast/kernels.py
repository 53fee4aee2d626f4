"""Call the compiled kernels (native/*.c) with PyTorch tensors: eight-bit products, norms, attention.

They share PyTorch's threads: the library is built for OpenMP without linking one, and gets PyTorch's when it is
loaded, because two thread pools on the same cores wait for each other by spinning.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converter.runtime.fast.library import Build, kernel_library

_i64 = ctypes.c_int64
#: glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
#: The number of columns in a panel of packed weights.
COLUMNS = 64


class _Product(ctypes.Structure):
    _fields_ = [
        (name, _i64)
        for name in [
            "images",
            "in_h",
            "in_w",
            "channels",
            "out_h",
            "out_w",
            "kernel_h",
            "kernel_w",
            "stride",
            "pad_top",
            "pad_left",
            "up",
            "columns",
            "gated",
            "out_stride",
            "residual_stride",
        ]
    ]


class _GroupNorm(ctypes.Structure):
    _fields_ = [
        *((name, _i64) for name in ["images", "pixels", "channels", "groups"]),
        ("epsilon", ctypes.c_float),
        ("silu", ctypes.c_int),
    ]


class _Attention(ctypes.Structure):
    _fields_ = [
        *(
            (n, _i64)
            for n in ["batch", "heads", "queries", "keys", "depth", "q_stride", "k_stride", "v_stride", "out_stride"]
        ),
        ("scale", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Rounded:
    """Rows of channels as u8: value = scale * (q - zero).

    q: uint8 [rows, channels]. scale, zero: fp32 [rows]. outside: uint8 [images, channels], the padding around each
    image; None if each row has its own scale, which allows no windows over several rows.
    """

    q: Tensor
    scale: Tensor
    zero: Tensor
    outside: Tensor | None


@dataclass(frozen=True)
class Weights:
    """A layer's weights as s8 panels, with the scale, sum and bias of each output channel in fp32."""

    panels: Tensor
    scale: Tensor
    total: Tensor
    bias: Tensor


@functools.cache
def _loaded(build: Build) -> ctypes.CDLL | None:
    file = kernel_library(build)
    if file is None:
        return None
    if sys.platform == "linux":
        openmp = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
        if not openmp:
            return None
        ctypes.CDLL(str(openmp[0]), ctypes.RTLD_GLOBAL)
        _keep_freed_memory()
    return ctypes.CDLL(str(file))


def _keep_freed_memory() -> None:
    """Make malloc keep large freed blocks, because the next step needs blocks of the same size.

    Returning them to the system and getting them again, page by page, took a tenth of a step's time (Stable
    Diffusion 1.5's UNet, two cores).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc only
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def _results(result: Tensor | Rounded) -> tuple[ctypes.c_void_p | None, ...]:
    """Return a norm's output pointers: fp32, or rounded values with their scales and zero points."""
    if isinstance(result, Rounded):
        return None, _pointer(result.q), _pointer(result.scale), _pointer(result.zero)
    return _pointer(result), None, None, None


class Kernels:
    """The functions of the library. Tensors must be contiguous; rows are [rows, channels]."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self._c = loaded

    def pack(self, weight: NDArray[Any], bias: NDArray[Any] | None, *, gated: bool) -> Weights:
        """Round weights [out, in, ...] of fp16 or fp32 to s8, with a scale for each output channel, and pack them.

        ``in`` must be a multiple of 4, and ``out`` a multiple of 64 if the layer is gated.
        """
        out, channels = weight.shape[:2]
        taps = int(np.prod(weight.shape[2:], dtype=np.int64))
        padded = -(-out // COLUMNS) * COLUMNS
        panels = torch.empty(padded * channels * taps, dtype=torch.int8)
        scale, total, added = torch.empty(padded), torch.empty(padded), np.zeros(padded, np.float32)
        weight = np.ascontiguousarray(weight if weight.dtype == np.float16 else weight.astype(np.float32, copy=False))
        is_fp16 = weight.dtype == np.float16
        self._c.pack_weights(
            ctypes.c_void_p(weight.ctypes.data), int(is_fp16), _i64(out), _i64(channels), _i64(taps), _i64(gated),
            _pointer(panels), _pointer(scale), _pointer(total),
        )  # fmt: skip
        if bias is not None:
            bias = bias.astype(np.float32)
            added[:out] = bias.reshape(2, -1, 32).swapaxes(0, 1).reshape(-1) if gated else bias
        return Weights(panels, scale, total, torch.from_numpy(added))

    def product(
        self,
        x: Rounded,
        weights: Weights,
        *,
        image: tuple[int, int, int],
        out: tuple[int, int],
        window: tuple[int, int],
        columns: int,
        stride: int = 1,
        pad: tuple[int, int] = (0, 0),
        up: bool = False,
        gated: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Convolve images ``image`` (count, height, width) to the size ``out``; return fp32 rows [rows, columns].

        window, stride, pad (top, left): of the convolution; up: double the image first; gated: multiply half of the
        columns by the gelu of the other half; residual: rows to add to the result.
        """
        result = torch.empty(image[0] * out[0] * out[1], columns)
        shape = _Product(
            *image, x.q.shape[1], *out, *window, stride, *pad, int(up), columns, int(gated), columns,
            columns if residual is not None else 0,
        )  # fmt: skip
        self._c.product(
            ctypes.byref(shape), _pointer(x.q), _pointer(x.outside), _pointer(x.scale), _pointer(x.zero), _pointer(weights.panels),
            _pointer(weights.scale), _pointer(weights.total), _pointer(weights.bias), _pointer(residual), _pointer(result),
        )  # fmt: skip
        return result

    def group_norm(
        self,
        x: Tensor,
        images: int,
        groups: int,
        epsilon: float,
        gamma: Tensor,
        beta: Tensor,
        shift: Tensor | None,
        *,
        silu: bool,
        rounded: bool = False,
    ) -> Tensor | Rounded:
        """Apply group norm to rows.

        shift: [images, channels] to add first. silu: apply silu to the result. rounded: round it, with a scale for each
        image.
        """
        shape = _GroupNorm(images, x.shape[0] // images, x.shape[1], groups, epsilon, int(silu))
        result = self._empty_rounded(x, images) if rounded else torch.empty_like(x)
        outside = result.outside if isinstance(result, Rounded) else None
        self._c.group_norm(
            ctypes.byref(shape),
            _pointer(x),
            _pointer(shift),
            _pointer(gamma),
            _pointer(beta),
            *_results(result),
            _pointer(outside),
        )
        return result

    @staticmethod
    def _empty_rounded(x: Tensor, images: int | None) -> Rounded:
        outside = None if images is None else torch.empty(images, x.shape[1], dtype=torch.uint8)
        return Rounded(
            torch.empty(x.shape, dtype=torch.uint8), torch.empty(x.shape[0]), torch.empty(x.shape[0]), outside
        )

    def channel_norm(
        self, x: Tensor, epsilon: float, gamma: Tensor, beta: Tensor, *, rounded: bool = False
    ) -> Tensor | Rounded:
        """Apply layer norm to each row; rounded: round the result, with a scale for each row."""
        result = self._empty_rounded(x, None) if rounded else torch.empty_like(x)
        self._c.layer_norm(
            _i64(x.shape[0]),
            _i64(x.shape[1]),
            ctypes.c_float(epsilon),
            _pointer(x),
            _pointer(gamma),
            _pointer(beta),
            *_results(result),
        )
        return result

    def round_rows(self, x: Tensor, images: int | None) -> Rounded:
        """Round rows with a scale for each image, or, if images is None, for each row."""
        result = self._empty_rounded(x, images)
        blocks = x.shape[0] if images is None else images
        self._c.round_rows(
            _i64(blocks), _i64(x.shape[0] // blocks), _i64(x.shape[1]), _pointer(x), _pointer(result.q), _pointer(result.scale),
            _pointer(result.zero), _pointer(result.outside),
        )  # fmt: skip
        return result

    def attention(self, q: Tensor, k: Tensor, v: Tensor, batch: int, heads: int, scale: float) -> Tensor:
        """Return softmax(q k^T scale) v for rows [batch * tokens, heads * depth]."""
        result = torch.empty_like(q)
        width = q.shape[1]
        shape = _Attention(
            batch,
            heads,
            q.shape[0] // batch,
            k.shape[0] // batch,
            width // heads,
            *(t.stride(0) for t in (q, k, v)),
            width,
            scale,
        )
        self._c.attention(ctypes.byref(shape), _pointer(q), _pointer(k), _pointer(v), _pointer(result))
        return result


def kernels(build: Build = "vnni") -> Kernels | None:
    """Return the kernels, ready to call; None if that build is missing or cannot run on this machine."""
    loaded = _loaded(build)
    return None if loaded is None else Kernels(loaded)
