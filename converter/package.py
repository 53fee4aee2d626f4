"""An .mlpackage on disk: a manifest, the program, and its weights file."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from converter.mil import FP16, Graph, Tensor
from converter.mlproto import mil, ml

_NAMESPACE = uuid.UUID("7b1c1a2e-6a5e-4c1e-9a43-6a2f0f4f7a10")
#: macOS 13 is the first whose programs take fp16 inputs.
SPECIFICATION_VERSION = 7


def _describe(features: object, tensor: Tensor, text: str) -> None:
    feature = features.add()  # type: ignore[attr-defined]
    feature.name = tensor.name
    feature.shortDescription = text
    array = feature.type.multiArrayType
    array.shape.extend(tensor.shape)
    array.dataType = array.FLOAT16 if tensor.dtype == FP16 else array.FLOAT32


def _build_info(program: object, versions: Mapping[str, str]) -> None:
    info = program.attributes["buildInfo"]  # type: ignore[attr-defined]
    text = mil().STRING
    info.type.dictionaryType.keyType.tensorType.dataType = text
    info.type.dictionaryType.valueType.tensorType.dataType = text
    for key, value in versions.items():
        pair = info.immediateValue.dictionary.values.add()
        for side, words in ((pair.key, key), (pair.value, value)):
            side.type.tensorType.dataType = text
            side.immediateValue.tensor.strings.values.append(words)


def write_package(
    path: Path, graph: Graph, weights: Path, *, about: str, descriptions: Mapping[str, str], metadata: Mapping[str, str]
) -> None:
    """Write ``graph`` as the package ``path``, whose weights are a hard link to (or a copy of) ``weights``.

    The same graph gives the same bytes. ``descriptions`` are by input and output name; ``metadata`` becomes the
    model's user-defined strings.
    """
    model = ml().Model()
    model.specificationVersion = SPECIFICATION_VERSION
    model.description.metadata.shortDescription = about
    for key in sorted(metadata):
        model.description.metadata.userDefined[key] = metadata[key]
    for tensor in graph.inputs:
        _describe(model.description.input, tensor, descriptions[tensor.name])
    for tensor in graph.outputs:
        _describe(model.description.output, tensor, descriptions[tensor.name])
    model.mlProgram.version = 1
    model.mlProgram.functions["main"].CopyFrom(graph.function)
    _build_info(model.mlProgram, {"coremltools-version": metadata["com.github.apple.coremltools.version"]})

    data = path / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    try:
        os.link(weights, data / "weights" / "weight.bin")
    except OSError:  # a file system without hard links
        (data / "weights" / "weight.bin").write_bytes(weights.read_bytes())
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
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n")
