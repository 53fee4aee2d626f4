"""What a model family is: which architectures we convert, checked before anything is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from converter.errors import CheckpointError, quoted
from converter.families.schedule import read_schedule
from converter.folder import SchedulerSettings
from converter.networks.unet_shape import UNetShape, unet_shape
from converter.sources.config_tables import CONTROLNET, SCHEDULER, TEXT_ENCODER, UNET, VAE
from converter.sources.configs import Config, expect, is_projected, not_followed, read_config
from converter.sources.source import Source

_SCHEDULER = "scheduler/scheduler_config.json"
_AUTOENCODER = ("vae_decoder", "vae_encoder")
#: Channels a UNet takes beside the noisy latents: none, or the mask and the masked picture's latents (inpainting).
_INPAINTING = 1
#: Pipelines whose images follow from the networks and the scheduler alone; the sampler's own ways are each request's.
_PIPELINES = re.compile(
    r"(StableDiffusion(XL)?(KDiffusion|ControlNet|LongPromptWeighting)?|LatentConsistencyModel)"
    r"(Img2Img|Inpaint)?Pipeline(Legacy|Safe)?"
)
#: The classes of a pipeline's parts. That of the scheduler is read with its configuration.
_PARTS = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}


@dataclass(frozen=True)
class Family:
    """A checkpoint's kind and the sizes its networks agree on.

    name: sd1 and sd2 differ in their text encoder; sdxl has two; sdxl_refiner only the second.
    inpainting: whether the UNet also takes a mask and the masked image.
    schedule: the noise it was trained on.
    sample_size: (height, width) of the latents it was trained at; None where its UNet does not say.
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
        """The networks of a model folder, in the order they are written."""
        return (*self.text_encoders, "unet", *_AUTOENCODER)

    @property
    def multiple(self) -> int:
        """Pictures' sides must be multiples of this."""
        return self.vae_scale_factor


def vae_config(given: Config) -> Config:
    """An autoencoder's configuration with its defaults; raises CheckpointError where it is another kind of network."""
    where = "vae/config.json"
    expect(where, given, "_class_name", ("AutoencoderKL",), "AutoencoderKL")
    config = read_config(where, given, VAE)
    for kinds, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(config[kinds]) != {kind} or len(config[kinds]) != len(config["block_out_channels"]):
            raise CheckpointError(
                f"{where} has {kinds} = {config[kinds]} for {len(config['block_out_channels'])} block_out_channels; this "
                f"converter knows {kind} only, one for each"
            )
    groups = config["norm_num_groups"]
    if wrong := [width for width in config["block_out_channels"] if width % groups]:
        raise CheckpointError(f"{where} has norm_num_groups = {groups}, which does not divide {wrong[0]} channels")
    return config


def text_encoder_config(name: str, given: Config) -> Config:
    """A text encoder's configuration with its defaults; raises CheckpointError where it is no CLIP text encoder."""
    where = f"{name}/config.json"
    config = read_config(where, given, TEXT_ENCODER)
    if config["hidden_size"] % config["num_attention_heads"]:
        raise CheckpointError(
            f"{where} has num_attention_heads = {config['num_attention_heads']}, which does not divide hidden_size = "
            f"{config['hidden_size']}"
        )
    if config["eos_token_id"] >= config["vocab_size"]:
        raise CheckpointError(
            f"{where} has eos_token_id = {config['eos_token_id']} in a vocabulary of {config['vocab_size']}"
        )
    return config


def _text_encoders(checkpoint: Source) -> dict[str, Config]:
    names = [n for n in ("text_encoder", "text_encoder_2") if checkpoint.has(n)]
    if not names:
        raise CheckpointError(f"{checkpoint.name} has no text encoder")
    return {name: text_encoder_config(name, checkpoint.config(name)) for name in names}


def _name(unet: UNetShape, text: dict[str, Config]) -> str:
    if unet.addition is not None:
        return "sdxl" if "text_encoder" in text else "sdxl_refiner"
    return "sd1" if text["text_encoder"]["hidden_act"] == "quick_gelu" else "sd2"


def _side(given: Any) -> tuple[int, int] | None:
    return None if given is None else (given, given) if isinstance(given, int) else (given[0], given[1])


