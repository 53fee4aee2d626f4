"""References of the networks: diffusers' and transformers' modules, run with a package's input and output names.

Those of upscalers are our own. PyTorch takes a second to import, diffusers and transformers four, so they are imported inside the functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from converter.networks.features import IMAGE, RESIDUAL, skipping
from converter.networks.prompt import Transformer, transformers
from converter.networks.unet_shape import unet_shape
from converter.sources.configs import Config

if TYPE_CHECKING:
    import torch

Arrays: TypeAlias = "dict[str, torch.Tensor]"
Make: TypeAlias = "Callable[[Config, Collection[str]], torch.nn.Module]"


@dataclass(frozen=True)
class Reference:
    """The functions that make and run a network's original module.

    make: (a published config.json, names of a package's outputs) -> the module.
    run: (the module, a package's inputs in fp32) -> its outputs.
    """

    make: Make
    run: Callable[[Any, Arrays], Arrays]


def diffusers_module(name: str) -> Make:
    """Return a function that makes a module of this diffusers class."""

    def make(config: Config, outputs: Collection[str]) -> torch.nn.Module:
        import diffusers

        kind = getattr(diffusers, name)
        # Saved configurations also have derived values, which the constructor does not take.
        accepted = inspect.signature(kind.__init__).parameters
        module: torch.nn.Module = kind(**{name: value for name, value in config.items() if name in accepted})
        return module

    return make


def _make_clip(config: Config) -> torch.nn.Module:
    import transformers

    kind = (config.get("architectures") or ["CLIPTextModel"])[0]
    module: torch.nn.Module = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
    return module


def _make_text_encoder(config: Config, outputs: Collection[str]) -> torch.nn.Module:
    """Make a text encoder; without pooled outputs it has no last layer and norm, which many SDXL files lack."""
    if "pooled_outputs" in outputs:
        return _make_clip(config)
    import torch

    class WithoutLastLayer(torch.nn.Module):
        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.text_model = encoder
            encoder.final_layer_norm = torch.nn.Identity()

        def forward(self, *args: Any, **options: Any) -> Any:
            states = self.text_model(*args, **options)
            states.hidden_states = (*states.hidden_states, None)
            return states

    return WithoutLastLayer(_make_clip(config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))


def _make_safety_checker(config: Config, outputs: Collection[str]) -> torch.nn.Module:
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    module: torch.nn.Module = StableDiffusionSafetyChecker(transformers.CLIPConfig(**config))
    return module


def _make_upscaler(config: Config, outputs: Collection[str]) -> torch.nn.Module:
    from converter.networks.upscaler_modules import upscaler_module

    return upscaler_module(config)


def _text_encoder(module: Any, inputs: Arrays) -> Arrays:
    states = module(inputs["input_ids"].long(), output_hidden_states=True)
    outputs = {
        "last_hidden_state": states.last_hidden_state,
        "pooled_outputs": states.text_embeds if hasattr(states, "text_embeds") else states.pooler_output,
    }
    before_last = states.hidden_states[:-1]
    encoder = getattr(module, "text_model", module)
    for skipped, hidden in enumerate(reversed(before_last), 1):
        outputs[skipping("hidden_embeds", skipped)] = hidden
        outputs[skipping("last_hidden_state", skipped + 1)] = encoder.final_layer_norm(hidden)
    return outputs


def _denoise(module: Any, inputs: Arrays, **more: Any) -> Any:
    """Run a UNet or a ControlNet; both take the same inputs."""
    context = inputs.pop("encoder_hidden_states")[:, :, 0].transpose(1, 2)
    added = {name: inputs.pop(name) for name in ("time_ids", "text_embeds") if name in inputs}
    sample, timestep = inputs.pop("sample"), inputs.pop("timestep")
    return module(sample, timestep, context, added_cond_kwargs=added, **inputs, **more)


def _transformers(module: Any, inputs: Arrays) -> list[Transformer]:
    config = dict(module.config)
    pooled = inputs["text_embeds"].shape[1] if "text_embeds" in inputs else config["cross_attention_dim"]
    return transformers(unet_shape(config, pooled_width=pooled))


def _slices(joined: torch.Tensor, transformer: Transformer, side: str) -> list[torch.Tensor]:
    """Return the keys or values of each block, [B, K, C], from one of a UNet's inputs."""
    channels_last = side == "keys" and joined.shape[3] == transformer.blocks * transformer.width
    rows = joined[:, :, 0] if channels_last else joined[:, :, 0].transpose(1, 2)
    return [rows[:, :, begin : begin + transformer.width] for begin in range(0, rows.shape[2], transformer.width)]


@contextmanager
def _replaced_keys_and_values(module: Any, inputs: Arrays) -> Iterator[None]:
    """Make the module's cross attention use the keys and values in ``inputs`` instead of projecting its states."""
    handles = []
    for number, transformer in enumerate(_transformers(module, inputs)):
        for side, layer in (("keys", "to_k"), ("values", "to_v")):
            projections = _slices(inputs.pop(f"{side}_{number}"), transformer, side)
            for path, projected in zip(transformer.cross_attentions(), projections, strict=True):
                linear = module.get_submodule(f"{path}.{layer}")
                handles.append(linear.register_forward_hook(lambda *_, projected=projected: projected))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _attention_to_image(module: Any, inputs: Arrays) -> Iterator[None]:
    """Make the module attend to the image's keys and values in ``inputs``, with diffusers' processor for IP-Adapters."""
    import torch
    from diffusers.models.attention_processor import IPAdapterAttnProcessor

    before = module.attn_processors
    processors = dict(before)
    for number, transformer in enumerate(_transformers(module, inputs)):
        sides = [_slices(inputs.pop(f"{IMAGE}{side}_{number}"), transformer, side) for side in ("keys", "values")]
        for path, keys, values in zip(transformer.cross_attentions(), *sides, strict=True):
            processor = IPAdapterAttnProcessor(transformer.width, transformer.width, num_tokens=(keys.shape[1],))
            for layer, given in ((processor.to_k_ip[0], keys), (processor.to_v_ip[0], values)):
                layer.forward = lambda _, given=given: given
            processors[f"{path}.processor"] = processor
    module.set_attn_processor(processors)
    # The processors take the text's states and a list with the image's, whose values they ignore here.
    handle = module.register_forward_pre_hook(
        lambda _, args: (*args[:2], (args[2], [torch.empty(0)]), *args[3:]),
    )
    try:
        yield
    finally:
        handle.remove()
        module.set_attn_processor(before)


def _unet(module: Any, inputs: Arrays) -> Arrays:
    residuals = [inputs.pop(f"{RESIDUAL}{i}") for i in range(sum(name.startswith(RESIDUAL) for name in inputs))]
    more = {}
    if residuals:
        *down, middle = residuals
        more = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
    with ExitStack() as stack:
        if f"{IMAGE}keys_0" in inputs:
            stack.enter_context(_attention_to_image(module, inputs))
        if "keys_0" in inputs:
            stack.enter_context(_replaced_keys_and_values(module, inputs))
            width = module.config.cross_attention_dim
            inputs["encoder_hidden_states"] = inputs["sample"].new_zeros(inputs["sample"].shape[0], width, 1, 1)
        return {"noise_pred": _denoise(module, inputs, **more).sample}


def _unet_prompt(module: Any, inputs: Arrays) -> Arrays:
    states = inputs["encoder_hidden_states"][:, :, 0].transpose(1, 2)
    return _keys_and_values(
        _transformers(module, inputs), lambda path, layer: module.get_submodule(f"{path}.{layer}")(states)
    )


def _keys_and_values(
    transformers: list[Transformer], project: Callable[[str, str], torch.Tensor], prefix: str = ""
) -> Arrays:
    """Return keys [B, K, 1, C] and values [B, C, 1, K], each transformer's blocks side by side.

    ``project`` maps a cross attention's path, and to_k or to_v, to its keys or values [B, K, C].
    """
    import torch

    outputs = {}
    for number, transformer in enumerate(transformers):
        for side, layer in (("keys", "to_k"), ("values", "to_v")):
            rows = [project(path, layer) for path in transformer.cross_attentions()]
            outputs[f"{prefix}{side}_{number}"] = torch.cat(rows, 2)[:, :, None]
        outputs[f"{prefix}values_{number}"] = outputs[f"{prefix}values_{number}"].permute(0, 3, 2, 1)
    return outputs


def _make_image_encoder(config: Config, outputs: Collection[str]) -> torch.nn.Module:
    import transformers

    # The tower casts the image to the type that its configuration names, and the weights are read in fp32.
    settings = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
    module: torch.nn.Module = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**settings))
    return module


