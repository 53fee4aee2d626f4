"""The registry of network kinds: the component, variants, writer and reference of each.

To add a network, write a module with its MIL, add its reference to `converter.networks.references` and its entry here.
Add new names of inputs and outputs to `converter.networks.features`, and a new component to
`converter.sources.component_kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from converter.errors import AnemoneError, quoted
from converter.mil import Graph, Target, Unwritten, Weights
from converter.networks import references
from converter.networks.clip import text_encoder, text_encoder_config
from converter.networks.clip_vision import image_encoder, image_encoder_config
from converter.networks.controlnet import controlnet, controlnet_shape
from converter.networks.ip_adapter import ip_adapter
from converter.networks.layers import Attention, Layers
from converter.networks.prompt import unet_prompt
from converter.networks.references import Reference
from converter.networks.safety_checker import safety_checker
from converter.networks.taesd import taesd_decoder
from converter.networks.unet import unet
from converter.networks.unet_shape import unet_shape
from converter.networks.upscaler import upscaler
from converter.networks.vae import vae_config, vae_decoder, vae_encoder
from converter.sources import component_kinds as components
from converter.sources.component_kinds import ComponentKind
from converter.sources.configs import Config
from converter.sources.tensors import Tensors
from converter.weights.encodings import UNCOMPRESSED, Encodings


@dataclass(frozen=True)
class Variant:
    """One form of a network that shares the others' weights.

    width, height: the images' size in pixels.
    batch: rows at once.
    tokens: length of the prompt's states.
    control: whether the UNet takes a ControlNet's residuals.
    projected: whether the UNet takes the prompt's keys and values instead of its states.
    image_tokens: how many tokens of an IP-Adapter's image the UNet takes; 0 for none.
    clip_skip: the largest clip skip that the text encoders have outputs for.
    """

    width: int
    height: int
    batch: int
    tokens: int
    attention: Attention
    control: bool = False
    projected: bool = False
    image_tokens: int = 0
    clip_skip: int = 1


@dataclass(frozen=True)
class ModelSizes:
    """Sizes that a network's program depends on besides its own configuration.

    latent_factor: pixels per latent, along one side.
    pooled_width: the width of the pooled text state that the denoiser takes; 0 if it takes none.
    penultimate: whether the text encoders give the states before their last layer.
    """

    latent_factor: int
    pooled_width: int
    penultimate: bool


Write = Callable[[Layers, Config, ModelSizes, Variant], None]


@dataclass(frozen=True)
class NetworkKind:
    """A kind of network.

    name: its name in a model folder.
    component: the component that holds its weights; vae_decoder and vae_encoder share one.
    about: the description in its packages.
    write: adds its program to the layers' graph.
    reference: the original network that it is verified against.
    marking_input: an input that no other network's package has in its place.
    read_config: (a component's name, its config.json) -> the configuration that ``write`` takes; raises CheckpointError.
    per_size: whether each image size has a program.
    per_prompt: whether each batch and prompt length has a program.
    prefers_gpu: whether it runs on the GPU when the other networks run on the Neural Engine. Apple's Swift pipelines do
        so with the autoencoder (ml-stable-diffusion, StableDiffusionPipeline+Resources.swift): its errors are visible in
        the image, and the GPU is nearer to fp32.
    resource: the compiled model's name in Apple's Swift package; None if that has no such model.
    named: prefix of the packages' file names if a model may have several networks of the kind, each with its own name
        (controlnet/canny); None if it has one.
    takes_residuals: whether a model with ControlNets has further programs of it.
    takes_images: whether a model with IP-Adapters has further programs of it.
    compressible: whether its weights are compressed where a conversion asks for that. The autoencoder's are not: they are
        small, and their errors are visible in the image. Apple's converter compresses the same networks.
    prompt_network: the kind that projects its prompts once, if the conversion asks for that.
    chunked: whether it is cut, if the conversion asks for chunks. Apple's converter cuts the UNet alone, and its Swift
        package loads chunks of no other network.
    """

    name: str
    component: ComponentKind
    about: str
    write: Write
    reference: Reference
    marking_input: str
    read_config: Callable[[str, Config], Config] = lambda component, config: config
    per_size: bool = True
    per_prompt: bool = False
    prefers_gpu: bool = False
    resource: str | None = None
    named: str | None = None
    takes_residuals: bool = False
    takes_images: bool = False
    compressible: bool = False
    prompt_network: NetworkKind | None = None
    chunked: bool = False


def _write_text_encoder(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    text_encoder(layers, config, penultimate=model.penultimate, clip_skip=variant.clip_skip)


def _latents(model: ModelSizes, variant: Variant) -> dict[str, int]:
    return {"height": variant.height // model.latent_factor, "width": variant.width // model.latent_factor}


def _write_unet(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    unet(
        layers,
        unet_shape(config, pooled_width=model.pooled_width),
        batch=variant.batch,
        tokens=variant.tokens,
        **_latents(model, variant),
        control=variant.control,
        projected=variant.projected,
        image_tokens=variant.image_tokens,
    )


def _write_unet_prompt(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    shape = unet_shape(config, pooled_width=model.pooled_width)
    unet_prompt(layers, shape, batch=variant.batch, tokens=variant.tokens)


def _write_controlnet(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    shape = controlnet_shape(config, model.pooled_width)
    controlnet(layers, shape, batch=variant.batch, tokens=variant.tokens, **_latents(model, variant))


def _write_image_encoder(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    image_encoder(layers, config)


def _write_ip_adapter(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    ip_adapter(layers, config, unet_shape(config["unet_config"], pooled_width=model.pooled_width))


def _image_writer(write: Callable[..., None]) -> Write:
    def write_size(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
        write(layers, config, height=variant.height, width=variant.width)

    return write_size


TEXT_ENCODER = NetworkKind(
    "text_encoder",
    components.TEXT_ENCODER,
    "CLIP text encoder of Stable Diffusion",
    _write_text_encoder,
    references.TEXT_ENCODER,
    "input_ids",
    text_encoder_config,
    per_size=False,
    resource="TextEncoder",
    compressible=True,
)
TEXT_ENCODER_2 = NetworkKind(
    "text_encoder_2",
    components.TEXT_ENCODER_2,
    "Second CLIP text encoder of Stable Diffusion XL",
    _write_text_encoder,
    references.TEXT_ENCODER,
    "input_ids",
    text_encoder_config,
    per_size=False,
    resource="TextEncoder2",
    compressible=True,
)
UNET_PROMPT = NetworkKind(
    "unet_prompt",
    components.UNET,
    "Keys and values of a prompt for the UNet of Stable Diffusion",
    _write_unet_prompt,
    references.UNET_PROMPT,
    "encoder_hidden_states",
    per_size=False,
    per_prompt=True,
    compressible=True,
)
UNET = NetworkKind(
    "unet",
    components.UNET,
    "Denoising UNet of Stable Diffusion",
    _write_unet,
    references.UNET,
    "sample",
    per_prompt=True,
    resource="Unet",
    takes_residuals=True,
    takes_images=True,
    compressible=True,
    prompt_network=UNET_PROMPT,
    chunked=True,
)
VAE_DECODER = NetworkKind(
    "vae_decoder",
    components.VAE,
    "Autoencoder of Stable Diffusion: latents to an image",
    _image_writer(vae_decoder),
    references.VAE_DECODER,
    "z",
    vae_config,
    prefers_gpu=True,
    resource="VAEDecoder",
)
VAE_ENCODER = NetworkKind(
    "vae_encoder",
    components.VAE,
    "Autoencoder of Stable Diffusion: an image to latents",
    _image_writer(vae_encoder),
    references.VAE_ENCODER,
    "x",
    vae_config,
    prefers_gpu=True,
    resource="VAEEncoder",
)
PREVIEW_DECODER = NetworkKind(
    "preview_decoder",
    components.TINY_VAE,
    "Tiny autoencoder of Stable Diffusion: latents to a preview",
    _image_writer(taesd_decoder),
    references.PREVIEW_DECODER,
    "z",
    prefers_gpu=True,
)
SAFETY_CHECKER = NetworkKind(
    "safety_checker",
    components.SAFETY_CHECKER,
    "Safety checker of Stable Diffusion",
    _image_writer(safety_checker),
    references.SAFETY_CHECKER,
    "clip_input",
    resource="SafetyChecker",
)
CONTROLNET = NetworkKind(
    "controlnet",
    components.CONTROLNET,
    "ControlNet of Stable Diffusion",
    _write_controlnet,
    references.CONTROLNET,
    "controlnet_cond",
    per_prompt=True,
    named="ControlNet",
    compressible=True,
)
#: A network of its own, in no model folder: `converter.upscaler_folder`.
UPSCALER = NetworkKind(
    "upscaler",
    components.UPSCALER,
    "Upscaler of images",
    _image_writer(upscaler),
    references.UPSCALER,
    "pixels",
)
IMAGE_ENCODER = NetworkKind(
    "image_encoder",
    components.IMAGE_ENCODER,
    "CLIP image encoder of IP-Adapters",
    _write_image_encoder,
    references.IMAGE_ENCODER,
    "pixel_values",
    image_encoder_config,
    per_size=False,
)
IP_ADAPTER = NetworkKind(
    "ip_adapter",
    components.IP_ADAPTER,
    "IP-Adapter: keys and values of an image for the UNet of Stable Diffusion",
    _write_ip_adapter,
    references.IP_ADAPTER,
    "image_features",
    per_size=False,
    named="IPAdapter",
)
#: Every network kind that a model folder may have; its family and the conversion's options decide which it has.
KINDS = (
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    UNET,
    UNET_PROMPT,
    VAE_DECODER,
    VAE_ENCODER,
    PREVIEW_DECODER,
    SAFETY_CHECKER,
    CONTROLNET,
    IMAGE_ENCODER,
    IP_ADAPTER,
)
_BY_NAME = {kind.name: kind for kind in (*KINDS, UPSCALER)}


class NetworkError(AnemoneError):
    """A name that is not a network's."""


def kind_of(network: str) -> NetworkKind:
    """Return the kind of a network by its name in a model folder: unet, or controlnet/canny for a named one."""
    kind = _BY_NAME.get(network.partition("/")[0])
    if kind is None:
        raise NetworkError(f"{quoted(network)} is not a network; accepted: {', '.join(_BY_NAME)}")
    return kind


def component_name(network: str) -> str:
    """Return the name of the component that holds a network's weights."""
    kind = kind_of(network)
    return network if kind.named else kind.component.name


def text_encoders(networks: Iterable[str]) -> dict[str, str]:
    """Return those of the networks that read text, in the registry's order, each with its tokenizer's folder.

    Ignores unknown networks, which a later release's model may have.
    """
    tokenizers = {kind.name: kind.component.tokenizer for kind in KINDS}
    names = set(networks)
    return {name: tokenizer for name, tokenizer in tokenizers.items() if tokenizer is not None and name in names}


def write_graph(
    network: str,
    tensors: Tensors,
    config: Config,
    model: ModelSizes,
    variant: Variant,
    weights: Weights,
    target: Target,
    encodings: Encodings = UNCOMPRESSED,
) -> Graph:
    """Write the network's program in one variant; adds its weights to ``weights`` if they are not there yet.

    Raises TargetError if the target's programs cannot store weights in one of the encodings.
    """
    graph = Graph(weights, target)
    kind_of(network).write(Layers(graph, tensors, variant.attention, encodings), config, model, variant)
    return graph


def tensors_taken(
    network: str, tensors: Tensors, config: Config, model: ModelSizes, variant: Variant, target: Target
) -> frozenset[str]:
    """Return the tensors that a network takes. Raises CheckpointError if one is missing.

    Builds the program once without writing weights, so the result is exactly what the writer reads.
    """
    names: set[str] = set()
    write_graph(network, tensors.noting(names), config, model, variant, Unwritten(), target)
    return frozenset(names)
