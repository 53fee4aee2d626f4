"""What tells the networks what to show: texts, control maps and images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from converter.options import MOST_CLIP_SKIP
from server.pipeline.fields import Infotext, Part
from server.pipeline.limits import Characters, OneOf, Whole, Within, unless_stored

#: A text longer than this is a mistake, or an attack on the tokenizer.
PROMPT = Characters(10_000)
#: What the characters of a prompt mean: AUTOMATIC1111's syntax, or nothing but themselves.
SYNTAXES = A1111, PLAIN = "a1111", "plain"
#: Characters of the longest name of a model, network or scheduler: that of a file.
NAME = 255


def _plain_text(text: str) -> str:
    if any((ord(c) < 32 and c not in "\t\r\n") or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise ValueError("text without control characters and without unpaired surrogates")
    return text


Text = Annotated[str, unless_stored(_plain_text), PROMPT]


class Prompts(Part):
    """The texts that describe an image."""

    prompt: Text = Field(description="What to show")
    negative_prompt: Text = Field("", description="What not to show")
    prompt_syntax: Annotated[
        str, OneOf(SYNTAXES), Infotext("Prompt syntax", lambda syntax: syntax if syntax == PLAIN else None)
    ] = Field(
        A1111, description="Whether prompts have AUTOMATIC1111's syntax (weights, BREAK, edits, AND), or are plain text"
    )
    clip_skip: Annotated[
        Whole, Within(1, MOST_CLIP_SKIP), Infotext("Clip skip", lambda skip: skip if skip > 1 else None)
    ] = Field(
        1,
        description="How many layers to leave out at the end of the text encoders, counted from 1 for none, as in A1111",
    )

    @property
    def has_syntax(self) -> bool:
        """Whether brackets and AND have a meaning."""
        return self.prompt_syntax == A1111
