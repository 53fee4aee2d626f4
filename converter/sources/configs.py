"""Read a configuration by a table of its keys: fill in defaults, check values, refuse unsupported values by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from converter.errors import CheckpointError, quoted

Config: TypeAlias = dict[str, Any]
#: The default of a key that must be there.
REQUIRED = object()
#: More blocks, layers or levels than any network has; a program has operations for each.
_MANY = 1000
#: More than any width, number of tokens or of timesteps: products of two stay within 64 bits.
_LARGEST = 1_000_000
#: The largest published JSON file, a tokenizer.json, has 3.6 MB.
_LARGEST_JSON = 64_000_000
#: What a request may have, and so what a checkpoint may recommend for those that have none; the ranges of A1111's sliders.
MOST_STEPS, MOST_GUIDANCE = 150, 30.0
#: Prompts of an analysis, each an image and measured on at least two of its steps; by default there are 8.
MOST_PROMPTS = 64


def parse_json(where: str, content: bytes) -> Any:
    """Return the value of a JSON file; raises CheckpointError that begins with ``where``."""
    try:
        # Editors on Windows put a byte order mark first; JSON has none (RFC 8259, section 8.1).
        value = json.loads(content.decode("utf-8-sig"))
        if b"\\ud" in content.lower():  # half of a character beyond U+FFFF, which no text can have alone
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and deep nesting
        raise CheckpointError(f"{where} is not JSON: {error}") from error
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file; raises CheckpointError naming the file if it is missing or damaged."""
    if not path.is_file():
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; a JSON file is expected")
        raise CheckpointError(
            f"{path} is missing; a diffusers checkpoint has model_index.json and a folder per network"
        )
    if (size := path.stat().st_size) > _LARGEST_JSON:
        raise CheckpointError(f"{path} has {size} bytes; a configuration has at most {_LARGEST_JSON}")
    value = parse_json(str(path), path.read_bytes())
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} has a {type(value).__name__}; an object is expected")
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of value: its name in messages, and a function that checks a value."""

    words: str
    accepts: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST


def _few(value: Any) -> bool:
    return _whole(value) and value <= _MANY


def _list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(accepts(v) for v in value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _either(*accepted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(accepts(value) for accepts in accepted)


def _none(value: Any) -> bool:
    return value is None


WHOLE = Kind(f"a whole number from 1 to {_LARGEST}", _whole)
WHOLE_OR_NONE = Kind(f"{WHOLE.words}, or null", _either(_whole, _none))
INDEX = Kind(f"a whole number from 0 to {_LARGEST}", lambda value: (value == 0 and type(value) is int) or _whole(value))
NUMBER = Kind("a number", _number)
POSITIVE = Kind("a number above 0", lambda value: _number(value) and value > 0)
EPSILON = Kind("a number above 0, up to 1", lambda value: _number(value) and 0 < value <= 1)
STEPS_OR_NONE = Kind(
    f"a whole number from 1 to {MOST_STEPS}, or null",
    _either(_none, lambda value: _whole(value) and value <= MOST_STEPS),
)
GUIDANCE_OR_NONE = Kind(
    f"a number from 0 to {MOST_GUIDANCE:g}, or null",
    _either(_none, lambda value: _number(value) and 0 <= value <= MOST_GUIDANCE),
)
TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXT_OR_NONE = Kind("a text, or null", _either(_none, lambda value: isinstance(value, str)))
FLAG = Kind("true or false", lambda value: type(value) is bool)
PER_LEVEL = Kind(f"{WHOLE.words}, or one for each level", _either(_whole, _list_of(_whole)))
COUNT = Kind(f"a whole number from 1 to {_MANY}", _few)
COUNTS = Kind(f"{COUNT.words}, or one for each level", _either(_few, _list_of(_few)))
COUNT_LIST = Kind(f"a list of whole numbers from 1 to {_MANY}", _list_of(_few))
DEPTHS = Kind(
    f"{COUNT.words}, or one (or a list) for each level", _either(_few, _list_of(_either(_few, _list_of(_few))))
)
DEPTHS_OR_NONE = Kind(f"{DEPTHS.words}, or null", _either(_none, DEPTHS.accepts))
WIDTHS = Kind(f"a list of whole numbers from 1 to {_LARGEST}", _list_of(_whole))
NAMES = Kind("a list of names", _list_of(lambda value: isinstance(value, str)))
PROMPTS_OR_NONE = Kind(
    f"a list of 1 to {MOST_PROMPTS} texts, none of them blank, or null",
    _either(
        _none,
        lambda value: (
            _list_of(lambda text: isinstance(text, str) and text.strip() != "")(value) and len(value) <= MOST_PROMPTS
        ),
    ),
)
SIDE = Kind(
    "a whole number, [height, width] or null",
    _either(
        _whole, _none, lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(map(_whole, value))
    ),
)
BETAS = Kind("a list of numbers between 0 and 1, or null", _either(_none, _list_of(lambda v: _number(v) and 0 < v < 1)))
ANYTHING = Kind("anything", lambda value: True)


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    treatment: ``read``, ``only`` (refused unless the value is one of ``accepted``) or ``ignored``; ``why`` is the reason.
    default: the library's default.
    reported: whether `ignored_settings` reports a value other than the default.
    """

    treatment: Literal["read", "only", "ignored"]
    default: Any
    kind: Kind = ANYTHING
    accepted: tuple[Any, ...] = ()
    why: str = ""
    reported: bool = False


