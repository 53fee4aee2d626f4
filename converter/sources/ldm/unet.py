"""Read the UNet of a single file (CompVis' and Stability's openaimodel.UNetModel) as diffusers' UNet2DConditionModel.

The original has one list of blocks, input_blocks.0 to output_blocks.11; diffusers has a list per resolution. A
downsampler or upsampler ends a resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.errors import CheckpointError
from converter.sources.entry import Part
from converter.sources.ldm.names import beneath, count, module_paths, renamed_parts
from converter.sources.tensors import Tensors

PREFIX = "model.diffusion_model."
_WHERE = "the UNet"
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
#: Stable Diffusion 1 has 8 heads at every width; the others have heads of width 64.
_SD1_HEADS = 8
_HEAD_WIDTH = 64
#: Width in which SDXL embeds each of its sizes and crops (sgm's ConcatTimestepEmbedderND).
_SIZE_WIDTH = 256

Depth = int | list[int]


@dataclass(frozen=True)
class _Level:
    """One resolution: the first resnet's path, and the number of transformer blocks after each resnet."""

    resnet: str
    depths: tuple[int, ...]


@dataclass(frozen=True)
class UNetLayout:
    """A UNet's structure, read from its tensors' names.

    modules: original module path -> diffusers' path.
    down, up: the levels, both from the largest image to the smallest.
    middle: number of transformer blocks in the middle; 0 if it is one resnet alone; None without a middle.
    """

    modules: dict[str, str]
    down: tuple[_Level, ...]
    up: tuple[_Level, ...]
    middle: int | None


def _resnet(path: str, name: str) -> dict[str, str]:
    return {f"{path}.{old}": f"{name}.{new}" for old, new in RESNET.items()}


def _middle(paths: set[str], modules: dict[str, str]) -> int | None:
    if "middle_block" not in paths:
        return None
    modules |= _resnet("middle_block.0", "mid_block.resnets.0")
    modules["middle_block.1"] = "mid_block.attentions.0"
    modules |= _resnet("middle_block.2", "mid_block.resnets.1")
    return count(paths, "middle_block.1.transformer_blocks")


def _levels(paths: set[str], modules: dict[str, str], blocks: str, names: str, first: int) -> tuple[_Level, ...]:
    """Return the levels of one side in the file's order; a downsampler or upsampler ends a level."""
    levels: list[_Level] = []
    resnet = ""
    depths: list[int] = []
    for index in range(first, count(paths, blocks)):
        path, name = f"{blocks}.{index}", f"{names}.{len(levels)}"
        if f"{path}.0.in_layers" in paths:
            resnet = resnet or f"{path}.0"
            modules |= _resnet(f"{path}.0", f"{name}.resnets.{len(depths)}")
            depth = count(paths, f"{path}.1.transformer_blocks")
            if depth:
                modules[f"{path}.1"] = f"{name}.attentions.{len(depths)}"
            depths.append(depth)
        # On the way up, the upsampler follows the transformer if there is one.
        resizers = {f"{path}.0.op": "downsamplers", f"{path}.1.conv": "upsamplers", f"{path}.2.conv": "upsamplers"}
        for resizer in (module for module in resizers if module in paths):
            modules[resizer] = f"{name}.{resizers[resizer]}.0.conv"
            levels.append(_Level(resnet, tuple(depths)))
            resnet, depths = "", []
    return (*levels, _Level(resnet, tuple(depths)))


def unet_layout(tensors: Tensors) -> UNetLayout:
    """Return the structure of a single file's UNet; raises CheckpointError if diffusers' UNet cannot have it."""
    paths = module_paths(beneath(tensors, PREFIX))
    modules = dict(ENDS)
    down = _levels(paths, modules, "input_blocks", "down_blocks", 1)
    middle = _middle(paths, modules)
    up = _levels(paths, modules, "output_blocks", "up_blocks", 0)[::-1]
    if [len(level.depths) + 1 for level in down] != [len(level.depths) for level in up]:
        raise CheckpointError(
            f"{_WHERE} has {[len(level.depths) for level in down]} resnets on its way down and "
            f"{[len(level.depths) for level in up[::-1]]} up; each level must have one more up than down"
        )
    for level in (*down, *up):
        if any(level.depths) and not all(level.depths):
            raise CheckpointError(
                f"{_WHERE} has transformers after only some resnets of one level ({PREFIX}{level.resnet}); after all or none "
                "is accepted"
            )
    return UNetLayout(modules, down, up, middle)


