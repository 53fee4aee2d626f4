"""Programs written directly as messages: operators with any shapes and types, also those that no builder writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.mil.mlproto import mil, ml

_TYPES = {"f": "FLOAT32", "i": "INT32", "b": "BOOL", "u": "UINT8", "U": "STRING"}


def _data_type(array: np.ndarray, fp16: bool) -> int:
    word = "FLOAT16" if fp16 and array.dtype.kind == "f" else _TYPES[array.dtype.kind]
    return int(getattr(mil(), "INT8" if array.dtype == np.int8 else word))


def _type(message: Any, array: np.ndarray, fp16: bool, known: bool) -> None:
    """Fill a ValueType message with an array's type; unless ``known``, sizes are unknown."""
    message.tensorType.dataType, message.tensorType.rank = _data_type(array, fp16), array.ndim
    for size in array.shape:
        dimension = message.tensorType.dimensions.add()
        if known:
            dimension.constant.size = size
        else:
            dimension.unknown.variadic = False


def _value(message: Any, array: np.ndarray) -> None:
    """Fill a Value message; constants stay fp32."""
    _type(message.type, array, False, True)
    tensor = message.immediateValue.tensor
    flat = array.reshape(-1).tolist()
    if array.dtype in (np.int8, np.uint8):
        tensor.bytes.values = array.tobytes()
    else:
        getattr(tensor, {"f": "floats", "i": "ints", "b": "bools", "U": "strings"}[array.dtype.kind]).values.extend(
            flat
        )
        if not flat:
            getattr(tensor, {"f": "floats", "i": "ints", "b": "bools", "U": "strings"}[array.dtype.kind]).SetInParent()


@dataclass(frozen=True)
class Operation:
    """An operation: its parameters, which are inputs of the program (those in ``fed``) or constants, and its results.

    A list is a parameter of several tensors.
    """

    kind: str
    given: Mapping[str, Any]
    results: list[np.ndarray]
    fed: frozenset[str] = frozenset()


def _feature(features: Any, name: str, array: np.ndarray, fp16: bool) -> None:
    kind = features.add(name=name).type.multiArrayType
    kind.dataType = kind.INT32 if array.dtype.kind != "f" else kind.FLOAT16 if fp16 else kind.FLOAT32
    kind.shape.extend(array.shape)


def write_model(path: Path, model: Any) -> Path:
    """Write a model message as a package without weights."""
    data = path / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(model.SerializeToString())
    entry = {"author": "test", "description": "", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {"a": entry}, "rootModelIdentifier": "a"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def program_of(
    operations: Iterable[Operation], *, fp16: bool = False, known: bool = True
) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the model message of a program of these operations, with results ``r0_0``, ..., and the program's inputs.

    With ``fp16``, inputs and results are fp16; unless ``known``, the sizes of results are unknown.
    """
    model, inputs = ml().Model(specificationVersion=9), {}
    function = model.mlProgram.functions["main"]
    model.mlProgram.version, function.opset = 1, "CoreML8"
    block = function.block_specializations["CoreML8"]
    for number, operation in enumerate(operations):
        op = block.operations.add(type=operation.kind)
        for parameter, given in operation.given.items():
            if operation.kind == "const":
                _value(op.attributes[parameter], np.asarray(given))
                continue
            arguments = op.inputs[parameter].arguments
            for place, one in enumerate(given if isinstance(given, list) else [given]):
                array = np.asarray(one)
                if parameter in operation.fed and array.dtype.kind in "fi":
                    name = f"i{number}_{parameter}_{place}"
                    inputs[name] = array.astype(np.float16) if fp16 and array.dtype.kind == "f" else array
                    _feature(model.description.input, name, array, fp16)
                    _type(function.inputs.add(name=name).type, array, fp16, True)
                    arguments.add(name=name)
                else:
                    _value(arguments.add().value, array)
        for place, result in enumerate(operation.results):
            name = f"r{number}_{place}"
            _type(op.outputs.add(name=name).type, result, fp16, known)
            _feature(model.description.output, name, result, fp16)
            block.outputs.append(name)
    return model, inputs
