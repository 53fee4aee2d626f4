"""Read the text encoders of a single file as transformers' CLIPTextModel: OpenAI's naming (CLIP-L) and OpenCLIP's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.sources.component_kinds import TEXT_ENCODER, TEXT_ENCODER_2, ComponentKind
from converter.sources.entry import Part
from converter.sources.ldm.names import beneath, count, module_paths
from converter.sources.tensors import Tensors

_HEAD_WIDTH = 64
#: transformers' configuration of Stable Diffusion 2 has one layer less than OpenCLIP-H's 24, since the original
#: uses the states before the last layer.
_SD2_LAYERS = 23
#: projection_dim in stabilityai's text_encoder/config.json of Stable Diffusion 2, which projects nothing.
_SD2_PROJECTION = 512
#: Width -> layers of the published encoders (CLIP L, OpenCLIP bigG). Files may lack the last layer, so the width decides.
_PUBLISHED_LAYERS = {768: 12, 1280: 32}
_CLIP_PARTS = ("embeddings.token_embedding.", "embeddings.position_embedding.", "encoder.layers.", "final_layer_norm.")
_OPENCLIP_ENDS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder of a single file: its prefix there, and the component it becomes.

    layers: the most layers that are used; None for all.
    projected: whether the pooled state is projected (CLIPTextModelWithProjection).
    """

    component: ComponentKind
    prefix: str
    openclip: bool
    layers: int | None = None
    projected: bool = False

    @property
    def embedding(self) -> str:
        """The name of its token embedding, [vocabulary, width], which identifies it."""
        return self.prefix + ("" if self.openclip else "embeddings.") + "token_embedding.weight"


# Some early fine-tunes lack text_model in their names; AUTOMATIC1111's loader accepts them too.
_OPENAI = tuple(
    TextEncoder(TEXT_ENCODER, prefix, openclip=False)
    for prefix in (
        "cond_stage_model.transformer.text_model.",
        "cond_stage_model.transformer.",
        "conditioner.embedders.0.transformer.text_model.",
    )
)
_SD2 = tuple(
    TextEncoder(TEXT_ENCODER, prefix, openclip=True, layers=_SD2_LAYERS)
    for prefix in ("cond_stage_model.model.", "conditioner.embedders.0.model.")
)
_PROJECTED = tuple(
    TextEncoder(TEXT_ENCODER_2, f"conditioner.embedders.{index}.model.", openclip=True, projected=True)
    for index in (0, 1)
)
#: Family -> its text encoders, for each set of prefixes they may have.
PLACES: dict[str, tuple[tuple[TextEncoder, ...], ...]] = {
    "sd1": tuple((encoder,) for encoder in _OPENAI[:2]),
    "sd2": tuple((encoder,) for encoder in _SD2),
    "sdxl": ((_OPENAI[2], _PROJECTED[1]),),
    "sdxl_refiner": ((_PROJECTED[0],),),
}


def _layers(tensors: Tensors, encoder: TextEncoder) -> int:
    paths = module_paths(beneath(tensors, encoder.prefix))
    number = count(paths, "transformer.resblocks" if encoder.openclip else "encoder.layers")
    if encoder.layers is not None:
        return min(number, encoder.layers)
    if not encoder.openclip and "final_layer_norm" not in paths:
        number += 1  # its last layer is missing, like its norm
    return max(number, _PUBLISHED_LAYERS.get(tensors.size(encoder.embedding, 1), 0))


def _openclip(tensors: Tensors, encoder: TextEncoder) -> dict[str, Part]:
    prefix = encoder.prefix
    parts = {f"text_model.{new}": Part(prefix + old) for old, new in _OPENCLIP_ENDS.items()}
    for index in range(_layers(tensors, encoder)):
        path, name = f"{prefix}transformer.resblocks.{index}", f"text_model.encoder.layers.{index}"
        for kind in ("weight", "bias"):
            for old, new in _OPENCLIP_LAYER.items():
                parts[f"{name}.{new}.{kind}"] = Part(f"{path}.{old}.{kind}")
            for third, letter in enumerate("qkv"):
                fused = f"{path}.attn.in_proj_{kind}"
                parts[f"{name}.self_attn.{letter}_proj.{kind}"] = Part(fused, third, 3)
    if encoder.projected:
        # OpenCLIP multiplies by [in, out], a linear layer by the transpose; some files have it as a linear layer.
        linear = f"{prefix}text_projection.weight"
        transposed = Part(f"{prefix}text_projection", form="transposed")
        parts["text_projection.weight"] = Part(linear) if linear in tensors else transposed
    return parts


def text_encoder_parts(tensors: Tensors, encoder: TextEncoder) -> dict[str, Part]:
    """Return transformers' name (as published, with text_model.) -> part, for the tensors that the encoder uses."""
    if encoder.openclip:
        return _openclip(tensors, encoder)
    used = [name for name in beneath(tensors, encoder.prefix) if name.startswith(_CLIP_PARTS)]
    return {f"text_model.{name}": Part(encoder.prefix + name) for name in used}


def text_encoder_config(tensors: Tensors, encoder: TextEncoder) -> dict[str, Any]:
    """Return the encoder's config.json in transformers' form; token ids are those of the published checkpoints."""
    vocabulary, width = (tensors.size(encoder.embedding, axis) for axis in (0, 1))
    if encoder.openclip:
        places, inner = "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight"
    else:
        places, inner = "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"
    projection = _SD2_PROJECTION if encoder.openclip else width
    if encoder.projected:
        linear = f"{encoder.prefix}text_projection.weight"
        projection = (
            tensors.size(linear, 0) if linear in tensors else tensors.size(f"{encoder.prefix}text_projection", 1)
        )
    return {
        "architectures": ["CLIPTextModelWithProjection" if encoder.projected else "CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu" if encoder.openclip else "quick_gelu",
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": tensors.size(encoder.prefix + inner, 0),
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": tensors.size(encoder.prefix + places, 0),
        "model_type": "clip_text_model",
        "num_attention_heads": width // _HEAD_WIDTH,
        "num_hidden_layers": _layers(tensors, encoder),
        "pad_token_id": 1,
        "projection_dim": projection,
        "vocab_size": vocabulary,
    }
