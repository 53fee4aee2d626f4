"""The tokenizers of a folder of Apple's packages: given, in the folder, or CLIP's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converter.apple.model import AppleModel
from converter.errors import CheckpointError
from converter.networks.registry import TEXT_ENCODER_2
from converter.sources.clip_vocabulary import END, tokenizer_files
from converter.sources.component_kinds import TOKENIZERS
from converter.sources.tokenizer import greatest_token, is_tokenizer, read_tokenizer

_CONFIG = "tokenizer_config.json"
#: OpenCLIP's encoders, Stable Diffusion 2's and SDXL's second, were trained on prompts filled up with token 0.
_OPEN_CLIP_PAD = "!"

Files = dict[str, bytes]


@dataclass(frozen=True)
class Vocabulary:
    """Each text encoder's tokenizer as a model folder keeps it: file name -> content."""

    tokenizers: dict[str, Files]

    def files(self, network: str) -> Files:
        """Return the tokenizer of a text encoder."""
        return self.tokenizers[network]


def _padded(files: Files, pad: str, *, always: bool) -> Files:
    """Return the tokenizer with its padding token set to ``pad``, where it names none or ``always``."""
    config = json.loads(files[_CONFIG])
    stated = {} if "pad_token" in config and not always else {"pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer"} | config | stated
    return files | {_CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()}


def _places(model: AppleModel, network: str, given: Path | None) -> Iterator[Path]:
    """Return where a text encoder's tokenizer may lie, the likeliest first. ``given`` may be a checkpoint's folder, with two."""
    own = model.tokenizers[network]
    if given is not None:
        yield from (given, given / own)
        return
    yield model.folder / own
    yield from (model.folder / name for name in (*TOKENIZERS, ".", "Resources"))


def _check(files: Files, where: str, tokens: int | None) -> None:
    """Raise CheckpointError where it has no tokens, or tokens that the text encoder does not know."""
    greatest = greatest_token(files)
    if not json.loads(files["vocab.json"]):
        raise CheckpointError(f"{where}'s vocab.json has no tokens")
    if tokens is not None and greatest >= tokens:
        raise CheckpointError(f"{where} numbers tokens up to {greatest}; the text encoder knows {tokens}, from 0 on")


def _files(model: AppleModel, network: str, given: Path | None) -> Files | None:
    pad = _OPEN_CLIP_PAD if model.family == "sd2" or network == TEXT_ENCODER_2.name else END
    for folder in _places(model, network, given):
        if is_tokenizer(folder):
            files = read_tokenizer(folder)
            _check(files, str(folder), model.vocabulary)
            # A tokenizer for all is the first encoder's.
            shared = network == TEXT_ENCODER_2.name and folder.name != model.tokenizers[network]
            return _padded(files, pad, always=shared)
    if given is not None:
        raise CheckpointError(f"{given} lacks vocab.json or merges.txt, and has no tokenizer.json")
    if not model.published:
        return None
    files = tokenizer_files(pad)
    _check(files, "CLIP's vocabulary", model.vocabulary)
    return files


def find_vocabulary(model: AppleModel, given: Path | None) -> Vocabulary | None:
    """Return the model's tokenizers: those in the folder ``given``, or else in its own, or CLIP's where it is published.

    None where none of these is there. Raises CheckpointError where one is damaged or not this model's.
    """
    found = {network: _files(model, network, given) for network in model.tokenizers}
    there = {network: files for network, files in found.items() if files is not None}
    return Vocabulary(there) if len(there) == len(found) else None
