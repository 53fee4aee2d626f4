"""A package as the lint reads it: every function's operations with their types, and its weights.

`converter.runtime.program` refuses what it cannot run (nested blocks, lists); here these are what there is to report, so
nothing that a package may hold is refused. A compiled model's text with nested blocks is, when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.lint.stored import Blobs, Constant, Type, Weight, type_of
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
    """One function of a package, with who makes and who uses each tensor."""

    def __init__(self, name: str, body: Any, description: Any, data: Path, blobs: Blobs) -> None:
        self.name, self.opset, self.description = name, str(body.opset), description
        self.types: dict[str, Type] = {f.name: type_of(f.type) for f in body.inputs}
        #: What a caller hands in; states stay with the model.
        self.inputs = tuple(f.name for f in body.inputs if f.type.WhichOneof("type") != "stateType")
        self.weights: dict[str, Weight] = {}
        self.operations: list[Operation] = []
        self.producers: dict[str, Operation] = {}
        self.consumers: dict[str, list[Operation]] = {}
        #: Names that constexpr operations take; they are no weights of the computation itself.
        self.folded: set[str] = set()
        self._data, self._blobs = data, blobs
        block = body.block_specializations[body.opset]
        self.outputs = tuple(block.outputs)
        for op in block.operations:
            self._add(op)

    def _constant(self, value: Any) -> Constant:
        return Constant(type_of(value.type), value, self._data, self._blobs)

    def _add(self, op: Any) -> None:
        results = [o.name for o in op.outputs]
        for out in op.outputs:
            self.types[out.name] = type_of(out.type)
        if op.type == "const":
            constant = self._constant(op.attributes["val"])
            self.weights[results[0]] = Weight(results[0], constant.type, (), (("val", constant),))
            return
        name = self._constant(op.attributes["name"]).text() if "name" in op.attributes else None
        name = name or (results[0] if results else op.type)
        inputs: dict[str, tuple[str, ...]] = {}
        for parameter, argument in op.inputs.items():
            names = []
            for number, bound in enumerate(argument.arguments):
                if bound.WhichOneof("binding") == "value":
                    # A value given in place becomes a weight of its own, so that rules see one kind.
                    given, constant = f"{name}.{parameter}.{number}", self._constant(bound.value)
                    self.weights[given] = Weight(given, constant.type, (), ((parameter, constant),))
                    self.types[given] = constant.type
                    names.append(given)
                elif bound.name in self.types:
                    names.append(bound.name)
                else:
                    raise PackageError(f"{name} ({op.type}) uses {bound.name!r}, which nothing before it gives")
            inputs[parameter] = tuple(names)
        for number, block in enumerate(op.blocks):
            self.types |= {f.name: type_of(f.type) for f in block.inputs}
            for inner in block.operations:
                self._add(inner)
            inputs[f"block{number}"] = tuple(block.outputs)
        if op.type.startswith("constexpr_"):
            self._fold(op, results[0], inputs)
            return
        operation = Operation(len(self.operations), op.type, name, inputs, tuple(results), bool(op.blocks))
        self.operations.append(operation)
        self.producers |= dict.fromkeys(results, operation)
        for used in dict.fromkeys(n for names in inputs.values() for n in names):
            self.consumers.setdefault(used, []).append(operation)

    def _fold(self, op: Any, name: str, inputs: dict[str, tuple[str, ...]]) -> None:
        parts = [(k, self._constant(v)) for k, v in op.attributes.items() if k != "name"]
        kinds: list[str] = []
        for parameter, names in inputs.items():
            for used in names:
                self.folded.add(used)
                if used not in self.weights:
                    raise PackageError(f"{name} ({op.type}) unfolds {used!r}, which is no constant")
                inner = self.weights[used]
                kinds += inner.kinds
                parts += [(k if inner.kinds else parameter, c) for k, c in inner.parts]
        self.weights[name] = Weight(name, self.types[name], (*kinds, op.type), tuple(parts))

    def tensors(self, op: Operation) -> list[str]:
        """The inputs that are computed, not constant."""
        return [n for names in op.inputs.values() for n in names if n not in self.weights]

    def first(self, op: Operation, parameter: str = "x") -> str | None:
        """The one input called ``parameter``."""
        names = op.inputs.get(parameter, ())
        return names[0] if names else None

    def source(self, op: Operation, parameter: str = "x") -> Operation | None:
        """What computes that input; None where it is constant or an input of the function."""
        return self.producers.get(self.first(op, parameter) or "")

    def value(self, op: Operation, parameter: str) -> Any:
        """A parameter's constant value: text, a NumPy array (of rank 0 for a number); None where it has none."""
        weight = self.weights.get(self.first(op, parameter) or "")
        if weight is None or weight.constant is None:
            return None
        text = weight.constant.text()
        return weight.constant.array() if text is None else text

    def axes(self, op: Operation, parameter: str, rank: int) -> tuple[int, ...]:
        """A parameter's axes, counted from the front."""
        value = self.value(op, parameter)
        return () if value is None else tuple(sorted(int(a) % rank for a in np.atleast_1d(value)))

    def uses(self, name: str) -> list[Operation]:
        """The operations that take ``name``."""
        return self.consumers.get(name, [])


@dataclass(frozen=True)
class Listing:
    """A package: the version of Core ML's format it asks for, and its functions."""

    path: Path
    specification: int
    functions: tuple[Function, ...]


def read_listing(path: Path, blobs: Blobs) -> Listing:
    """The package or compiled model at ``path``, or a model of a pipeline; raises PackageError where it cannot be read or is no ML program."""
    model, data = opened(path)
    functions = [
        Function(name, body, described(model, name), data, blobs)
        for name, body in sorted(model.mlProgram.functions.items())
    ]
    return Listing(path, int(model.specificationVersion), tuple(functions))
