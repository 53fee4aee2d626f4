"""An .mlpackage on disk: a manifest, the program of one or several functions, and their weights file."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.mil import MACOS15, TargetError, Tensor, is_identifier
from converter.mil.function import Function
from converter.mil.mlproto import mil, ml
from converter.weights.dtypes import stored_as

_NAMESPACE = uuid.UUID("7b1c1a2e-6a5e-4c1e-9a43-6a2f0f4f7a10")
#: The name of a package's only function, by coremltools' and Core ML's convention.
_MAIN = "main"
_DATA = "Data/com.apple.CoreML"
#: The paths in a package of the folder with weights, and of the file in it.
WEIGHTS_FOLDER = f"{_DATA}/weights"
WEIGHTS = f"{WEIGHTS_FOLDER}/weight.bin"
#: The key of a package's metadata that says which layers' weights are stored multiplied by a factor (`Function.scales`).
SCALES = "app.anemone.scales"


def _describe(features: Any, tensors: Sequence[Tensor], describe: Callable[[str], str]) -> None:
    for tensor in tensors:
        feature = features.add()
        feature.name = tensor.name
        feature.shortDescription = describe(tensor.name)
        array = feature.type.multiArrayType
        array.shape.extend(tensor.shape)
        array.dataType = getattr(array, str(stored_as(tensor.dtype).array).upper())


def _build_info(program: Any, versions: Mapping[str, str]) -> None:
    info = program.attributes["buildInfo"]
    text = mil().STRING
    info.type.dictionaryType.keyType.tensorType.dataType = text
    info.type.dictionaryType.valueType.tensorType.dataType = text
    for key, value in versions.items():
        pair = info.immediateValue.dictionary.values.add()
        for side, words in ((pair.key, key), (pair.value, value)):
            side.type.tensorType.dataType = text
            side.immediateValue.tensor.strings.values.append(words)


def _model(graphs: Mapping[str, Function], about: str, metadata: Mapping[str, str]) -> Any:
    """Return the model message with everything but the descriptions of inputs and outputs."""
    model = ml().Model()
    model.specificationVersion = next(iter(graphs.values())).target.specification_version
    model.description.metadata.shortDescription = about
    for key in sorted(metadata):
        model.description.metadata.userDefined[key] = metadata[key]
    model.mlProgram.version = 1
    for name, graph in graphs.items():
        model.mlProgram.functions[name].CopyFrom(graph.function)
    _build_info(model.mlProgram, {"coremltools-version": metadata["com.github.apple.coremltools.version"]})
    return model


def link(file: str | Path, name: str | Path) -> None:
    """Give a file another name, by a hard link; copy it on a file system without hard links."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def copy_package(package: Path, target: Path, copy: Callable[[Path, Path], object] = link) -> None:
    """Make the folder ``target`` of a package's files, each by ``copy``, and end at the first that fails, with its error.

    `shutil.copytree` would try the others too, and raise a list of texts that does not tell a full disk.
    """
    target.mkdir(parents=True)
    for path in sorted(package.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(package)).mkdir()
        else:
            copy(path, target / path.relative_to(package))


def _write(path: Path, model: Any, weights: Path) -> None:
    (path / WEIGHTS).parent.mkdir(parents=True)
    (path / _DATA / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    link(weights, path / WEIGHTS)
    root, other = (str(uuid.uuid5(_NAMESPACE, f"{path.name}/{part}")) for part in ("model", "weights"))
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            root: {
                "author": "com.apple.CoreML",
                "description": "CoreML Model Specification",
                "name": "model.mlmodel",
                "path": "com.apple.CoreML/model.mlmodel",
            },
            other: {
                "author": "com.apple.CoreML",
                "description": "CoreML Model Weights",
                "name": "weights",
                "path": "com.apple.CoreML/weights",
            },
        },
        "rootModelIdentifier": root,
    }
    # coremltools writes the manifest in this order whenever it opens a package.
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def write_package(
    path: Path,
    graph: Function,
    weights: Path,
    *,
    about: str,
    describe: Callable[[str], str],
    metadata: Mapping[str, str],
) -> None:
    """Write ``graph`` as the package ``path``, whose weights are a hard link to (or a copy of) ``weights``.

    Its only function is called main. The same graph gives the same bytes. ``describe`` returns the description of an
    input or output by name; ``metadata`` becomes the model's user-defined strings.
    """
    model = _model({_MAIN: graph}, about, metadata)
    _describe(model.description.input, graph.inputs, describe)
    _describe(model.description.output, graph.outputs, describe)
    _write(path, model, weights)


def _refuse(graphs: Mapping[str, Function], default: str) -> None:
    if default not in graphs:
        raise ValueError(f"the default function {default!r} is not one of the functions: {', '.join(graphs) or 'none'}")
    for name, graph in graphs.items():
        if not graph.target.at_least(MACOS15):
            raise TargetError(
                f"a package of several functions needs macOS 15 (function {name} is for {graph.target.name}); "
                f"write a package for each of {', '.join(graphs)}, or convert for macOS15"
            )
        if not is_identifier(name):
            raise ValueError(
                f"{name!r} cannot name a function: ML programs accept letters, digits and _, no digit first"
            )
        if graph.target != graphs[default].target or graph.weights is not graphs[default].weights:
            raise ValueError(f"functions {name} and {default} must have the same target and the same weights file")


def write_functions(
    path: Path,
    graphs: Mapping[str, Function],
    weights: Path,
    *,
    default: str,
    about: str,
    describe: Callable[[str], str],
    metadata: Mapping[str, str],
) -> None:
    """Write ``graphs`` (by function name, in order) as one package; the rest is as in `write_package`.

    The form is that of ``ct.utils.save_multifunction`` (coremltools 9.0): every function has a description of its own,
    and Core ML loads ``default`` if the caller names no function. Raises TargetError for a target before macOS 15 and
    ValueError if a name is not valid (a function is called size_512x768, not 512x768), if ``default`` is not a function,
    or if the graphs do not share their `Weights`.
    """
    _refuse(graphs, default)
    model = _model(graphs, about, metadata)
    for name, graph in graphs.items():
        function = model.description.functions.add()
        function.name = name
        _describe(function.input, graph.inputs, describe)
        _describe(function.output, graph.outputs, describe)
    model.description.defaultFunctionName = default
    _write(path, model, weights)