Table: TypeAlias = Mapping[str, Key]


def expect(where: str, config: Config, name: str, accepted: tuple[Any, ...], default: Any = None) -> None:
    """Raise CheckpointError unless ``config`` has one of the accepted values under ``name``."""
    value = config.get(name, default)
    if value not in accepted:
        raise CheckpointError(f"{where} has {name} = {quoted(value)}; accepted: {listed(accepted)}")


def listed(values: tuple[Any, ...]) -> str:
    """Return accepted values for a message, joined by "or"."""
    return " or ".join("null" if v is None else repr(v) for v in values)


def _one_for_all(value: Any) -> Any:
    """Return the value of a list whose values are all the same (diffusers repeats one value so); others unchanged."""
    return value[0] if isinstance(value, list) and value and all(v == value[0] for v in value) else value


def _equal(value: Any, accepted: Any) -> bool:
    """Return whether two values are equal; 1 and true are not."""
    return bool(value == accepted and isinstance(value, bool) == isinstance(accepted, bool))


def read_config(where: str, config: Config, table: Table, defaults: Config | None = None) -> Config:
    """Return the configuration with only the keys of ``table``, and with defaults for missing keys.

    ``defaults`` take precedence over the table's. Raises CheckpointError that begins with ``where`` and names the key, its value
    and what is accepted.
    """
    values: Config = {}
    for name, key in table.items():
        value = config.get(name, (defaults or {}).get(name, key.default))
        if value is REQUIRED:
            raise CheckpointError(f"{where} lacks {name}; accepted: {key.kind.words}")
        same = _one_for_all(value) if key.treatment == "only" and value not in key.accepted else value
        if key.treatment == "only" and not any(_equal(same, accepted) for accepted in key.accepted):
            because = f" ({key.why})" if key.why else ""
            raise CheckpointError(f"{where} has {name} = {quoted(value)}; accepted: {listed(key.accepted)}{because}")
        if not key.kind.accepts(value):
            raise CheckpointError(f"{where} has {name} = {quoted(value)}; accepted: {key.kind.words}")
        values[name] = same
    return values


def ignored_settings(where: str, config: Config, table: Table) -> list[str]:
    """Return a sentence for each setting that the converter ignores though its library may use it."""
    sentences = []
    for name, value in config.items():
        key = table.get(name)
        if key is None and not name.startswith("_"):
            sentences.append(f"{where} has {name} = {quoted(value)}, which its library does not read either")
        elif key is not None and key.reported and value != key.default:
            sentences.append(f"{where} has {name} = {quoted(value)}: {key.why}")
    return sentences


def is_projected(config: Config) -> bool:
    """Return whether a text encoder's pooled state is projected (CLIPTextModelWithProjection)."""
    return bool(config["architectures"] == ["CLIPTextModelWithProjection"])
