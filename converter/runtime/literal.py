"""Read types and values of MIL text into MIL.proto's messages.

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

#: The type of an element, of a tensor, or of a state (which has a tensor).
TYPE = r"(?:tensor<\s*\w+\s*,\s*\[[^\]]*\]\s*>|state<\s*tensor<\s*\w+\s*,\s*\[[^\]]*\]\s*>\s*>|\w+)"
TEXT = r'"(?:[^"\\]|\\.)*"'
_TENSOR = re.compile(r"(state<\s*)?tensor<\s*(\w+)\s*,\s*\[([^\]]*)\]\s*>(?(1)\s*>)")
_NUMBERS = re.compile(rf"({TYPE})\(([^()\"]*)\)")
#: Numbers that each repeat their type, as in texts written by hand.
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
    """A type or value that cannot be read; ``position`` is its place in the text."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def unquoted(text: str) -> str:
    """Return the text of a quoted string."""
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1])


def _number(word: str) -> float:
    return float.fromhex(word) if "x" in word else float(word)


class Literals:
    """A reader of the types and values in one program's text; it parses the same text once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._types: dict[str, Any] = {}
        self._values: dict[str, Any] = {}

    def type(self, name: str, position: int) -> Any:
        """Return the ValueType message of a type; raises LiteralError."""
        if name not in self._types:
            self._types[name] = self._type(name, position)
        return self._types[name]

    def value(self, position: int) -> tuple[Any, int]:
        """Return the Value message of the value at a position, and the position of its end; raises LiteralError."""
        if (match := _NUMBERS.match(self._text, position)) is not None:
            if match[0] not in self._values:
                self._values[match[0]] = self._numbers(match, position)
            return self._values[match[0]], match.end()
        if (match := _EACH_TYPED.match(self._text, position)) is not None:
            return self._numbers(match, position), match.end()
        if (match := _BLOB.match(self._text, position)) is not None:
            message = mil().Value(type=self.type(match[1], position))
            message.blobFileValue.fileName = unquoted(match[2])
            message.blobFileValue.offset = int(match[3])
            return message, match.end()
        if (match := _TEXTS.match(self._text, position)) is not None:
            message = mil().Value(type=self.type(match[1], position))
            message.immediateValue.tensor.strings.values.extend(unquoted(t) for t in _ONE_TEXT.findall(match[2]))
            return message, match.end()
        raise LiteralError(f"no value at {self._text[position : position + 40]!r}", position)

    def _type(self, name: str, position: int) -> Any:
        match = _TENSOR.fullmatch(name)
        dtype, sizes = (match[2], match[3].split(",")) if match else (name, [])
        if dtype not in BY_NAME:
            raise LiteralError(f"{dtype} is not a known type of MIL", position)
        value_type = mil().ValueType()
        tensor_type = value_type.stateType.wrappedType if match and match[1] else value_type
        tensor_type.tensorType.dataType = BY_NAME[dtype].number
        for size in (s.strip() for s in sizes if s.strip()):
            dimension = tensor_type.tensorType.dimensions.add()
            if size.isdecimal():
                dimension.constant.size = int(size)
            elif "?" in size or size.isidentifier():  # a name stands for a size that is not fixed
                dimension.unknown.variadic = "?" in size and size != "?"
            else:
                raise LiteralError(f"{size!r} is not the size of an axis", position)
        tensor_type.tensorType.rank = len(tensor_type.tensorType.dimensions)
        return value_type

    def _numbers(self, match: re.Match[str], position: int) -> Any:
        message = mil().Value(type=self.type(match[1], position))
        tensor = message.type.tensorType
        dtype = BY_NUMBER[tensor.dataType]
        if other := [name for name, _ in _ONE_TYPED.findall(match[2]) if name != dtype.name]:
            raise LiteralError(f"{match[1]} cannot have a {other[0]}", position)
        numbers = _ONE_TYPED.sub(r"\2", match[2])
        words = [w for w in numbers.translate(_BRACKETS).replace(",", " ").split() if w]
        count = math.prod(int(d.constant.size) for d in tensor.dimensions)
        if len(words) != count:
            raise LiteralError(f"{match[1]} needs {count} numbers, not {len(words)}", position)
        try:
            _fill(message.immediateValue.tensor, dtype, words)
        except (ValueError, OverflowError) as error:
            raise LiteralError(f"{match[0][:60]!r} is not a value: {error}", position) from error
        return message


def _fill(tensor: Any, dtype: DType, words: list[str]) -> None:
    if dtype.name == "bool":
        if unknown := set(words) - {"true", "false"}:
            raise ValueError(f"{sorted(unknown)[0]} is not true or false")
        tensor.bools.values.extend(w == "true" for w in words)
    elif dtype.numpy is None or dtype.numpy.kind == "U":
        raise ValueError(f"{dtype.name} cannot be written as numbers")
    else:
        numbers = [_number(w) if dtype.numpy.kind == "f" else int(w) for w in words]
        set_numbers(tensor, dtype, np.array(numbers, dtype.numpy))