def _image_encoder(module: Any, inputs: Arrays) -> Arrays:
    outputs = module(inputs["pixel_values"], output_hidden_states=True)
    return {
        "image_embeds": outputs.image_embeds[:, :, None, None],
        "image_states": outputs.hidden_states[-2].transpose(1, 2)[:, :, None],
    }


def _make_ip_adapter(config: Config, outputs: Collection[str]) -> torch.nn.Module:
    """Make the image's projection with diffusers' class, and a layer for each key and value in diffusers' numbering."""
    import torch
    from diffusers.models import embeddings

    arguments = {name: value for name, value in config.items() if name not in ("_class_name", "states", "unet_config")}
    unet: Any = diffusers_module("UNet2DConditionModel")(config["unet_config"], outputs)
    crosses = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    module: Any = torch.nn.Module()
    module.config, module.numbers = config["unet_config"], {path: str(2 * i + 1) for i, path in enumerate(crosses)}
    module.image_proj = getattr(embeddings, config["_class_name"])(**arguments)
    module.ip_adapter = torch.nn.ModuleDict()
    for path, number in module.numbers.items():
        like = unet.get_submodule(f"{path}.to_k")
        sides = {f"to_{side}_ip": torch.nn.Linear(like.in_features, like.out_features, bias=False) for side in "kv"}
        module.ip_adapter[number] = torch.nn.ModuleDict(sides)
    return module  # type: ignore[no-any-return]


