"""Read MIL text, the form of a program in a compiled model (model.mil), into MIL.proto's messages.

This is its grammar, as coremlcompiler writes it. Only the values of constants are long, so one regular expression takes
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
#: Identifiers, by MIL.proto.
_NAME = r"[A-Za-z_][\w@]*"
#: The space between a type and a name; after ``>`` it is optional.
_GAP = r"(?:\s+|(?<=>))"
#: Types of values other than tensors, at any place.
_NO_TENSOR = re.compile(rf"{_SPACE}\(?\s*(list|dict|tuple)\s*<")
_PROGRAM = re.compile(rf"{_SPACE}program\s*\([\d.]+\){_SPACE}")
_FUNCTION = re.compile(rf"{_SPACE}func\s+({_NAME})\s*<\s*(\w+)\s*>\s*\(([^()]*)\){_SPACE}")
_OPEN = re.compile(rf"{{{_SPACE}")
_CLOSE = re.compile(rf"{_SPACE}}}{_SPACE}")
_RETURN = re.compile(rf"{_SPACE}}}\s*->\s*\(([^()]*)\)\s*;")
_TYPED = re.compile(rf"\s*({TYPE}){_GAP}({_NAME})\s*(?:,|$)")
#: An operation's results (one tensor, several with or without parentheses, or none), and its type.
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
#: System in the text -> the operator set.
_OPSETS = {"ios15": "CoreML5", "ios16": "CoreML6", "ios17": "CoreML7", "ios18": "CoreML8", "ios26": "CoreML9"}


class TextError(ValueError):
    """A program's text cannot be read; the message begins with the line's number."""


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._literals = Literals(text)

    def fail(self, message: str, position: int | None = None) -> NoReturn:
        line = self._text.count("\n", 0, self._position if position is None else position) + 1
        raise TextError(f"line {line}: {message}")

    def expected(self, words: str) -> NoReturn:
        rest = self._text[self._position :].lstrip()[:40].partition("\n")[0]
        self.fail(f"{words} is expected, not {rest!r}" if rest else f"the text ends, but {words} is expected")

    def take(self, pattern: re.Pattern[str], words: str) -> re.Match[str]:
        match = self.maybe(pattern)
        return self.expected(words) if match is None else match

    def maybe(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._position)
        if match is not None:
            self._position = match.end()
        return match

    def program(self, message: Any) -> None:
        self.take(_PROGRAM, "program(version)")
        self.skip_attributes()
        self.take(_OPEN, "{")
        while (match := self.maybe(_FUNCTION)) is not None:
            self.function(message.functions[match[1]], match)
        self.take(_CLOSE, "func or }")
        if self._position != len(self._text):
            self.expected("the end")

    def function(self, message: Any, match: re.Match[str]) -> None:
        message.opset = _OPSETS.get(match[2], match[2])
        self.typed(message.inputs, match[3], match.start(3))
        self.skip_attributes()
        self.take(_OPEN, "{")
        block = message.block_specializations[message.opset]
        while (end := self.maybe(_RETURN)) is None:
            self.operation(block.operations.add())
        block.outputs.extend(name.strip() for name in end[1].split(",") if name.strip())

    def typed(self, values: Any, text: str, start: int) -> None:
        """Read ``type name, type name`` from ``text``, which begins at ``start``."""
        position = 0
        while position < len(text.rstrip()):
            match = _TYPED.match(text, position)
            if match is None:
                self.fail(f"a type and a name are expected, not {text[position : position + 40]!r}", start)
            position = match.end()
            values.add(name=match[2], type=self._literals.type(match[1], start))

    def operation(self, op: Any) -> None:
        start = self._position
        if (match := self.maybe(_ONE)) is not None:
            op.type = match[3]
            op.outputs.add(name=match[2], type=self._literals.type(match[1], start))
        elif (match := self.maybe(_SEVERAL)) is not None:
            op.type = match[2]
            self.typed(op.outputs, match[1], match.start(1))
        elif (match := _NO_TENSOR.match(self._text, self._position)) is not None:
            self.fail(f"an operation gives a {match[1]}, which is not supported; tensors are", match.start(1))
        else:
            op.type = self.take(_NONE, "an operation")[1]
        self.inputs(op)
        if (match := self.maybe(_ATTRIBUTES)) is not None and match[1] is None:
            self.attributes(op)
        if self.maybe(_END) is None:
            if _NESTED.match(self._text, self._position):
                where = f"{op.outputs[0].name} ({op.type})" if op.outputs else op.type
                self.fail(f"{where} has nested blocks, which are not supported")
            self.expected(f"; after {op.type}")

    def inputs(self, op: Any) -> None:
        if self._text.startswith(")", self._position):
            self._position += 1
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
        """Read one of a tuple's tensors or values; return whether another follows."""
        if (match := self.maybe(_MEMBER)) is not None:
            arguments.add(name=match[1])
            return match[2] == ","
        return self.value(arguments.add().value) == ","

    def attributes(self, op: Any) -> None:
        more = True
        while more:
            match = self.take(_KEY, f"an attribute of {op.type}")
            if match[1] not in ("name", "val") and _NO_TENSOR.match(self._text, self._position) is not None:
                self.skip_value()
                more = self.delimiter() == ","
            else:
                more = self.value(op.attributes[match[1]]) == ","

    def value(self, message: Any) -> str:
        value, self._position = self._literals.value(self._position)
        message.CopyFrom(value)
        return self.delimiter()

    def skip_value(self) -> None:
        """Skip an attribute's value that is not a tensor: no operator uses it."""
        depth = 0
        while (match := self.maybe(_TYPED_BRACKET)) is not None:
            depth += (match[0] in "([{<") - (match[0] in ")]}>")
            if depth == 0 and match[0] == ")":
                return
        self.expected(")")

    def delimiter(self) -> str:
        return self.take(_NEXT, "a comma or the end of a list")[1]

    def skip_attributes(self) -> None:
        """Skip a program's or function's brackets: build versions, and shapes that the description repeats."""
        if not self._text.startswith("[", self._position):
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
    reader, program = _Reader(text.removeprefix("\ufeff")), mil().Program(version=1)
    try:
        reader.program(program)
    except LiteralError as error:
        reader.fail(str(error), error.position)
    return program
