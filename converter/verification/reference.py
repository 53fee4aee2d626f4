"""What a checkpoint's own networks make of a package's inputs: the reference every package is verified against."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial as bound
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.errors import CheckpointError
from converter.networks.prompt import Transformer, transformers
from converter.networks.unet_shape import unet_shape
from converter.runtime import Feature
from converter.runtime.feature import checked
from converter.sources.canonical import canonical_name
from converter.sources.tensors import Tensors
from converter.verification.streamed import streamed

Given = dict[str, torch.Tensor]
_RESIDUAL = "additional_residual_"


def make_module(network: str, config: dict[str, Any]) -> torch.nn.Module:
    """The module of diffusers or transformers that a network's checkpoint names, with its settings."""
    # Importing the two takes four seconds; only verification needs them.
    if network.startswith("text_encoder"):
        import transformers

        kind = (config.get("architectures") or ["CLIPTextModel"])[0]
        made: torch.nn.Module = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
        return made
    import diffusers

    if network == "safety_checker":
        import transformers
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

        checker: torch.nn.Module = StableDiffusionSafetyChecker(transformers.CLIPConfig(**config))
        return checker
    kinds: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel,
        "unet_prompt": diffusers.UNet2DConditionModel,
        "vae_decoder": diffusers.AutoencoderKL,
        "vae_encoder": diffusers.AutoencoderKL,
        "preview_decoder": diffusers.AutoencoderTiny,
        "controlnet": diffusers.ControlNetModel,
    }
    kind = kinds[network.partition("/")[0]]
    # Configurations have what a network worked out for itself, too, which its constructor does not take.
    accepted = inspect.signature(kind.__init__).parameters
    found: torch.nn.Module = kind(**{name: value for name, value in config.items() if name in accepted})
    return found


class _Bare(torch.nn.Module):
    """A text encoder without its last layer and norm, which many files of SDXL lack: hidden_embeds alone."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.text_model = encoder
        encoder.final_layer_norm = torch.nn.Identity()

    def forward(self, *args: Any, **options: Any) -> Any:
        found = self.text_model(*args, **options)
        found.hidden_states = (*found.hidden_states, None)
        return found


def _without_last_layer(config: dict[str, Any]) -> torch.nn.Module:
    return _Bare(make_module("text_encoder", config | {"num_hidden_layers": config["num_hidden_layers"] - 1}))


def _text_encoder(module: Any, given: Given) -> Given:
    states = module(given["input_ids"].long(), output_hidden_states=True)
    return {
        "last_hidden_state": states.last_hidden_state,
        "hidden_embeds": states.hidden_states[-2],
        "pooled_outputs": states.text_embeds if hasattr(states, "text_embeds") else states.pooler_output,
    }


def _denoising(module: Any, given: Given, **more: Any) -> Any:
    """A UNet's or ControlNet's output, whose inputs are named alike."""
    context = given.pop("encoder_hidden_states")[:, :, 0].transpose(1, 2)
    added = {name: given.pop(name) for name in ("time_ids", "text_embeds") if name in given}
    sample, timestep = given.pop("sample"), given.pop("timestep")
    return module(sample, timestep, context, added_cond_kwargs=added, **given, **more)


def _crossings(module: Any, given: Given) -> list[Transformer]:
    pooled = given["text_embeds"].shape[1] if "text_embeds" in given else module.config.cross_attention_dim
    return transformers(unet_shape(dict(module.config), pooled_width=pooled))


def _slices(whole: torch.Tensor, transformer: Transformer, side: str) -> list[torch.Tensor]:
    """Keys or values of each block, [B, K, C], from a UNet's input."""
    turned = side == "keys" and whole.shape[3] == transformer.blocks * transformer.width
    rows = whole[:, :, 0] if turned else whole[:, :, 0].transpose(1, 2)
    return list(torch.split(rows, transformer.width, 2))


@contextmanager
def _given_keys_and_values(module: Any, given: Given) -> Iterator[None]:
    """The module's cross attention looks at the keys and values in ``given``, whatever states it gets."""
    handles = []
    for number, transformer in enumerate(_crossings(module, given)):
        for side, layer in (("keys", "to_k"), ("values", "to_v")):
            parts = _slices(given.pop(f"{side}_{number}"), transformer, side)
            for path, part in zip(transformer.crossings(), parts, strict=True):
                projection = module.get_submodule(f"{path}.{layer}")
                handles.append(projection.register_forward_hook(lambda *_, part=part: part))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unet(module: Any, given: Given) -> Given:
    residuals = [given.pop(f"{_RESIDUAL}{i}") for i in range(sum(name.startswith(_RESIDUAL) for name in given))]
    more = {}
    if residuals:
        *down, middle = residuals
        more = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
    if "keys_0" not in given:
        return {"noise_pred": _denoising(module, given, **more).sample}
    with _given_keys_and_values(module, given):
        width = module.config.cross_attention_dim
        given["encoder_hidden_states"] = torch.zeros(given["sample"].shape[0], width, 1, 1)
        return {"noise_pred": _denoising(module, given, **more).sample}


