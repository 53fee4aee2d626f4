"""Which families of models a LoRA fits, by its tensors' shapes, its targets' names and its trainer's metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from converter.errors import shown
from converter.loras.errors import LoraError
from converter.loras.layers import LoraLayer
from converter.loras.names import TEXT_ENCODER, TEXT_ENCODER_2, UNET

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl_refiner")
#: Widths of the text states of the published models, which cross attention reads, and of their text encoders.
_CONTEXT = {768: ("sd1",), 1024: ("sd2",), 2048: ("sdxl",), 1280: ("sdxl_refiner",)}
_ENCODERS: dict[str, dict[int, tuple[str, ...]]] = {
    TEXT_ENCODER: {768: ("sd1", "sdxl"), 1024: ("sd2",)},
    TEXT_ENCODER_2: {1280: ("sdxl", "sdxl_refiner")},
}
_READS_TEXT = re.compile(r".*_attn2_to_[kv]")
_READS_STATES = re.compile(r".*_(self_attn_[qkv]_proj|mlp_fc1)")
#: Targets that only some families have. SDXL has three levels; neither it nor its refiner has transformers at the largest
#: image.
_PLACES = (
    (re.compile(r"add_embedding_.*|.*_transformer_blocks_[1-9]\d*_.*"), ("sdxl", "sdxl_refiner")),
    (re.compile(r"(down|up)_blocks_3_.*"), ("sd1", "sd2", "sdxl_refiner")),
    (re.compile(r"down_blocks_0_attentions_.*"), ("sd1", "sd2")),
)
#: What kohya's trainer and Stability's ModelSpec write; the first match counts.
_METADATA = ("ss_base_model_version", "modelspec.architecture")
_STATED = (
    (re.compile(r"sdxl.*refiner|stable-diffusion-xl.*refiner"), "sdxl_refiner"),
    (re.compile(r"sdxl|stable-diffusion-xl"), "sdxl"),
    (re.compile(r"sd_?v?2|stable-diffusion-v2"), "sd2"),
    (re.compile(r"sd_?v?1|stable-diffusion-v1"), "sd1"),
)


def families_of(layers: Mapping[str, Mapping[str, LoraLayer]], metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the families that a LoRA fits, as far as the file shows it.

    ``layers`` are those of weights, by network and target. Raises LoraError if they are of several families.
    """
    widths = (
        _by_width(network, target, layer.sizes[1]) for network, of in layers.items() for target, layer in of.items()
    )
    certain = [evidence for evidence in widths if evidence]
    if layers.get(TEXT_ENCODER_2):
        certain.append(("sdxl", "sdxl_refiner"))
    possible = set(FAMILIES).intersection(*certain)
    if not possible:
        raise LoraError(
            f"it has layers of {shown([' or '.join(one) for one in sorted(set(certain))])}; a LoRA of one family is accepted"
        )
    # What is less certain narrows the choice, and is ignored where it contradicts the widths.
    for evidence in (_stated(metadata), *_by_places(layers.get(UNET, {}))):
        possible = possible.intersection(evidence) or possible
    return tuple(family for family in FAMILIES if family in possible)


def text_width_of(layers: Mapping[str, Mapping[str, LoraLayer]]) -> int | None:
    """Return the width of the text states that a LoRA's cross attention reads; None if it changes no such layer."""
    unet = layers.get(UNET, {})
    return next((layer.sizes[1] for target, layer in unet.items() if _READS_TEXT.fullmatch(target)), None)


def _by_width(network: str, target: str, width: int) -> tuple[str, ...]:
    """Return the families in which the target has inputs of this width; nothing if the width tells none."""
    if network == UNET:
        return _CONTEXT.get(width, ()) if _READS_TEXT.fullmatch(target) else ()
    return _ENCODERS[network].get(width, ()) if _READS_STATES.fullmatch(target) else ()


def _stated(metadata: Mapping[str, str]) -> tuple[str, ...]:
    for key in _METADATA:
        word = metadata.get(key, "").lower()
        found = next((family for pattern, family in _STATED if pattern.match(word)), None)
        if found is not None:
            return (found,)
    return ()


def _by_places(targets: Iterable[str]) -> list[tuple[str, ...]]:
    targets = list(targets)
    return [families for pattern, families in _PLACES if any(pattern.fullmatch(target) for target in targets)]