def _ip_adapter(module: Any, inputs: Arrays) -> Arrays:
    features = inputs["image_features"]
    tokens = module.image_proj(features[:, :, 0].transpose(1, 2) if features.shape[3] > 1 else features[:, :, 0, 0])

    def project(path: str, layer: str) -> torch.Tensor:
        projected: torch.Tensor = module.ip_adapter[module.numbers[path]][f"{layer}_ip"](tokens)
        return projected

    return _keys_and_values(_transformers(module, inputs), project, IMAGE)


def _controlnet(module: Any, inputs: Arrays) -> Arrays:
    outputs = _denoise(module, inputs)
    residuals = [*outputs.down_block_res_samples, outputs.mid_block_res_sample]
    return {f"{RESIDUAL}{index}": residual for index, residual in enumerate(residuals)}


def _vae_encoder(module: Any, inputs: Arrays) -> Arrays:
    moments = module.encoder(inputs["x"])
    return {"latent": module.quant_conv(moments) if module.quant_conv is not None else moments}


def _decoder(module: Any, inputs: Arrays) -> Arrays:
    return {"image": module.decode(inputs["z"]).sample}


def _safety_checker(module: Any, inputs: Arrays) -> Arrays:
    """Return the scores of StableDiffusionSafetyChecker.forward before rounding; the 0.01 is from there."""
    import torch

    embedding = module.visual_projection(module.vision_model(inputs["clip_input"])[1])

    def margins(concepts: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(embedding) @ torch.nn.functional.normalize(concepts).T - thresholds

    cares = margins(module.special_care_embeds, module.special_care_embeds_weights) + inputs["adjustment"]
    scores = margins(module.concept_embeds, module.concept_embeds_weights)
    scores = scores + 0.01 * (cares.round(decimals=3) > 0).any()
    unsafe = (scores.round(decimals=3) > 0).any().float()
    return {
        "filtered_images": inputs["images"] * (1 - unsafe),
        "has_nsfw_concepts": unsafe.reshape(1, 1, 1, 1),
        "concept_scores": scores,
    }


def _upscaler(module: Any, inputs: Arrays) -> Arrays:
    return {"enlarged": module(inputs["pixels"])}


TEXT_ENCODER = Reference(_make_text_encoder, _text_encoder)
UNET = Reference(diffusers_module("UNet2DConditionModel"), _unet)
UNET_PROMPT = Reference(diffusers_module("UNet2DConditionModel"), _unet_prompt)
CONTROLNET = Reference(diffusers_module("ControlNetModel"), _controlnet)
IMAGE_ENCODER = Reference(_make_image_encoder, _image_encoder)
IP_ADAPTER = Reference(_make_ip_adapter, _ip_adapter)
VAE_DECODER = Reference(diffusers_module("AutoencoderKL"), _decoder)
VAE_ENCODER = Reference(diffusers_module("AutoencoderKL"), _vae_encoder)
PREVIEW_DECODER = Reference(diffusers_module("AutoencoderTiny"), _decoder)
SAFETY_CHECKER = Reference(_make_safety_checker, _safety_checker)
UPSCALER = Reference(_make_upscaler, _upscaler)
