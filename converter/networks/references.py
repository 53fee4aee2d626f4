"""References of the networks: diffusers' and transformers' modules, and our own of upscalers, run with a package's input and output names.

PyTorch takes a second to import, diffusers and transformers four, so they are imported inside the functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from converter.networks.features import RESIDUAL
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
    return {
        "last_hidden_state": states.last_hidden_state,
        "hidden_embeds": states.hidden_states[-2],
        "pooled_outputs": states.text_embeds if hasattr(states, "text_embeds") else states.pooler_output,
    }


def _denoise(module: Any, inputs: Arrays, **more: Any) -> Any:
    """Run a UNet or a ControlNet; both take the same inputs."""
    context = inputs.pop("encoder_hidden_states")[:, :, 0].transpose(1, 2)
    added = {name: inputs.pop(name) for name in ("time_ids", "text_embeds") if name in inputs}
    sample, timestep = inputs.pop("sample"), inputs.pop("timestep")
    return module(sample, timestep, context, added_cond_kwargs=added, **inputs, **more)


def _transformers(module: Any, inputs: Arrays) -> list[Transformer]:
    pooled = inputs["text_embeds"].shape[1] if "text_embeds" in inputs else module.config.cross_attention_dim
    return transformers(unet_shape(dict(module.config), pooled_width=pooled))


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


def _unet(module: Any, inputs: Arrays) -> Arrays:
    residuals = [inputs.pop(f"{RESIDUAL}{i}") for i in range(sum(name.startswith(RESIDUAL) for name in inputs))]
    more = {}
    if residuals:
        *down, middle = residuals
        more = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
    if "keys_0" not in inputs:
        return {"noise_pred": _denoise(module, inputs, **more).sample}
    with _replaced_keys_and_values(module, inputs):
        width = module.config.cross_attention_dim
        inputs["encoder_hidden_states"] = inputs["sample"].new_zeros(inputs["sample"].shape[0], width, 1, 1)
        return {"noise_pred": _denoise(module, inputs, **more).sample}


def _unet_prompt(module: Any, inputs: Arrays) -> Arrays:
    """Return keys [B, K, 1, C] and values [B, C, 1, K], each transformer's blocks side by side."""
    import torch

    states = inputs["encoder_hidden_states"][:, :, 0].transpose(1, 2)
    outputs = {}
    for number, transformer in enumerate(_transformers(module, inputs)):
        for side, layer in (("keys", "to_k"), ("values", "to_v")):
            rows = [module.get_submodule(f"{path}.{layer}")(states) for path in transformer.cross_attentions()]
            outputs[f"{side}_{number}"] = torch.cat(rows, 2)[:, :, None]
        outputs[f"values_{number}"] = outputs[f"values_{number}"].permute(0, 3, 2, 1)
    return outputs


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
VAE_DECODER = Reference(diffusers_module("AutoencoderKL"), _decoder)
VAE_ENCODER = Reference(diffusers_module("AutoencoderKL"), _vae_encoder)
PREVIEW_DECODER = Reference(diffusers_module("AutoencoderTiny"), _decoder)
SAFETY_CHECKER = Reference(_make_safety_checker, _safety_checker)
UPSCALER = Reference(_make_upscaler, _upscaler)
