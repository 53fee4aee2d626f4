"""Find the tokenizers for a folder of Apple's packages: the user's, the folder's, or CLIP's."""

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
#: OpenCLIP's encoders (Stable Diffusion 2's and SDXL's second) were trained on prompts padded with token 0.
_OPEN_CLIP_PAD = "!"

Files = dict[str, bytes]


@dataclass(frozen=True)
class Vocabulary:
    """Each text encoder's tokenizer in the form of a model folder: file name -> content."""

    tokenizers: dict[str, Files]

    def files(self, network: str) -> Files:
        """Return the tokenizer of a text encoder."""
        return self.tokenizers[network]


def _padded(files: Files, pad: str, *, always: bool) -> Files:
    """Return the tokenizer with its padding token set to ``pad``, if it has none or with ``always``."""
    config = json.loads(files[_CONFIG])
    stated = {} if "pad_token" in config and not always else {"pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer"} | config | stated
    return files | {_CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()}


def _places(model: AppleModel, network: str, given: Path | None) -> Iterator[Path]:
    """Yield the folders that may have a text encoder's tokenizer, likeliest first; ``given`` may be a checkpoint's folder."""
    own = model.tokenizers[network]
    if given is not None:
        yield from (given, given / own)
        return
    yield model.folder / own
    yield from (model.folder / name for name in (*TOKENIZERS, ".", "Resources"))


def _check(files: Files, where: str, tokens: int | None) -> None:
    """Raise CheckpointError if the tokenizer has no tokens, or tokens outside the text encoder's vocabulary."""
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
            # A tokenizer for both encoders is the first's.
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
    """Return the model's tokenizers: those in the folder ``given``, else in its own, else CLIP's for a published model.

    None if there is no such file. Raises CheckpointError if one is damaged or does not fit the model.
    """
    candidates = {network: _files(model, network, given) for network in model.tokenizers}
    tokenizers = {network: files for network, files in candidates.items() if files is not None}
    return Vocabulary(tokenizers) if len(tokenizers) == len(candidates) else None
