"""Checks what the embedding says: images of its word at held-out places and grounds, judged by pixels.

    python -m demo.check_embedding --prompts 12 --sheet sheet.png

Each prompt is made twice, with the placeholders' own vectors, which say nothing, and with the embedding's. It is read by the
text encoder of diffusers' pipeline: the check needs nothing of the server's.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from demo.check import judge
from demo.scenes import Scene, random_scene
from demo.train import HERE
from demo.train_embedding import NAME, PLACEHOLDERS, SUN, Embedding

#: The columns of a sheet.
SHOWN = 4


def scenes(count: int, seed: int) -> list[Scene]:
    """Return ``count`` scenes of a sun alone in different places on different plain grounds."""
    rng = np.random.default_rng(seed)
    chosen: list[Scene] = []
    while len(chosen) < count:
        scene = random_scene(rng, two=0)
        if scene.ground != SUN.color:
            chosen.append(Scene((replace(SUN, place=scene.things[0].place),), scene.ground))
    return chosen


def prompt_of(scene: Scene) -> str:
    """Return a prompt of the placeholders at the thing's place on the scene's ground."""
    place = scene.things[0].place
    where = {"top": "at the top", "bottom": "at the bottom", "left": "on the left", "right": "on the right"}
    return f"a {' '.join(PLACEHOLDERS)} {where.get(place, f'in the {place}')} on a {scene.ground} background"


def generate(pipeline: StableDiffusionPipeline, chosen: list[Scene], steps: int) -> list[NDArray[np.uint8]]:
    """Return an image of each scene's prompt, the first from seed 0, the next from 1, and so on."""
    images = []
    for seed, scene in enumerate(chosen):
        made = pipeline(
            prompt_of(scene),
            num_inference_steps=steps,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        )
        images.append((made.images[0] * 255).round().astype(np.uint8))
    return images


def main() -> None:
    """Generate and judge the images, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the checkpoint (demo/model)")
    parser.add_argument("--embedding", type=Path, default=HERE / "embeddings" / f"{NAME}.safetensors")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--sheet", type=Path, help="write some images without the embedding, and with it below")
    args = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    embedding = Embedding(pipeline.text_encoder, pipeline.tokenizer)
    chosen = scenes(args.prompts, args.seed)
    rows = []
    for kind in ("without", "with"):
        if kind == "with":
            embedding.vectors.data = load_file(args.embedding)["emb_params"].float()
        images = generate(pipeline, chosen, args.steps)
        right: Counter[str] = Counter()
        for scene, pixels in zip(chosen, images, strict=True):
            marks = judge(scene, pixels)
            right.update(name for name, good in marks.items() if good)
            wrong = [name for name, good in marks.items() if not good]
            print(kind, prompt_of(scene), f"-- wrong: {', '.join(wrong)}" if wrong else "", flush=True)
        print(
            kind, *(f"{name} {right[name]}/{len(chosen)}" for name in ("color", "shape", "place", "ground")), flush=True
        )
        rows.append(np.concatenate(images[:SHOWN], axis=1))
    if args.sheet:
        Image.fromarray(np.concatenate(rows)).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
