"""Files that are not Stable Diffusion checkpoints, recognized by their tensors' names.

The names are those the published files have, most of them also in diffusers' loaders/single_file_utils.py and ComfyUI's
comfy/model_detection.py.
"""

from __future__ import annotations

import re

from converter.sources.tensors import Tensors

#: (pattern of a tensor's name, the kind of file that has it); the first match counts.
_NAMES = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"^lora_controlnet$|\blllite_", "a ControlLoRA, not a complete checkpoint"),
        (
            r"[._]lora[._](down|up|mid|A|B|linear_layer)\.|\.(hada_w1_a|lokr_w1(_a)?|oft_blocks|dora_scale)$",
            "a LoRA, not a complete checkpoint; `anemone merge` merges it into a converted one",
        ),
        (r"^(control_model\.|input_hint_block\.)|controlnet_cond_embedding\.", "a ControlNet"),
        (r"^(adapter\.)?body\.\d+\.(block\d|in_conv|resnets)|^adapter\.body\.", "a T2I-Adapter"),
        (r"^(image_proj|ip_adapter)\.", "an IP-Adapter"),
        (r"(^|\.)motion_modules\.", "an AnimateDiff motion module"),
        (r"^(emb_params|string_to_param)(\.|$)", "a textual inversion embedding"),
        (r"individual_token_refiner\.", "HunyuanVideo"),
        (r"(^|\.)distilled_guidance_layer\.", "Chroma"),
        (r"(^|\.)(double_stream_modulation_img|single_stream_modulation)\.", "FLUX.2"),
        (r"(^|\.)(double_blocks|single_transformer_blocks)\.\d", "FLUX"),
        (r"\.norm1_context\.", "a transformer of Stable Diffusion 3's kind, in diffusers' naming"),
        (r"(^|\.)double_layers\.\d", "AuraFlow"),
        (r"(^|\.)joint_blocks\.\d", "Stable Diffusion 3"),
        (r"(^|\.)(clip_txt_mapper|clip_txt_pooled_mapper)\.|\.channelwise\.0\.", "Stable Cascade"),
        (r"(^|\.)patchify_proj\.", "LTX-Video"),
        (r"(^|\.)(adaln_single|t_block)\.", "PixArt"),
        (r"(^|\.)head\.modulation$", "Wan"),
        (r"(^|\.)cap_embedder\.", "Lumina or Z-Image"),
        (r"\.time_stack\.", "Stable Video Diffusion"),
        (r"^cc_projection\.", "Zero123"),
        (r"^embedder\.model\.visual\.", "Stable unCLIP"),
        (r"^edm_(mean|std)$", "Playground 2.5, which is sampled as EDM models are"),
        (r"^edm_vpred\.", "CosXL, which is sampled as EDM models are"),
        (r"(^|\.)(conv_first|RRDB_trunk)\.|^model\.1\.sub\.", "an ESRGAN upscaler"),
    )
)
#: Input channels of Stable Diffusion UNets that take another image or map besides the latents.
_CHANNELS = {5: "depth-to-image", 7: "the x4 upscaler", 8: "InstructPix2Pix"}
_SHOWN = 3


def describe_unsupported(tensors: Tensors) -> str | None:
    """Return the kind of an unsupported file, by its tensors' names; None if no name shows that it is unsupported."""
    names = list(tensors)
    # SDXL's embeddings have only one tensor for each text encoder.
    if names and set(names) <= {"clip_l", "clip_g"}:
        return "a textual inversion embedding"
    for pattern, words in _NAMES:
        name = next((n for n in names if pattern.search(n)), None)
        if name is not None:
            return f"{words} (it has {name})"
    return None


def another_unet(channels: int) -> str:
    """Return what a UNet with so many input channels is for."""
    return f"{_CHANNELS.get(channels, 'a UNet of another kind')} ({channels} input channels)"


def part_of_a_checkpoint(tensors: Tensors) -> str:
    """Describe a file that lacks the UNet, text encoder or VAE in the original naming."""
    names = list(tensors)

    def some(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    if some("model.diffusion_model.input_blocks."):
        # SDXL without a known text encoder may be Kolors or a UNet alone, so the message says only what is missing.
        lacks = [] if some("first_stage_model.decoder.") else ["no VAE (first_stage_model.)"]
        if not some("cond_stage_model.", "conditioner.embedders."):
            lacks.append("no text encoder (cond_stage_model. or conditioner.embedders.)")
        return f"a UNet with {' and '.join(lacks)}" if lacks else "a UNet with another text encoder or other conditions"
    if some("input_blocks.0.0.", "diffusion_model.input_blocks."):
        return "a UNet alone"
    if some("down_blocks.0.resnets."):
        return "a UNet alone, in diffusers' naming; for a diffusers checkpoint, give its folder"
    if some("first_stage_model.decoder.", "decoder.conv_in.", "encoder.conv_in."):
        return "a VAE alone"
    if some("text_model.encoder.layers.", "transformer.resblocks.", "cond_stage_model.", "conditioner."):
        return "a text encoder alone"
    if not names:
        return "no tensors"
    return f"{len(names)} tensors of an unknown network ({', '.join(sorted(names)[:_SHOWN])}, ...)"
