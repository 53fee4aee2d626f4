"""A package as the lint reads it: the operations of every function with their types, and the weights.

`converter.runtime.program` refuses what it cannot run (nested blocks, lists); here these are reported, so nothing
that a package may hold is refused, except a compiled model's text with nested blocks, which cannot be read.
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
from converter.runtime.package import described, opened


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation that is computed; ``index`` is its place among them. Inputs name tensors and weights alike.

    Those of a nested block stand before the operation it belongs to, which takes the block's results as inputs
    ``block0`` and on.
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
        #: A caller's inputs; states stay with the model.
        self.inputs = tuple(name for name, kind in body.inputs.items() if not kind.state)
        self.weights: dict[str, Weight] = {}
        self.operations: list[Operation] = []
        self.producers: dict[str, Operation] = {}
        self.consumers: dict[str, list[Operation]] = {}
        #: Names that constexpr operations take: not weights of the computation itself.
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
                    # A value given in place becomes a weight of its own, so that rules see one kind.
                    given, constant = f"{name}.{parameter}.{number}", self._constant(argument)
                    self.weights[given] = Weight(given, constant.type, (), ((parameter, constant),))
                    self.types[given] = constant.type
                    names.append(given)
                elif argument in self.types:
                    names.append(argument)
                else:
                    raise PackageError(f"{name} ({op.kind}) uses {argument!r}, which nothing before it gives")
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
                    raise PackageError(f"{name} ({op.kind}) unfolds {used!r}, which is no constant")
                inner = self.weights[used]
                kinds += inner.kinds
                parts += [(k if inner.kinds else parameter, c) for k, c in inner.parts]
        self.weights[name] = Weight(name, self.types[name], (*kinds, op.kind), tuple(parts))

    def tensors(self, op: Operation) -> list[str]:
        """Return the inputs that are computed, not constant."""
        return [n for names in op.inputs.values() for n in names if n not in self.weights]

    def first(self, op: Operation, parameter: str = "x") -> str | None:
        """Return the one input called ``parameter``."""
        names = op.inputs.get(parameter, ())
        return names[0] if names else None

    def source(self, op: Operation, parameter: str = "x") -> Operation | None:
        """Return the operation that computes that input; None if it is constant or an input of the function."""
        return self.producers.get(self.first(op, parameter) or "")

    def value(self, op: Operation, parameter: str) -> Any:
        """Return a parameter's constant value: text, a NumPy array (of rank 0 for a number); None if it has none."""
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
    """A package: the version of Core ML's format it asks for, and its functions."""

    path: Path
    specification: int
    functions: tuple[Function, ...]


def read_listing(path: Path, blobs: Blobs) -> ProgramListing:
    """List the package or compiled model at ``path``, or a model of a pipeline; raises PackageError if it is no ML program."""
    model, data = opened(path)
    constants = Constants(data, blobs.open)
    functions = [
        Function(name, function.opset, read_body(model, path, name), described(model, name), constants, blobs)
        for name, function in sorted(model.mlProgram.functions.items())
    ]
    return ProgramListing(path, int(model.specificationVersion), tuple(functions))
