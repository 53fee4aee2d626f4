"""Makes the plan of a conversion: opens what the options name, and decides what they leave open."""

from __future__ import annotations

import re

from converter.conversion.agreement import check_options
from converter.conversion.plan import ConversionPlan
from converter.errors import CheckpointError, quoted
from converter.families.family import Family
from converter.families.registry import recognize
from converter.mil import Target, check_encoding
from converter.networks.clip_vision import image_encoder_config
from converter.networks.registry import (
    CONTROLNET,
    IMAGE_ENCODER,
    IP_ADAPTER,
    PREVIEW_DECODER,
    SAFETY_CHECKER,
    UNET,
    kind_of,
    text_encoders,
)
from converter.options import LARGEST_SIDE, MOST_CLIP_SKIP, SMALLEST_SIDE, ConvertOptions, Size
from converter.progress import OnProgress, ignore
from converter.sources.component import Component
from converter.sources.component_kinds import VAE
from converter.sources.ip_adapter import IPAdapterFile
from converter.sources.source import Source
from converter.weights.activations import Activations
from converter.weights.encodings import Encoding
from converter.weights.recipe import FP16_BITS, Recipe, require_layers

#: A model's name is part of its files' names, which may have 255 bytes.
_LONGEST_NAME = 100
#: The longest prompt, in multiples of CLIP's 77 tokens.
_LONGEST_PROMPT = 3
#: Few-step models that were distilled without guidance differ from the others by their names only.
_WITHOUT_GUIDANCE = re.compile(r"turbo|lightning")


def _sizes(family: Family, options: ConvertOptions) -> tuple[Size, ...]:
    if options.sizes is None and family.sample_size is None:
        raise CheckpointError(
            "its denoiser's config.json has no sample_size, so the checkpoint does not say which size it was trained at; "
            "give one or more with --size, such as 512x512"
        )
    multiple = family.sizes.latent_factor
    height, width = (side * multiple for side in family.sample_size or (0, 0))
    sizes = tuple(dict.fromkeys(options.sizes or ((width, height),)))
    for width, height in sizes:
        if min(width, height) < SMALLEST_SIDE or max(width, height) > LARGEST_SIDE:
            raise CheckpointError(
                f"size {width}x{height} is not accepted; a side may have {SMALLEST_SIDE} to {LARGEST_SIDE} pixels"
            )
        if width % multiple or height % multiple:
            raise CheckpointError(
                f"size {width}x{height} does not fit this model: sides must be multiples of {multiple}"
            )
    return sizes


def _name(name: str) -> str:
    if not name.isprintable() or not 0 < len(name.encode()) <= _LONGEST_NAME:
        raise CheckpointError(
            f"the model cannot be called {quoted(name)}; give a name of 1 to {_LONGEST_NAME} bytes without control characters"
        )
    return name


def _batches(name: str, family: Family, options: ConvertOptions) -> tuple[int, ...]:
    single = family.takes_guidance or _WITHOUT_GUIDANCE.search(name.lower())
    batches = options.batches or ((1,) if single else (2,))
    if wrong := [b for b in batches if b not in (1, 2)]:
        raise CheckpointError(f"batch {wrong[0]} is not accepted; accepted: 1, 2")
    return tuple(dict.fromkeys(batches))


def _tokens(family: Family, options: ConvertOptions) -> tuple[int, ...]:
    accepted = [family.tokens * times for times in range(1, _LONGEST_PROMPT + 1)]
    tokens = options.tokens or accepted[:1]
    if wrong := [n for n in tokens if n not in accepted]:
        raise CheckpointError(
            f"a prompt of {wrong[0]} tokens is not accepted; accepted: {', '.join(map(str, accepted))}"
        )
    return tuple(dict.fromkeys(tokens))


def _clip_skip(checkpoint: Source, family: Family, options: ConvertOptions) -> int:
    names = text_encoders(family.networks)
    layers = min(kind_of(n).read_config(n, checkpoint.config(n))["num_hidden_layers"] for n in names)
    recommended = checkpoint.defaults.get("most_clip_skip", 1)
    clip_skip, most = recommended if options.clip_skip is None else options.clip_skip, min(layers, MOST_CLIP_SKIP)
    if not 1 <= clip_skip <= most:
        raise CheckpointError(f"a clip skip of {clip_skip} is not accepted; its text encoder has 1 to {most}")
    return int(clip_skip)


