"""A conversion decided: the checkpoint's family, every option's value, and the packages that follow from them."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

from converter import __version__
from converter.errors import CheckpointError, quoted
from converter.families.family import Family
from converter.families.registry import recognise, settings_not_followed
from converter.mil import MACOS15, Target, TargetError, TargetName, target_named
from converter.networks.layers import Attention
from converter.networks.registry import (
    CONTROLNET,
    PREVIEW_DECODER,
    SAFETY_CHECKER,
    Variant,
    component_name,
    kind_of,
    tensors_taken,
    text_encoders,
)
from converter.sources.canonical import canonical
from converter.sources.component import Component
from converter.sources.component_kinds import VAE
from converter.sources.inventory import left_out
from converter.sources.source import Source
from converter.sources.tensors import Tensors
from converter.sources.tokenizer import greatest_token

Size = tuple[int, int]
#: The longest side of a picture, in pixels: SDXL's at 4096 take 16 times the work of those at its own 1024.
LARGEST_SIDE = 4096
#: A model's name is part of its files' names, which may have 255 bytes.
_LONGEST_NAME = 100
#: How many times CLIP's 77 tokens a prompt may be.
_LONGEST_PROMPT = 3
#: Nothing but their names tells few-step models that were distilled without guidance from the others.
_WITHOUT_GUIDANCE = re.compile(r"turbo|lightning")
#: Latents a side at which a network is verified as it is converted; its weights are those of every size.
_VERIFIED_AT = 16


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    name: what the model is called; None takes the source's name.
    sizes: pictures' (width, height) in pixels, the default first; None takes the size the checkpoint was trained at.
    attention: which implementation of attention: split_einsum for the Neural Engine, split_einsum_v2 the same with long rows
        of queries cut, original for GPUs.
    batches: how many rows the UNet takes at once, a package each; 2 is the negative and the positive prompt of
        classifier-free guidance. None takes 1 where the checkpoint was distilled to do without it (the guidance scale
        is an input, or its name says turbo or lightning), otherwise 2.
    tokens: how long the prompt's states are, a package each; None takes what the text encoder gives at once (77).
    vae: an autoencoder in place of the checkpoint's; None keeps its own.
    preview: a tiny autoencoder (TAESD) whose decoder makes previews; None makes none.
    safety_checker: the network that finds what should not be shown; None makes none.
    controlnets: ControlNets to convert; where there is one, the UNet gets packages that take its residuals as well.
    prompt_once: whether the UNet takes the prompt's keys and values, made once a prompt by a network of their own,
        instead of its states; its inputs are then not those of Apple's packages.
    target: the oldest macOS the packages are for.
    functions: whether the programs of a network are functions of one package, which needs macOS 15; otherwise each is a
        package, and they share their weights by hard links.
    verify: whether every network is compared with its source before it is installed.
    """

    name: str | None = None
    sizes: tuple[Size, ...] | None = None
    attention: Attention = "split_einsum"
    batches: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None
    vae: Component | None = None
    preview: Component | None = None
    safety_checker: Component | None = None
    controlnets: tuple[Component, ...] = ()
    prompt_once: bool = False
    target: TargetName = "macOS13"
    functions: bool = False
    verify: bool = True


