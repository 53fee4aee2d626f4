"""A function's operations as its package stores them: the only reader of MIL.proto's messages.

This decodes and refuses nothing. `converter.runtime.program` makes a runnable program from it,
`converter.runtime.summary` a summary, and `converter.lint.listing` the input of the lint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.runtime.feature import PackageError
from converter.weights.blob import packed_size
from converter.weights.dtypes import BY_NAME, BY_NUMBER, DType


@dataclass(frozen=True, slots=True)
class Type:
    """A value's type.

    dtype: the element type's name ("fp16", "uint4", "string"), or its MIL data type if unknown. shape: None is a size
    that is not fixed. kind: the ValueType's; lists and dictionaries have neither dtype ("other") nor shape. state:
    whether the value is a state. ranked: whether the number of axes is fixed.
    """

    dtype: str
    shape: tuple[int | None, ...]
    kind: str = "tensorType"
    state: bool = False
    ranked: bool = True

    @property
    def stored(self) -> DType | None:
        """The element type; None for an unknown name."""
        return BY_NAME.get(self.dtype)

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The shape; None if a size or the number of axes is not fixed."""
        sizes = tuple([n for n in self.shape if n is not None])
        return sizes if self.ranked and len(sizes) == len(self.shape) else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape with ones for sizes that are not fixed."""
        return tuple([1 if n is None else n for n in self.shape])

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.sizes)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the packed elements."""
        return self.count if self.stored is None else packed_size(self.stored.bits or 8, (self.count,))


def type_of(message: Any) -> Type:
    """Return a ValueType message's type; for a state, that of its tensor."""
    kind = message.WhichOneof("type")
    state = kind == "stateType"
    if state:
        message = message.stateType.wrappedType
        kind = message.WhichOneof("type")
    if kind != "tensorType":
        return Type("other", (), str(kind), state)
    tensor = message.tensorType
    stored = BY_NUMBER.get(tensor.dataType)
    shape = tuple([d.constant.size if d.HasField("constant") else None for d in tensor.dimensions])
    ranked = None not in shape or not any(d.unknown.variadic for d in tensor.dimensions)
    name = f"MIL data type {tensor.dataType}" if stored is None else stored.name
    return Type(name, shape, kind, state, ranked)


class Literal:
    """A constant value as it is stored (a Value message of MIL.proto)."""

    __slots__ = ("message",)

    def __init__(self, message: Any) -> None:
        self.message = message

    @property
    def type(self) -> Type:
        """The value's type."""
        return type_of(self.message.type)

    @property
    def in_file(self) -> bool:
        """Whether the value is in a weights file, not in the program."""
        return bool(self.message.WhichOneof("value") == "blobFileValue")

    @property
    def text(self) -> str | None:
        """The value if it is one string, otherwise None."""
        strings = self.message.immediateValue.tensor.strings.values
        return str(strings[0]) if len(strings) == 1 else None


#: The arguments of a parameter: names of values, and inline values.
Arguments = tuple[str | Literal, ...]


class Statement:
    """An operation or a constant. Each part is read on its first use."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self.kind: str = message.type

    @property
    def name(self) -> str:
        """Its name in messages: its first result, or its kind if it has no result."""
        return next(iter(self.outputs), self.kind)

    @cached_property
    def inputs(self) -> dict[str, Arguments]:
        """The arguments of each parameter."""
        return {
            parameter: tuple([
                Literal(a.value) if a.WhichOneof("binding") == "value" else a.name for a in argument.arguments
            ])
            for parameter, argument in self._message.inputs.items()
        }  # fmt: skip

    def argument(self, parameter: str) -> str | None:
        """Return the name of the first argument of a parameter; None for an inline value or a missing parameter."""
        if parameter not in self._message.inputs:
            return None
        arguments = self._message.inputs[parameter].arguments
        return arguments[0].name or None if arguments else None

    @cached_property
    def attributes(self) -> dict[str, Literal]:
        """The attributes by name; a constant's value is ``val``."""
        return {name: Literal(value) for name, value in self._message.attributes.items()}

    @cached_property
    def outputs(self) -> dict[str, Type]:
        """The types of the results by name."""
        return {out.name: type_of(out.type) for out in self._message.outputs}

    @cached_property
    def blocks(self) -> tuple[Body, ...]:
        """The nested blocks."""
        return tuple([_body(block, block) for block in self._message.blocks])


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """The operations of a function or of a nested block; ``inputs`` are types by name."""

    inputs: dict[str, Type]
    outputs: tuple[str, ...]
    statements: tuple[Statement, ...]


def _body(typed: Any, block: Any) -> Body:
    inputs = {value.name: type_of(value.type) for value in typed.inputs}
    return Body(inputs, tuple(block.outputs), tuple(map(Statement, block.operations)))


def read_body(model: Any, path: Path, function: str) -> Body:
    """Return the body of a function of a model message; raises PackageError if it has no body for its opset."""
    message = model.mlProgram.functions[function]
    if message.opset not in message.block_specializations:
        raise PackageError(f"{path}: its function {function} has no operations for its opset {message.opset!r}")
    return _body(message, message.block_specializations[message.opset])
