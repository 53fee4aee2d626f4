"""The common part of families with a UNet (diffusers' UNet2DConditionModel) and CLIP text encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from converter.errors import CheckpointError
from converter.families.schedule import read_schedule
from converter.manifest import Conditions, SchedulerSettings
from converter.networks.clip import text_encoder_config
from converter.networks.controlnet import WHERE as CONTROLNET
from converter.networks.controlnet import controlnet_shape
from converter.networks.ip_adapter import cross_attention_numbers
from converter.networks.registry import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE_DECODER, VAE_ENCODER, ModelSizes
from converter.networks.unet_shape import UNetShape, unet_shape
from converter.networks.vae import vae_config
from converter.sources.component_kinds import VAE
from converter.sources.configs import Config, expect, read_config
from converter.sources.ip_adapter import IPAdapterFile
from converter.sources.source import Source

_SCHEDULER = "scheduler/scheduler_config.json"
_UNET = f"{UNET.component.name}/config.json"
#: Channels of the mask, which inpainting UNets take after the noisy latents and before the masked image's latents.
_MASK_CHANNELS = 1
#: SDXL's pipelines replace an empty negative prompt's states by zeros unless model_index.json says otherwise.
_ZEROS = "force_zeros_for_empty_prompt"


@dataclass(frozen=True)
class UNetFamily:
    """A checkpoint whose denoiser is a UNet; see `converter.families.family.Family`.

    inpainting: whether the UNet also takes a mask and the masked image.
    """

    name: str
    text_encoders: tuple[str, ...]
    unet: UNetShape
    inpainting: bool
    prediction_type: str
    schedule: SchedulerSettings
    latent_channels: int
    vae_scale_factor: int
    vae_scaling_factor: float
    tokens: int
    sample_size: tuple[int, int] | None

    @property
    def networks(self) -> tuple[str, ...]:
        """The text encoders, the UNet, the autoencoder's decoder and its encoder."""
        return (*self.text_encoders, UNET.name, VAE_DECODER.name, VAE_ENCODER.name)

    @property
    def sizes(self) -> ModelSizes:
        """The sizes; SDXL's UNet takes pooled text and the text encoders' states before the last layer."""
        addition = self.unet.addition
        return ModelSizes(self.vae_scale_factor, 0 if addition is None else addition.text_width, addition is not None)

    @property
    def takes_guidance(self) -> bool:
        """Return whether the guidance scale is an input, as in LCM's UNets."""
        return self.unet.guidance_width is not None

    def conditions(self, index: Mapping[str, Any]) -> Conditions:
        """Return the UNet's conditions."""
        addition = self.unet.addition
        return Conditions(
            inpainting=self.inpainting,
            guidance_width=self.unet.guidance_width,
            time_ids=None if addition is None else addition.ids,
            zeros_for_no_prompt=addition is not None and bool(index.get(_ZEROS, True)),
            text_width=self.unet.context_width,
        )

    def check_control(self, config: Config) -> None:
        """Raise CheckpointError unless this is the config.json of a supported ControlNet that fits the UNet."""

        def comparable(shape: UNetShape) -> dict[str, Any]:
            return {
                "cross_attention_dim": shape.context_width,
                "block_out_channels": [level.width for level in shape.levels],
                "layers_per_block": [len(level.down) for level in shape.levels],
                "addition_embed_type": None if shape.addition is None else "text_time",
            }

        shape = controlnet_shape(config, self.sizes.pooled_width)
        for (name, value), expected in zip(comparable(shape).items(), comparable(self.unet).values(), strict=True):
            if value != expected:
                raise CheckpointError(
                    f"{CONTROLNET} has {name} = {value}, but the UNet has {expected}: the ControlNet is for another family"
                )

    def check_adapter(self, adapter: IPAdapterFile) -> None:
        """Raise CheckpointError unless the IP-Adapter has as wide tokens and as many cross attentions as the UNet."""
        for name, value, expected in (
            ("cross_attention_dim", adapter.context_width, self.unet.context_width),
            ("a number of cross attentions", adapter.attentions, len(cross_attention_numbers(self.unet))),
        ):
            if value != expected:
                raise CheckpointError(
                    f"{adapter.name} has {name} = {value}, but the UNet has {expected}: the IP-Adapter is for another family"
                )


def has_unet(checkpoint: Source) -> bool:
    """Return whether the checkpoint's denoiser is a UNet."""
    return checkpoint.has(UNET.component.name)


def addition_type(checkpoint: Source) -> object:
    """Return the UNet's addition_embed_type: its conditions besides the prompt's states; None if it has none."""
    return checkpoint.config(UNET.component.name).get("addition_embed_type")


def _text_encoders(checkpoint: Source) -> dict[str, Config]:
    names = [kind.component.name for kind in (TEXT_ENCODER, TEXT_ENCODER_2) if checkpoint.has(kind.component.name)]
    if not names:
        raise CheckpointError(f"{checkpoint.name} has no text encoder")
    return {name: text_encoder_config(name, checkpoint.config(name)) for name in names}


def _height_and_width(size: Any) -> tuple[int, int] | None:
    return None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])


def recognize_unet_family(
    checkpoint: Source, vae: Config | None, name_of: Callable[[dict[str, Config]], str | None]
) -> UNetFamily:
    """Return the checkpoint's family; see `converter.families.family.FamilyModule.recognize`.

    ``name_of`` maps the text encoders' configurations to the model's name, or to None if they are not the family's.
    """
    unet_config = checkpoint.config(UNET.component.name)
    expect(_UNET, unet_config, "_class_name", UNET.component.classes, *UNET.component.classes)
    schedule, prediction_type = read_schedule(_SCHEDULER, checkpoint.config("scheduler"))
    autoencoder = vae_config(VAE.name, checkpoint.config(VAE.name) if vae is None else vae)
    text = _text_encoders(checkpoint)
    last_encoder = text[next(reversed(text))]
    shape = unet_shape(unet_config, pooled_width=last_encoder["projection_dim"])
    name = name_of(text)
    if name is None:
        raise CheckpointError(
            f"{checkpoint.name} has {' and '.join(text)} and a UNet whose addition_embed_type is "
            f"{unet_config.get('addition_embed_type')!r}; accepted: text_encoder alone with None, SDXL's two text encoders "
            "(or the refiner's text_encoder_2 alone) with 'text_time'"
        )
    width = sum(config["hidden_size"] for config in text.values())
    if width != shape.context_width:
        raise CheckpointError(
            f"{_UNET} has cross_attention_dim = {shape.context_width}, but the states of "
            f"{' and '.join(text)} are {width} wide"
        )
    latents = autoencoder["latent_channels"]
    unet = read_config(_UNET, unet_config, UNET.component.keys)
    expect(_UNET, unet, "in_channels", (latents, 2 * latents + _MASK_CHANNELS))
    expect(_UNET, unet, "out_channels", (latents,))
    return UNetFamily(
        name=name,
        text_encoders=tuple(text),
        unet=shape,
        inpainting=shape.in_channels != latents,
        prediction_type=prediction_type,
        schedule=schedule,
        latent_channels=latents,
        vae_scale_factor=2 ** (len(autoencoder["block_out_channels"]) - 1),
        vae_scaling_factor=float(autoencoder["scaling_factor"]),
        tokens=last_encoder["max_position_embeddings"],
        sample_size=_height_and_width(unet["sample_size"]),
    )
