"""Summarize a package's or compiled model's program without its weights: features, operations, shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from converter.runtime.body import Body, read_body
from converter.runtime.chunks import chunk_features, chunk_paths
from converter.runtime.feature import Feature, features
from converter.runtime.package import describe_function, function_of, read_model


@dataclass(frozen=True)
class Operation:
    """One operation (or constant): its kind, its output's name and shape, and its operand (parameter x)."""

    kind: str
    output: str
    shape: tuple[int, ...]
    x: str | None


@dataclass(frozen=True)
class ProgramSummary:
    """A model's inputs, outputs and operations.

    version: the version string of its metadata (Apple's converter writes --model-version).
    metadata: the user-defined strings.
    """

    path: Path
    inputs: dict[str, Feature]
    outputs: dict[str, Feature]
    operations: tuple[Operation, ...]
    version: str
    metadata: dict[str, str]

    def shape(self, output: str) -> tuple[int, ...]:
        """Return an output's declared shape, or that of the operation which gives it if none is declared."""
        declared = self.outputs[output].shape
        return declared or next((o.shape for o in reversed(self.operations) if o.output == output), ())

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its operations."""
        return frozenset(o.kind for o in self.operations)

    @property
    def embedding_rows(self) -> int | None:
        """The number of rows of a text encoder's token embedding; None if the embedding is compressed."""
        tables = {o.output: o.shape for o in self.operations if o.kind == "const"}
        embeddings = (tables[o.x] for o in self.operations if o.kind == "gather" and o.x in tables)
        return next((shape[0] for shape in embeddings if len(shape) == 2), None)


def _operations(body: Body) -> Iterator[Operation]:
    for op in body.statements:
        if op.outputs:
            output, kind = next(iter(op.outputs.items()))
            if kind.kind == "tensorType" and not kind.state:
                yield Operation(op.kind, output, tuple([n or 0 for n in kind.shape]), op.argument("x"))


def _summary(path: Path) -> ProgramSummary:
    model = read_model(path)
    function = function_of(model, path, None)
    description = describe_function(model, function)
    return ProgramSummary(
        path,
        features(description.input),
        features(description.output),
        tuple(_operations(read_body(model, path, function))),
        model.description.metadata.versionString,
        dict(model.description.metadata.userDefined),
    )


def read_summary(path: Path) -> ProgramSummary:
    """Return the summary of an .mlpackage or .mlmodelc, or of all chunks of a network if ``path`` is the first.

    Raises PackageError if it cannot be read or is not an ML program.
    """
    summaries = [_summary(chunk) for chunk in chunk_paths(path)]
    inputs, outputs = chunk_features(path, ((s.inputs, s.outputs) for s in summaries))
    operations = tuple(operation for summary in summaries for operation in summary.operations)
    return replace(summaries[0], inputs=inputs, outputs=outputs, operations=operations)
