"""Programs written straight as messages: operators on whatever shapes and types, also those no builder would write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.mil.mlproto import mil, ml

_TYPES = {"f": "FLOAT32", "i": "INT32", "b": "BOOL", "u": "UINT8", "U": "STRING"}


def _data_type(array: np.ndarray, half: bool) -> int:
    word = "FLOAT16" if half and array.dtype.kind == "f" else _TYPES[array.dtype.kind]
    return int(getattr(mil(), "INT8" if array.dtype == np.int8 else word))


def _type(held: Any, array: np.ndarray, half: bool, known: bool) -> None:
    """Fill a ValueType message with an array's; with sizes left open unless ``known``."""
    held.tensorType.dataType, held.tensorType.rank = _data_type(array, half), array.ndim
    for size in array.shape:
        dimension = held.tensorType.dimensions.add()
        if known:
            dimension.constant.size = size
        else:
            dimension.unknown.variadic = False


def _value(found: Any, array: np.ndarray) -> None:
    """Fill a Value message; constants stay fp32."""
    _type(found.type, array, False, True)
    held = found.immediateValue.tensor
    flat = array.reshape(-1).tolist()
    if array.dtype in (np.int8, np.uint8):
        held.bytes.values = array.tobytes()
    else:
        getattr(held, {"f": "floats", "i": "ints", "b": "bools", "U": "strings"}[array.dtype.kind]).values.extend(flat)
        if not flat:
            getattr(held, {"f": "floats", "i": "ints", "b": "bools", "U": "strings"}[array.dtype.kind]).SetInParent()


@dataclass(frozen=True)
class Operation:
    """An operation: its parameters, arrays that the program is given (those in ``fed``) or constants, and its results.

    A list stands for a parameter of several tensors.
    """

    kind: str
    given: Mapping[str, Any]
    results: list[np.ndarray]
    fed: frozenset[str] = frozenset()


def _feature(found: Any, name: str, array: np.ndarray, half: bool) -> None:
    kind = found.add(name=name).type.multiArrayType
    kind.dataType = kind.INT32 if array.dtype.kind != "f" else kind.FLOAT16 if half else kind.FLOAT32
    kind.shape.extend(array.shape)


def write_model(path: Path, model: Any) -> Path:
    """A model message as the package at ``path``, without weights."""
    data = path / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(model.SerializeToString())
    entry = {"author": "test", "description": "", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {"a": entry}, "rootModelIdentifier": "a"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path


def program_of(
    operations: Iterable[Operation], *, half: bool = False, known: bool = True
) -> tuple[Any, dict[str, np.ndarray]]:
    """The model message of a program of these operations, result ``r0_0`` and on, and what to give it.

    With ``half`` results are fp16; unless ``known`` the program leaves the sizes of results open.
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
                    inputs[name] = array.astype(np.float16) if half and array.dtype.kind == "f" else array
                    _feature(model.description.input, name, array, half)
                    _type(function.inputs.add(name=name).type, array, half, True)
                    arguments.add(name=name)
                else:
                    _value(arguments.add().value, array)
        for place, result in enumerate(operation.results):
            name = f"r{number}_{place}"
            _type(op.outputs.add(name=name).type, result, half, known)
            _feature(model.description.output, name, result, half)
            block.outputs.append(name)
    return model, inputs
