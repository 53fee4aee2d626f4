"""What a package's or compiled model's program shows of itself without its weights: features, operations, shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.runtime.chunks import chunk_features, chunk_paths
from converter.runtime.feature import Feature, features
from converter.runtime.package import described, function_of, read_model


@dataclass(frozen=True)
class Operation:
    """One operation (or constant): its kind, its output's name and shape, and what it works on (parameter x)."""

    kind: str
    output: str
    shape: tuple[int, ...]
    x: str | None


@dataclass(frozen=True)
class Outline:
    """A model's inputs, outputs and operations.

    version: what its maker said the model is (Apple's converter: the --model-version).
    metadata: its user-defined strings.
    """

    path: Path
    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    operations: tuple[Operation, ...]
    version: str
    metadata: dict[str, str]

    def shape(self, output: str) -> tuple[int, ...]:
        """An output's shape; where it is not declared (it need not be), that of the operation which gives it."""
        declared = self.outputs[output].shape
        return declared or next((o.shape for o in reversed(self.operations) if o.output == output), ())

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its operations."""
        return frozenset(o.kind for o in self.operations)

    @property
    def embedding_rows(self) -> int | None:
        """How many tokens a text encoder knows; None where its embedding is compressed."""
        tables = {o.output: o.shape for o in self.operations if o.kind == "const"}
        looked_up = (tables[o.x] for o in self.operations if o.kind == "gather" and o.x in tables)
        return next((shape[0] for shape in looked_up if len(shape) == 2), None)


def _operations(block: Any) -> Iterable[Operation]:
    for op in block.operations:
        kind = op.outputs[0].type if op.outputs else None
        if kind is None or kind.WhichOneof("type") != "tensorType":
            continue
        shape = tuple(int(d.constant.size) for d in kind.tensorType.dimensions)
        arguments = op.inputs["x"].arguments if "x" in op.inputs else ()
        yield Operation(op.type, op.outputs[0].name, shape, arguments[0].name if arguments else None)


def _outline(path: Path) -> Outline:
    model = read_model(path)
    function = function_of(model, path, None)
    description, body = described(model, function), model.mlProgram.functions[function]
    return Outline(
        path,
        features(description.input),
        features(description.output),
        tuple(_operations(body.block_specializations[body.opset])),
        model.description.metadata.versionString,
        dict(model.description.metadata.userDefined),
    )


def read_outline(path: Path) -> Outline:
    """The outline of an .mlpackage or .mlmodelc, or of both halves of a network cut in two if ``path`` is the first.

    Raises PackageError where it cannot be read or is no ML program.
    """
    outlines = [_outline(part) for part in chunk_paths(path)]
    inputs, outputs = chunk_features(path, ((o.inputs, o.outputs) for o in outlines))
    operations = tuple(operation for outline in outlines for operation in outline.operations)
    return replace(outlines[0], inputs=inputs, outputs=outputs, operations=operations)
