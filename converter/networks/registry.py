"""The registry of network kinds: the component, variants, writer and reference of each.

To add a network, write a module with its MIL and its reference (those of diffusers are in `converter.networks.references`)
and its entry here. New names of inputs and outputs go to `converter.networks.features`, a component that no other network is
made from to `converter.sources.component_kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from converter.errors import AnemoneError, quoted
from converter.mil import Graph, Target, Unwritten, Weights
from converter.networks import references
from converter.networks.clip import text_encoder, text_encoder_config
from converter.networks.controlnet import controlnet, controlnet_shape
from converter.networks.layers import Attention, Layers
from converter.networks.prompt import unet_prompt
from converter.networks.references import Reference
from converter.networks.safety_checker import safety_checker
from converter.networks.taesd import taesd_decoder
from converter.networks.unet import unet
from converter.networks.unet_shape import unet_shape
from converter.networks.vae import vae_config, vae_decoder, vae_encoder
from converter.sources import component_kinds as components
from converter.sources.component_kinds import ComponentKind
from converter.sources.configs import Config
from converter.sources.tensors import Tensors


@dataclass(frozen=True)
class Variant:
    """One form of a network that shares the others' weights.

    width, height: the images' size in pixels.
    batch: rows at once.
    tokens: how long the prompt's states are.
    control: whether it takes a ControlNet's residuals.
    projected: whether it takes the prompt's keys and values, not its states.
    """

    width: int
    height: int
    batch: int
    tokens: int
    attention: Attention
    control: bool = False
    projected: bool = False


@dataclass(frozen=True)
class ModelSizes:
    """What a network's program depends on beside its own configuration.

    latent_factor: how many pixels a latent is a side.
    pooled_width: the width of the pooled text state that the denoiser takes; 0 where it takes none.
    penultimate: whether the text encoders give the states before their last layer.
    """

    latent_factor: int
    pooled_width: int
    penultimate: bool


Write = Callable[[Layers, Config, ModelSizes, Variant], None]


@dataclass(frozen=True)
class NetworkKind:
    """A kind of network.

    name: what it is called in a model folder.
    component: what it is made from; vae_decoder and vae_encoder are made from the same.
    about: what its packages say of it.
    write: adds its program to the layers' graph.
    reference: what it is verified against.
    marking_input: an input by which it is told from another network's package in its place.
    read_config: a component's name and its config.json -> the configuration that ``write`` takes; raises CheckpointError.
    per_size: whether it has a program for each size of images.
    per_prompt: whether it has a program for each batch and each length of prompts.
    prefers_gpu: whether it runs on the GPU where the other networks run on the Neural Engine. Apple's Swift pipelines do
        so with the autoencoder (ml-stable-diffusion, StableDiffusionPipeline+Resources.swift): what it makes is seen, and
        the GPU is the nearer to fp32.
    resource: what Apple's Swift package calls the compiled model; None where it has none.
    named: how the packages' file names begin where a model may have several networks of the kind, each with a name of its
        own (controlnet/canny); None where it has one.
    takes_residuals: whether it has further programs for a model with ControlNets.
    prompt_network: the kind that projects its prompts once, where that is wanted.
    """

    name: str
    component: ComponentKind
    about: str
    write: Write
    reference: Reference
    marking_input: str
    read_config: Callable[[str, Config], Config] = lambda component, given: given
    per_size: bool = True
    per_prompt: bool = False
    prefers_gpu: bool = False
    resource: str | None = None
    named: str | None = None
    takes_residuals: bool = False
    prompt_network: NetworkKind | None = None


def _write_text_encoder(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    text_encoder(layers, config, penultimate=model.penultimate)


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
    )


def _write_unet_prompt(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    shape = unet_shape(config, pooled_width=model.pooled_width)
    unet_prompt(layers, shape, batch=variant.batch, tokens=variant.tokens)


def _write_controlnet(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
    shape = controlnet_shape(config, model.pooled_width)
    controlnet(layers, shape, batch=variant.batch, tokens=variant.tokens, **_latents(model, variant))


def _image_writer(write: Callable[..., None]) -> Write:
    def of_size(layers: Layers, config: Config, model: ModelSizes, variant: Variant) -> None:
        write(layers, config, height=variant.height, width=variant.width)

    return of_size


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
)
UNET_PROMPT = NetworkKind(
    "unet_prompt",
    components.UNET,
    "What the UNet of Stable Diffusion looks at in a prompt",
    _write_unet_prompt,
    references.UNET_PROMPT,
    "encoder_hidden_states",
    per_size=False,
    per_prompt=True,
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
    prompt_network=UNET_PROMPT,
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
)
#: Every kind of network that a model folder may have; which it has depends on its family and the conversion's options.
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
)
_BY_NAME = {kind.name: kind for kind in KINDS}


class NetworkError(AnemoneError):
    """A name is not a network's."""


def kind_of(network: str) -> NetworkKind:
    """Return the kind of the network that a model folder calls so: unet, or controlnet/canny, of which it has several."""
    kind = _BY_NAME.get(network.partition("/")[0])
    if kind is None:
        raise NetworkError(f"there is no network {quoted(network)}; accepted: {', '.join(_BY_NAME)}")
    return kind


def component_name(network: str) -> str:
    """Return the name of the component that a network is made from."""
    kind = kind_of(network)
    return network if kind.named else kind.component.name


def text_encoders(networks: Iterable[str]) -> dict[str, str]:
    """Return those of the networks that read text, each with its tokenizer's folder."""
    found = {network: kind_of(network).component.tokenizer for network in networks}
    return {network: tokenizer for network, tokenizer in found.items() if tokenizer is not None}


def write_graph(
    network: str,
    tensors: Tensors,
    config: Config,
    model: ModelSizes,
    variant: Variant,
    weights: Weights,
    target: Target,
) -> Graph:
    """Write the network's program in one variant; its weights go to ``weights`` where they are not there yet."""
    graph = Graph(weights, target)
    kind_of(network).write(Layers(graph, tensors, variant.attention), config, model, variant)
    return graph


def tensors_taken(
    network: str, tensors: Tensors, config: Config, model: ModelSizes, variant: Variant, target: Target
) -> frozenset[str]:
    """Return the tensors that a network takes. Raises CheckpointError where one is missing.

    Its program is built once without writing a weight, so the answer is the writer's own.
    """
    names: set[str] = set()
    write_graph(network, tensors.noting(names), config, model, variant, Unwritten(), target)
    return frozenset(names)
