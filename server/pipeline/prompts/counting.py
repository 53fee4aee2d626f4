"""Counts a prompt's tokens as a model's text encoders read them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converter.folder import ModelFolder
from converter.manifest import Manifest
from server.pipeline.prompts.chunks import Chunks, chunk_count, text_chunks, unet_places
from server.pipeline.prompts.editing import Walk
from server.pipeline.prompts.embedded import EmbeddedWords
from server.pipeline.prompts.reading import ReadPrompt

if TYPE_CHECKING:
    from server.pipeline.prompts.tokenizer import PromptTokenizer

#: Models whose tokenizers are kept: that of Stable Diffusion takes 0.07 s to read and 10 to 20 MB.
_KEPT = 2


@dataclass(frozen=True)
class TokenCount:
    """A prompt's tokens, how many of them the model's UNet takes at once, and the chunks that they are divided into.

    Of a prompt that changes from step to step, or that joins several, these are those of the longest text.
    """

    tokens: int
    limit: int
    chunks: int


@dataclass(frozen=True)
class _Kept:
    """The tokenizers of a model with this manifest and these embeddings."""

    manifest: Manifest
    embedded: tuple[EmbeddedWords, ...]
    tokenizers: Mapping[str, PromptTokenizer]


class TokenCounter:
    """Counts tokens with the tokenizers of the models that were asked for last. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def count(
        self,
        folder: ModelFolder,
        prompt: ReadPrompt,
        walk: Walk,
        *,
        with_syntax: bool,
        embedded: Sequence[EmbeddedWords] = (),
    ) -> TokenCount:
        """Count a prompt's tokens; raises ManifestError if the model's tokenizer or UNet is damaged or missing.

        ``embedded`` has the words that stand for embeddings; what the numbers of their tokens are does not matter.
        """
        places, tokenizers = unet_places(folder)[-1], self._tokenizers(folder, tuple(embedded))
        texts = {text for at_step in prompt.texts(walk) for text in at_step}
        divided = [text_chunks(tokenizers, text, with_syntax=with_syntax) for text in texts]
        limit = places * min(tokenizer.room for tokenizer in tokenizers.values())
        return TokenCount(max(map(_tokens, divided)), limit, max(map(chunk_count, divided)))

    def _tokenizers(self, folder: ModelFolder, embedded: tuple[EmbeddedWords, ...]) -> Mapping[str, PromptTokenizer]:
        # Not at the top: the process that answers HTTP loads no library of models before somebody asks for it.
        from server.pipeline.prompts.tokenizer import prompt_tokenizers

        path = str(folder.path)
        with self._lock:
            kept = self._kept.get(path)
            # Another model may have come to its place, or it was converted again.
            if kept is None or kept.manifest is not folder.manifest or kept.embedded != embedded:
                kept = self._kept[path] = _Kept(
                    folder.manifest, embedded, prompt_tokenizers(folder, lambda _: embedded)
                )
            self._kept.move_to_end(path)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return kept.tokenizers


def _tokens(chunks: Chunks) -> int:
    """Return the tokens of a text, without beginnings, ends and padding; of two tokenizers the larger number."""
    return max(sum(map(len, own)) for own in chunks.values())
