"""Tiny ControlNets with random weights, for a UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from tests.support.checkpoints import save_published


def tiny_controlnet(unet: UNet2DConditionModel, seed: int = 0) -> ControlNetModel:
    """Return a ControlNet for ``unet`` whose residuals are about as large as what they are added to."""
    settings: dict[str, Any] = {"conditioning_embedding_out_channels": (8, 8, 16, 16)}
    net = ControlNetModel.from_unet(unet, **settings).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # They begin as zeros.
        for conv in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            conv.weight.normal_(0, conv.weight[0].numel() ** -0.5, generator=generator)
    return net


def write_controlnet(checkpoint: Path, folder: Path, seed: int = 0) -> Path:
    """Write a ControlNet for the checkpoint's UNet into ``folder``, fp16."""
    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet", dtype=torch.float32)
    save_published(tiny_controlnet(unet, seed), folder)
    return folder
