"""Renames the tensors of diffusers' modules to the original (CompVis, Stability) naming of single files.

The converter renames in the other direction by another method (it walks the numbered blocks); they share no code. Modules
on the meta device are enough if only names and shapes are needed.
"""

from __future__ import annotations

import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

State = dict[str, torch.Tensor]

OPENCLIP = "cond_stage_model.model."

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_UNET_ENDS = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)


def _replaced(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for new, old in pairs:
        if text == new or text.startswith(f"{new}."):
            return old + text[len(new) :]
    return text


def _unet_name(name: str, unet: UNet2DConditionModel) -> str:
    step = unet.config.layers_per_block + 1
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        side, level, kind, layer, rest = match.groups()
        blocks, first = ("input_blocks", 1) if side == "down" else ("output_blocks", 0)
        index = int(level) * step + int(layer) + first
        return (
            f"{blocks}.{index}.1.{rest}" if kind == "attentions" else f"{blocks}.{index}.0.{_replaced(rest, _RESNET)}"
        )
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * step}.0.op.{match[2]}"
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
        level = int(match[1])
        place = 2 if "CrossAttn" in unet.config.up_block_types[level] else 1
        return f"output_blocks.{(level + 1) * step - 1}.{place}.conv.{match[2]}"
    if match := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name):
        return f"middle_block.{2 * int(match[1])}.{_replaced(match[2], _RESNET)}"
    if match := re.match(r"mid_block\.attentions\.0\.(.*)", name):
        return f"middle_block.1.{match[1]}"
    return _replaced(name, _UNET_ENDS)


def original_unet(unet: UNet2DConditionModel) -> State:
    """Return a UNet's tensors under their original names."""
    return {f"model.diffusion_model.{_unet_name(name, unet)}": t for name, t in unet.state_dict().items()}


def original_vae(vae: AutoencoderKL) -> State:
    """Return an autoencoder's tensors under their original names; there attention consists of 1x1 convolutions."""
    state, last = {}, len(vae.config.block_out_channels) - 1
    for name, tensor in vae.state_dict().items():
        old = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        old = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", old)
        old = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block.", old)
        old = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{last - int(m[1])}.upsample.", old)
        old = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", old)
        old = old.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0." in old:
            old = old.replace("mid_block.attentions.0.", "mid.attn_1.").replace("to_out.0", "proj_out")
            old = re.sub(r"to_([qkv])\.", r"\1.", old).replace("group_norm", "norm")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        state[f"first_stage_model.{old}"] = tensor
    return state


def _without_prefix(encoder: torch.nn.Module) -> State:
    return {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}


def original_clip(encoder: torch.nn.Module, prefix: str) -> State:
    """Return a CLIP text encoder's tensors under OpenAI's names, after ``prefix``."""
    return {prefix + name: tensor for name, tensor in _without_prefix(encoder).items()}


def original_openclip(encoder: torch.nn.Module, prefix: str) -> State:
    """Return a CLIP text encoder's tensors under OpenCLIP's names: fused projections; the last projection is [in, out]."""
    bare, state = _without_prefix(encoder), {}
    for name, tensor in bare.items():
        if name == "text_projection.weight":
            state["text_projection"] = tensor.T.contiguous()
        elif match := re.match(r"encoder\.layers\.(\d+)\.(.*)", name):
            layer, rest = f"transformer.resblocks.{match[1]}", match[2]
            if part := re.match(r"self_attn\.([qkv])_proj\.(weight|bias)", rest):
                if part[1] == "q":
                    path = f"encoder.layers.{match[1]}.self_attn"
                    fused = [bare[f"{path}.{letter}_proj.{part[2]}"] for letter in "qkv"]
                    state[f"{layer}.attn.in_proj_{part[2]}"] = torch.cat(fused)
                continue
            for new, old in (
                ("layer_norm", "ln_"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
                ("self_attn.", "attn."),
            ):
                rest = rest.replace(new, old)
            state[f"{layer}.{rest}"] = tensor
        else:
            ends = {
                "embeddings.token_embedding.weight": "token_embedding.weight",
                "embeddings.position_embedding.weight": "positional_embedding",
                "final_layer_norm.weight": "ln_final.weight",
                "final_layer_norm.bias": "ln_final.bias",
            }
            state[ends[name]] = tensor
    return {prefix + name: tensor for name, tensor in state.items()}
