"""diffusers on PyTorch, eager; also the modules that other peers export."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.image import GUIDANCE, PROMPT, SEED
from benchmarks.peers.step import Step, timed
from benchmarks.workload import Arrays, Workload

#: Stable Diffusion 1.5's scheduler_config.json, without the noise schedule.
_DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


class UNet(torch.nn.Module):
    """A UNet of tensors only: (sample, timestep, states) -> noise."""

    def __init__(self, workload: Workload, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = UNet2DConditionModel.from_pretrained(workload.checkpoint / "unet", torch_dtype=dtype).eval()

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Predict the noise."""
        noise: torch.Tensor = self.network(sample, timestep, states, return_dict=False)[0]
        return noise


class Decoder(torch.nn.Module):
    """An autoencoder's decoder of tensors only: z -> image; the encoder is deleted."""

    def __init__(self, workload: Workload, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = AutoencoderKL.from_pretrained(workload.checkpoint / "vae", torch_dtype=dtype).eval()
        del self.network.encoder

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Decode an image."""
        image: torch.Tensor = self.network.decode(z, return_dict=False)[0]
        return image


MODULES = {"unet": UNet, "vae_decoder": Decoder}


def _pipeline(workload: Workload, dtype: torch.dtype) -> StableDiffusionPipeline:
    folder = workload.checkpoint
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=dtype),
        tokenizer=CLIPTokenizer(
            str(folder / "tokenizer/vocab.json"), str(folder / "tokenizer/merges.txt"), model_max_length=77
        ),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler", **_DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load(workload: Workload, *, dtype: str, channels_last: bool = False) -> Step:
    """Load the network, or for txt2img the pipeline, in ``dtype``."""
    torch.set_grad_enabled(False)
    kind = getattr(torch, dtype)
    if workload.network == "txt2img":
        pipeline = _pipeline(workload, kind)

        def generate(inputs: Arrays) -> NDArray[np.uint8]:
            (image,) = pipeline(
                PROMPT,
                width=workload.width,
                height=workload.height,
                num_inference_steps=workload.steps,
                guidance_scale=GUIDANCE,
                generator=torch.Generator("cpu").manual_seed(SEED),
            ).images
            return np.asarray(image)

        return timed(generate)
    module: Any = MODULES[workload.network](workload, kind)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=layout)

    def run(inputs: Arrays) -> NDArray[np.float32]:
        # The timestep stays in fp32: bf16 has no 601.
        tensors = [
            torch.from_numpy(a) if name == "timestep" else torch.from_numpy(a).to(kind) for name, a in inputs.items()
        ]
        tensors = [t.contiguous(memory_format=layout) if t.ndim == 4 else t for t in tensors]
        output: NDArray[np.float32] = module(*tensors).float().numpy()
        return output

    return timed(run)
