"""Find the blocks of a network, and write its package again with each block's result as a further output.

>>> unet_blocks = blocks(Path("unet.mlpackage"))
>>> with_block_outputs(Path("unet.mlpackage"), Path("probe.mlpackage"), unet_blocks)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.mil.graph import HEAVY
from converter.mil.mlproto import mil
from converter.mil.package import copy_package
from converter.mil.tensor import FP32, is_identifier, set_string, set_type, type_number
from converter.runtime.body import type_of
from converter.runtime.compressed import decodes
from converter.runtime.constants import dtype_of
from converter.runtime.feature import PackageError
from converter.runtime.package import describe_function, function_of, read_model

#: A block's module path in operations' names: a member of a module list of diffusers or transformers; in an attention
#: module each transformer block.
_BLOCK = re.compile(
    r"(?:\w*?_)?(?:resnets|attentions|downsamplers|upsamplers|layers)_\d+(?:_transformer_blocks_\d+)?(?=_|$)"
)
#: Number of blocks in a program without such names.
_PLACES = 32
#: The most bytes of blocks' results in one program, in fp32: a decoder's at 1024x1024 have 268 MB each.
ROUND_BYTES = 2**29


@dataclass(frozen=True)
class Block:
    """A block of a program. value: its result (its last tensor that is used outside). shape, dtype: the result's."""

    name: str
    value: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def output(self) -> str:
        """The name of the result as an output of the package."""
        return f"{self.value}_handed_on"

    @property
    def nbytes(self) -> int:
        """Bytes of the result in fp32."""
        return 4 * math.prod(self.shape)


def _fixed(kind: Any) -> tuple[int, ...] | None:
    """Return a value's shape if it is a floating tensor of fixed shape and rank 1 to 5, which an output can be."""
    if kind.tensorType.dataType not in (mil().FLOAT16, mil().FLOAT32):
        return None
    sizes = kind.tensorType.dimensions
    if not 1 <= len(sizes) <= 5 or any(d.WhichOneof("dimension") != "constant" for d in sizes):
        return None
    return tuple(int(d.constant.size) for d in sizes)


def _computed(block: Any) -> list[Any]:
    return [
        op for op in block.operations if op.outputs and op.type != "const" and not decodes(op.type, len(op.outputs))
    ]


def _named(operations: Sequence[Any]) -> dict[str, list[Any]]:
    """Return operations by their block's module path; a heavy operation outside all blocks (conv_in) is its own block."""
    named: dict[str, list[Any]] = {}
    for op in operations:
        match = _BLOCK.match(op.outputs[0].name)
        if match is not None:
            named.setdefault(match[0], []).append(op)
        elif op.type in HEAVY:
            named.setdefault(op.outputs[0].name, []).append(op)
    return named


def _every_nth(operations: list[Any]) -> dict[str, list[Any]]:
    count = math.ceil(len(operations) / _PLACES)
    return {
        chunk[-1].outputs[0].name: chunk
        for chunk in (operations[i : i + count] for i in range(0, len(operations), count))
    }


def _body(model: Any, function: str) -> Any:
    body = model.mlProgram.functions[function]
    return body.block_specializations[body.opset]


def blocks(path: Path, function: str = "main") -> tuple[Block, ...]:
    """Return the blocks of one package's program in the order of their results; raises PackageError.

    Packages whose operations are named by module paths, as those written here are, have the network's own blocks; other
    programs are cut into 32 blocks. A block is left out if its result is not a floating tensor of fixed shape, or is an
    output already.
    """
    model = read_model(path)
    body = _body(model, function_of(model, path, function))
    operations = _computed(body)
    stretches = _named(operations)
    if sum(_BLOCK.fullmatch(name) is not None for name in stretches) < 2:
        stretches = _every_nth(operations)
    places = {o.name: place for place, op in enumerate(operations) for o in op.outputs}
    users: dict[str, set[int]] = {}
    for place, op in enumerate(operations):
        for used in (bound.name for argument in op.inputs.values() for bound in argument.arguments):
            users.setdefault(used, set()).add(place)
    ends = []
    for name, within in stretches.items():
        inner = {places[o.name] for op in within for o in op.outputs}
        results = [
            Block(name, o.name, shape, dtype_of(type_of(o.type), o.name))
            for op in within
            for o in op.outputs
            if users.get(o.name, set()) - inner and o.name not in body.outputs and is_identifier(o.name)
            if (shape := _fixed(o.type)) is not None
        ]
        ends += results[-1:]
    return tuple(sorted(ends, key=lambda block: places[block.value]))


def in_rounds(sequence: Sequence[Block], most: int = ROUND_BYTES) -> Iterator[tuple[Block, ...]]:
    """Return the blocks in groups whose results take at most ``most`` bytes together; a larger block is its own group."""
    group: list[Block] = []
    for block in sequence:
        if group and sum(b.nbytes for b in group) + block.nbytes > most:
            yield tuple(group)
            group = []
        group.append(block)
    if group:
        yield tuple(group)


def _constant_text(block: Any, name: str, text: str) -> None:
    op = block.operations.add(type="const")
    set_string(op.attributes["name"], name)
    set_string(op.attributes["val"], text)
    set_type(op.outputs.add(name=name).type, (), mil().STRING)


def _add_output(body: Any, block: Block) -> None:
    """Append the operation that makes a block's result an output, like `converter.mil.Function.output`."""
    kind = "identity" if block.dtype == FP32 else "cast"
    if kind == "cast":
        _constant_text(body, f"{block.output}_dtype", "fp32")
    op = body.operations.add(type=kind)
    op.inputs["x"].arguments.add(name=block.value)
    if kind == "cast":
        op.inputs["dtype"].arguments.add(name=f"{block.output}_dtype")
    set_string(op.attributes["name"], f"{block.output}_{kind}")
    set_type(op.outputs.add(name=block.output).type, block.shape, type_number(FP32))
    body.outputs.append(block.output)


def with_block_outputs(path: Path, out: Path, probes: Sequence[Block], function: str = "main") -> None:
    """Write the package ``path`` as ``out``, with the results of the blocks ``probes`` as further outputs in fp32.

    Its weights are hard links to the package's if possible. Raises PackageError if ``path`` is not an .mlpackage.
    """
    if path.suffix != ".mlpackage":
        raise PackageError(f"{path} is compiled; an .mlpackage is needed, to write it again with its blocks' results")
    model = read_model(path)
    description = describe_function(model, function_of(model, path, function))
    body = _body(model, function)
    for block in probes:
        _add_output(body, block)
        feature = description.output.add(name=block.output)
        feature.type.multiArrayType.shape.extend(block.shape)
        feature.type.multiArrayType.dataType = feature.type.multiArrayType.FLOAT32
    copy_package(path, out)
    manifest = json.loads((out / "Manifest.json").read_text())
    program = out / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    program.unlink()  # a hard link to the package's file
    program.write_bytes(model.SerializeToString(deterministic=True))
