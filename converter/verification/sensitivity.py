"""How much each layer's palette costs a UNet's prediction, and the bits that cost the least for their size.

The error that a palette adds to a layer's weights grows through the network by a factor of the layer's own. It is
measured once, at 4 bits; at other widths the error is as much larger or smaller as that of the weights. The bits follow
by Lagrange's rule: no exchange of bits between layers of the same total size would lower the sum of errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.errors import CheckpointError
from converter.networks.registry import UNET
from converter.runtime import Feature
from converter.sources.tensors import Tensors
from converter.verification.reference import ReferenceNetwork
from converter.weights.activations import Activation
from converter.weights.blob import unpack
from converter.weights.encodings import PALETTE_BITS
from converter.weights.palettes import palettize
from converter.weights.recipe import FP16_BITS

Inputs = Mapping[str, NDArray[Any]]
#: The width at which layers are measured: its error is large beside fp16's rounding, and small beside the signal.
MEASURED_BITS = 4


def _decoded(array: NDArray[Any], bits: int) -> NDArray[np.float32]:
    """Return a weight as a palette stores it."""
    rounded = array.astype(np.float16)
    if bits == FP16_BITS:
        return rounded.astype(np.float32)
    packed, palette = palettize(rounded, bits)
    decoded: NDArray[np.float32] = palette[unpack(packed, bits, False, rounded.shape)].astype(np.float32)
    return decoded


class _Palettized(Tensors):
    """A checkpoint's tensors, with the weights of some layers as palettes store them."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__([])
        self.metadata, self._entries = tensors.metadata, tensors._entries
        #: Layer's path -> bits of its weight.
        self.bits: dict[str, int] = {}

    def array(self, name: str) -> NDArray[Any]:
        array = super().array(name)
        layer, _, kind = name.rpartition(".")
        return _decoded(array, self.bits[layer]) if kind == "weight" and layer in self.bits else array


@dataclass(frozen=True)
class Layer:
    """A layer's sensitivity.

    size: the number of its weight's elements.
    errors: bits -> the squared error of its weight.
    noise: the mean squared error of the UNet's prediction with this layer at `measured` bits, for each calibration input.
    """

    size: int
    errors: Mapping[int, float]
    noise: tuple[float, ...]

    @property
    def measured(self) -> int:
        """MEASURED_BITS, or the most bits below at which a weight of few distinct values has an error."""
        widths = [bits for bits in PALETTE_BITS if bits <= MEASURED_BITS and self.errors[bits] > 0]
        return max(widths, default=MEASURED_BITS)

    def cost(self, bits: int) -> float:
        """Return the mean squared error that the layer adds to the prediction at a width."""
        usual = self.errors[self.measured]
        if bits == FP16_BITS or usual == 0:
            return 0.0
        return float(np.mean(self.noise)) * self.errors[bits] / usual


