"""The blocks of a network, and its package written anew so that it also gives what each block hands on.

>>> found = blocks(Path("unet.mlpackage"))
>>> with_block_outputs(Path("unet.mlpackage"), Path("probe.mlpackage"), found)
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.mil.graph import HEAVY
from converter.mil.mlproto import mil
from converter.mil.tensor import FP32, is_identifier, set_string, set_type, type_number
from converter.runtime.body import type_of
from converter.runtime.compressed import decodes
from converter.runtime.constants import dtype_of
from converter.runtime.feature import PackageError
from converter.runtime.package import describe_function, function_of, read_model

#: A block's module path as operations' names have it: a member of one of diffusers' or transformers' lists of modules,
#: and within an attention module each of its transformer blocks.
_BLOCK = re.compile(
    r"(?:\w*?_)?(?:resnets|attentions|downsamplers|upsamplers|layers)_\d+(?:_transformer_blocks_\d+)?(?=_|$)"
)
#: How many places of a program without such names are looked at.
_PLACES = 32
#: What the results of blocks may take together in one program, fp32: a decoder's at 1024x1024 are 268 MB each.
ROUND_BYTES = 2**29


@dataclass(frozen=True)
class Block:
    """A stretch of a program. value: the tensor it hands on (the last one used outside of it). shape: that tensor's."""

    name: str
    value: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def output(self) -> str:
        """What the tensor is called as an output of the package."""
        return f"{self.value}_handed_on"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in fp32."""
        return 4 * math.prod(self.shape)


def _fixed(kind: Any) -> tuple[int, ...] | None:
    """Return a value's shape where it is a floating tensor of fixed shape and an output can have it (rank 1 to 5)."""
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
    """Return blocks by their module path; a heavy operation outside of all (conv_in, conv_out) is one by itself."""
    found: dict[str, list[Any]] = {}
    for op in operations:
        named = _BLOCK.match(op.outputs[0].name)
        if named is not None:
            found.setdefault(named[0], []).append(op)
        elif op.type in HEAVY:
            found.setdefault(op.outputs[0].name, []).append(op)
    return found


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
    """Return the blocks of one package's program in the order in which their results are there; raises PackageError.

    Packages written here, and others whose operations are named by modules' paths, have the network's own blocks;
    of other programs every N-th operation ends one, 32 in all. A block whose result is no floating tensor of fixed shape
    is left out, and so is one whose result is an output already.
    """
    model = read_model(path)
    body = _body(model, function_of(model, path, function))
    operations = _computed(body)
    found = _named(operations)
    if sum(_BLOCK.fullmatch(name) is not None for name in found) < 2:
        found = _every_nth(operations)
    places = {o.name: place for place, op in enumerate(operations) for o in op.outputs}
    takers: dict[str, set[int]] = {}
    for place, op in enumerate(operations):
        for used in (bound.name for argument in op.inputs.values() for bound in argument.arguments):
            takers.setdefault(used, set()).add(place)
    ends = []
    for name, within in found.items():
        inner = {places[o.name] for op in within for o in op.outputs}
        handed_on = [
            Block(name, o.name, shape, dtype_of(type_of(o.type), o.name))
            for op in within
            for o in op.outputs
            if takers.get(o.name, set()) - inner and o.name not in body.outputs and is_identifier(o.name)
            if (shape := _fixed(o.type)) is not None
        ]
        ends += handed_on[-1:]
    return tuple(sorted(ends, key=lambda block: places[block.value]))


def in_rounds(found: Sequence[Block], most: int = ROUND_BYTES) -> Iterator[tuple[Block, ...]]:
    """Return the blocks in groups whose results take no more than ``most`` bytes together, or of one block alone."""
    group: list[Block] = []
    for block in found:
        if group and sum(b.nbytes for b in group) + block.nbytes > most:
            yield tuple(group)
            group = []
        group.append(block)
    if group:
        yield tuple(group)


def _link(file: str, out: str) -> str:
    try:
        os.link(file, out)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(file, out)
    return out


def _constant_text(block: Any, name: str, text: str) -> None:
    op = block.operations.add(type="const")
    set_string(op.attributes["name"], name)
    set_string(op.attributes["val"], text)
    set_type(op.outputs.add(name=name).type, (), mil().STRING)


def _hand_on(body: Any, block: Block) -> None:
    """Append the operation that makes a block's result an output, as `converter.mil.Function.output` does."""
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


def with_block_outputs(path: Path, out: Path, found: Sequence[Block], function: str = "main") -> None:
    """Write the package ``path`` as ``out``, with the results of these blocks as further outputs in fp32.

    Its weights are links to the package's own where that can be. Raises PackageError where ``path`` is no .mlpackage.
    """
    if path.suffix != ".mlpackage":
        raise PackageError(f"{path} is compiled; only an .mlpackage can be written anew with its blocks' results")
    model = read_model(path)
    description = describe_function(model, function_of(model, path, function))
    body = _body(model, function)
    for block in found:
        _hand_on(body, block)
        feature = description.output.add(name=block.output)
        feature.type.multiArrayType.shape.extend(block.shape)
        feature.type.multiArrayType.dataType = feature.type.multiArrayType.FLOAT32
    shutil.copytree(path, out, copy_function=_link)
    manifest = json.loads((out / "Manifest.json").read_text())
    program = out / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    program.unlink()  # a link to the package's own
    program.write_bytes(model.SerializeToString(deterministic=True))
