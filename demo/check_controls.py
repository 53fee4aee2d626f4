"""Checks that the model puts things where a control map says, in the map's shape, by our own packages, judged by pixels.

    python -m demo.check_controls --model MODEL_FOLDER --maps 20

Each map, the edges of a held-out thing in white on black, meets three prompts, which never say where it is: one names its
shape, one says "shape", one names another shape.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from converter.folder import ModelFolder
from demo.check import judge
from demo.scenes import SHAPES, Scene, held_out, random_scene
from demo.train_controlnet import control_map
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion


def scenes(count: int, seed: int) -> list[Scene]:
    """Return ``count`` held-out scenes of one thing, which is not in the center: prompts alone would put it there."""
    rng = np.random.default_rng(seed)
    chosen: list[Scene] = []
    while len(chosen) < count:
        scene = random_scene(rng, two=0)
        if held_out(scene) and scene.things[0].place != "center":
            chosen.append(replace(scene, pattern="plain"))
    return chosen


def prompts(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield what a prompt says of the map's shape, and the prompt."""
    (thing,) = scene.things
    another = str(rng.choice([shape for shape in SHAPES if shape != thing.shape]))
    for kind, shape in (("agreeing", thing.shape), ("neutral", "shape"), ("contradicting", another)):
        yield kind, f"a {thing.color} {shape} on a {scene.ground} background"


def main() -> None:
    """Generate and judge the images, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the converted model folder")
    parser.add_argument("--maps", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--part", default="1/1", help="judge only every k-th map from the i-th on, as i/k")
    args = parser.parse_args()
    model = StableDiffusion(ModelFolder.open(args.model), {})
    first, every = (int(n) for n in args.part.split("/"))
    right: Counter[tuple[str, str]] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    rng = np.random.default_rng(args.seed)
    numbered = [(scene, dict(prompts(scene, rng))) for scene in scenes(args.maps, args.seed)]
    for number, (scene, texts) in list(enumerate(numbered))[first - 1 :: every]:
        edges = io.BytesIO()
        Image.fromarray(control_map(scene, number, (0, 0), alone=True)).save(edges, "PNG")
        for kind, prompt in texts.items():
            controls = [{"image": "map", "weight": args.weight}]
            request = bind(model.manifest, prompt=prompt, steps=args.steps, seed=number, controls=controls)
            events = model.generate(request, {"map": edges.getvalue()})
            marks = judge(scene, next(e for e in events if isinstance(e, GeneratedImage)).pixels)
            asked.update((kind, name) for name in marks)
            right.update((kind, name) for name, good in marks.items() if good)
            wrong = [name for name, good in marks.items() if not good]
            thing = scene.things[0]
            shown = f"{prompt} ({thing.size} {thing.shape}, {thing.place})"
            print(number, shown, f"-- wrong: {', '.join(wrong)}" if wrong else "", flush=True)
    for kind, name in asked:
        print(f"{kind:14} {name:7} {right[kind, name]:4} of {asked[kind, name]:4}")


if __name__ == "__main__":
    main()
