"""The plan of a conversion: the checkpoint's family, what its options leave open, and the packages that follow."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from converter.errors import CheckpointError
from converter.families.family import Family
from converter.families.registry import ignored_checkpoint_settings
from converter.manifest import GUIDED, STANDARD, UNGUIDED, Defaults
from converter.mil import Target, Unwritten
from converter.networks.registry import (
    CONTROLNET,
    UNET,
    Variant,
    component_name,
    kind_of,
    tensors_taken,
    text_encoders,
    write_graph,
)
from converter.options import ConvertOptions, Size
from converter.sources.canonical import canonical
from converter.sources.component import Component
from converter.sources.component_kinds import VAE
from converter.sources.inventory import left_out
from converter.sources.ip_adapter import IPAdapterFile
from converter.sources.source import Source
from converter.sources.tensors import Tensors
from converter.sources.tokenizer import greatest_token
from converter.verification.limits import least_db
from converter.weights.activations import Activations
from converter.weights.encodings import UNCOMPRESSED, Encoding, Encodings, LayerShapes
from converter.weights.recipe import FP16_BITS, Recipe

#: The side, in latents, at which a network is verified; every size has the same weights.
_VERIFIED_SIDE = 16
#: The release that last changed the content of a plan's packages: models of an earlier one are converted again. Raise it
#: with such a change only, so that other releases do not convert models again.
REVISION = "0.2.0"
#: The version of coremltools in the first fingerprints; it stays in them and changes no package.
_FIRST_COREMLTOOLS = "9.0"


@dataclass(frozen=True)
class ConversionPlan:
    """The networks and packages that a conversion writes. Its `fingerprint` changes with anything that changes a package.

    extras: networks from other sources than the checkpoint; a VAE among them replaces its own.
    name, sizes, batches, tokens, clip_skip: from the options, or from the checkpoint if the options do not set them.
    """

    checkpoint: Source
    options: ConvertOptions
    family: Family
    extras: dict[str, Component | IPAdapterFile]
    name: str
    sizes: tuple[Size, ...]
    batches: tuple[int, ...]
    tokens: tuple[int, ...]
    clip_skip: int
    target: Target
    recipe: Recipe | None = None
    activations: Activations | None = None
    _mapped: dict[str, Tensors] = field(default_factory=dict, compare=False, repr=False)

    @property
    def networks(self) -> tuple[str, ...]:
        """Return the networks to write, in order."""
        networks = self.family.networks
        projections = [p.name for network in networks if (p := kind_of(network).prompt_network) is not None]
        return (
            *networks,
            *(projections if self.options.prompt_once else ()),
            *(name for name in self.extras if name != VAE.name),
        )

    def tensors(self, network: str) -> Tensors:
        """Return the weights of a network's component, memory-mapped, by their canonical names."""
        component = component_name(network)
        if component not in self._mapped:
            extra = self.extras.get(component)
            tensors = self.checkpoint.tensors(component) if extra is None else extra.tensors
            self._mapped[component] = canonical(component, tensors, kind_of(network).component.canonical_name)
        return self._mapped[component]

    def published_config(self, network: str) -> dict[str, Any]:
        """Return a network's config.json as it was published."""
        component = component_name(network)
        extra = self.extras.get(component)
        return self.checkpoint.config(component) if extra is None else extra.config

    def config(self, network: str) -> dict[str, Any]:
        """Return a network's configuration, with the defaults of this converter's tables for fields that config.json lacks."""
        return kind_of(network).read_config(component_name(network), self.published_config(network))

    @cached_property
    def taken(self) -> dict[str, frozenset[str]]:
        """Map each network to the tensors it takes. Raises CheckpointError if a network lacks one."""
        return {network: self._taken(network) for network in self.networks}

    def _taken(self, network: str) -> frozenset[str]:
        tensors, config, variant = self.tensors(network), self.config(network), self.variants(network)[0]
        try:
            return tensors_taken(network, tensors, config, self.family.sizes, variant, self.target)
        except CheckpointError as error:
            raise CheckpointError(f"{network}: {error}") from error

    def left_out(self) -> list[str]:
        """Say in sentences which parts of the checkpoint no network takes; they change no image.

        Raises CheckpointError if a network lacks a tensor, or if a part that no network takes would change the image.
        """
        self._check_tokens()
        _ = self.checkpoint.defaults  # damaged ones raise here, before anything is written
        sentences = ignored_checkpoint_settings(self.checkpoint)
        for component, network in {component_name(network): network for network in self.networks}.items():
            taken = frozenset().union(*(names for n, names in self.taken.items() if component_name(n) == component))
            sentences += left_out(component, kind_of(network).component, self.tensors(network), taken)
        return [*sentences, *self.checkpoint.leftovers]

    def variants(self, network: str) -> list[Variant]:
        """Return the variants of a network; the weights file begins with those of the first."""
        kind = kind_of(network)
        sizes = self.sizes if kind.per_size else self.sizes[:1]
        if not kind.per_prompt:
            return [
                Variant(w, h, 1, self.family.tokens, self.options.attention, clip_skip=self.clip_skip) for w, h in sizes
            ]
        controls = (False, True) if kind.takes_residuals and self.controlled else (False,)
        images = (0, *self.image_tokens) if kind.takes_images else (0,)
        projected = kind.prompt_network is not None and self.options.prompt_once
        return [
            Variant(w, h, batch, tokens, self.options.attention, control, projected, image)
            for control in controls
            for image in images
            for w, h in sizes
            for batch in self.batches
            for tokens in self.tokens
        ]

    def verified(self, network: str) -> list[Variant]:
        """Return the variants to verify: small images on the installed weights, so that verification takes seconds."""
        side = _VERIFIED_SIDE * self.family.sizes.latent_factor
        by_form: dict[tuple[bool, int], Variant] = {}
        for v in self.variants(network):
            small = replace(v, width=min(v.width, side), height=min(v.height, side))
            by_form.setdefault((v.control, v.image_tokens), small)
        return list(by_form.values())

    @property
    def controlled(self) -> bool:
        """Return whether the plan has ControlNets."""
        return any(name.startswith(f"{CONTROLNET.name}/") for name in self.extras)

    @property
    def image_tokens(self) -> tuple[int, ...]:
        """Return how many tokens the plan's IP-Adapters give an image, each number once."""
        return tuple(sorted({extra.tokens for extra in self.extras.values() if isinstance(extra, IPAdapterFile)}))

    @property
    def encoding(self) -> Encoding | None:
        """Return the encoding of compressed weights; None: fp16."""
        options = self.options
        return None if options.bits is None else Encoding(options.quantization, options.bits, options.group_size)

    @property
    def defaults(self) -> Defaults:
        """The values of fields that a request does not set: what the model's makers recommend, or the usual ones."""
        usual = GUIDED if self.family.takes_guidance else UNGUIDED if self.batches == (1,) else STANDARD
        published = self.checkpoint.defaults
        return Defaults(
            steps=int(published.get("steps", usual.steps)),
            guidance_scale=float(published.get("guidance_scale", usual.guidance_scale)),
            scheduler=str(published.get("scheduler", usual.scheduler)),
        )

    def encodings(self, network: str) -> Encodings:
        """Return the encodings of a network's weights."""
        if not kind_of(network).compressible:
            return UNCOMPRESSED
        if kind_of(network) is not UNET:
            return Encodings(self.encoding)
        if self.recipe is None:
            return Encodings(self.encoding, activations={} if self.activations is None else self.activations.scales)
        group = self.options.group_size
        by_layer = {
            layer: None if bits == FP16_BITS else Encoding("palette", bits, group, undamped=True)
            for layer, bits in self.recipe.bits.items()
        }
        return Encodings(None, by_layer)

    def layers(self, network: str) -> dict[str, tuple[int, ...]]:
        """Return the paths of a network's layers, and the shapes of their weights."""
        seen = LayerShapes()
        write_graph(
            network, self.tensors(network), self.config(network), self.family.sizes, self.variants(network)[0],
            Unwritten(), self.target, seen,
        )  # fmt: skip
        return seen.shapes

    def average_bits(self, network: str) -> float | None:
        """Return the bits of an element of a network's compressed weights, on average; None: fp16."""
        if self.recipe is not None and kind_of(network) is UNET:
            return self.recipe.average(self.layers(network))
        usual = self.encodings(network).usual
        return None if usual is None else usual.bits

    def least_db(self, network: str) -> float:
        """Return the least PSNR in dB against its source at which a network is installed."""
        return least_db(self.average_bits(network), activations=bool(self.encodings(network).activations))

    @property
    def precision(self) -> str:
        """Return how the weights are stored, in words."""
        words = [] if self.encoding is None else [self.encoding.description]
        if self.recipe is not None:
            words.insert(0, f"{self.average_bits(UNET.name):.2f}-bit mixed palettes")
        if self.activations is not None:
            words.append("8-bit activations")
        return " and ".join(words) or "float16"

    def chunks(self, network: str) -> int:
        """Return into how many programs a network is cut; 1: none of its packages is."""
        return (self.options.chunks or 1) if kind_of(network).chunked else 1

    def weight_bytes(self) -> dict[str, int]:
        """Return the bytes of each network's weights in fp16."""
        return {network: self.tensors(network).fp16_bytes(names) for network, names in self.taken.items()}

    def stored_bytes(self, network: str) -> int:
        """Return about how many bytes a network's weights take on disk."""
        tensors, encodings, total = self.tensors(network), self.encodings(network), 0
        for name in self.taken[network]:
            shape, (layer, _, kind) = tensors.shape(name), name.rpartition(".")
            is_kernel = kind == "weight" and len(shape) > 1 and not layer.endswith("embedding")
            encoding = encodings.of(layer, shape) if is_kernel else None
            total += 2 * math.prod(shape) if encoding is None else sum(part.nbytes for part in encoding.parts(shape))
        return total

    @cached_property
    def tokenizers(self) -> dict[str, dict[str, bytes]]:
        """Return each tokenizer's (tokenizer, tokenizer_2) files: name -> content. Raises CheckpointError."""
        return self.checkpoint.tokenizer_files()

    def _check_tokens(self) -> None:
        """Raise CheckpointError if a tokenizer's token ids go beyond its text encoder's rows."""
        tokenizers = self.tokenizers
        for network, tokenizer in text_encoders(self.family.networks).items():
            files = tokenizers.get(tokenizer) or next(iter(tokenizers.values()))
            greatest, rows = greatest_token(files), self.config(network)["vocab_size"]
            if greatest >= rows:
                raise CheckpointError(
                    f"the tokenizer of {network} numbers its tokens up to {greatest}, but the text encoder has {rows} rows"
                )

    def largest_tensor(self) -> int:
        """Return the number of elements of the largest tensor that any network takes."""
        return max(math.prod(self.tensors(n).shape(name)) for n, names in self.taken.items() for name in names)

    def require_fp16(self, network: str) -> None:
        """Raise CheckpointError if a network takes a tensor with values that are not finite in fp16."""
        tensors = self.tensors(network)
        for name in sorted(self.taken[network]):
            try:
                tensors.require_fp16(name)
            except CheckpointError as error:
                raise CheckpointError(f"{network}: {tensors.path(name)}: {error}") from error

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash over the sources' content, the options and REVISION.

        The options of the first release are written as it wrote them, so that its unfinished conversions continue.
        """
        extras, options = {name: extra.sha256 for name, extra in self.extras.items()}, self.options
        variants = (self.sizes, options.attention, self.batches, self.tokens, self.target.name, options.functions)
        first = repr((self.name, variants, options.prompt_once, extras))
        later = [json.dumps(added, sort_keys=True)] if (added := options.later()) else []
        later += [each.sha256 for each in (self.recipe, self.activations) if each is not None]
        parts = (self.checkpoint.sha256, first, REVISION, _FIRST_COREMLTOOLS, *later)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