@dataclass(frozen=True)
class ConversionPlan:
    """What is to be written. Its `fingerprint` changes with anything that changes a package."""

    checkpoint: Source
    family: Family
    name: str
    sizes: tuple[Size, ...]
    attention: Attention
    batches: tuple[int, ...]
    tokens: tuple[int, ...]
    extras: dict[str, Component]
    prompt_once: bool
    target: Target
    functions: bool
    verify: bool
    _mapped: dict[str, Tensors] = field(default_factory=dict, compare=False, repr=False)

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks to write, in order."""
        own = self.family.networks
        projections = [p.name for network in own if (p := kind_of(network).prompt_network) is not None]
        return (*own, *(projections if self.prompt_once else ()), *(name for name in self.extras if name != VAE.name))

    def tensors(self, network: str) -> Tensors:
        """The weights of the component a network is made of, under their canonical names, mapped."""
        part = component_name(network)
        if part not in self._mapped:
            own = self.extras[part].tensors if part in self.extras else self.checkpoint.tensors(part)
            self._mapped[part] = canonical(part, own, kind_of(network).component.canonical_name)
        return self._mapped[part]

    def published_config(self, network: str) -> dict[str, Any]:
        """A network's config.json as it was published."""
        part = component_name(network)
        return self.extras[part].config if part in self.extras else self.checkpoint.config(part)

    def config(self, network: str) -> dict[str, Any]:
        """A network's configuration, with defaults for what config.json lacks where this converter reads it by a table."""
        return kind_of(network).read_config(component_name(network), self.published_config(network))

    @cached_property
    def taken(self) -> dict[str, frozenset[str]]:
        """Network -> the tensors it takes. Raises CheckpointError where a network lacks one."""
        return {network: self._taken(network) for network in self.networks}

    def _taken(self, network: str) -> frozenset[str]:
        tensors, config, variant = self.tensors(network), self.config(network), self.variants(network)[0]
        try:
            return tensors_taken(network, tensors, config, self.family.sizes, variant, self.target)
        except CheckpointError as error:
            raise CheckpointError(f"{network}: {error}") from error

    def left_out(self) -> list[str]:
        """What the checkpoint has that no network takes and that changes no image, in sentences.

        Raises CheckpointError where a network lacks a tensor, or where what no network takes would change the image.
        """
        self._check_tokens()
        _ = self.checkpoint.defaults  # refused here where they are damaged, and not once everything is written
        found = settings_not_followed(self.checkpoint)
        for part, network in {component_name(network): network for network in self.networks}.items():
            taken = frozenset().union(*(names for n, names in self.taken.items() if component_name(n) == part))
            found += left_out(part, kind_of(network).component, self.tensors(network), taken)
        return [*found, *self.checkpoint.leftovers]

    def variants(self, network: str) -> list[Variant]:
        """The programs of a network, the first of them first of all in the weights file."""
        kind = kind_of(network)
        sizes = self.sizes if kind.per_size else self.sizes[:1]
        if not kind.per_prompt:
            return [Variant(w, h, 1, self.family.tokens, self.attention) for w, h in sizes]
        controls = (False, True) if kind.takes_residuals and self.controlled else (False,)
        projected = kind.prompt_network is not None and self.prompt_once
        return [
            Variant(w, h, batch, tokens, self.attention, control, projected)
            for control in controls
            for w, h in sizes
            for batch in self.batches
            for tokens in self.tokens
        ]

    def verified(self, network: str) -> list[Variant]:
        """What is compared with the source: small pictures on the installed weights, so that it takes seconds."""
        side = _VERIFIED_AT * self.family.sizes.latent_factor
        found: dict[bool, Variant] = {}
        for v in self.variants(network):
            found.setdefault(v.control, replace(v, width=min(v.width, side), height=min(v.height, side)))
        return list(found.values())

    @property
    def controlled(self) -> bool:
        """Whether there are ControlNets."""
        return any(name.startswith(f"{CONTROLNET.name}/") for name in self.extras)

    def weight_bytes(self) -> dict[str, int]:
        """Bytes of each network's weights in fp16."""
        return {network: self.tensors(network).half_bytes(names) for network, names in self.taken.items()}

    @cached_property
    def tokenizers(self) -> dict[str, dict[str, bytes]]:
        """Each tokenizer (tokenizer, tokenizer_2): file name -> content. Raises CheckpointError."""
        return self.checkpoint.tokenizer_files()

    def _check_tokens(self) -> None:
        """Raise CheckpointError where a tokenizer gives a number that its text encoder has no row for."""
        tokenizers = self.tokenizers
        for network, tokenizer in text_encoders(self.family.networks).items():
            files = tokenizers.get(tokenizer) or next(iter(tokenizers.values()))
            greatest, rows = greatest_token(files), self.config(network)["vocab_size"]
            if greatest >= rows:
                raise CheckpointError(
                    f"the tokenizer of {network} numbers its tokens up to {greatest}, but the text encoder has {rows} rows"
                )

    def largest_tensor(self) -> int:
        """Elements of the largest tensor that a network takes."""
        return max(math.prod(self.tensors(n).shape(name)) for n, names in self.taken.items() for name in names)

    def require_fp16(self, network: str) -> None:
        """Raise CheckpointError where a network takes a tensor with values that are not finite in fp16."""
        for name in sorted(self.taken[network]):
            try:
                self.tensors(network).require_fp16(name)
            except CheckpointError as error:
                raise CheckpointError(f"{network}: {error}") from error

    @cached_property
    def fingerprint(self) -> str:
        """A hash over the sources' content, the options and the converter's version."""
        extras = {name: extra.sha256 for name, extra in self.extras.items()}
        forms = (self.sizes, self.attention, self.batches, self.tokens, self.target.name, self.functions)
        options = (self.name, forms, self.prompt_once, extras)
        parts = (self.checkpoint.sha256, repr(options), __version__, version("coremltools"))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sizes(family: Family, options: ConvertOptions) -> tuple[Size, ...]:
    if options.sizes is None and family.sample_size is None:
        raise CheckpointError(
            "unet/config.json has no sample_size, so the checkpoint does not say which size it was trained at; give one "
            "or more with --size, such as 512x512"
        )
    multiple = family.sizes.latent_factor
    height, width = (side * multiple for side in family.sample_size or (0, 0))
    sizes = tuple(dict.fromkeys(options.sizes or ((width, height),)))
    for width, height in sizes:
        if max(width, height) > LARGEST_SIDE:
            raise CheckpointError(f"size {width}x{height} is too large: sides of up to {LARGEST_SIDE} are accepted")
        if min(width, height) < multiple or width % multiple or height % multiple:
            raise CheckpointError(
                f"size {width}x{height} does not fit this model: sides must be multiples of {multiple}"
            )
    return sizes