def _recipe(options: ConvertOptions, target: Target) -> Recipe | None:
    if options.recipe is None:
        return None
    recipe = Recipe.read(options.recipe)
    for bits in sorted(set(recipe.bits.values()) - {FP16_BITS}):
        check_encoding(Encoding("palette", bits, options.group_size), target)
    return recipe


def _open_extras(
    checkpoint: Source, options: ConvertOptions, progress: OnProgress
) -> dict[str, Component | IPAdapterFile]:
    """Open the networks that options name, and the checkpoint's ControlNets; raises CheckpointError."""

    def open_component(source: str, within: str | None = None) -> Component:
        return Component.open(source, within, progress)

    extras: dict[str, Component | IPAdapterFile] = {}
    if options.vae is not None:
        extras[VAE.name] = open_component(options.vae, VAE.name)
    if options.preview is not None:
        extras[PREVIEW_DECODER.name] = open_component(options.preview)
    if options.safety_checker is not None:
        extras[SAFETY_CHECKER.name] = open_component(options.safety_checker, SAFETY_CHECKER.name)
    for source in options.controlnets:
        controlnet = open_component(source)
        name = f"{CONTROLNET.name}/{controlnet.name}"
        if name in extras:
            raise CheckpointError(f"two ControlNets are called {controlnet.name}; rename the folder of one")
        extras[name] = controlnet
    for own, folder in checkpoint.controlnets.items():
        extras.setdefault(f"{CONTROLNET.name}/{own}", Component.open(folder))
    return extras | _open_adapters(options, progress)


def _open_adapters(options: ConvertOptions, progress: OnProgress) -> dict[str, Component | IPAdapterFile]:
    """Open the IP-Adapters and their image encoder. Raises CheckpointError."""
    adapters: dict[str, Component | IPAdapterFile] = {}
    for source in options.ip_adapters:
        adapter = IPAdapterFile.open(source, progress)
        name = f"{IP_ADAPTER.name}/{adapter.name}"
        if name in adapters:
            raise CheckpointError(f"two IP-Adapters are called {adapter.name}; rename the file of one")
        adapters[name] = adapter
    if not options.ip_adapters:
        return {}
    beside = next(adapter.encoder for adapter in adapters.values() if isinstance(adapter, IPAdapterFile))
    where = beside if options.image_encoder is None else (options.image_encoder, IMAGE_ENCODER.name)
    return {IMAGE_ENCODER.name: Component.open(*where, progress)} | adapters


def make_plan(checkpoint: Source, options: ConvertOptions, progress: OnProgress = ignore) -> ConversionPlan:
    """Return the plan for a checkpoint; raises CheckpointError if it cannot be converted or an option's value is not accepted.

    ``progress`` is called while a network that an option names downloads.
    """
    if "tile" in options.changed():
        raise CheckpointError(f"tile is {options.tile}, but {checkpoint.name} is not an upscaler; leave it out")
    target = check_options(options)
    extras = _open_extras(checkpoint, options, progress)
    family = recognize(checkpoint, vae=extras[VAE.name].config if VAE.name in extras else None)
    for name, extra in extras.items():
        if name.startswith(f"{CONTROLNET.name}/"):
            family.check_control(extra.config)
        if isinstance(extra, IPAdapterFile):
            family.check_adapter(extra)
            encoder = image_encoder_config(IMAGE_ENCODER.name, extras[IMAGE_ENCODER.name].config)
            extras[name] = extra.fitted(encoder, checkpoint.config(UNET.component.name))
    recipe = _recipe(options, target)
    activations = None if options.activations is None else Activations.read(options.activations)
    plan = ConversionPlan(
        checkpoint=checkpoint,
        options=options,
        family=family,
        extras=extras,
        name=_name(checkpoint.name if options.name is None else options.name),
        sizes=_sizes(family, options),
        batches=_batches(checkpoint.name, family, options),
        tokens=_tokens(family, options),
        clip_skip=_clip_skip(checkpoint, family, options),
        target=target,
        recipe=recipe,
        activations=activations,
    )
    layers = plan.layers(UNET.name) if recipe or activations or options.group_size is not None else {}
    if recipe is not None and options.recipe is not None:
        require_layers(options.recipe, recipe.bits, layers)
    if activations is not None and options.activations is not None:
        require_layers(options.activations, activations.layers, layers)
    if options.group_size is not None and not any(plan.encodings(UNET.name).grouped(*each) for each in layers.items()):
        raise CheckpointError(
            f"group_size {options.group_size} divides the channels of no compressed layer of the UNet; give another, such as "
            "16 or 32, or leave it out"
        )
    return plan
