"""MIL text, the form a program has in a compiled model (model.mil), read into MIL.proto's messages.

Its grammar, as coremlcompiler writes it; nothing but the values of constants is long, so one regular expression takes
most of a line at a time:

    program(1.0)
    [buildInfo = …]
    {
        func main<ios16>(tensor<fp16, [1, 4]> x) {
                tensor<int32, [1]> axes = const()[name = tensor<string, []>("axes"), val = tensor<int32, [1]>([1])];
                tensor<fp16, [1, 1]> y = reduce_sum(axes = axes, x = x)[name = tensor<string, []>("y")];
            } -> (y);
    }
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from converter.mil.mlproto import mil
from converter.runtime.literal import TEXT, TYPE, LiteralError, Literals

_SPACE = r"(?:\s|//[^\n]*|/\*(?s:.*?)\*/)*"
#: Identifiers as MIL.proto has them.
_NAME = r"[A-Za-z_][\w@]*"
#: Between a type and a name; after ``>`` there need be none.
_GAP = r"(?:\s+|(?<=>))"
#: Types of values that are no tensors, wherever they stand.
_NO_TENSOR = re.compile(rf"{_SPACE}\(?\s*(list|dict|tuple)\s*<")
_PROGRAM = re.compile(rf"{_SPACE}program\s*\([\d.]+\){_SPACE}")
_FUNCTION = re.compile(rf"{_SPACE}func\s+({_NAME})\s*<\s*(\w+)\s*>\s*\(([^()]*)\){_SPACE}")
_OPEN = re.compile(rf"{{{_SPACE}")
_CLOSE = re.compile(rf"{_SPACE}}}{_SPACE}")
_RETURN = re.compile(rf"{_SPACE}}}\s*->\s*\(([^()]*)\)\s*;")
_TYPED = re.compile(rf"\s*({TYPE}){_GAP}({_NAME})\s*(?:,|$)")
#: What an operation gives (one tensor, several with or without parentheses, or nothing), and its type.
_ONE = re.compile(rf"{_SPACE}({TYPE}){_GAP}({_NAME})\s*=\s*(\w+)\s*\({_SPACE}")
_SEVERAL = re.compile(
    rf"{_SPACE}\(?\s*({TYPE}{_GAP}{_NAME}(?:\s*,\s*{TYPE}{_GAP}{_NAME})*)\s*\)?\s*=\s*(\w+)\s*\({_SPACE}"
)
_NONE = re.compile(rf"{_SPACE}(\w+)\s*\({_SPACE}")
_TENSOR = re.compile(rf"(\w+)\s*=\s*({_NAME}){_SPACE}([,)]){_SPACE}")
_KEY = re.compile(rf"(\w+)\s*=\s*(\()?{_SPACE}")
_MEMBER = re.compile(rf"({_NAME})\s*([,)]){_SPACE}")
_NEXT = re.compile(rf"{_SPACE}([,)\]]){_SPACE}")
_ATTRIBUTES = re.compile(rf"{_SPACE}\[{_SPACE}(\])?")
_BLANK = re.compile(_SPACE)
_END = re.compile(rf"{_SPACE};")
_NESTED = re.compile(rf"{_SPACE}[({{]")
_BRACKET = re.compile(rf'{TEXT}|[\[\](){{}}]|[^\[\](){{}}"]+')
_TYPED_BRACKET = re.compile(rf'{TEXT}|[\[\](){{}}<>]|[^\[\](){{}}<>"]+')
#: Operator sets by the systems that the text names them for.
_OPSETS = {"ios15": "CoreML5", "ios16": "CoreML6", "ios17": "CoreML7", "ios18": "CoreML8", "ios26": "CoreML9"}


class TextError(ValueError):
    """A program's text that cannot be read; the message begins with the line's number."""


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._literals = Literals(text)

    def fail(self, words: str, at: int | None = None) -> NoReturn:
        line = self._text.count("\n", 0, self._at if at is None else at) + 1
        raise TextError(f"line {line}: {words}")

    def expected(self, words: str) -> NoReturn:
        found = self._text[self._at :].lstrip()[:40].partition("\n")[0]
        self.fail(f"{words} is expected, not {found!r}" if found else f"it ends where {words} is expected")

    def take(self, pattern: re.Pattern[str], words: str) -> re.Match[str]:
        match = self.maybe(pattern)
        return self.expected(words) if match is None else match

    def maybe(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def program(self, found: Any) -> None:
        self.take(_PROGRAM, "program(version)")
        self.skip_attributes()
        self.take(_OPEN, "{")
        while (match := self.maybe(_FUNCTION)) is not None:
            self.function(found.functions[match[1]], match)
        self.take(_CLOSE, "func or }")
        if self._at != len(self._text):
            self.expected("the end")

    def function(self, found: Any, match: re.Match[str]) -> None:
        found.opset = _OPSETS.get(match[2], match[2])
        self.typed(found.inputs, match[3], match.start(3))
        self.skip_attributes()
        self.take(_OPEN, "{")
        block = found.block_specializations[found.opset]
        while (end := self.maybe(_RETURN)) is None:
            self.operation(block.operations.add())
        block.outputs.extend(name.strip() for name in end[1].split(",") if name.strip())

    def typed(self, found: Any, text: str, at: int) -> None:
        """``type name, type name``"""
        position = 0
        while position < len(text.rstrip()):
            match = _TYPED.match(text, position)
            if match is None:
                self.fail(f"a type and a name are expected, not {text[position : position + 40]!r}", at)
            position = match.end()
            found.add(name=match[2], type=self._literals.type(match[1], at))

    def operation(self, op: Any) -> None:
        start = self._at
        if (match := self.maybe(_ONE)) is not None:
            op.type = match[3]
            op.outputs.add(name=match[2], type=self._literals.type(match[1], start))
        elif (match := self.maybe(_SEVERAL)) is not None:
            op.type = match[2]
            self.typed(op.outputs, match[1], match.start(1))
        elif (match := _NO_TENSOR.match(self._text, self._at)) is not None:
            self.fail(f"an operation gives a {match[1]}, which is not supported; tensors are", match.start(1))
        else:
            op.type = self.take(_NONE, "an operation")[1]
        self.inputs(op)
        if (match := self.maybe(_ATTRIBUTES)) is not None and match[1] is None:
            self.attributes(op)
        if self.maybe(_END) is None:
            if _NESTED.match(self._text, self._at):
                where = f"{op.outputs[0].name} ({op.type})" if op.outputs else op.type
                self.fail(f"{where} has nested blocks, which are not supported")
            self.expected(f"; after {op.type}")

    def inputs(self, op: Any) -> None:
        if self._text.startswith(")", self._at):
            self._at += 1
            return
        more = True
        while more:
            if (match := self.maybe(_TENSOR)) is not None:
                op.inputs[match[1]].arguments.add(name=match[2])
                more = match[3] == ","
                continue
            match = self.take(_KEY, f"a parameter of {op.type}")
            arguments = op.inputs[match[1]].arguments
            if match[2] is None:
                more = self.value(arguments.add().value) == ","
                continue
            while self.member(arguments):
                pass
            more = self.delimiter() == ","

    def member(self, arguments: Any) -> bool:
        """Return one of a tuple's tensors or values; whether another follows."""
        if (match := self.maybe(_MEMBER)) is not None:
            arguments.add(name=match[1])
            return match[2] == ","
        return self.value(arguments.add().value) == ","

    def attributes(self, op: Any) -> None:
        more = True
        while more:
            match = self.take(_KEY, f"an attribute of {op.type}")
            if match[1] not in ("name", "val") and _NO_TENSOR.match(self._text, self._at) is not None:
                self.pass_value()
                more = self.delimiter() == ","
            else:
                more = self.value(op.attributes[match[1]]) == ","

    def value(self, found: Any) -> str:
        value, self._at = self._literals.value(self._at)
        found.CopyFrom(value)
        return self.delimiter()

    def pass_value(self) -> None:
        """Pass over an attribute's value of a type that is not a tensor: no operator computes with it."""
        depth = 0
        while (match := self.maybe(_TYPED_BRACKET)) is not None:
            depth += (match[0] in "([{<") - (match[0] in ")]}>")
            if depth == 0 and match[0] == ")":
                return
        self.expected(")")

    def delimiter(self) -> str:
        return self.take(_NEXT, "a comma or the end of a list")[1]

    def skip_attributes(self) -> None:
        """Pass over a program's or function's brackets: build versions, and shapes that its description has."""
        if not self._text.startswith("[", self._at):
            return
        depth = 0
        while (match := self.maybe(_BRACKET)) is not None:
            depth += (match[0] in "[({") - (match[0] in "])}")
            if depth == 0:
                self.maybe(_BLANK)
                return
        self.expected("]")


def read_text(text: str) -> Any:
    """Return the Program message (MIL.proto) of a program's text; raises TextError naming the line."""
    reader, found = _Reader(text.removeprefix("\ufeff")), mil().Program(version=1)
    try:
        reader.program(found)
    except LiteralError as error:
        reader.fail(str(error), error.at)
    return found
