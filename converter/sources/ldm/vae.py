"""Read the autoencoder of a single file (CompVis' AutoencoderKL) as diffusers' AutoencoderKL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.errors import CheckpointError
from converter.sources.entry import Part
from converter.sources.ldm.names import beneath, count, module_paths, renamed_parts
from converter.sources.tensors import Tensors

PREFIX = "first_stage_model."
_WHERE = "the VAE"
_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
#: Prefixes of training tensors: the discriminator, the perceptual loss and averaged copies.
_LEFTOVERS = ("loss.", "model_ema.")


def _half(paths: set[str], half: str, levels: str, sampler: str) -> dict[str, str]:
    """Return the modules of the encoder or decoder (``half``); the original numbers levels from the largest image."""
    number = count(paths, f"{half}.{levels}")
    modules = {f"{half}.{end}": f"{half}.{end}" for end in ("conv_in", "conv_out")}
    modules[f"{half}.norm_out"] = f"{half}.conv_norm_out"
    resnets = {f"{half}.mid.block_{n}": f"{half}.mid_block.resnets.{n - 1}" for n in (1, 2)}
    for level in range(number):
        place = level if levels == "down" else number - 1 - level
        path, name = f"{half}.{levels}.{level}", f"{half}.{levels}_blocks.{place}"
        modules[f"{path}.{sampler}.conv"] = f"{name}.{sampler}rs.0.conv"
        for n in range(count(paths, f"{path}.block")):
            resnets[f"{path}.block.{n}"] = f"{name}.resnets.{n}"
    for path, name in resnets.items():
        modules |= {f"{path}.{old}": f"{name}.{new}" for old, new in _RESNET.items()}
    attention = f"{half}.mid_block.attentions.0"
    return modules | {f"{half}.mid.attn_1.{old}": f"{attention}.{new}" for old, new in _ATTENTION.items()}


def vae_parts(tensors: Tensors) -> dict[str, Part]:
    """Return diffusers name -> part, for all tensors of the autoencoder.

    The original's attention has 1x1 convolutions, diffusers' has linear layers.
    """
    paths = module_paths(beneath(tensors, PREFIX))
    modules = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    modules |= _half(paths, "encoder", "down", "downsample") | _half(paths, "decoder", "up", "upsample")
    parts = renamed_parts(_WHERE, tensors, PREFIX, modules, _LEFTOVERS)
    for name, part in parts.items():
        if ".attentions.0.to_" in name and name.endswith(".weight"):
            parts[name] = replace(part, form="matrix")
    return parts


def vae_config(tensors: Tensors, *, scaling_factor: float, latents: int) -> dict[str, Any]:
    """Return the config.json in diffusers' form; the scaling factor and the latents' side do not show in the tensors."""
    paths = module_paths(beneath(tensors, PREFIX))
    levels = count(paths, "encoder.down")
    layers = {count(paths, f"encoder.down.{level}.block") for level in range(levels)}
    above = {count(paths, f"decoder.up.{level}.block") - 1 for level in range(levels)}
    if len(layers) != 1 or above != layers:
        raise CheckpointError(
            f"{_WHERE} has {sorted(layers)} resnets per level in its encoder and {sorted(above)} + 1 in its decoder; the same "
            "number n at all levels of the encoder, and n + 1 in the decoder, is accepted"
        )
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [
            tensors.size(f"{PREFIX}encoder.down.{level}.block.0.conv2.weight", 0) for level in range(levels)
        ],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": tensors.size(f"{PREFIX}encoder.conv_in.weight", 1),
        "latent_channels": tensors.size(f"{PREFIX}decoder.conv_in.weight", 1),
        "layers_per_block": layers.pop(),
        "norm_num_groups": 32,
        "out_channels": tensors.size(f"{PREFIX}decoder.conv_out.weight", 0),
        "sample_size": latents * 2 ** (levels - 1),
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": "post_quant_conv" in paths,
        "use_quant_conv": "quant_conv" in paths,
    }
