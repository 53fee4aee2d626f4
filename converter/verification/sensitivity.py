"""How much each layer's palette costs a UNet's prediction, and the bits that cost the least for their size.

The error that a palette adds to a layer's weights grows through the network by a factor of the layer's own, its gain,
which is measured by differentiation on many inputs. The bits follow by Lagrange's rule: no exchange of bits between
layers of the same total size would lower the sum of errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from converter.errors import CheckpointError
from converter.networks.registry import UNET
from converter.runtime import Feature
from converter.sources.tensors import Tensors
from converter.verification.gradients import weight_gains
from converter.verification.reference import ReferenceNetwork
from converter.verification.verify import psnr
from converter.weights.activations import Activation
from converter.weights.encodings import PALETTE_BITS
from converter.weights.lookup import Lookup
from converter.weights.palettes import palettize
from converter.weights.recipe import FP16_BITS

Inputs = Mapping[str, NDArray[Any]]
#: A prediction, of two rows or one.
A = TypeVar("A", NDArray[np.float32], torch.Tensor)
#: A layer's gain on an input is at least this part of its greatest one, so that one of 0 does not decide the mean.
_LEAST_GAIN = 1e-6
#: From this average on no layer gets fewer than 3 bits, or 4 where a target has no 3. For such a target the bundled model's
#: guided predictions are 0.7 dB nearer by it at 4.5 bits, and would be 2.3 dB farther at 4.25.
_NO_FEW_BITS_FROM = 4.5


def _palettized(array: NDArray[Any], bits: int, *, undamped: bool) -> Lookup:
    packed, palette = palettize(array.astype(np.float16), bits, undamped=undamped)
    return Lookup(packed, bits, array.shape, (1,) * array.ndim, palette[None])


class _Palettized(Tensors):
    """A checkpoint's tensors, with the weights of some layers as palettes store them."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__([])
        self.metadata, self._entries = tensors.metadata, tensors._entries
        self._bits: Mapping[str, int] = {}
        self._undamped = False
        self._made: dict[str, Lookup] = {}

    @contextmanager
    def with_bits(self, bits: Mapping[str, int], *, undamped: bool) -> Iterator[None]:
        """Give the weights of layers, by path, palettes of these bits, or round them to fp16."""
        self._bits, self._undamped = bits, undamped
        try:
            yield
        finally:
            self._bits = {}
            self._made.clear()

    def array(self, name: str) -> NDArray[Any]:
        array = super().array(name)
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or layer not in self._bits:
            return array
        if self._bits[layer] == FP16_BITS:
            return array.astype(np.float16)
        if layer not in self._made:
            self._made[layer] = _palettized(array, self._bits[layer], undamped=self._undamped)
        return self._made[layer].dense(np.float32)


@dataclass(frozen=True)
class Layer:
    """A layer's sensitivity.

    size: the number of its weight's elements.
    errors: bits -> the squared error of its weight.
    gains: for each calibration input, the mean squared error of the UNet's prediction, relative to its peak, for each
        squared error of the weight.
    """

    size: int
    errors: Mapping[int, float]
    gains: tuple[float, ...]

    @cached_property
    def gain(self) -> float:
        """The geometric mean of the gains: errors are compared in dB, and a single input near a turning point of the
        image, whose gain may be a thousand times that of others, would decide the arithmetic one."""
        least = max(self.gains) * _LEAST_GAIN
        return float(np.exp(np.mean(np.log(np.maximum(self.gains, least))))) if least > 0 else 0.0

    def cost(self, bits: int) -> float:
        """Return the mean squared error that the layer adds to the prediction at a width."""
        return 0.0 if bits == FP16_BITS else self.gain * self.errors[bits]

    def decibels(self, bits: int) -> list[float]:
        """Return the PSNR in dB that each calibration's prediction has with this layer alone at a width."""
        return [_decibels(gain * self.errors[bits]) for gain in self.gains]


def _decibels(error: float) -> float:
    """Return the PSNR in dB of a mean squared error relative to the peak."""
    return -20 * math.log10(math.sqrt(error) + 1e-10)


@dataclass(frozen=True)
class Nearness:
    """The PSNR in dB of the UNet's predictions and of the guided ones, each averaged over the calibration inputs."""

    prediction_db: float
    guided_db: float


def guided(rows: A, scale: float) -> A:
    """Return the guided prediction of two rows, a negative prompt's and a prompt's; a single row as it is."""
    if len(rows) != 2:
        return rows
    negative, positive = rows
    combined: A = negative + scale * (positive - negative)
    return combined


