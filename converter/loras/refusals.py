"""LoRAs and like files that are not supported, recognized by their tensors' names."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: (pattern of a tensor's name, what the file is); the first match counts.
_FILES = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (
            r"^lora_controlnet$|^(control_model\.)?input_hint_block\.",
            "a ControlLoRA, which makes a ControlNet of a model's own UNet; it is no LoRA for images, and as a ControlNet it is "
            "not supported",
        ),
        (r"lllite_", "a ControlNet-LLLite, which guides images by a map; it is not supported"),
        (r"motion_modules?[._]|temporal|time_stack", "for AnimateDiff or other videos"),
        (r"(^|\.)(image_proj|ip_adapter)\.|_ip\.", "an IP-Adapter"),
        (
            r"double_blocks|single_blocks|single_transformer_blocks|double_stream|distilled_guidance_layer",
            "for FLUX or a transformer of its kind",
        ),
        (r"joint_blocks|lora_te3_|text_encoder_3\.|\.context_block", "for Stable Diffusion 3"),
        (r"lora_prior_|clip_txt_mapper|(down|up)_blocks[._]\d[._]\d+[._](attention|channelwise)", "for Stable Cascade"),
        (r"adaln_single|caption_projection", "for PixArt"),
        (
            r"cap_embedder|noise_refiner|context_refiner|(^|[._])layers[._]\d+[._](attention|feed_forward|adaLN)",
            "for Lumina or Z-Image",
        ),
        (r"^(diffusion_model\.|lora_unet_)?blocks[._]\d", "for Wan or another model of videos"),
        (
            r"^(base_model\.model\.)?(transformer\.|lora_transformer_)|(^|[._])transformer_blocks[._]\d+[._]attn[._]"
            r"|^(diffusion_model\.|lora_unet_)?transformer_blocks[._]\d",
            "for a transformer (FLUX, Stable Diffusion 3, ...)",
        ),
        (r"^(string_to_param|emb_params|clip_[lg])$", "a textual inversion embedding, not a LoRA"),
        (
            r"^model\.diffusion_model\.|^first_stage_model\.|^cond_stage_model\.|^conditioner\.",
            "a checkpoint, not a LoRA",
        ),
        # Files of networks' own weights. A checkpoint has a VAE's, too.
        (
            r"^(conv_in|time_embedding\.linear_1|text_model\.final_layer_norm|(en|de)coder\.conv_in)\.weight$",
            "a network's own weights (a checkpoint), not a LoRA",
        ),
        (r"^(vae\.|lora_vae_|first_stage_model\.)", "for a VAE"),
    )
)
_KINDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"\.[ab][12]\.weight$", "GLoRA"),
        (r"\.(oft_blocks|oft_diag|oft_[RLS]|oft_r|oft_s)\b", "OFT or BOFT"),
        (r"\.(boft_R|boft_s)\b", "BOFT"),
        (r"\.on_input$|\.ia3_l\b", "IA3"),
        (r"\.vera_lambda|\bvera_[AB]\b", "VeRA"),
        (r"\.lora_embedding_[AB]\b", "LoRA of an embedding table"),
        (r"^bundle_emb\.", "embeddings inside of a LoRA's file"),
        (r"\.scalar$", "a factor beside a change (scalar)"),
        (r"modules_to_save", "whole modules that PEFT saves beside (modules_to_save)"),
        (
            r"^(unet|text_encoder):\d+:(up|down)$",
            "the format of the first LoRAs, whose layers have numbers and no names",
        ),
        (r"custom_diffusion", "Custom Diffusion"),
    )
)


def file_that_is_no_lora(names: Iterable[str]) -> str | None:
    """Return what a file is, if its tensors' names show that it is for nothing supported here."""
    return _first(_FILES, names)


def unsupported_kind(names: Iterable[str]) -> str | None:
    """Return the kind of a LoRA's tensors that were not understood; None if it is not known."""
    return _first(_KINDS, names)


def _first(table: tuple[tuple[re.Pattern[str], str], ...], names: Iterable[str]) -> str | None:
    names = list(names)
    for pattern, words in table:
        name = next((name for name in names if pattern.search(name)), None)
        if name is not None:
            return f"{words} (it has {name})"
    return None