def _name(given: str) -> str:
    if not given.isprintable() or not 0 < len(given.encode()) <= _LONGEST_NAME:
        raise CheckpointError(
            f"the model cannot be called {quoted(given)}; give a name of 1 to {_LONGEST_NAME} bytes without control characters"
        )
    return given


def _batches(name: str, family: Family, options: ConvertOptions) -> tuple[int, ...]:
    alone = family.takes_guidance or _WITHOUT_GUIDANCE.search(name.lower())
    batches = options.batches or ((1,) if alone else (2,))
    if wrong := [b for b in batches if b not in (1, 2)]:
        raise CheckpointError(f"batch {wrong[0]} is not one a UNet is used with; accepted: 1, 2")
    return tuple(dict.fromkeys(batches))


def _tokens(family: Family, options: ConvertOptions) -> tuple[int, ...]:
    accepted = [family.tokens * times for times in range(1, _LONGEST_PROMPT + 1)]
    tokens = options.tokens or accepted[:1]
    if wrong := [n for n in tokens if n not in accepted]:
        raise CheckpointError(
            f"a prompt of {wrong[0]} tokens is not accepted; accepted: {', '.join(map(str, accepted))}"
        )
    return tuple(dict.fromkeys(tokens))


def _target(options: ConvertOptions) -> Target:
    target = target_named(options.target)
    if options.functions and not target.at_least(MACOS15):
        raise TargetError(
            f"several functions in one package need macOS 15, and the target is {target.name}; leave functions out, or "
            "convert for macOS15"
        )
    return target


def _extras(family: Family, options: ConvertOptions) -> dict[str, Component]:
    found: dict[str, Component] = {}
    given = {
        VAE.name: options.vae,
        PREVIEW_DECODER.name: options.preview,
        SAFETY_CHECKER.name: options.safety_checker,
    }
    found |= {name: part for name, part in given.items() if part is not None}
    for net in options.controlnets:
        family.check_control(net.config)
        name = f"{CONTROLNET.name}/{net.name}"
        if name in found:
            raise CheckpointError(f"two ControlNets are called {net.name}; rename the folder of one")
        found[name] = net
    return found


def make_plan(checkpoint: Source, options: ConvertOptions) -> ConversionPlan:
    """The plan for a checkpoint; raises CheckpointError where it or an option's value cannot be converted."""
    family = recognise(checkpoint, vae=None if options.vae is None else options.vae.config)
    return ConversionPlan(
        checkpoint=checkpoint,
        family=family,
        name=_name(checkpoint.name if options.name is None else options.name),
        sizes=_sizes(family, options),
        attention=options.attention,
        batches=_batches(checkpoint.name, family, options),
        tokens=_tokens(family, options),
        extras=_extras(family, options),
        prompt_once=options.prompt_once,
        target=_target(options),
        functions=options.functions,
        verify=options.verify,
    )
