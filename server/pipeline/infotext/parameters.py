"""The layout of AUTOMATIC1111's parameters text: the prompt, the negative prompt, and a last line of settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from server.errors import encodable, quoted

_NEGATIVE = "Negative prompt:"
#: Keys under which prompts are written a second time if their own lines would be misread.
_WHOLE = ("Whole prompt", "Whole negative prompt")
#: A last line with fewer settings is part of the prompt.
_FEWEST_SETTINGS = 3
#: Where settings begin after a prompt, in the order in which A1111 writes them.
_INLINE = re.compile(r"Steps: \d+, Sampler: ")
_OTHER_ORDER = re.compile(r"\b(?:CFG scale|Seed|Size|Model): ")
_NOT_OF_A_KEY = re.compile(r"[^\w \-/]")
_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])+"(?=,|$)')
_JSON, _OPENING = json.JSONDecoder(), ("[", "{")
#: Values that may be lists. Each attempt to read one may take the time of the whole line.
_MOST_LISTS = 16


@dataclass(frozen=True)
class Parameters:
    """The content of the text: the prompts, and the other settings by A1111's names."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]


@dataclass(frozen=True)
class Unused:
    """A setting that no field of a request takes, and why."""

    name: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"{quoted(self.name)[1:-1]} {quoted(self.value)} is not used: {self.why}"


def lay_out(prompt: str, negative_prompt: str, settings: Mapping[str, object]) -> str:
    """Return the text, which `read_infotext` reads back exactly as it was.

    A prompt's line that begins like the negative prompt's is ambiguous in A1111's layout, for example. Such prompts are
    written a second time among the settings.
    """
    negative = f"\n{_NEGATIVE} {negative_prompt}" if negative_prompt else ""
    text = f"{prompt}{negative}\n{lay_out_settings(settings)}"
    read, both = read_infotext(text), (prompt, negative_prompt)
    if (read.prompt, read.negative_prompt) == both:
        return text
    return text + "".join(
        f", {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in zip(_WHOLE, both, strict=True) if value
    )


def lay_out_settings(settings: Mapping[str, object]) -> str:
    """Return the line of the settings."""
    return ", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items())


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) or text != text.strip() else text


def read_infotext(text: str) -> Parameters:
    """Parse the text; a last line with fewer than three settings is part of the prompt, as in A1111."""
    *lines, last = text.rstrip().replace("\r\n", "\n").split("\n")
    pairs = list(read_settings(last))
    if len(pairs) < _FEWEST_SETTINGS:
        lines, pairs = text.split("\n"), []
    elif not lines and (inline := _INLINE.search(last)) and not _OTHER_ORDER.search(last, 0, inline.start()):
        # A text whose line breaks were lost, by which A1111 loses the prompts.
        lines = last[: inline.start()].rstrip().replace(f" {_NEGATIVE}", f"\n{_NEGATIVE}").split("\n")
        pairs = list(read_settings(last[inline.start() :]))
    prompt: list[str] = []
    negative: list[str] | None = None
    for line in lines:
        if negative is None and line.startswith(_NEGATIVE):
            negative = [line.removeprefix(_NEGATIVE).removeprefix(" ")]
        elif negative is None:
            prompt.append(line)
        else:
            negative.append(line)
    settings = dict(pairs)
    whole = [settings.pop(key, None) for key in _WHOLE]
    if any(value is not None for value in whole):
        return Parameters(whole[0] or "", whole[1] or "", settings)
    return Parameters("\n".join(prompt), "\n".join(negative or []), settings)


def read_settings(line: str) -> Iterator[tuple[str, str]]:
    r"""Yield the settings of a line, as A1111 finds them with ``\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)``.

    That expression takes time that grows with the square of a line's length, 18 s for 60 kB of words without a colon; this
    function does not. Lists and objects in JSON, as Civitai writes them, are one value.
    """
    start, lists = 0, _MOST_LISTS
    while (colon := line.find(":", start)) >= 0:
        before = line[start:colon]
        key = before[max((match.end() for match in _NOT_OF_A_KEY.finditer(before)), default=0) :].lstrip(" -/")
        start = colon + 1
        if len(key) < 2:
            continue
        start = _after_space(line, start)
        end = None
        if lists and line[start : start + 1] in _OPENING:
            lists -= 1
            end = _end_of_json(line, start)
        value, end = _value(line, start) if end is None else (line[start:end], end)
        yield key, value
        start = end + 1


def _after_space(line: str, start: int) -> int:
    found = _SPACE.match(line, start)
    assert found is not None
    return found.end()


def _end_of_json(line: str, start: int) -> int | None:
    """Return the end of a list or an object that is a whole value; None for anything else."""
    try:
        _, end = _JSON.raw_decode(line, start)
    except (json.JSONDecodeError, RecursionError):
        return None
    return end if line[end : end + 1] in ("", ",") else None


def _value(line: str, start: int) -> tuple[str, int]:
    """Return the value that begins here, and where the comma after it is.

    What begins with a quotation mark and is not valid JSON stays as it is, as in A1111: a Windows path, an unclosed quote.
    Half of a surrogate pair stays escaped: nobody could encode it.
    """
    if quoted := _QUOTED.match(line, start):
        try:
            return encodable(str(json.loads(quoted[0]))), quoted.end()
        except json.JSONDecodeError:
            return quoted[0], quoted.end()
    comma = line.find(",", start)
    end = len(line) if comma < 0 else comma
    return line[start:end].strip(), end
