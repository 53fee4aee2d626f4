"""Converts prompts to CLIP's token ids (Radford et al. 2021, byte-level BPE with word ends)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from converter.errors import ManifestError
from converter.folder import ModelFolder
from converter.networks.registry import text_encoders
from converter.sources.clip_vocabulary import BEGIN, END
from converter.sources.tokenizer import Token
from server.pipeline.prompts.embedded import EmbeddedWords, is_plain

_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _read(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], str, dict[int, Token]]:
    """Return token -> number, the merges, the padding token, and the added tokens by number."""
    vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines if not line.startswith("#version")) if b]
    file = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    pad = config.get("pad_token") or END
    added = {int(number): token for number, token in (config.get("added_tokens_decoder") or {}).items()}
    vocabulary |= {token["content"]: number for number, token in added.items()}
    return vocabulary, merges, pad["content"] if isinstance(pad, dict) else pad, added


class PromptTokenizer:
    """Splits prompts exactly as transformers' CLIPTokenizer does, without its import, which takes a second."""

    def __init__(self, folder: Path, tokens: int, embedded: Sequence[EmbeddedWords] = ()) -> None:
        """``folder`` has vocab.json and merges.txt; ``tokens`` is the length that text encoders take.

        ``embedded`` has the words that stand for embeddings; in a text the longest that fits counts. Tokens that were added to the vocabulary are in its tokenizer_config.json (see `converter.sources.tokenizer`). Raises
        ManifestError if a file is damaged.
        """
        try:
            vocabulary, merges, pad, added = _read(folder)
            model = models.BPE(
                vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END
            )
        except OSError:
            raise
        except Exception as error:  # tokenizers has no class of its own for merges of unknown tokens
            raise ManifestError(f"the tokenizer in {folder} is damaged: {error!r}") from error
        for token in (BEGIN, END):
            if token not in vocabulary:
                raise ManifestError(f"{folder / 'vocab.json'} lacks {token}")
        self._tokens = tokens
        #: How many ids of a text a chunk has room for.
        self.room = tokens - 2
        #: The number of the comma's token; None if the vocabulary has none.
        self.comma = vocabulary.get(",</w>")
        self._begin, self._end = vocabulary[BEGIN], vocabulary[END]
        self._pad = vocabulary.get(pad, self._end)
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        # Folders from older conversions, and those of single files, list no added tokens, only the padding token.
        own = {word for word in (BEGIN, END, pad) if word in vocabulary} - {t["content"] for t in added.values()}
        self._tokenizer.add_tokens([AddedToken(word, normalized=False, special=True) for word in sorted(own)])
        # Sorted by number, as transformers adds them: if two are normalized to the same text, only one of them counts.
        self._tokenizer.add_tokens([AddedToken(**token) for _, token in sorted(added.items())])
        #: The tokens of an embedding by the number that the tokenizer gives its word, which no text encoder gets.
        self._embedded: dict[int, tuple[int, ...]] = {}
        for word, numbers in ((word, each.numbers) for each in embedded for word in each.words):
            self._tokenizer.add_tokens([AddedToken(word, single_word=is_plain(word), normalized=True, special=False)])
            number = self._tokenizer.token_to_id(word)
            assert number is not None
            self._embedded[number] = numbers

    def words(self, text: str) -> Iterator[tuple[int, ...]]:
        """Yield the text's token ids, without those that begin and end a prompt; those of an embedding together."""
        for number in self._tokenizer.encode(text, add_special_tokens=False).ids:
            yield self._embedded.get(number, (number,))

    def ids(self, text: str) -> list[int]:
        """Return the text's token ids in one list."""
        return [number for word in self.words(text) for number in word]

    def padded(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return up to `room` ids as a text encoder takes them, fp32 [1, tokens]: with beginning, end and padding."""
        row = [self._begin, *ids, self._end]
        return np.asarray([row + [self._pad] * (self._tokens - len(row))], np.float32)


def prompt_tokenizers(
    folder: ModelFolder, embedded: Callable[[str], Sequence[EmbeddedWords]] = lambda encoder: ()
) -> dict[str, PromptTokenizer]:
    """Return the tokenizer of each of a model's text encoders; raises ManifestError if one is damaged.

    ``embedded`` returns the words that stand for embeddings in a text encoder.
    """
    encoders = text_encoders(folder.manifest.networks)
    return {
        name: PromptTokenizer(folder.tokenizer(own), folder.manifest.tokens, embedded(name))
        for name, own in encoders.items()
    }
