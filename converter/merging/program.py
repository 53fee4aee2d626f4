"""A package's weights by their layers' names, and the same program with other weights in their place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.merging.errors import MergeError
from converter.mil.package import SCALES
from converter.mil.tensor import set_array, set_string, set_type, type_number
from converter.runtime.body import Literal, Statement
from converter.runtime.compressed import Compressed, Value, decodes, dense
from converter.runtime.constants import Constants, shape_of
from converter.runtime.package import open_program

#: A constant with a layer's weight or bias: its name begins with the module's path, and ends, if it is compressed, with
#: how, and, if its function uses the same weight several times, with a number.
_LAYER = re.compile(r"(?P<weight>.+_(?:weight|bias))(?:_palettized|_quantized)?(?:_\d+)?")


@dataclass(frozen=True)
class Placed:
    """A weight that is in a weights file: the file's name in the package, and the offset of its record."""

    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Definition:
    """A constant's operation, and the constants of its function, by name."""

    operation: Any
    constants: dict[str, Any]


class Program:
    """The ML program of a package, with all its functions, in memory; large weights stay in their files."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self.model, folder = open_program(package)
        self.file = folder / "model.mlmodel"
        self._decoder = Constants(folder)
        self._weights: dict[str, list[_Definition]] = {}
        for block in self._blocks():
            constants: dict[str, Any] = {}
            for op in block.operations:
                if op.type != "const" and not decodes(op.type, len(op.outputs)):
                    continue
                constants |= {out.name: op for out in op.outputs}
                if match := _LAYER.fullmatch(op.outputs[0].name):
                    self._weights.setdefault(match["weight"], []).append(_Definition(op, constants))

    def _blocks(self) -> Iterator[Any]:
        for function in self.model.mlProgram.functions.values():
            yield function.block_specializations[function.opset]

    def __contains__(self, weight: str) -> bool:
        return weight in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    @property
    def scales(self) -> dict[str, float]:
        """The layers whose weights are stored multiplied by a factor. Raises MergeError if the package does not state them."""
        stated = self.model.description.metadata.userDefined
        if SCALES not in stated:
            raise MergeError(
                f"{self._package} does not say how its weights are stored: an earlier version or another converter made "
                "it. Convert the checkpoint again with `anemone convert`, and merge into that"
            )
        return {str(layer): float(factor) for layer, factor in json.loads(stated[SCALES]).items()}

    def shape(self, weight: str) -> tuple[int, ...]:
        """Return a weight's shape."""
        statement = Statement(self._weights[weight][0].operation)
        return shape_of(statement.outputs[statement.name], statement.name)

    def inline(self, weight: str) -> bool:
        """Return whether a weight is inside the program rather than in a weights file."""
        op = self._weights[weight][0].operation
        return op.type == "const" and not Literal(op.attributes["val"]).in_file

    def array(self, weight: str) -> NDArray[Any]:
        """Return a weight as it is stored, mapped from its file or decoded."""
        definition = self._weights[weight][0]
        value = self._value(definition.operation.outputs[0].name, definition.constants)
        if isinstance(value, str):
            raise MergeError(f"{self._package}: {weight} is a text")
        return dense(value)

    def _value(self, name: str, constants: dict[str, Any]) -> Value:
        statement = Statement(constants[name])
        if statement.kind == "const":
            return self._decoder.decode(Literal(constants[name].attributes["val"]), name)
        names = (a for arguments in statement.inputs.values() for a in arguments if isinstance(a, str))
        sources = {source: self._value(source, constants) for source in names}
        decoded: Compressed = self._decoder.unfold(statement, sources)[name]
        return decoded

    def replace(self, weight: str, new: Placed | NDArray[Any]) -> None:
        """Give all functions another weight: one that is in a weights file, or a small one, which goes into the program."""
        for definition in self._weights[weight]:
            op = definition.operation
            name = op.outputs[0].name
            op.Clear()
            op.type = "const"
            set_string(op.attributes["name"], name)
            value = op.attributes["val"]
            if isinstance(new, Placed):
                set_type(value.type, new.shape, type_number(new.dtype))
                value.blobFileValue.fileName = f"@model_path/weights/{new.file}"
                value.blobFileValue.offset = new.offset
            else:
                set_array(value, new)
            set_type(op.outputs.add(name=name).type, new.shape, type_number(new.dtype))

    def write(self, path: Path) -> None:
        """Write the model's file, without constants that no operation takes any more."""
        for block in self._blocks():
            taken = {name for op in block.operations for name in _taken(op)} | set(block.outputs)
            unused = [
                index
                for index, op in enumerate(block.operations)
                if op.type == "const" and not any(out.name in taken for out in op.outputs)
            ]
            for index in reversed(unused):
                del block.operations[index]
        path.write_bytes(self.model.SerializeToString(deterministic=True))


def _taken(op: Any) -> Iterator[str]:
    for argument in op.inputs.values():
        for bound in argument.arguments:
            yield bound.name