class Sensitivity:
    """Measures layers of a UNet on calibration inputs, by its reference in fp32."""

    def __init__(
        self,
        config: dict[str, Any],
        tensors: Tensors,
        inputs: Mapping[str, Feature],
        outputs: Mapping[str, Feature],
        calibration: Sequence[Inputs],
        guidance: float = 1.0,
    ) -> None:
        """``inputs`` and ``outputs`` are those of a package, ``calibration`` are inputs of it.

        If it takes two rows, a negative prompt's and a prompt's, the prediction is the guided one: guidance of the scale
        ``guidance`` multiplies errors in what distinguishes the prompts.
        """
        self._guidance = guidance
        self._tensors = _Palettized(tensors)
        self._network = ReferenceNetwork(UNET.name, config, self._tensors, inputs, outputs)
        self._calibration = calibration
        self._exact = self._predictions()
        if not all(np.isfinite(exact).all() and exact.any() for exact in self._exact):
            raise CheckpointError(
                "the UNet predicts nothing but zeros, or values that are not finite; nothing can be measured"
            )

    def _predictions(self) -> list[NDArray[np.float32]]:
        return [self._guided(self._network.predict(inputs)["noise_pred"]) for inputs in self._calibration]

    def _guided(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(rows) != 2:
            return rows
        negative, positive = rows
        guided: NDArray[np.float32] = negative + np.float32(self._guidance) * (positive - negative)
        return guided

    def _noise(self, bits: Mapping[str, int]) -> tuple[float, ...]:
        self._tensors.bits = dict(bits)
        predictions = self._predictions()
        self._tensors.bits = {}
        return tuple(float(np.square(a - b).mean()) for a, b in zip(predictions, self._exact, strict=True))

    def layer(self, path: str) -> Layer:
        """Measure one layer."""
        weight = self._tensors.array(f"{path}.weight")
        rounded = weight.astype(np.float16).astype(np.float32)
        errors = {
            bits: float(np.square(_decoded(weight, bits) - rounded).sum(dtype=np.float64)) for bits in PALETTE_BITS
        }
        return Layer(weight.size, errors, self._noise({path: Layer(weight.size, errors, ()).measured}))

    def largest_inputs(self, paths: Iterable[str]) -> dict[str, float]:
        """Return the greatest magnitude of each layer's input, over all calibration inputs."""
        largest: dict[str, float] = {}

        def note(path: str, x: torch.Tensor) -> torch.Tensor:
            largest[path] = max(largest.get(path, 0.0), float(x.abs().max()))
            return x

        with self._changed_inputs({path: partial(note, path) for path in paths}):
            self._predictions()
        return largest

    def activation(self, path: str, largest: float) -> Activation:
        """Measure a layer whose input, of magnitudes up to ``largest``, is rounded to 8 bits."""
        scale = float(np.float16(largest / 127))

        def round_input(x: torch.Tensor) -> torch.Tensor:
            return torch.clamp(torch.round(x / scale), -128, 127) * scale

        with self._changed_inputs({path: round_input}):
            return Activation(largest, round(float(np.mean(self.decibels(self._noise({})))), 2))

    @contextmanager
    def _changed_inputs(self, changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> Iterator[None]:
        hooks = [
            self._network.layer(path).register_forward_pre_hook(
                lambda module, args, change=change: (change(args[0]), *args[1:])
            )
            for path, change in changes.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def decibels(self, noise: Sequence[float]) -> list[float]:
        """Return the PSNR in dB of each prediction with such an error, relative to its peak."""
        peaks = [float(np.abs(exact).max()) for exact in self._exact]
        return [20 * math.log10(peak / (math.sqrt(error) + 1e-10)) for peak, error in zip(peaks, noise, strict=True)]

    def psnr(self, bits: Mapping[str, int]) -> float:
        """Return the PSNR in dB of the prediction with palettes of these bits, averaged over the calibration inputs."""
        return float(np.mean(self.decibels(self._noise(bits))))


def _exchanges(layers: Mapping[str, Layer], widths: Sequence[int]) -> Iterator[tuple[float, int, str, int]]:
    """Yield (error saved for each bit spent, bits spent, layer, new width), each layer's on its lower convex hull."""
    for path, layer in layers.items():
        at = widths[0]
        while at != widths[-1]:
            gains = [((layer.cost(at) - layer.cost(to)) / ((to - at) * layer.size), to) for to in widths if to > at]
            gain, to = max(gains)
            yield gain, (to - at) * layer.size, path, to
            at = to


def allocate(layers: Mapping[str, Layer], average: float) -> dict[str, int]:
    """Return the bits of each layer that cost the prediction the least, with at most ``average`` bits for each element."""
    widths = (*PALETTE_BITS, FP16_BITS)
    bits = dict.fromkeys(layers, widths[0])
    left = (average - widths[0]) * sum(layer.size for layer in layers.values())
    stopped: set[str] = set()
    for _, spent, path, to in sorted(_exchanges(layers, widths), key=lambda each: -each[0]):
        if path in stopped or spent > left:
            stopped.add(path)  # its later exchanges begin where this one ends
        else:
            bits[path], left = to, left - spent
    return bits
