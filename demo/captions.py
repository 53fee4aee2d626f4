"""Captions in several wordings, and the vocabulary that tokenizes them and other English prompts.

Omitted words always mean the default: medium size, flat, plain, the middle of the image for one thing, left and right for
two, white ground.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from demo.scenes import COLORS, SHAPES, Scene, Thing, random_scene

_SHAPE_WORDS = {"ring": ("ring", "ring", "donut"), "cross": ("cross", "cross", "plus sign")}
_SIZE_WORDS = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("",) * 5 + ("medium",),
    "large": ("large", "large", "big"),
}
_STYLE_WORDS = {"flat": ("",) * 6 + ("flat",), "outlined": ("outlined",), "shaded": ("shaded", "shaded", "glossy")}
_PATTERN_WORDS = {
    "plain": ("",) * 6 + ("plain",),
    "striped": ("striped",),
    "dotted": ("dotted", "dotted", "polka dot"),
    "checkered": ("checkered",),
}
_PATTERN_TAILS = {"striped": " with stripes", "dotted": " with dots", "checkered": " with checks"}
_PLACE_WORDS = {
    "top left": ("in the top left", "at the top left", "in the top left corner", "in the upper left"),
    "top": ("at the top", "at the top", "near the top"),
    "top right": ("in the top right", "at the top right", "in the top right corner", "in the upper right"),
    "left": ("on the left", "on the left", "on the left side", "at the left"),
    "center": ("in the center", "in the middle", "in the centre"),
    "right": ("on the right", "on the right", "on the right side", "at the right"),
    "bottom left": ("in the bottom left", "at the bottom left", "in the bottom left corner", "in the lower left"),
    "bottom": ("at the bottom", "at the bottom", "near the bottom"),
    "bottom right": ("in the bottom right", "at the bottom right", "in the bottom right corner", "in the lower right"),
}
_OPENINGS = ("",) * 6 + ("a picture of ", "an image of ", "a drawing of ")


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _one(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def thing_words(thing: Thing, rng: np.random.Generator) -> str:
    """Return a thing's noun phrase, such as ``a large shaded red circle``."""
    words = (
        _one(rng, _SIZE_WORDS[thing.size]),
        _one(rng, _STYLE_WORDS[thing.style]),
        thing.color,
        _one(rng, _SHAPE_WORDS.get(thing.shape, (thing.shape,))),
    )
    return _article(" ".join(p for p in words if p))


def _ground_words(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return the ground as an opening (``blue background, ``) or as a tail (`` on a blue background``); one is empty."""
    if scene.ground == "white" and scene.pattern == "plain" and rng.random() < 0.5:
        return "", ""
    if scene.pattern in _PATTERN_TAILS and rng.random() < 0.25:
        ground = f"{scene.ground} background{_PATTERN_TAILS[scene.pattern]}"
    else:
        pattern = _one(rng, _PATTERN_WORDS[scene.pattern])
        ground = f"{pattern} {scene.ground} background".strip()
    if rng.random() < 0.12:
        return f"{ground}, ", ""
    if rng.random() < 0.08 and scene.pattern == "plain":
        return "", f" on {scene.ground}"
    return "", _one(rng, (" on ", " on ", " against ", " with ")) + _article(ground)


def _placed(thing: Thing, rng: np.random.Generator) -> str:
    words, place = thing_words(thing, rng), _one(rng, _PLACE_WORDS[thing.place])
    return f"{place}, {words}" if rng.random() < 0.1 else f"{words} {place}"


def _pair(a: Thing, b: Thing, rng: np.random.Generator) -> str:
    first, second = thing_words(a, rng), thing_words(b, rng)
    relations = {
        ("left", "right"): (" and ", " next to ", " to the left of ", " left of "),
        ("right", "left"): (" to the right of ", " right of "),
        ("top", "bottom"): (" above ", " over "),
        ("bottom", "top"): (" below ", " under "),
    }
    if (a.place, b.place) in relations and rng.random() < 0.6:
        return first + _one(rng, relations[a.place, b.place]) + second
    return _placed(a, rng) + _one(rng, (" and ", " and ", ", ")) + _placed(b, rng)


def caption(scene: Scene, rng: np.random.Generator, *, places: bool = True) -> tuple[str, Scene]:
    """Return a caption of the scene, and the scene with its things in the caption's order; ``places``: says where they are."""
    opening, tail = _ground_words(scene, rng)
    if not places:
        words = " and ".join(thing_words(thing, rng) for thing in scene.things)
    elif len(scene.things) == 1:
        (thing,) = scene.things
        words = thing_words(thing, rng) if thing.place == "center" and rng.random() < 0.6 else _placed(thing, rng)
    else:
        a, b = scene.things if rng.random() < 0.5 else scene.things[::-1]
        scene = Scene((a, b), scene.ground, scene.pattern)
        words = _pair(a, b, rng)
    text = opening + words + tail if opening else _one(rng, _OPENINGS) + words + tail
    return text, scene


def write_tokenizer(folder: Path, *, seed: int = 7) -> None:
    """Train a byte-level BPE on captions and write CLIPTokenizer's files (vocab.json, merges.txt) into ``folder``.

    Every word of the captions becomes one token; any other text splits into bytes, so every prompt is accepted.
    """
    rng = np.random.default_rng(seed)
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    words = [
        " ".join(SHAPES),
        " ".join(COLORS),
        "photo cat dog house tree sky sun moon gray brown line shape paint art",
    ] * 50
    captions = [caption(random_scene(rng), rng)[0].replace(",", " ,") for _ in range(4000)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1400, min_frequency=20, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(captions + words, trainer)
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    subwords = [*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(m) for m in merges)]
    tokens = [*dict.fromkeys(subwords), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    config = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
