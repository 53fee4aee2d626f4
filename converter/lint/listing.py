"""A package as the lint reads it: the operations of every function with their types, and the weights.

`converter.runtime.program` refuses what it cannot run (nested blocks, lists); the lint reports these, so it
reads every package except a compiled model's text with nested blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.lint.stored import Blobs, Constant, Weight
from converter.runtime.body import Body, Literal, Statement, read_body
from converter.runtime.constants import Constants
from converter.runtime.feature import PackageError
from converter.runtime.package import describe_function, open_program


@dataclass(frozen=True, eq=False)
class Operation:
    """A computed operation; ``index`` is its position among them. Inputs name both tensors and weights.

    Operations of a nested block come before the operation that the block belongs to, which takes the block's results as
    its inputs ``block0``, ``block1`` and so on.
    """

    index: int
    kind: str
    name: str
    inputs: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    nested: bool


class Function:
    """One function of a package, with the producer and the consumers of each tensor."""

    def __init__(self, name: str, opset: str, body: Body, description: Any, constants: Constants, blobs: Blobs) -> None:
        self.name, self.opset, self.description, self.outputs = name, opset, description, body.outputs
        self.types = dict(body.inputs)
        #: Inputs without the states, which the caller does not give.
        self.inputs = tuple(name for name, kind in body.inputs.items() if not kind.state)
        self.weights: dict[str, Weight] = {}
        self.operations: list[Operation] = []
        self.producers: dict[str, Operation] = {}
        self.consumers: dict[str, list[Operation]] = {}
        #: Inputs of constexpr operations: not weights of the computation itself.
        self.folded: set[str] = set()
        self._constants, self._blobs = constants, blobs
        for op in body.statements:
            self._add(op)

    def _constant(self, literal: Literal) -> Constant:
        return Constant(literal.type, literal, self._constants, self._blobs)

    def _add(self, op: Statement) -> None:
        self.types |= op.outputs
        if op.kind == "const" and "val" in op.attributes:
            constant = self._constant(op.attributes["val"])
            self.weights[op.name] = Weight(op.name, constant.type, (), (("val", constant),))
            return
        name = (op.attributes["name"].text if "name" in op.attributes else None) or op.name
        inputs: dict[str, tuple[str, ...]] = {}
        for parameter, arguments in op.inputs.items():
            names = []
            for number, argument in enumerate(arguments):
                if isinstance(argument, Literal):
                    # An inline value becomes a weight of its own, so that rules see one kind.
                    inline, constant = f"{name}.{parameter}.{number}", self._constant(argument)
                    self.weights[inline] = Weight(inline, constant.type, (), ((parameter, constant),))
                    self.types[inline] = constant.type
                    names.append(inline)
                elif argument in self.types:
                    names.append(argument)
                else:
                    raise PackageError(f"{name} ({op.kind}) takes {argument!r}, which no operation before it gives")
            inputs[parameter] = tuple(names)
        for number, block in enumerate(op.blocks):
            self.types |= block.inputs
            for inner in block.statements:
                self._add(inner)
            inputs[f"block{number}"] = block.outputs
        if op.kind.startswith("constexpr_"):
            self._fold(op, inputs)
            return
        operation = Operation(len(self.operations), op.kind, name, inputs, tuple(op.outputs), bool(op.blocks))
        self.operations.append(operation)
        self.producers |= dict.fromkeys(op.outputs, operation)
        for used in dict.fromkeys(n for names in inputs.values() for n in names):
            self.consumers.setdefault(used, []).append(operation)

    def _fold(self, op: Statement, inputs: dict[str, tuple[str, ...]]) -> None:
        name = op.name
        parts = [(k, self._constant(v)) for k, v in op.attributes.items() if k != "name"]
        kinds: list[str] = []
        for parameter, names in inputs.items():
            for used in names:
                self.folded.add(used)
                if used not in self.weights:
                    raise PackageError(f"{name} ({op.kind}) unfolds {used!r}, which is not a constant")
                inner = self.weights[used]
                kinds += inner.kinds
                parts += [(k if inner.kinds else parameter, c) for k, c in inner.parts]
        self.weights[name] = Weight(name, self.types[name], (*kinds, op.kind), tuple(parts))

    def tensors(self, op: Operation) -> list[str]:
        """Return the inputs that are not constants."""
        return [n for names in op.inputs.values() for n in names if n not in self.weights]

    def first(self, op: Operation, parameter: str = "x") -> str | None:
        """Return the one input called ``parameter``."""
        names = op.inputs.get(parameter, ())
        return names[0] if names else None

    def source(self, op: Operation, parameter: str = "x") -> Operation | None:
        """Return the operation that computes that input; None if it is constant or an input of the function."""
        return self.producers.get(self.first(op, parameter) or "")

    def value(self, op: Operation, parameter: str) -> Any:
        """Return a parameter's constant value: text or a NumPy array (of rank 0 for a number); None if it is not constant."""
        weight = self.weights.get(self.first(op, parameter) or "")
        if weight is None or weight.constant is None:
            return None
        text = weight.constant.literal.text
        return weight.constant.array() if text is None else text

    def axes(self, op: Operation, parameter: str, rank: int) -> tuple[int, ...]:
        """Return a parameter's axes, counted from the front."""
        value = self.value(op, parameter)
        return () if value is None else tuple(sorted(int(a) % rank for a in np.atleast_1d(value)))

    def uses(self, name: str) -> list[Operation]:
        """Return the operations that take ``name``."""
        return self.consumers.get(name, [])


@dataclass(frozen=True)
class ProgramListing:
    """A package: the version of Core ML's format that it needs, and its functions."""

    path: Path
    specification: int
    functions: tuple[Function, ...]


def read_listing(path: Path, blobs: Blobs) -> ProgramListing:
    """Read a package, a compiled model or a model of a pipeline; raises PackageError if it is not an ML program."""
    model, folder = open_program(path)
    constants = Constants(folder, blobs.open)
    functions = [
        Function(name, function.opset, read_body(model, path, name), describe_function(model, name), constants, blobs)
        for name, function in sorted(model.mlProgram.functions.items())
    ]
    return ProgramListing(path, int(model.specificationVersion), tuple(functions))
