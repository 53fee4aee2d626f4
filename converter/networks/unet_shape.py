"""Read a UNet's shape from its config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.errors import CheckpointError
from converter.sources.config_tables import UNET
from converter.sources.configs import Table, read_config

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
#: Middle block -> whether it has transformer blocks; None: the UNet has no middle (BK-SDM small and tiny).
_MIDDLES = {"UNetMidBlock2DCrossAttn": True, "UNetMidBlock2D": False, None: False}


@dataclass(frozen=True)
class Level:
    """One resolution. down, up: the number of transformer blocks after each resnet."""

    width: int
    heads: int
    down: tuple[int, ...]
    up: tuple[int, ...]


@dataclass(frozen=True)
class Addition:
    """SDXL's further conditions: ``ids`` numbers (sizes and crops), each embedded in ``id_width``, and pooled text."""

    ids: int
    id_width: int
    text_width: int


@dataclass(frozen=True)
class UNetShape:
    """The settings that the graph of a UNet (or of a ControlNet, which has no way up) depends on.

    middle: number of transformer blocks in the middle; 0 if it is one resnet alone; None without a middle.
    out_channels: channels of the prediction; 0 for a ControlNet.
    condition_widths: widths of a ControlNet's condition embedding; empty for a UNet.
    guidance_width: width of the guidance scale's embedding (LCM); None if guidance is not an input.
    addition: SDXL's further conditions; None for other models.
    """

    in_channels: int
    out_channels: int
    context_width: int
    groups: int
    epsilon: float
    levels: tuple[Level, ...]
    middle: int | None
    flip_sin_to_cos: bool
    frequency_shift: float
    condition_widths: tuple[int, ...]
    guidance_width: int | None
    addition: Addition | None

    @property
    def time_width(self) -> int:
        """The width of the time embedding."""
        return 4 * self.levels[0].width

    @property
    def scale_factor(self) -> int:
        """The size of the latents divided by the lowest level's, along one side."""
        return int(2 ** (len(self.levels) - 1))


def _per_level(where: str, name: str, value: Any, levels: int) -> list[Any]:
    values = list(value) if isinstance(value, list | tuple) else [value] * levels
    if len(values) != levels:
        raise CheckpointError(
            f"{where} has {name} = {value!r}; one number, or one for each of the {levels}, is accepted"
        )
    return values


def _depths(where: str, kinds: list[str], accepted: tuple[str, str], layers: list[int], depth: list[Any]) -> list[Any]:
    depths = []
    for kind, count, blocks in zip(kinds, layers, depth, strict=True):
        if kind not in accepted:
            raise CheckpointError(f"{where} has a {kind}; accepted: {' and '.join(accepted)}")
        each = _per_level(where, "transformer_layers_per_block", blocks, count) if kind == accepted[0] else [0] * count
        depths.append(tuple(each))
    return depths


def _addition(where: str, config: dict[str, Any], text_width: int) -> Addition | None:
    if config["addition_embed_type"] is None:
        return None
    id_width, inner = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    if id_width is None or inner is None:
        raise CheckpointError(
            f"{where} has addition_embed_type = 'text_time', which needs addition_time_embed_dim and "
            "projection_class_embeddings_input_dim as numbers"
        )
    rest = inner - text_width
    if rest <= 0 or rest % id_width:
        raise CheckpointError(
            f"{where} has projection_class_embeddings_input_dim = {rest + text_width}, which is not {text_width} (the "
            f"pooled text) and a multiple of {id_width} (addition_time_embed_dim)"
        )
    return Addition(rest // id_width, id_width, text_width)


def unet_shape(
    config: dict[str, Any], where: str = "unet/config.json", *, pooled_width: int = 1280, table: Table = UNET
) -> UNetShape:
    """Return the shape of a UNet2DConditionModel's configuration, or with ``table`` CONTROLNET of a ControlNetModel's.

    ``pooled_width`` is the width of SDXL's pooled text (OpenCLIP bigG's 1280). Raises CheckpointError naming the
    unsupported setting and what is accepted.
    """
    config = read_config(where, config, table)
    widths = config["block_out_channels"]
    count = len(widths)

    def each(name: str) -> list[Any]:
        return _per_level(where, name, config[name], count)

    layers, depth, heads, context = map(
        each, ("layers_per_block", "transformer_layers_per_block", "attention_head_dim", "cross_attention_dim")
    )
    if len(set(context)) != 1:
        raise CheckpointError(f"{where} has cross_attention_dim = {context}; the same for all levels is accepted")
    groups = config["norm_num_groups"]
    if wrong := [width for width in widths if width % groups]:
        raise CheckpointError(f"{where} has norm_num_groups = {groups}, which does not divide {wrong[0]} channels")
    if wrong := [(w, h) for w, h in zip(widths, heads, strict=True) if w % h]:
        raise CheckpointError(
            f"{where} has attention_head_dim = {wrong[0][1]} heads, which do not divide {wrong[0][0]}"
        )
    shift, embedded = config["freq_shift"], [widths[0], config["addition_time_embed_dim"] or widths[0]]
    if wrong := [width for width in embedded if width % 2 or width // 2 <= shift]:
        raise CheckpointError(
            f"{where} has freq_shift = {shift} and embeds its timesteps in {wrong[0]} channels; an even number whose half is "
            "greater than the shift is accepted"
        )
    for name in ("down_block_types", "up_block_types"):
        if name in config and len(config[name]) != count:
            raise CheckpointError(f"{where} has {len(config[name])} {name} for {count} block_out_channels")
    down = _depths(where, config["down_block_types"], _DOWN, layers, depth)
    up: list[Any] = [()] * count
    if "up_block_types" in config:
        up_depth = config["reverse_transformer_layers_per_block"] or depth[::-1]
        up_depth = _per_level(where, "reverse_transformer_layers_per_block", up_depth, count)
        up = _depths(where, config["up_block_types"], _UP, [n + 1 for n in layers[::-1]], up_depth)[::-1]
    kind = config["mid_block_type"]
    deepest = depth[-1][0] if isinstance(depth[-1], list | tuple) else depth[-1]
    return UNetShape(
        in_channels=config["in_channels"],
        out_channels=config.get("out_channels", 0),
        context_width=context[0],
        groups=groups,
        epsilon=float(config["norm_eps"]),
        levels=tuple(Level(w, h, d, u) for w, h, d, u in zip(widths, heads, down, up, strict=True)),
        middle=None if kind is None else deepest * _MIDDLES[kind],
        flip_sin_to_cos=config["flip_sin_to_cos"],
        frequency_shift=float(config["freq_shift"]),
        condition_widths=tuple(config.get("conditioning_embedding_out_channels", ())),
        guidance_width=config.get("time_cond_proj_dim"),
        addition=_addition(where, config, pooled_width),
    )
