"""Encodings of weights: how many bits each element takes, and what a package stores of it.

float: as it is. palette: indices into a table of a few values, for the whole tensor or for groups of output channels.
linear: small integers times a scale, for each output channel or for blocks of its input channels. Palettes and blocks
are found on the tensor in fp16; what is stored is what coremltools stores (ops/defs/iOS16/constexpr_ops.py and
iOS18/compression.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from converter.weights.blob import packed_size
from converter.weights.dtypes import BY_NAME, DType
from converter.weights.palettes import palettize

Quantization = Literal["palette", "linear"]
#: Widths of palettes' indices, in bits.
PaletteBits = Literal[1, 2, 3, 4, 6, 8]
PALETTE_BITS: tuple[int, ...] = get_args(PaletteBits)
#: Widths of linear integers, in bits.
LINEAR_BITS = (4, 8)
#: Weights of no more elements stay in fp16, as coremltools has it (its weight_threshold): they are few, and their tables
#: would weigh more.
_SMALLEST = 2048
#: So do layers of fewer input or output channels, the first and the last of a UNet: they are small, and an error there is
#: not averaged over many channels. The bundled model's two, 0.1 % of its weights, made most of the error of 6 bits.
_FEWEST_CHANNELS = 16
_FP16 = BY_NAME["fp16"]
_GREATEST_FP16 = float(np.finfo(np.float16).max)
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """An array that a package stores of a weight.

    name: the parameter of the operation that decodes the weight.
    dtype, shape: of its elements, which may be narrower than a byte.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that it takes."""
        return packed_size(self.dtype.bits, self.shape)


@dataclass(frozen=True)
class Encoding:
    """How a weight of 2 axes or more, output channels first and input channels second, is stored.

    bits: of each element.
    group: of a palette, how many output channels share it, None: all; of linear integers, how many input channels share
        a scale, None: all of an output channel. If it does not divide the channels of a weight, None is meant.
    undamped: of a palette, see `converter.weights.palettes.palettize`.
    """

    kind: Quantization
    bits: int
    group: int | None = None
    undamped: bool = False

    @property
    def description(self) -> str:
        """Its name in messages and manifests."""
        what = "palettes" if self.kind == "palette" else "integers"
        group = "" if self.group is None else f", {self.group} channels each"
        return f"{self.bits}-bit {what}{group}"

    def _palettes(self, shape: tuple[int, ...]) -> int:
        return 1 if self.group is None or shape[0] % self.group else shape[0] // self.group

    def _blocks(self, shape: tuple[int, ...]) -> int:
        return 1 if self.group is None or shape[1] % self.group else shape[1] // self.group

    def grouped(self, shape: tuple[int, ...]) -> bool:
        """Return whether a weight has more than one palette, or more than one scale for an output channel."""
        return (self._palettes(shape) if self.kind == "palette" else self._blocks(shape)) > 1

    def parts(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Return what is stored of a weight of that shape, in the order in which coremltools stores it."""
        ones = (1,) * (len(shape) - 1)
        if self.kind == "palette":
            table = (self._palettes(shape), *ones, 1 << self.bits, 1)
            return Part("indices", BY_NAME[f"uint{self.bits}"], shape), Part("lut", _FP16, table)
        scales = (shape[0], self._blocks(shape), *ones[1:])
        return Part("data", BY_NAME[f"int{self.bits}"], shape), Part("scale", _FP16, scales)

    def encode(self, array: NDArray[np.float16]) -> tuple[Bytes, ...]:
        """Return the bytes of a weight's `parts`. ``array`` must be finite."""
        return self._encode_palettes(array) if self.kind == "palette" else self._encode_linear(array)

    def _encode_palettes(self, array: NDArray[np.float16]) -> tuple[Bytes, ...]:
        groups = array.reshape(self._palettes(array.shape), -1)
        # A group's elements need not fill its last byte.
        whole = groups.shape[1] * self.bits % 8 == 0
        each = [palettize(group, self.bits, undamped=self.undamped) for group in groups]
        tables = np.concatenate([table for _, table in each]).view(np.uint8)
        if whole or len(each) == 1:
            return np.concatenate([packed for packed, _ in each]), tables
        bits = [np.unpackbits(packed, count=groups.shape[1] * self.bits, bitorder="little") for packed, _ in each]
        return np.packbits(np.concatenate(bits), bitorder="little"), tables

    def _encode_linear(self, array: NDArray[np.float16]) -> tuple[Bytes, ...]:
        """Round to -127 ... 127 (or -7 ... 7) times the scale, as coremltools' linear_symmetric."""
        most = (1 << (self.bits - 1)) - 1
        blocks = array.reshape(array.shape[0], self._blocks(array.shape), -1).astype(np.float32)
        scale = (np.abs(blocks).max(axis=2, keepdims=True) / np.float32(most)).astype(np.float16)
        # Rounded up, the scale of a value near fp16's greatest would make it infinite.
        scale = np.where(scale.astype(np.float32) * most > _GREATEST_FP16, np.nextafter(scale, np.float16(0)), scale)
        # A scale that rounds to 0 stands for a block of zeros, or of values that fp16 cannot divide further.
        step = np.where(scale == 0, np.float32(1), scale.astype(np.float32))
        integers = np.clip(np.round(blocks / step), -most, most).astype(np.int8)
        packed = integers.reshape(-1).view(np.uint8) if self.bits == 8 else _packed_int4(integers)
        return packed, scale.reshape(-1).view(np.uint8)


def _packed_int4(integers: NDArray[np.int8]) -> Bytes:
    nibbles = integers.reshape(-1).view(np.uint8) & np.uint8(15)
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return nibbles[::2] | nibbles[1::2] << np.uint8(4)


@dataclass
class Encodings:
    """The encodings of a network's weights.

    usual: of the weights of its layers; None: fp16.
    by_layer: layer's path -> its own encoding instead; None: fp16.
    activations: layer's path -> the scale by which its input is rounded to 8-bit integers; others take fp16.
    """

    usual: Encoding | None = None
    by_layer: Mapping[str, Encoding | None] = field(default_factory=dict)
    activations: Mapping[str, float] = field(default_factory=dict)

    def of(self, path: str, shape: tuple[int, ...]) -> Encoding | None:
        """Return the encoding of the weight of the layer at ``path``; None: fp16."""
        if path in self.by_layer:
            return self.by_layer[path]
        is_small = math.prod(shape) <= _SMALLEST or min(shape[:2]) < _FEWEST_CHANNELS
        return None if is_small else self.usual

    def grouped(self, path: str, shape: tuple[int, ...]) -> bool:
        """Return whether the weight of the layer at ``path`` is stored in several groups of channels."""
        encoding = self.of(path, shape)
        return encoding is not None and encoding.grouped(shape)


#: All weights in fp16.
UNCOMPRESSED = Encodings()


class LayerShapes(Encodings):
    """All weights in fp16; notes the path of each layer that asks, and the shape of its weight, in ``shapes``."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[int, ...]] = {}

    def of(self, path: str, shape: tuple[int, ...]) -> Encoding | None:
        """Return None, and note the layer."""
        self.shapes[path] = shape
        return None
