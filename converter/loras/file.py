"""Read a LoRA file: its layers by network, what models it fits, and what its trainer says of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from converter.checksums import checksum
from converter.errors import CheckpointError, shown
from converter.loras.adapter_config import AdapterConfig, read_adapter_configs, settings_beside
from converter.loras.building import Target, layers_of
from converter.loras.errors import LoraError
from converter.loras.families import families_of, text_width_of
from converter.loras.few_step import FewStep, few_step_of
from converter.loras.layers import Factor, LoraLayer
from converter.loras.names import read_name
from converter.loras.refusals import file_that_is_no_lora, unsupported_kind
from converter.sources.tensors import Tensors

_SUFFIX = ".safetensors"
_ACCEPTED = (
    "accepted: LoRA, LoCon, LoHa, LoKr, DoRA and differences for the UNet and text encoders of Stable Diffusion 1, 2 and XL, "
    "in the naming of kohya, diffusers or PEFT"
)
#: Trained tags that are told, the most frequent first, and the longest metadata that are searched for them.
_MOST_TAGS, _LONGEST_TAG, _LONGEST_TAGS = 10, 100, 1 << 22

Layers = Mapping[str, Mapping[str, LoraLayer]]


@dataclass(frozen=True)
class About:
    """What is known of a LoRA. kinds: of its layers. ranks: the least and the greatest. words: its trigger words or tags."""

    kinds: tuple[str, ...]
    ranks: tuple[int, int] | None
    words: tuple[str, ...]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file.

    families: the names of the model families that it fits, as far as the file shows it.
    few_step: how it is sampled if it is one for few steps.
    layers: by network (unet, text_encoder, text_encoder_2) and target, what changes the target's weight.
    biases: likewise, what changes the target's bias.
    notes: sentences about what the file does not tell and was assumed.
    """

    path: Path
    families: tuple[str, ...]
    about: About
    few_step: FewStep | None
    layers: Layers
    biases: Layers
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name without .safetensors."""
        return self.path.stem

    @property
    def text_width(self) -> int | None:
        """The width of the prompt's states in the models that it fits; None if the file does not show it."""
        return text_width_of(self.layers)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file; of one with settings beside it, that of both files' SHA-256."""
        files = [self.path, settings_beside(self.path)]
        first, *others = (checksum(file).sha256 for file in files if file is not None)
        return hashlib.sha256("".join((first, *others)).encode()).hexdigest() if others else first

    @cached_property
    def tensors_sha256(self) -> str:
        """The SHA-256 of the tensors' bytes alone: AUTOMATIC1111 and Civitai (AutoV3) know a LoRA by it, whatever its header says."""
        with self.path.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            return hashlib.file_digest(file, "sha256").hexdigest()

    @classmethod
    def open(cls, path: Path) -> LoraFile:
        """Read a file's header, and whether its values are finite. Raises LoraError."""
        if not path.is_file():
            raise LoraError(f"{path} is not a file that exists")
        if path.suffix != _SUFFIX:
            raise LoraError(
                f"{path.name} is not a {_SUFFIX} file; other files of LoRAs can hold programs and are not read"
            )
        try:
            return _open(path)
        except (LoraError, CheckpointError) as error:
            raise LoraError(f"{path.name} is not usable as a LoRA: {error}") from error


def _open(path: Path) -> LoraFile:
    tensors = Tensors([path])
    targets, notes = _targets(path, tensors)
    weights: dict[str, dict[str, LoraLayer]] = {}
    biases: dict[str, dict[str, LoraLayer]] = {}
    for (network, name), target in targets.items():
        for layers, layer in zip((weights, biases), layers_of(target), strict=True):
            if layer is not None:
                layers.setdefault(network, {})[name] = layer
    for name in tensors:
        if not tensors.is_finite(name):
            raise LoraError(f"{name} has infinite values or NaNs; the file is damaged, or its training failed")
    return LoraFile(
        path,
        families_of(weights, tensors.metadata),
        _about([layer for of in weights.values() for layer in of.values()], tensors.metadata),
        few_step_of(path, tensors.metadata),
        weights,
        biases,
        notes,
    )


def _targets(path: Path, tensors: Tensors) -> tuple[dict[tuple[str, str], Target], tuple[str, ...]]:
    """Return the file's tensors by network and target, and notes. Raises LoraError if one has an unknown name."""
    peft = any(".lora_A." in name or ".lora_B." in name or name.startswith("base_model.") for name in tensors)
    configs = read_adapter_configs(path, tensors.metadata, peft=peft)
    targets: dict[tuple[str, str], Target] = {}
    unknown = []
    for name in tensors:
        found = read_name(name)
        if found is None:
            unknown.append(name)
            continue
        target = targets.get((found.network, found.target))
        if target is None:
            config = configs.get(found.network) or configs.get("", AdapterConfig())
            target = Target(found.target, found.module, config)
            targets[found.network, found.target] = target
        if found.parameter in target.factors:
            raise LoraError(f"{target.factors[found.parameter].name} and {name} are the same part of {found.target}")
        target.factors[found.parameter] = Factor(tensors, name)
    if unknown or not targets:
        raise LoraError(_refusal(list(tensors), unknown))
    notes: tuple[str, ...] = ()
    if peft and not configs and not any("alpha" in target.factors for target in targets.values()):
        notes = ("the file does not tell alpha, so each layer's is its rank",)
    return targets, notes


def _refusal(names: list[str], unknown: list[str]) -> str:
    if not names:
        return f"it has no tensors; {_ACCEPTED}"
    described = file_that_is_no_lora(names)
    if described is not None:
        return f"it is {described}; {_ACCEPTED}"
    kind = unsupported_kind(unknown)
    if kind is not None:
        return f"it has a kind of layer that is not supported: {kind}; {_ACCEPTED}"
    return f"it has {shown(sorted(unknown))}, which no supported LoRA has; {_ACCEPTED}"


def _about(layers: list[LoraLayer], metadata: Mapping[str, str]) -> About:
    kinds = Counter(layer.kind for layer in layers)
    ranks = [layer.rank for layer in layers if layer.rank is not None]
    phrase = metadata.get("modelspec.trigger_phrase", "")[: _MOST_TAGS * _LONGEST_TAG].split(",")
    words = _shortened(phrase) or _tags(metadata.get("ss_tag_frequency", ""))
    return About(tuple(kind for kind, _ in kinds.most_common()), (min(ranks), max(ranks)) if ranks else None, words)


def _tags(frequencies: str) -> tuple[str, ...]:
    """Return the most frequent tags of kohya's metadata: JSON of tags and numbers by folder; nothing if it is something else."""
    if not 0 < len(frequencies) <= _LONGEST_TAGS:
        return ()
    try:
        folders = json.loads(frequencies)
    except (ValueError, RecursionError):
        return ()
    total: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, number in tags.items() if isinstance(tags, dict) else ():
            if type(number) is int:
                total[tag.strip()] += number
    return _shortened(tag for tag, _ in total.most_common())


def _shortened(words: Iterable[str]) -> tuple[str, ...]:
    """Return the first words that are not too long to be shown."""
    plain = (word.strip() for word in words)
    return tuple(islice((word for word in plain if 0 < len(word) <= _LONGEST_TAG), _MOST_TAGS))
