"""Read compiled models (.mlmodelc), coremlcompiler's form of a package: a description as JSON and a program as text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from converter.mil.mlproto import ml
from converter.runtime.feature import PackageError, error_text
from converter.runtime.text import TextError, read_text
from converter.weights.dtypes import BY_ARRAY

#: The file with the program.
COMPILED = "model.mil"
#: The file that takes its place in the format before ML programs.
_NETWORK = "model.espresso.net"
_OPSET = re.compile(r"CoreML(\d+)")


def _sizes(text: str) -> Any:
    return json.loads(text or "[]")


def _fill(feature: Any, entry: dict[str, Any], path: Path) -> None:
    """Fill a FeatureDescription from an entry of a schema."""
    feature.name = entry["name"]
    feature.type.isOptional = entry.get("isOptional") == "1"
    kind = entry.get("type", "MultiArray")
    if kind == "Image":
        feature.type.imageType.SetInParent()
        return
    if kind not in ("MultiArray", "State"):
        feature.type.dictionaryType.SetInParent()
        return
    array = feature.type.multiArrayType if kind == "MultiArray" else feature.type.stateType.arrayType
    if entry["dataType"] not in BY_ARRAY:
        raise PackageError(
            f"{path}: {entry['name']} is of type {entry['dataType']}, which is not supported; accepted: {', '.join(BY_ARRAY)}"
        )
    array.dataType = getattr(array, entry["dataType"].upper())
    array.shape.extend(_sizes(entry["shape"]))
    for shape in _sizes(entry.get("enumeratedShapes", "")):
        array.enumeratedShapes.shapes.add(shape=shape)
    for low, high in _sizes(entry.get("shapeRange", "")):
        array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)


def _features(description: Any, about: dict[str, Any], path: Path) -> None:
    for schema, features in (
        ("input", description.input),
        ("output", description.output),
        ("state", description.state),
    ):
        for entry in about.get(f"{schema}Schema", []):
            _fill(features.add(), entry, path)


def read_description(path: Path) -> Any:
    """Return the ModelDescription message of a compiled model or pipeline; raises PackageError if it cannot be read."""
    description = ml().ModelDescription()
    try:
        (about,) = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
        if "inputSchema" not in about or "outputSchema" not in about:
            raise PackageError(f"{path}: its metadata.json has no schema of its inputs and outputs")
        _features(description, about, path)
        for function in about.get("functions", []):
            _features(description.functions.add(name=function["name"]), function, path)
        description.defaultFunctionName = str(about.get("defaultFunctionName", ""))
        description.metadata.versionString = str(about.get("version", ""))
        for key, text in about.get("userDefinedMetadata", {}).items():
            description.metadata.userDefined[str(key)] = str(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackageError(f"{path} is not a compiled Core ML model: {error_text(error)}") from error
    return description


def read_compiled(path: Path) -> Any:
    """Return the model message of a compiled ML program; raises PackageError naming the place of an error."""
    if (path / _NETWORK).is_file() and not (path / COMPILED).is_file():
        raise PackageError(f"{path} is a compiled neural network ({_NETWORK}), not an ML program")
    model = ml().Model(description=read_description(path))
    try:
        text = (path / COMPILED).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} is not a compiled Core ML model: {error_text(error)}") from error
    try:
        model.mlProgram.CopyFrom(read_text(text))
    except TextError as error:
        raise PackageError(f"{path / COMPILED}, {error}") from error
    # A compiled model does not state the version it needs; its opset does: CoreML7 came with version 8.
    opsets = (_OPSET.fullmatch(function.opset) for function in model.mlProgram.functions.values())
    model.specificationVersion = max((int(opset[1]) + 1 for opset in opsets if opset), default=0)
    return model


def compiled_stages(path: Path) -> tuple[Path, ...]:
    """Return the folders of a compiled pipeline's models (model0, ...) in running order; empty for an ML program."""
    count = sum(1 for folder in path.glob("model*") if folder.name[5:].isdecimal() and folder.is_dir())
    return tuple(path / f"model{n}" for n in range(count))
