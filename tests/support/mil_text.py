"""Writes packages in coremlcompiler's output form: programs as text, descriptions as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from converter.mil.mlproto import mil, ml

_WORDS = {"FLOAT16": "fp16", "FLOAT32": "fp32", "FLOAT64": "fp64", "BFLOAT16": "bf16"}
_WIDE = {"FLOAT32": "floats", "FLOAT64": "doubles", "INT64": "longInts", "UINT64": "longInts", "BOOL": "bools"}
_SCHEMA_TYPES = {65552: "Float16", 65568: "Float32", 65600: "Double", 131104: "Int32"}


class Printer:
    """Prints programs like coremlcompiler: up to iOS 17 every number is a tensor; from iOS 18 on (``bare``) it is not."""

    def __init__(self, bare: bool) -> None:
        self.bare = bare

    def word(self, number: int) -> str:
        name: str = mil().DataType.Name(number)
        return _WORDS.get(name, name.lower())

    def type(self, value_type: Any) -> str:
        if value_type.WhichOneof("type") == "stateType":
            return f"state<{self.type(value_type.stateType.wrappedType)}>"
        tensor = value_type.tensorType
        sizes = [str(d.constant.size) if d.WhichOneof("dimension") == "constant" else "?" for d in tensor.dimensions]
        if self.bare and not sizes:
            return self.word(tensor.dataType)
        return f"tensor<{self.word(tensor.dataType)}, [{', '.join(sizes)}]>"

    def plain(self, word: str, text: str) -> str:
        return f"{word}({text})" if self.bare else f"tensor<{word}, []>({text})"

    def text(self, text: str) -> str:
        inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{inner}"'

    def number(self, number: float, name: str) -> str:
        if name == "BOOL":
            return "true" if number else "false"
        if not name.startswith("FLOAT"):
            return str(int(number))
        if not np.isfinite(number):
            return str(float(number))
        mantissa, exponent = float(number).hex().split("p")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"

    def numbers(self, value: Any) -> np.ndarray:
        tensor, stored = value.type.tensorType, value.immediateValue.tensor
        name, kind = mil().DataType.Name(tensor.dataType), stored.WhichOneof("value")
        if kind == "strings":
            return np.array([self.text(s) for s in stored.strings.values], object)
        if kind != "bytes":
            return np.array([self.number(n, name) for n in getattr(stored, kind).values], object)
        bits = int("".join(c for c in name if c.isdigit()))
        if bits >= 8:
            dtype = np.float16 if name == "FLOAT16" else name.lower()
            return np.array([self.number(n, name) for n in np.frombuffer(stored.bytes.values, dtype)], object)
        count = int(np.prod([d.constant.size for d in tensor.dimensions], dtype=int))
        each = np.unpackbits(np.frombuffer(stored.bytes.values, np.uint8), bitorder="little")[: count * bits]
        numbers = [sum(int(b) << n for n, b in enumerate(one)) for one in each.reshape(count, bits)]
        signed = name.startswith("INT")
        return np.array([str(n - (1 << bits) if signed and n >> (bits - 1) else n) for n in numbers], object)

    def nested(self, words: Any) -> str:
        return words if isinstance(words, str) else f"[{', '.join(self.nested(w) for w in words)}]"

    def value(self, value: Any) -> str:
        if value.WhichOneof("value") == "blobFileValue":
            path = self.plain("string", self.text(value.blobFileValue.fileName))
            offset = self.plain("uint64", str(value.blobFileValue.offset))
            return f"{self.type(value.type)}(BLOBFILE(path = {path}, offset = {offset}))"
        words = self.numbers(value).reshape([d.constant.size for d in value.type.tensorType.dimensions])
        return f"{self.type(value.type)}({self.nested(words.tolist())})"

    def binding(self, binding: Any) -> str:
        return str(binding.name) if binding.WhichOneof("binding") == "name" else self.value(binding.value)

    def argument(self, name: str, argument: Any) -> str:
        if name == "values":
            return f"({', '.join(self.binding(b) for b in argument.arguments)})"
        (binding,) = argument.arguments
        return self.binding(binding)

    def operation(self, op: Any) -> str:
        outputs = ", ".join(f"{self.type(o.type)} {o.name}" for o in op.outputs)
        inputs = ", ".join(f"{name} = {self.argument(name, a)}" for name, a in sorted(op.inputs.items()))
        about = ", ".join(f"{name} = {self.value(v)}" for name, v in sorted(op.attributes.items()))
        return f"            {outputs}{' = ' if outputs else ''}{op.type}({inputs})[{about}];"

    def program(self, model: Any) -> str:
        pair = "string, string" if self.bare else "tensor<string, []>, tensor<string, []>"
        lines = ["program(1.3)" if self.bare else "program(1.0)"]
        lines += [
            f'[buildInfo = dict<{pair}>({{{{"coremlc-component-MIL", "3404.16.1"}}, {{"odd", "a]\\"{{"}}}})]',
            "{",
        ]
        for name, function in model.mlProgram.functions.items():
            inputs = ", ".join(f"{self.type(i.type)} {i.name}" for i in function.inputs)
            lines.append(f"    func {name}<ios{10 + int(function.opset[-1])}>({inputs}) {{")
            block = function.block_specializations[function.opset]
            lines += [self.operation(op) for op in block.operations]
            lines.append(f"        }} -> ({', '.join(block.outputs)});")
        return "\n".join([*lines, "}"])


def _schema(features: Iterable[Any]) -> list[dict[str, str]]:
    entries = []
    for feature in features:
        state = feature.type.WhichOneof("Type") == "stateType"
        array = feature.type.stateType.arrayType if state else feature.type.multiArrayType
        entry = {
            "hasShapeFlexibility": "0",
            "isOptional": str(int(feature.type.isOptional)),
            "dataType": _SCHEMA_TYPES[array.dataType],
            "shortDescription": "",
            "shape": str(list(array.shape)),
            "name": feature.name,
            "type": "State" if state else "MultiArray",
        }
        if array.enumeratedShapes.shapes:
            entry["enumeratedShapes"] = str([list(s.shape) for s in array.enumeratedShapes.shapes])
        if array.shapeRange.sizeRanges:
            entry["shapeRange"] = str([[r.lowerBound, r.upperBound] for r in array.shapeRange.sizeRanges])
        entries.append(entry)
    return entries


def _about(description: Any) -> dict[str, Any]:
    return {f"{part}Schema": _schema(getattr(description, part)) for part in ("input", "output", "state")}


def read_spec(package: Path) -> Any:
    """Read a package's model message."""
    model = ml().Model()
    model.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    return model


def compiled(package: Path, out: Path, bare: bool = False) -> Path:
    """Write the package in coremlcompiler's documented form; a pipeline's models are in model0 and so on."""
    model = read_spec(package)
    parts = {out / f"model{n}": m for n, m in enumerate(model.pipeline.models)} or {out: model}
    out.mkdir()
    for folder, part in parts.items():
        folder.mkdir(exist_ok=True)
        (folder / "model.mil").write_text(Printer(bare).program(part))
        weights = package / "Data/com.apple.CoreML/weights"
        if weights.is_dir():
            shutil.copytree(weights, folder / "weights")
    for folder, part in {**parts, out: model}.items():
        about = _about(part.description) | {
            "version": part.description.metadata.versionString,
            "userDefinedMetadata": dict(part.description.metadata.userDefined),
            "functions": [_about(f) | {"name": f.name} for f in part.description.functions],
        }
        (folder / "metadata.json").write_text(json.dumps([about]))
    return out
