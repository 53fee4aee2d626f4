"""What a model family is: which architectures we convert, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.errors import CheckpointError
from converter.networks.unet_shape import UNetShape, expect, unet_shape
from converter.source import Source

PREDICTIONS = ("epsilon", "v_prediction", "sample")
_TEXT = ("CLIPTextModel", "CLIPTextModelWithProjection")
_ACTIVATIONS = ("quick_gelu", "gelu")
_AUTOENCODER = ("vae_decoder", "vae_encoder")
#: Channels a UNet takes beside the noisy latents: none, or the mask and the masked picture's latents (inpainting).
_INPAINTING = 1


@dataclass(frozen=True)
class Family:
    """A checkpoint's kind and the sizes its networks agree on.

    name: sd1 and sd2 differ in their text encoder; sdxl has two; sdxl_refiner only the second.
    inpainting: whether the UNet also takes a mask and the masked picture.
    """

    name: str
    text_encoders: tuple[str, ...]
    unet: UNetShape
    inpainting: bool
    prediction_type: str
    latent_channels: int
    vae_scale_factor: int
    vae_scaling_factor: float
    tokens: int
    sample_size: int

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of a model folder, in the order they are written."""
        return (*self.text_encoders, "unet", *_AUTOENCODER)

    @property
    def multiple(self) -> int:
        """Pictures' sides must be multiples of this."""
        return self.vae_scale_factor


def _autoencoder(vae: dict[str, Any]) -> None:
    expect("vae/config.json", vae, "_class_name", ("AutoencoderKL",), "AutoencoderKL")
    for kinds, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(vae[kinds]) != {kind}:
            raise CheckpointError(f"vae/config.json has {kinds} = {vae[kinds]}; this converter knows {kind} only")


def _text_encoders(checkpoint: Source) -> tuple[dict[str, dict[str, Any]], int]:
    """The text encoders' configurations, and the width of their states side by side."""
    names = [n for n in ("text_encoder", "text_encoder_2") if checkpoint.has(n)]
    if not names:
        raise CheckpointError(f"{checkpoint.name} has no text encoder")
    configs = {name: checkpoint.config(name) for name in names}
    for name, config in configs.items():
        where = f"{name}/config.json"
        expect(where, config, "architectures", tuple([kind] for kind in _TEXT), [_TEXT[0]])
        expect(where, config, "hidden_act", _ACTIVATIONS, "quick_gelu")
    return configs, sum(int(c["hidden_size"]) for c in configs.values())


def _name(unet: UNetShape, text: dict[str, dict[str, Any]]) -> str:
    if unet.addition is not None:
        return "sdxl" if "text_encoder" in text else "sdxl_refiner"
    return "sd1" if text["text_encoder"].get("hidden_act", "quick_gelu") == "quick_gelu" else "sd2"


def recognise(checkpoint: Source, vae: dict[str, Any] | None = None) -> Family:
    """The checkpoint's family; raises CheckpointError saying what was found and what is supported.

    ``vae`` is the configuration of an autoencoder that replaces the checkpoint's; None takes its own.
    """
    unet, scheduler = checkpoint.config("unet"), checkpoint.config("scheduler")
    vae = checkpoint.config("vae") if vae is None else vae
    expect("unet/config.json", unet, "_class_name", ("UNet2DConditionModel",), "UNet2DConditionModel")
    _autoencoder(vae)
    text, width = _text_encoders(checkpoint)
    last = text[next(reversed(text))]
    shape = unet_shape(unet, pooled_width=int(last.get("projection_dim", last["hidden_size"])))
    if (shape.addition is None) != (len(text) == 1 and "text_encoder" in text):
        raise CheckpointError(
            f"{checkpoint.name} has {' and '.join(text)} and a UNet whose addition_embed_type is "
            f"{unet.get('addition_embed_type')!r}; one text encoder goes with None, SDXL's two (or the refiner's "
            "text_encoder_2 alone) with 'text_time'"
        )
    if width != shape.context_width:
        raise CheckpointError(
            f"unet/config.json has cross_attention_dim = {shape.context_width}, but the states of "
            f"{' and '.join(text)} are {width} wide"
        )
    latents = int(vae["latent_channels"])
    accepted = (latents, 2 * latents + _INPAINTING)
    expect("unet/config.json", unet, "in_channels", accepted)
    expect("scheduler/scheduler_config.json", scheduler, "prediction_type", PREDICTIONS, "epsilon")
    return Family(
        name=_name(shape, text),
        text_encoders=tuple(text),
        unet=shape,
        inpainting=shape.in_channels != latents,
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        latent_channels=latents,
        vae_scale_factor=2 ** (len(vae["block_out_channels"]) - 1),
        vae_scaling_factor=float(vae.get("scaling_factor", 0.18215)),
        tokens=int(last["max_position_embeddings"]),
        sample_size=int(unet["sample_size"]),
    )


_CONTROLNET = "the ControlNet's config.json"


def controlnet_shape(config: dict[str, Any], family: Family) -> UNetShape:
    """The shape of a ControlNet (diffusers' ControlNetModel) for the family's UNet.

    Raises CheckpointError where it is no ControlNet we convert or belongs to another UNet.
    """
    expect(_CONTROLNET, config, "_class_name", ("ControlNetModel",), "ControlNetModel")
    for name, value in (("conditioning_channels", 3), ("global_pool_conditions", False)):
        expect(_CONTROLNET, config, name, (value,), value)
    expect(_CONTROLNET, config, "controlnet_conditioning_channel_order", ("rgb",), "rgb")
    unet = family.unet
    shape = unet_shape(config, _CONTROLNET, pooled_width=unet.addition.text_width if unet.addition else 0)

    def told(shape: UNetShape) -> dict[str, Any]:
        return {
            "cross_attention_dim": shape.context_width,
            "block_out_channels": [level.width for level in shape.levels],
            "layers_per_block": [len(level.down) for level in shape.levels],
            "addition_embed_type": None if shape.addition is None else "text_time",
        }

    for (name, own), theirs in zip(told(shape).items(), told(unet).values(), strict=True):
        if own != theirs:
            raise CheckpointError(
                f"{_CONTROLNET} has {name} = {own}, but the UNet has {theirs}: it is a ControlNet of another family"
            )
    return shape
