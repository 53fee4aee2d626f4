"""Types and values as MIL text spells them, turned into MIL.proto's messages.

Up to iOS 17 a number is ``tensor<fp16, []>(0x1p-1)``, from iOS 18 on ``fp16(0x1p-1)``; fractions are hexadecimal.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from converter.mil.mlproto import mil
from converter.mil.tensor import set_numbers
from converter.weights.dtypes import BY_NAME, BY_NUMBER, DType

#: A type of one element, of a tensor, or of a state, which holds a tensor.
TYPE = r"(?:tensor<\s*\w+\s*,\s*\[[^\]]*\]\s*>|state<\s*tensor<\s*\w+\s*,\s*\[[^\]]*\]\s*>\s*>|\w+)"
TEXT = r'"(?:[^"\\]|\\.)*"'
_TENSOR = re.compile(r"(state<\s*)?tensor<\s*(\w+)\s*,\s*\[([^\]]*)\]\s*>(?(1)\s*>)")
_NUMBERS = re.compile(rf"({TYPE})\(([^()\"]*)\)")
#: Numbers that each name their type again, as texts written by hand have them.
_EACH_TYPED = re.compile(rf"({TYPE})\(\s*\[((?:[^()\"]*\([^()\"]*\))+[^()\"]*)\]\s*\)")
_ONE_TYPED = re.compile(r"(\w+)\(([^()]*)\)")
_TEXTS = re.compile(rf"({TYPE})\(\s*\[?\s*({TEXT}(?:\s*,\s*{TEXT})*)\s*\]?\s*\)")
_BLOB = re.compile(
    rf"({TYPE})\(\s*BLOBFILE\(\s*path\s*=\s*{TYPE}\(({TEXT})\)\s*,\s*offset\s*=\s*{TYPE}\((\d+)\)\s*\)\s*\)"
)
_ONE_TEXT = re.compile(TEXT)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
_BRACKETS = str.maketrans("[]", "  ")


class LiteralError(ValueError):
    """A type or value that cannot be read; ``at`` is its position in the text."""

    def __init__(self, words: str, at: int) -> None:
        super().__init__(words)
        self.at = at


def unquoted(text: str) -> str:
    """Return the text of a string in quotes."""
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1])


def _number(word: str) -> float:
    return float.fromhex(word) if "x" in word else float(word)


class Literals:
    """Reads types and values out of one program's text, each spelling once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._types: dict[str, Any] = {}
        self._values: dict[str, Any] = {}

    def type(self, spelling: str, at: int) -> Any:
        """Return the ValueType message of a type; raises LiteralError."""
        if spelling not in self._types:
            self._types[spelling] = self._type(spelling, at)
        return self._types[spelling]

    def value(self, at: int) -> tuple[Any, int]:
        """Return the Value message of the value that begins at ``at``, and where it ends; raises LiteralError."""
        if (match := _NUMBERS.match(self._text, at)) is not None:
            if match[0] not in self._values:
                self._values[match[0]] = self._numbers(match, at)
            return self._values[match[0]], match.end()
        if (match := _EACH_TYPED.match(self._text, at)) is not None:
            return self._numbers(match, at), match.end()
        if (match := _BLOB.match(self._text, at)) is not None:
            found = mil().Value(type=self.type(match[1], at))
            found.blobFileValue.fileName = unquoted(match[2])
            found.blobFileValue.offset = int(match[3])
            return found, match.end()
        if (match := _TEXTS.match(self._text, at)) is not None:
            found = mil().Value(type=self.type(match[1], at))
            found.immediateValue.tensor.strings.values.extend(unquoted(t) for t in _ONE_TEXT.findall(match[2]))
            return found, match.end()
        raise LiteralError(f"no value at {self._text[at : at + 40]!r}", at)

    def _type(self, spelling: str, at: int) -> Any:
        match = _TENSOR.fullmatch(spelling)
        name, sizes = (match[2], match[3].split(",")) if match else (spelling, [])
        if name not in BY_NAME:
            raise LiteralError(f"{name} is no type of MIL that is known here", at)
        value_type = mil().ValueType()
        tensor_type = value_type.stateType.wrappedType if match and match[1] else value_type
        tensor_type.tensorType.dataType = BY_NAME[name].number
        for size in (s.strip() for s in sizes if s.strip()):
            dimension = tensor_type.tensorType.dimensions.add()
            if size.isdecimal():
                dimension.constant.size = int(size)
            elif "?" in size or size.isidentifier():  # a name is that of a size which is not fixed
                dimension.unknown.variadic = "?" in size and size != "?"
            else:
                raise LiteralError(f"{size!r} is no size of an axis", at)
        tensor_type.tensorType.rank = len(tensor_type.tensorType.dimensions)
        return value_type

    def _numbers(self, match: re.Match[str], at: int) -> Any:
        found = mil().Value(type=self.type(match[1], at))
        tensor = found.type.tensorType
        dtype = BY_NUMBER[tensor.dataType]
        if other := [name for name, _ in _ONE_TYPED.findall(match[2]) if name != dtype.name]:
            raise LiteralError(f"{match[1]} holds no {other[0]}", at)
        numbers = _ONE_TYPED.sub(r"\2", match[2])
        words = [w for w in numbers.translate(_BRACKETS).replace(",", " ").split() if w]
        count = math.prod(int(d.constant.size) for d in tensor.dimensions)
        if len(words) != count:
            raise LiteralError(f"{match[1]} holds {count} numbers, not {len(words)}", at)
        try:
            _fill(found.immediateValue.tensor, dtype, words)
        except (ValueError, OverflowError) as error:
            raise LiteralError(f"{match[0][:60]!r} is no value: {error}", at) from error
        return found


def _fill(tensor: Any, dtype: DType, words: list[str]) -> None:
    if dtype.name == "bool":
        if unknown := set(words) - {"true", "false"}:
            raise ValueError(f"{sorted(unknown)[0]} is neither true nor false")
        tensor.bools.values.extend(w == "true" for w in words)
    elif dtype.numpy is None or dtype.numpy.kind == "U":
        raise ValueError(f"{dtype.name} is not written in numbers")
    else:
        numbers = [_number(w) if dtype.numpy.kind == "f" else int(w) for w in words]
        set_numbers(tensor, dtype, np.array(numbers, dtype.numpy))