def _unet_prompt(module: Any, given: Given) -> Given:
    """Keys as [B, K, 1, C] and values as [B, C, 1, K], each transformer's blocks side by side."""
    states = given["encoder_hidden_states"][:, :, 0].transpose(1, 2)
    found = {}
    for number, transformer in enumerate(_crossings(module, given)):
        for side, layer in (("keys", "to_k"), ("values", "to_v")):
            rows = [module.get_submodule(f"{path}.{layer}")(states) for path in transformer.crossings()]
            found[f"{side}_{number}"] = torch.cat(rows, 2)[:, :, None]
        found[f"values_{number}"] = found[f"values_{number}"].permute(0, 3, 2, 1)
    return found


def _controlnet(module: Any, given: Given) -> Given:
    found = _denoising(module, given)
    residuals = [*found.down_block_res_samples, found.mid_block_res_sample]
    return {f"{_RESIDUAL}{index}": residual for index, residual in enumerate(residuals)}


def _vae_encoder(module: Any, given: Given) -> Given:
    moments = module.encoder(given["x"])
    return {"latent": module.quant_conv(moments) if module.quant_conv is not None else moments}


def _decoder(module: Any, given: Given) -> Given:
    return {"image": module.decode(given["z"]).sample}


def _safety_checker(module: Any, given: Given) -> Given:
    """Scores as StableDiffusionSafetyChecker.forward has them, before it rounds them; see there for the 0.01."""
    embedding = module.visual_projection(module.vision_model(given["clip_input"])[1])

    def margins(concepts: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(embedding) @ torch.nn.functional.normalize(concepts).T - thresholds

    cares = margins(module.special_care_embeds, module.special_care_embeds_weights) + given["adjustment"]
    scores = margins(module.concept_embeds, module.concept_embeds_weights)
    scores = scores + 0.01 * (cares.round(decimals=3) > 0).any()
    unsafe = (scores.round(decimals=3) > 0).any().float()
    return {
        "filtered_images": given["images"] * (1 - unsafe),
        "has_nsfw_concepts": unsafe.reshape(1, 1, 1, 1),
        "concept_scores": scores,
    }


_RUNS: dict[str, Callable[[Any, Given], Given]] = {
    "text_encoder": _text_encoder,
    "text_encoder_2": _text_encoder,
    "unet": _unet,
    "unet_prompt": _unet_prompt,
    "vae_decoder": _decoder,
    "vae_encoder": _vae_encoder,
    "preview_decoder": _decoder,
    "controlnet": _controlnet,
    "safety_checker": _safety_checker,
}


def _as_declared(array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    """Keys are turned where attention is spelled ``original``; all else has the package's shape already.

    Packages of Apple's converter declare no shapes of outputs.
    """
    return array if feature.shape in ((), array.shape) else array.transpose(0, 3, 2, 1)


class ReferenceNetwork:
    """A network as its makers' libraries run it, in fp32, under a package's input and output names.

    Weights are fetched from the mapped checkpoint layer by layer, so that it needs the memory of its largest layer.
    """

    def __init__(
        self,
        network: str,
        config: dict[str, Any],
        tensors: Tensors,
        inputs: Mapping[str, Feature],
        outputs: Mapping[str, Feature],
    ) -> None:
        """``inputs`` and ``outputs`` are those of the package it stands for."""
        self.inputs, self.outputs = inputs, outputs
        kind = network.partition("/")[0]
        self._network, self._run = network, _RUNS[kind]
        cut = kind.startswith("text_encoder") and "pooled_outputs" not in outputs
        self._module = streamed(
            lambda: _without_last_layer(config) if cut else make_module(network, config),
            tensors,
            bound(canonical_name, kind),
        )

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once. Raises InputError before anything runs, and CheckpointError where the sizes do not fit."""
        given = checked(inputs, self.inputs)
        try:
            found = self._run(self._module, {n: torch.from_numpy(np.asarray(a, np.float32)) for n, a in given.items()})
        except RuntimeError as error:  # PyTorch's, of sizes that do not fit
            raise CheckpointError(
                f"the source's {self._network} cannot be run on what the package takes, so the package is not made of it "
                f"({str(error).strip().splitlines()[0]})"
            ) from error
        return {name: _as_declared(found[name].numpy(), feature) for name, feature in self.outputs.items()}
