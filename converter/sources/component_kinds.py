"""The components that checkpoints have: the folder of each, its classes, its tensors' names and its configuration's keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from converter.sources.canonical import clip_name, safety_checker_name, vae_name
from converter.sources.config_tables import TEXT_ENCODER as TEXT_ENCODER_KEYS
from converter.sources.config_tables import UNET as UNET_KEYS
from converter.sources.config_tables import VAE as VAE_KEYS
from converter.sources.configs import Table

Role = Literal["text encoder", "denoiser", "autoencoder"]


@dataclass(frozen=True)
class ComponentKind:
    """A component of a checkpoint, or a network that is converted in addition to one.

    name: its folder in a diffusers checkpoint.
    role: its role in a pipeline; None if a checkpoint is complete without it. A checkpoint needs one of each role.
    classes: accepted classes in model_index.json.
    tokenizer: the folder of its tokenizer; None if it reads no text.
    keys: the table of its config.json's keys; empty if its network reads the file itself.
    canonical_name: a tensor's stored name -> its canonical one.
    unused: patterns of the names of tensors that its library does not use for images either, with the reason.
    """

    name: str
    role: Role | None = None
    classes: tuple[str, ...] = ()
    tokenizer: str | None = None
    keys: Table = field(default_factory=dict)
    canonical_name: Callable[[str], str] = str
    unused: tuple[tuple[re.Pattern[str], str], ...] = ()


_POSITIONS = (re.compile(r"\.position_ids$"), "the numbers of the positions, which are always the same")
_CLIP_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
_CLIP_UNUSED = (
    _POSITIONS,
    (re.compile(r"^logit_scale$|^vision_model\.|^visual_projection\."), "of CLIP's other half, which reads images"),
    (re.compile(r"^text_projection\.weight$"), "of CLIP's comparison with images; this encoder gives bare states"),
    (re.compile(r"^text_model\.(encoder\.layers\.\d+|final_layer_norm)\."), "of layers behind the last one used"),
)

TEXT_ENCODER = ComponentKind(
    "text_encoder", "text encoder", _CLIP_CLASSES, "tokenizer", TEXT_ENCODER_KEYS, clip_name, _CLIP_UNUSED
)
TEXT_ENCODER_2 = ComponentKind(
    "text_encoder_2", "text encoder", _CLIP_CLASSES, "tokenizer_2", TEXT_ENCODER_KEYS, clip_name, _CLIP_UNUSED
)
UNET = ComponentKind("unet", "denoiser", ("UNet2DConditionModel",), keys=UNET_KEYS)
VAE = ComponentKind(
    "vae",
    "autoencoder",
    ("AutoencoderKL",),
    keys=VAE_KEYS,
    canonical_name=vae_name,
    unused=((re.compile(r"^loss\.|^model_ema\."), "of the training"),),
)
TINY_VAE = ComponentKind("preview_decoder", unused=((re.compile(r"^encoder\."), "of the half that reads images"),))
CONTROLNET = ComponentKind("controlnet", classes=("ControlNetModel",))
SAFETY_CHECKER = ComponentKind(
    "safety_checker",
    canonical_name=safety_checker_name,
    unused=(
        _POSITIONS,
        (re.compile(r"^logit_scale$|^text_model\.|^text_projection\."), "of CLIP's other half, which reads text"),
    ),
)
UPSCALER = ComponentKind("upscaler")
IMAGE_ENCODER = ComponentKind("image_encoder", classes=("CLIPVisionModelWithProjection",), unused=(_POSITIONS,))
IP_ADAPTER = ComponentKind("ip_adapter")
#: The components of a checkpoint, in the order of its networks.
COMPONENTS = (TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE)
TOKENIZERS = tuple(kind.tokenizer for kind in COMPONENTS if kind.tokenizer is not None)