def mean_psnr(arrays: Sequence[NDArray[Any]], exact: Sequence[NDArray[Any]]) -> float:
    """Return the PSNR in dB of arrays against the exact ones of the same shapes, averaged."""
    return float(np.mean([psnr(a, b) for a, b in zip(arrays, exact, strict=True)]))


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

        If it takes two rows, a negative prompt's and a prompt's, gains are those of the guided prediction: guidance of the
        scale ``guidance`` multiplies errors in what distinguishes the prompts.
        """
        self._guidance = guidance
        self._tensors = _Palettized(tensors)
        self._network = ReferenceNetwork(UNET.name, config, self._tensors, inputs, outputs)
        self._calibration = calibration
        self._exact = self._predictions()
        self._exact_guided = [guided(rows, guidance) for rows in self._exact]
        if not all(np.isfinite(exact).all() and exact.any() for exact in self._exact):
            raise CheckpointError(
                "the UNet predicts nothing but zeros, or values that are not finite; nothing can be measured"
            )

    def _predictions(self) -> list[NDArray[np.float32]]:
        return [self._network.predict(inputs)["noise_pred"] for inputs in self._calibration]

    def errors(self, path: str) -> dict[int, float]:
        """Return the squared error of a layer's weight at each width of a recipe's palette."""
        weight = self._tensors.array(f"{path}.weight")
        rounded = weight.astype(np.float16).astype(np.float32)
        decoded = ((bits, _palettized(weight, bits, undamped=True).dense(np.float32)) for bits in PALETTE_BITS)
        return {bits: float(np.square(array - rounded).sum(dtype=np.float64)) for bits, array in decoded}

    def gains(self, paths: Iterable[str], inputs: Inputs, seed: int) -> dict[str, float]:
        """Return each layer's gain on inputs of the package; ``seed`` chooses what is projected."""
        return weight_gains(
            self._network, paths, inputs, lambda outputs: guided(outputs["noise_pred"], self._guidance), seed=seed
        )

    def largest_inputs(self, paths: Iterable[str], calibration: Iterable[Inputs]) -> dict[str, float]:
        """Return the greatest magnitude of each layer's input, over all of these inputs of the package."""
        largest: dict[str, float] = {}

        def note(path: str, x: torch.Tensor) -> torch.Tensor:
            largest[path] = max(largest.get(path, 0.0), float(x.abs().max()))
            return x

        with self._changed_inputs({path: partial(note, path) for path in paths}):
            for inputs in calibration:
                self._network.predict(inputs)
        return largest

    def activation(self, path: str, largest: float) -> Activation:
        """Measure a layer whose input, of magnitudes up to ``largest``, is rounded to 8 bits."""
        scale = float(np.float16(largest / 127))

        def round_input(x: torch.Tensor) -> torch.Tensor:
            return torch.clamp(torch.round(x / scale), -128, 127) * scale

        with self._changed_inputs({path: round_input}):
            return Activation(largest, round(self.nearness({}).guided_db, 2))

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

    def nearness(self, bits: Mapping[str, int], *, undamped: bool = True) -> Nearness:
        """Return how near the predictions are with palettes of these bits, undamped as a recipe's are, or as ``--bits`` makes."""
        with self._tensors.with_bits(bits, undamped=undamped):
            predictions = self._predictions()
        combined = [guided(rows, self._guidance) for rows in predictions]
        return Nearness(mean_psnr(predictions, self._exact), mean_psnr(combined, self._exact_guided))


def _exchanges(layers: Mapping[str, Layer], widths: Sequence[int]) -> Iterator[tuple[float, int, str, int]]:
    """Yield (error saved for each bit spent, bits spent, layer, new width), each layer's on its lower convex hull."""
    for path, layer in layers.items():
        at = widths[0]
        while at != widths[-1]:
            gains = [((layer.cost(at) - layer.cost(to)) / ((to - at) * layer.size), to) for to in widths if to > at]
            gain, to = max(gains)
            yield gain, (to - at) * layer.size, path, to
            at = to


def allocate(layers: Mapping[str, Layer], average: float, palettes: Sequence[int] = PALETTE_BITS) -> dict[str, int]:
    """Return the bits of each layer that cost the prediction the least, with at most ``average`` bits for each element.

    ``palettes`` are the widths that may be chosen beside fp16, the least first.

    No layer gets less than a bit below the average, rounded down to a width, and from an average of 4.5 on none gets 2
    bits: errors of very few bits are not small, and do more harm than gains tell.
    """
    least = max(bits for bits in palettes if bits <= max(average - 1, palettes[0]))
    if average >= _NO_FEW_BITS_FROM:
        least = min(bits for bits in palettes if bits >= max(least, 3))
    widths = (*(bits for bits in palettes if bits >= least), FP16_BITS)
    bits = dict.fromkeys(layers, widths[0])
    left = (average - widths[0]) * sum(layer.size for layer in layers.values())
    stopped: set[str] = set()
    for _, spent, path, to in sorted(_exchanges(layers, widths), key=lambda each: -each[0]):
        if path in stopped or spent > left:
            stopped.add(path)  # its later exchanges begin where this one ends
        else:
            bits[path], left = to, left - spent
    return bits
