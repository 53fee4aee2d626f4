"""Checks what the LoRA does: images of held-out prompts without and with it, judged by pixels.

    python -m demo.check_lora --prompts 12 --sheet sheet.png

The LoRA is fused into the UNet of diffusers' pipeline: the check needs nothing of the server's.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage

from demo.check import judge, prompts
from demo.scenes import Scene
from demo.train import HERE
from demo.train_lora import NAME

#: The columns of a sheet.
SHOWN = 4


@torch.no_grad()
def fuse(unet: UNet2DConditionModel, file: Path, weight: float = 1.0) -> None:
    """Add a LoRA with kohya's names to the UNet's weights."""
    tensors = load_file(file)
    layers = {f"lora_unet_{name.replace('.', '_')}": layer for name, layer in unet.named_modules()}
    for name in {tensor.partition(".")[0] for tensor in tensors}:
        down, up = (tensors[f"{name}.lora_{part}.weight"].float() for part in ("down", "up"))
        scale = weight * tensors[f"{name}.alpha"].item() / len(down)
        changed = layers[name].weight
        changed += scale * (up.flatten(1) @ down.flatten(1)).view(changed.shape)


def colorful(count: int, seed: int) -> list[tuple[str, Scene]]:
    """Return ``count`` held-out prompts of one thing with their scenes: nothing is black, as a board is, or white."""
    pairs = [
        (text, scene)
        for text, scene in prompts(40 * count, seed)
        if len(scene.things) == 1 and not {"black", "white"} & {scene.ground, scene.things[0].color}
    ]
    return pairs[:count]


def chalked(pixels: NDArray[np.uint8]) -> bool:
    """Return whether most of the border of what is not the board is nearly white."""
    thing = ndimage.binary_fill_holes(pixels.max(axis=-1) > 110)
    border = thing & ~ndimage.binary_erosion(thing, iterations=4)
    return bool(border.any() and (pixels[border].min(axis=-1) > 130).mean() > 0.5)


def main() -> None:
    """Generate and judge the images, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the checkpoint (demo/model)")
    parser.add_argument("--lora", type=Path, default=HERE / "loras" / f"{NAME}.safetensors")
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--sheet", type=Path, help="write some images without the LoRA, and with it below")
    args = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for kind in ("without", "with"):
        if kind == "with":
            fuse(pipeline.unet, args.lora, args.weight)
        right: Counter[str] = Counter()
        images = []
        for seed, (prompt, scene) in enumerate(colorful(args.prompts, args.seed)):
            made = pipeline(
                prompt,
                num_inference_steps=args.steps,
                guidance_scale=3.0,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            )
            images.append((made.images[0] * 255).round().astype(np.uint8))
            marks = judge(replace(scene, ground="black"), images[-1])
            marks = {"board": marks.pop("ground"), "chalk": chalked(images[-1]), **marks}
            right.update(name for name, good in marks.items() if good)
            print(kind, prompt, *(name for name, good in marks.items() if good), sep=" | ", flush=True)
        names = ("board", "chalk", "color", "shape", "place")
        print(kind, *(f"{name} {right[name]}/{args.prompts}" for name in names), flush=True)
        rows.append(np.concatenate(images[:SHOWN], axis=1))
    if args.sheet:
        Image.fromarray(np.concatenate(rows)).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
