"""A UNet's shape: what its config.json says, checked, in the order the graph needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.errors import CheckpointError

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
#: Middle block -> whether it has transformer blocks; None is no middle at all (BK-SDM small and tiny).
_MIDDLES = {"UNetMidBlock2DCrossAttn": True, "UNetMidBlock2D": False, None: False}
#: Settings that change the graph and that no Stable Diffusion uses; each with the value it must have.
_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}


@dataclass(frozen=True)
class Level:
    """One resolution: ``down`` and ``up`` say for each resnet how many transformer blocks follow it."""

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
    """What the graph of a UNet (or a ControlNet, which has no way up) depends on.

    middle: transformer blocks of the middle; 0 where its one resnet stands alone; None where there is no middle.
    guidance_width: the width of the guidance scale's embedding (LCM); None where guidance is no input.
    addition: SDXL's further conditions; None for the others.
    """

    in_channels: int
    context_width: int
    groups: int
    epsilon: float
    levels: tuple[Level, ...]
    middle: int | None
    flip_sin_to_cos: bool
    frequency_shift: float
    guidance_width: int | None
    addition: Addition | None

    @property
    def scale_factor(self) -> int:
        """How much smaller the lowest level is than the latents."""
        return int(2 ** (len(self.levels) - 1))


def expect(where: str, config: dict[str, Any], name: str, accepted: tuple[Any, ...], default: Any = None) -> None:
    """Raise CheckpointError unless ``config`` has one of the accepted values under ``name``."""
    found = config.get(name, default)
    if found not in accepted:
        words = " or ".join(repr(a) for a in accepted)
        raise CheckpointError(f"{where} has {name} = {found!r}; this converter knows {words}")


def _per_level(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * levels


def _depths(where: str, kinds: list[str], known: tuple[str, str], layers: list[int], depth: list[Any]) -> list[Any]:
    found = []
    for kind, count, blocks in zip(kinds, layers, depth, strict=True):
        if kind not in known:
            raise CheckpointError(f"{where} has a {kind}; this converter knows {' and '.join(known)}")
        each = _per_level(blocks, count) if kind == known[0] else [0] * count
        if len(each) != count:
            raise CheckpointError(f"{where} gives {len(each)} transformer depths for {count} layers")
        found.append(tuple(int(n) for n in each))
    return found


def _addition(where: str, config: dict[str, Any], text_width: int) -> Addition | None:
    expect(where, config, "addition_embed_type", (None, "text_time"))
    if config.get("addition_embed_type") is None:
        return None
    id_width = int(config["addition_time_embed_dim"])
    rest = int(config["projection_class_embeddings_input_dim"]) - text_width
    if rest <= 0 or rest % id_width:
        raise CheckpointError(
            f"{where} has projection_class_embeddings_input_dim = {rest + text_width}, which is not {text_width} (the "
            f"pooled text) and a multiple of {id_width} (addition_time_embed_dim)"
        )
    return Addition(rest // id_width, id_width, text_width)


def unet_shape(config: dict[str, Any], where: str = "unet/config.json", *, pooled_width: int = 1280) -> UNetShape:
    """The shape of a UNet2DConditionModel's or ControlNetModel's configuration.

    ``pooled_width`` is the width of SDXL's pooled text (OpenCLIP bigG's 1280). Raises CheckpointError naming the
    setting that this converter does not know, and what it knows.
    """
    for name, value in _FIXED.items():
        expect(where, config, name, (value,), value)
    expect(where, config, "mid_block_type", tuple(_MIDDLES), "UNetMidBlock2DCrossAttn")
    widths = [int(w) for w in config["block_out_channels"]]
    count = len(widths)
    layers = [int(n) for n in _per_level(config.get("layers_per_block", 2), count)]
    depth = _per_level(config.get("transformer_layers_per_block", 1), count)
    heads = [int(n) for n in _per_level(config.get("attention_head_dim", 8), count)]
    context = _per_level(config.get("cross_attention_dim", 1280), count)
    if len(set(context)) != 1:
        raise CheckpointError(f"{where} has cross_attention_dim = {context}; this converter knows one for all levels")
    down = _depths(where, config["down_block_types"], _DOWN, layers, depth)
    up: list[Any] = [()] * count
    if "up_block_types" in config:
        turned = config.get("reverse_transformer_layers_per_block") or depth[::-1]
        up = _depths(where, config["up_block_types"], _UP, [n + 1 for n in layers[::-1]], turned)[::-1]
    kind = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    deepest = depth[-1][0] if isinstance(depth[-1], list | tuple) else depth[-1]
    return UNetShape(
        in_channels=int(config["in_channels"]),
        context_width=int(context[0]),
        groups=int(config.get("norm_num_groups", 32)),
        epsilon=float(config.get("norm_eps", 1e-5)),
        levels=tuple(Level(w, h, d, u) for w, h, d, u in zip(widths, heads, down, up, strict=True)),
        middle=None if kind is None else int(deepest) * _MIDDLES[kind],
        flip_sin_to_cos=bool(config.get("flip_sin_to_cos", True)),
        frequency_shift=float(config.get("freq_shift", 0)),
        guidance_width=config.get("time_cond_proj_dim"),
        addition=_addition(where, config, pooled_width),
    )
