"""Checks that the model shows what prompts ask for: images of held-out prompts by our own packages, judged by pixels.

    python -m demo.check --model MODEL_FOLDER --prompts 240 --sheet sheet.png --table table.json

`demo.pixels` reads colors, shapes and places; on the drawn scenes themselves it is right in 99 of 100.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from converter.folder import ModelFolder
from demo.captions import caption
from demo.pixels import Seen, look
from demo.scenes import Scene, Thing, held_out, random_scene
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion


@dataclass(frozen=True)
class Judged:
    """A prompt, its image, and the result of each criterion."""

    prompt: str
    pixels: NDArray[np.uint8]
    right: dict[str, bool]


def prompts(count: int, seed: int) -> list[tuple[str, Scene]]:
    """Return ``count`` held-out prompts with their scenes; every second scene has two things."""
    rng = np.random.default_rng(seed)
    pairs: list[tuple[str, Scene]] = []
    while len(pairs) < count:
        scene = random_scene(rng, two=float(len(pairs) % 2))
        if held_out(scene):
            pairs.append(caption(scene, rng))
    return pairs


def _matches(seen: Seen, thing: Thing) -> dict[str, bool]:
    return {
        "color": seen.color == thing.color,
        "shape": seen.shape == thing.shape,
        "place": seen.place == thing.place,
    }


def judge(scene: Scene, pixels: NDArray[np.uint8]) -> dict[str, bool]:
    """Judge the ground and, for one thing, its color, shape and place; for two things, both colors and shapes."""
    ground, seen = look(pixels)
    right = {"ground": ground == scene.ground}
    if len(scene.things) == 1:
        none = dict.fromkeys(("color", "shape", "place"), False)
        return right | (_matches(seen[0], scene.things[0]) if seen else none)
    best: list[dict[str, bool]] = []
    for pair in permutations(seen[:4], 2):
        marks = [_matches(s, t) for s, t in zip(pair, scene.things, strict=True)]
        if not best or sum(sum(m.values()) for m in marks) > sum(sum(m.values()) for m in best):
            best = marks
    right["both"] = bool(best) and all(m["color"] and m["shape"] for m in best)
    right["both, in place"] = right["both"] and all(m["place"] for m in best)
    return right


def contact_sheet(judged: list[Judged], columns: int = 6) -> Image.Image:
    """Return a sheet of the images with their prompts; a red line marks those with an error."""
    side, text = 192, 58
    rows = -(-len(judged) // columns)
    sheet = Image.new("RGB", (columns * (side + 8) + 8, rows * (side + text) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for number, result in enumerate(judged):
        left, top = 8 + number % columns * (side + 8), 8 + number // columns * (side + text)
        sheet.paste(Image.fromarray(result.pixels).resize((side, side), Image.Resampling.LANCZOS), (left, top))
        if not all(result.right.values()):
            pen.rectangle((left, top + side, left + side, top + side + 2), fill="red")
        words, line, y = result.prompt.split(), "", top + side + 4
        for word in [*words, ""]:
            if not word or pen.textlength(f"{line} {word}") > side:
                pen.text((left, y), line, fill="black")
                line, y = word, y + 12
            else:
                line = f"{line} {word}".strip()
    return sheet


def main() -> None:
    """Generate and judge the images, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the converted model folder")
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, help="the model's default if omitted")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--part", default="1/1", help="judge only every k-th prompt from the i-th on, as i/k")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the first 36")
    parser.add_argument("--table", type=Path, help="write the counts as JSON")
    args = parser.parse_args()
    model = StableDiffusion(ModelFolder.open(args.model), {})
    first, every = (int(n) for n in args.part.split("/"))
    judged: list[Judged] = []
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for number, (prompt, scene) in list(enumerate(prompts(args.prompts, args.seed)))[first - 1 :: every]:
        request = bind(model.manifest, prompt=prompt, steps=args.steps, guidance_scale=args.guidance_scale, seed=number)
        image = next(e for e in model.generate(request, {}) if isinstance(e, GeneratedImage))
        marks = judge(scene, image.pixels)
        asked.update(marks.keys())
        right.update(name for name, good in marks.items() if good)
        judged.append(Judged(prompt, image.pixels, marks))
        wrong = [name for name, good in marks.items() if not good]
        print(number, prompt, "" if not wrong else f"-- wrong: {', '.join(wrong)}", flush=True)
    for name in asked:
        print(f"{name:16} {right[name]:4} of {asked[name]:4}  {right[name] / asked[name]:.1%}")
    if args.sheet:
        contact_sheet(judged[:36]).save(args.sheet)
    if args.table:
        args.table.write_text(json.dumps({name: [right[name], asked[name]] for name in asked}) + "\n")


if __name__ == "__main__":
    main()
