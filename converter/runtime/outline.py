"""What a package's or compiled model's program shows of itself without its weights: features, operations, shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.runtime.feature import Feature, PackageError, features
from converter.runtime.program import described, read_model

#: An operation of a compiled model's program, which is text, one operation a line.
_LINE = re.compile(r"\s*tensor<\w+, \[([\d, ]*)\]> (\w+) = (\w+)\((?:.*?\bx = (\w+))?")
_DTYPES = {"Float16": np.float16, "Float32": np.float32, "Double": np.float64, "Int32": np.int32}


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


def _of_package(path: Path) -> Outline:
    model = read_model(path)
    description = described(model, path, "main")
    body = model.mlProgram.functions["main"]
    return Outline(
        path,
        features(description.input),
        features(description.output),
        tuple(_operations(body.block_specializations[body.opset])),
        model.description.metadata.versionString,
        dict(model.description.metadata.userDefined),
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.strip("[]").split(",") if n.strip())


def _schema(path: Path, schema: Any) -> dict[str, Feature]:
    found = {}
    for entry in schema:
        if entry["dataType"] not in _DTYPES:
            raise PackageError(f"{path}: {entry['name']} is of type {entry['dataType']}, which is not supported")
        dtype = np.dtype(_DTYPES[entry["dataType"]])
        found[entry["name"]] = Feature(entry["name"], _numbers(entry["shape"]), dtype)
    return found


def _of_compiled(path: Path) -> Outline:
    """coremlcompiler leaves a metadata.json of the model's description and the program as text in model.mil."""
    try:
        (about,) = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
        lines = (path / "model.mil").read_text(encoding="utf-8").splitlines()
        matches = (m for m in map(_LINE.match, lines) if m is not None)
        return Outline(
            path,
            _schema(path, about["inputSchema"]),
            _schema(path, about["outputSchema"]),
            tuple(Operation(m[3], m[2], _numbers(m[1]), m[4]) for m in matches),
            str(about.get("version", "")),
            {str(k): str(v) for k, v in about.get("userDefinedMetadata", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackageError(f"{path} is not a compiled Core ML model: {error!r}") from error


def read_outline(path: Path) -> Outline:
    """The outline of an .mlpackage or .mlmodelc; raises PackageError where it cannot be read or is no ML program."""
    return _of_compiled(path) if path.suffix == ".mlmodelc" else _of_package(path)