def _expect_pipeline(checkpoint: Source) -> None:
    """Raise CheckpointError where model_index.json names a pipeline or a component of a class other than Stable Diffusion's."""
    pipeline = checkpoint.index.get("_class_name")
    if pipeline is not None and not (isinstance(pipeline, str) and _PIPELINES.fullmatch(pipeline)):
        raise CheckpointError(
            f"model_index.json is of {quoted(pipeline)}, whose images are made in another way than those of "
            "StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline and their Img2Img, Inpaint "
            "and ControlNet forms, which this converter knows"
        )
    for part, kind in checkpoint.part_classes.items():
        accepted = _PARTS.get(part.removesuffix("_2"))
        if accepted is not None and kind not in accepted:
            raise CheckpointError(
                f"model_index.json has {quoted(kind)} for {part}; this converter knows {' and '.join(accepted)}"
            )


def recognise(checkpoint: Source, vae: Config | None = None) -> Family:
    """The checkpoint's family; raises CheckpointError saying what was found and what is supported.

    ``vae`` is the configuration of an autoencoder that replaces the checkpoint's; None takes its own.
    """
    _expect_pipeline(checkpoint)
    given = checkpoint.config("unet")
    expect("unet/config.json", given, "_class_name", ("UNet2DConditionModel",), "UNet2DConditionModel")
    schedule, prediction_type = read_schedule(_SCHEDULER, checkpoint.config("scheduler"))
    autoencoder = vae_config(checkpoint.config("vae") if vae is None else vae)
    text = _text_encoders(checkpoint)
    last = text[next(reversed(text))]
    shape = unet_shape(given, pooled_width=last["projection_dim"])
    if (shape.addition is None) != (len(text) == 1 and "text_encoder" in text):
        raise CheckpointError(
            f"{checkpoint.name} has {' and '.join(text)} and a UNet whose addition_embed_type is "
            f"{given.get('addition_embed_type')!r}; one text encoder goes with None, SDXL's two (or the refiner's "
            "text_encoder_2 alone) with 'text_time'"
        )
    if shape.addition is not None and not is_projected(last):
        raise CheckpointError(
            f"text_encoder_2/config.json has architectures = {last['architectures']}; SDXL's second text encoder is a "
            "CLIPTextModelWithProjection"
        )
    width = sum(config["hidden_size"] for config in text.values())
    if width != shape.context_width:
        raise CheckpointError(
            f"unet/config.json has cross_attention_dim = {shape.context_width}, but the states of "
            f"{' and '.join(text)} are {width} wide"
        )
    latents = autoencoder["latent_channels"]
    unet = read_config("unet/config.json", given, UNET)
    expect("unet/config.json", unet, "in_channels", (latents, 2 * latents + _INPAINTING))
    expect("unet/config.json", unet, "out_channels", (latents,))
    return Family(
        name=_name(shape, text),
        text_encoders=tuple(text),
        unet=shape,
        inpainting=shape.in_channels != latents,
        prediction_type=prediction_type,
        schedule=schedule,
        latent_channels=latents,
        vae_scale_factor=2 ** (len(autoencoder["block_out_channels"]) - 1),
        vae_scaling_factor=float(autoencoder["scaling_factor"]),
        tokens=last["max_position_embeddings"],
        sample_size=_side(unet["sample_size"]),
    )


def settings_not_followed(checkpoint: Source) -> list[str]:
    """What the checkpoint's configurations say that is not followed though their library might, in sentences."""
    tables = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER}
    found = not_followed(_SCHEDULER, checkpoint.config("scheduler"), SCHEDULER)
    for component, table in tables.items():
        if checkpoint.has(component):
            found += not_followed(f"{component}/config.json", checkpoint.config(component), table)
    return found


_CONTROLNET = "the ControlNet's config.json"


def controlnet_shape(config: dict[str, Any], family: Family) -> UNetShape:
    """The shape of a ControlNet (diffusers' ControlNetModel) for the family's UNet.

    Raises CheckpointError where it is no ControlNet we convert or belongs to another UNet.
    """
    expect(_CONTROLNET, config, "_class_name", ("ControlNetModel",), "ControlNetModel")
    unet = family.unet
    width = unet.addition.text_width if unet.addition else 0
    shape = unet_shape(config, _CONTROLNET, pooled_width=width, table=CONTROLNET)

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