def unet_parts(tensors: Tensors, layout: UNetLayout) -> dict[str, Part]:
    """Return diffusers name -> part, for all tensors of the UNet."""
    return renamed_parts(_WHERE, tensors, PREFIX, layout.modules)


def _depth(level: _Level) -> Depth | None:
    if not any(level.depths):
        return None
    return level.depths[0] if len(set(level.depths)) == 1 else list(level.depths)


def _transformer_depths(layout: UNetLayout) -> dict[str, Any]:
    """Return transformer_layers_per_block, and its reverse if the way up differs from the way down.

    The numbers of levels without transformers do not matter, except the last, which is the middle's too.
    """
    down, up = [_depth(level) for level in layout.down], [_depth(level) for level in layout.up]
    if down[-1] is None:
        down[-1] = up[-1] or layout.middle or None
    elif layout.middle and layout.middle != down[-1]:
        raise CheckpointError(
            f"{_WHERE} has {layout.middle} transformer blocks in the middle and {down[-1]} at its lowest level; "
            "the same number in both is accepted"
        )
    differ = any(a is not None and b is not None and a != b for a, b in zip(down, up, strict=True))
    both = down if differ else [b if a is None else a for a, b in zip(down, up, strict=True)]
    known = [depth for depth in both if depth is not None]
    if not differ and all(isinstance(depth, int) and depth == known[0] for depth in known):
        return {"transformer_layers_per_block": known[0] if known else 1}
    filled: dict[str, Any] = {"transformer_layers_per_block": [d or 1 for d in both]}
    if differ or any(isinstance(depth, list) for depth in both):
        filled["reverse_transformer_layers_per_block"] = [d or 1 for d in up[::-1]]
    return filled


def _kinds(levels: tuple[_Level, ...], kind: str) -> list[str]:
    return [f"CrossAttn{kind}" if any(level.depths) else kind for level in levels]


def _context(tensors: Tensors, layout: UNetLayout) -> tuple[int, bool]:
    """Return the text states' width, and whether transformers begin with a linear layer (not a 1x1 convolution)."""
    entries = [PREFIX + path for path in layout.modules if f"{PREFIX}{path}.proj_in.weight" in tensors]
    if not entries:
        raise CheckpointError(
            f"{_WHERE} has no transformers, so it takes no text; a UNet with cross attention is accepted"
        )
    width = tensors.size(f"{entries[0]}.transformer_blocks.0.attn2.to_k.weight", 1)
    return width, len(tensors.shape(f"{entries[0]}.proj_in.weight")) == 2


def unet_config(tensors: Tensors, layout: UNetLayout, *, eight_heads: bool, sample_size: int) -> dict[str, Any]:
    """Return the UNet's config.json in diffusers' form.

    ``eight_heads`` (Stable Diffusion 1) and ``sample_size`` (a side in latents) do not show in the tensors.
    """
    widths = [tensors.size(f"{PREFIX}{level.resnet}.out_layers.3.weight", 0) for level in layout.down]
    layers = [len(level.depths) for level in layout.down]
    context, linear = _context(tensors, layout)
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": _SD1_HEADS if eight_heads else [width // _HEAD_WIDTH for width in widths],
        "block_out_channels": widths,
        "center_input_sample": False,
        "cross_attention_dim": context,
        "down_block_types": _kinds(layout.down, "DownBlock2D"),
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": tensors.size(f"{PREFIX}input_blocks.0.0.weight", 1),
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "mid_block_scale_factor": 1,
        "mid_block_type": None
        if layout.middle is None
        else "UNetMidBlock2DCrossAttn"
        if layout.middle
        else "UNetMidBlock2D",
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": tensors.size(f"{PREFIX}out.2.weight", 0),
        "sample_size": sample_size,
        "up_block_types": _kinds(layout.up[::-1], "UpBlock2D"),
        "use_linear_projection": linear,
        **_transformer_depths(layout),
    }
    if f"{PREFIX}label_emb.0.0.weight" in tensors:
        config["addition_embed_type"] = "text_time"
        config["addition_embed_type_num_heads"] = 64
        config["addition_time_embed_dim"] = _SIZE_WIDTH
        config["projection_class_embeddings_input_dim"] = tensors.size(f"{PREFIX}label_emb.0.0.weight", 1)
    return config
