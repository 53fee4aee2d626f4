"""The vocabulary of a folder of Apple's packages: given, in the folder, or CLIP's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.apple.model import AppleModel
from converter.clip_vocabulary import END, tokenizer_files
from converter.configs import read_json
from converter.errors import CheckpointError

_FILES = ("vocab.json", "merges.txt")
#: OpenCLIP's encoders, Stable Diffusion 2's and SDXL's second, were trained on prompts filled up with token 0.
_OPEN_CLIP_PAD = "!"


@dataclass(frozen=True)
class Vocabulary:
    """The contents of vocab.json and merges.txt, and what prompts are filled up with for the first text encoder."""

    vocab: bytes
    merges: bytes
    pad: str

    def files(self, network: str) -> dict[str, bytes]:
        """The tokenizer of a text encoder: file name -> content."""
        pad = _OPEN_CLIP_PAD if network == "text_encoder_2" else self.pad
        config = {"tokenizer_class": "CLIPTokenizer", "pad_token": pad}
        return {
            "vocab.json": self.vocab,
            "merges.txt": self.merges,
            "tokenizer_config.json": (json.dumps(config, indent=2) + "\n").encode(),
        }


def _stated_pad(folder: Path) -> str | None:
    """The padding token that a tokenizer's files name; special_tokens_map.json counts first, as in transformers 4."""
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        said: Any = read_json(folder / file).get("pad_token") if (folder / file).is_file() else None
        said = said.get("content") if isinstance(said, dict) else said
        if isinstance(said, str):
            return said
    return None


def _check(vocab: bytes, where: str, tokens: int | None) -> None:
    """Raise CheckpointError where vocab.json is none, or has tokens that the text encoder does not know."""
    try:
        greatest = max(int(number) for number in json.loads(vocab).values())
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is not an object of tokens and their numbers: {error}") from error
    if tokens is not None and greatest >= tokens:
        raise CheckpointError(f"{where} numbers tokens up to {greatest}; the text encoder knows {tokens}, from 0 on")


def find_vocabulary(model: AppleModel, given: Path | None) -> Vocabulary | None:
    """The model's vocabulary: the one in the folder ``given``, or else in its own, or CLIP's where it is published.

    None where none of these is there. Raises CheckpointError where one is damaged or not this model's.
    """
    pad = _OPEN_CLIP_PAD if model.family == "sd2" else END
    own = (model.folder / "tokenizer", model.folder / "tokenizer_2", model.folder, model.folder / "Resources")
    for folder in own if given is None else (given,):
        if all((folder / file).is_file() for file in _FILES):
            vocab, merges = ((folder / file).read_bytes() for file in _FILES)
            _check(vocab, str(folder / "vocab.json"), model.vocabulary)
            return Vocabulary(vocab, merges, _stated_pad(folder) or pad)
    if given is not None:
        raise CheckpointError(f"{given} lacks {' or '.join(_FILES)}")
    if not model.published:
        return None
    files = tokenizer_files(pad)
    _check(files["vocab.json"], "CLIP's vocabulary", model.vocabulary)
    return Vocabulary(files["vocab.json"], files["merges.txt"], pad)
