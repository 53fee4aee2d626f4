"""What LoRAs and embeddings do to which weights of a model, checked against what the model has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converter.errors import shown
from converter.loras import EmbeddingFile, LoraError, LoraFile, LoraLayer
from converter.merging.errors import MergeError
from converter.networks.registry import text_encoders

_ENCODER_LAYER = re.compile(r"text_model_encoder_layers_(\d+)_.+")
#: The bits of the first fp16 number that is not finite.
_INFINITE = 0x7C00


class Change(Protocol):
    """A change of one weight."""

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the changed weight."""

    def apply(self, weight: NDArray[Any], scale: float) -> NDArray[Any]:
        """Return the changed weight in the type of ``weight``, both stored multiplied by ``scale``. Raises MergeError."""


@dataclass(frozen=True)
class MergedLayer:
    """LoRAs' changes of one layer, each made to the result of those before."""

    weight: str
    parts: tuple[tuple[str, LoraLayer, float], ...]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the same shape."""
        return shape

    def apply(self, weight: NDArray[Any], scale: float) -> NDArray[Any]:
        """Merge in fp32, on the checkpoint's weight; the result is rounded once."""
        result = weight.astype(np.float32)
        if scale != 1:
            result *= np.float32(1 / scale)
        for name, layer, multiplier in self.parts:
            try:
                result = layer.merged(result, multiplier)
            except LoraError as error:
                raise MergeError(f"{name}: {error}") from error
        if scale != 1:
            result = result * np.float32(scale)
        with np.errstate(over="ignore"):
            stored = result.astype(weight.dtype)
        if not _is_finite(stored):
            names = " and ".join(f"{name} at {multiplier:g}" for name, _, multiplier in self.parts)
            raise MergeError(
                f"{self.weight} with {names} has values beyond fp16's largest, 65504; give a smaller weight"
            )
        return stored


def _is_finite(array: NDArray[Any]) -> bool:
    if array.dtype != np.float16:
        return bool(np.isfinite(array).all())
    # Bit patterns compare twenty times as fast as fp16 numbers.
    return bool((array.view(np.uint16) & 0x7FFF).max(initial=0) < _INFINITE)


def check_families(family: str, files: Iterable[LoraFile | EmbeddingFile]) -> None:
    """Raise MergeError naming a file that is for other families."""
    for file in files:
        if family not in file.families:
            raise MergeError(f"{file.name} is for {' or '.join(file.families)}, and the model is {family}")


def check_names(embeddings: Iterable[EmbeddingFile]) -> None:
    """Raise MergeError if two embeddings have one name, by which prompts could call the first alone."""
    numbers = Counter(embedding.name.casefold() for embedding in embeddings)
    if twice := [name for name, number in numbers.items() if number > 1]:
        raise MergeError(f"{shown(twice)} is the name of several embeddings; rename all but one of the files")


def _layers(lora: LoraFile, component: str) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the names of the component's weights and biases that a LoRA changes, with what it does to each."""
    for part, networks in (("weight", lora.layers), ("bias", lora.biases)):
        for target, layer in networks.get(component, {}).items():
            yield f"{target}_{part}", layer


def components_of(loras: Iterable[LoraFile]) -> set[str]:
    """Return the components that LoRAs change."""
    return {component for lora in loras for component in (*lora.layers, *lora.biases)}


def lora_changes(component: str, loras: Sequence[tuple[LoraFile, float]]) -> dict[str, Change]:
    """Return the changes that LoRAs make to one component's weights, by the weights' names."""
    parts: dict[str, list[tuple[str, LoraLayer, float]]] = {}
    for lora, multiplier in loras:
        for weight, layer in _layers(lora, component):
            parts.setdefault(weight, []).append((lora.name, layer, multiplier))
    return {weight: MergedLayer(weight, tuple(each)) for weight, each in parts.items()}


def unused_layers(loras: Iterable[LoraFile], component: str, present: Collection[str]) -> list[str]:
    """Return sentences about LoRAs' layers of a component that would change nothing: those after the last that is used.

    ``present`` are the names of the component's weights. Raises MergeError naming any other layer that the model lacks.
    """
    sentences = []
    for lora in loras:
        missing = [weight for weight, _ in _layers(lora, component) if weight not in present]
        unused = [weight for weight in missing if _is_after_last(weight, component, present)]
        if wrong := sorted(set(missing) - set(unused)):
            raise MergeError(f"{lora.name} changes {shown(wrong)} of {component}, which the model does not have")
        if unused:
            sentences.append(f"{lora.name} changes the last layer of {component}, whose results nothing uses")
    return sentences


def _is_after_last(weight: str, component: str, present: Iterable[str]) -> bool:
    """Return whether a weight is in a text encoder's last layer and the model stops before it, as SDXL and SD 2 do."""
    match = _ENCODER_LAYER.fullmatch(weight)
    if match is None or not text_encoders([component]):
        return False
    return int(match[1]) == 1 + max(int(found[1]) for name in present if (found := _ENCODER_LAYER.fullmatch(name)))
