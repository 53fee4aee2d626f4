"""A prompt as CLIP's token ids (Radford et al. 2021, byte-level BPE with word ends)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from converter.errors import ManifestError

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class PromptTokenizer:
    """Splits prompts exactly as transformers' CLIPTokenizer does, whose import takes a second that this does not."""

    def __init__(self, folder: Path, tokens: int) -> None:
        """``folder`` has vocab.json and merges.txt; ``tokens`` is the length every prompt is padded or cut to."""
        vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines if not line.startswith("#version")) if b]
        for token in (_BEGIN, _END):
            if token not in vocabulary:
                raise ManifestError(f"{folder / 'vocab.json'} lacks {token}")
        config = folder / "tokenizer_config.json"
        pad: Any = json.loads(config.read_text(encoding="utf-8")).get("pad_token", _END) if config.is_file() else _END
        pad = pad["content"] if isinstance(pad, dict) else pad
        self._tokens = tokens
        self._begin, self._end = vocabulary[_BEGIN], vocabulary[_END]
        self._pad = vocabulary.get(pad, self._end)
        self._tokenizer = Tokenizer(
            models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=_END)
        )
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )

    def ids(self, prompt: str) -> tuple[NDArray[np.float32], int]:
        """The prompt's ids, fp32 [1, tokens], and how many tokens were left out at its end."""
        found = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        kept = found[: self._tokens - 2]
        row = [self._begin, *kept, self._end]
        row += [self._pad] * (self._tokens - len(row))
        return np.asarray([row], np.float32), len(found) - len(kept)
