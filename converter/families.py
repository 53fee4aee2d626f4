"""What a model family is: which architectures we convert, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.checkpoint import Checkpoint
from converter.errors import CheckpointError

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
#: UNet settings that change the graph and that we do not write; each with the value it must have.
_UNET_FIXED: dict[str, Any] = {
    "addition_embed_type": None,
    "class_embed_type": None,
    "center_input_sample": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_type": "positional",
    "act_fn": "silu",
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Family:
    """A checkpoint's kind and the sizes its networks agree on."""

    name: str
    prediction_type: str
    latent_channels: int
    vae_scale_factor: int
    vae_scaling_factor: float
    tokens: int
    text_width: int
    sample_size: int
    #: Pictures' sides must be multiples of this, so that every level of the UNet halves evenly.
    multiple: int


def _expect(where: str, config: dict[str, Any], name: str, accepted: tuple[Any, ...], default: Any = None) -> None:
    found = config.get(name, default)
    if found not in accepted:
        words = " or ".join(repr(a) for a in accepted)
        raise CheckpointError(f"{where} has {name} = {found!r}; this converter knows {words}")


def recognise(checkpoint: Checkpoint) -> Family:
    """The checkpoint's family; raises CheckpointError saying what was found and what is supported."""
    unet, vae, text = (checkpoint.config(c) for c in ("unet", "vae", "text_encoder"))
    scheduler = checkpoint.config("scheduler")
    _expect("unet/config.json", unet, "_class_name", ("UNet2DConditionModel",), "UNet2DConditionModel")
    _expect("vae/config.json", vae, "_class_name", ("AutoencoderKL",), "AutoencoderKL")
    _expect("text_encoder/config.json", text, "architectures", (["CLIPTextModel"],), ["CLIPTextModel"])
    _expect("text_encoder/config.json", text, "hidden_act", ("quick_gelu", "gelu"), "quick_gelu")
    for name, value in _UNET_FIXED.items():
        _expect("unet/config.json", unet, name, (value,), value)
    for kinds, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
        for kind in unet[kinds]:
            if kind not in known:
                raise CheckpointError(f"unet/config.json has a {kind}; this converter knows {' and '.join(known)}")
    for kinds, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(vae[kinds]) != {kind}:
            raise CheckpointError(f"vae/config.json has {kinds} = {vae[kinds]}; this converter knows {kind} only")
    _expect("unet/config.json", unet, "in_channels", (int(vae["latent_channels"]),))
    _expect("text_encoder/config.json", text, "hidden_size", (int(unet["cross_attention_dim"]),))
    _expect("scheduler/scheduler_config.json", scheduler, "prediction_type", PREDICTIONS, "epsilon")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return Family(
        name="sd1" if text.get("hidden_act", "quick_gelu") == "quick_gelu" else "sd2",
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        latent_channels=int(vae["latent_channels"]),
        vae_scale_factor=factor,
        vae_scaling_factor=float(vae.get("scaling_factor", 0.18215)),
        tokens=int(text["max_position_embeddings"]),
        text_width=int(text["hidden_size"]),
        sample_size=int(unet["sample_size"]),
        multiple=factor * 2 ** (len(unet["block_out_channels"]) - 1),
    )
