"""Cut a program into chunks: programs with weights of their own that, one after the other, give what the whole gives.

A chunk takes those of the program's inputs that it uses, and what chunks before it hand over: values of the program, under
their names and in their types, so that nothing is rounded on the way. (Apple's chunks hand fp32 over, twice the bytes.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from converter.mil.function import Function
from converter.mil.mlproto import mil
from converter.mil.tensor import FP16, FP32, Tensor, type_number
from converter.mil.weights import CopiedWeights
from converter.weights.blob import BlobReader

#: How far a chunk's end may be from the even one to hand over less, as a fraction of an even chunk's weights.
_TOLERANCE = 0.1
#: What may be handed over: models have no bool inputs and outputs, and integers are rarely worth the copy.
_HANDED = {type_number(dtype): dtype for dtype in (FP16, FP32)}


@dataclass(frozen=True)
class Place:
    """A place after an operation at which a program can be cut: bytes of weights before it, and of values across it."""

    weights: int
    values: int


def _is_constant(op: Any) -> bool:
    return bool(op.type == "const" or op.type.startswith("constexpr_"))


def _arguments(op: Any) -> Iterator[Any]:
    for _, parameter in sorted(op.inputs.items()):
        yield from parameter.arguments


def _blobs(op: Any) -> Iterator[Any]:
    """Yield an operation's references into the weights file."""
    values = [value for _, value in sorted(op.attributes.items())]
    values += [argument.value for argument in _arguments(op) if argument.WhichOneof("binding") == "value"]
    for value in values:
        if value.WhichOneof("value") == "blobFileValue":
            yield value.blobFileValue


class Flow:
    """A program's operations in order, the constants that each uses, and the values that pass between them."""

    def __init__(self, program: Function) -> None:
        self._program = program
        self._all = list(program.function.block_specializations[program.target.opset].operations)
        self._constants = {op.outputs[0].name: index for index, op in enumerate(self._all) if _is_constant(op)}
        #: The places of operations that are no constants.
        self._steps = [index for index, op in enumerate(self._all) if not _is_constant(op)]
        self._ends = {self._all[index].outputs[0].name: step for step, index in enumerate(self._steps, 1)}
        self._last_use: dict[str, int] = {}
        for step, index in enumerate(self._steps):
            self._last_use |= dict.fromkeys(self._names(index), step)

    def _names(self, index: int) -> list[str]:
        return [argument.name for argument in _arguments(self._all[index]) if argument.WhichOneof("binding") == "name"]

    def _constants_of(self, index: int) -> set[int]:
        """Return the constants that an operation uses, those that they are decoded from included."""
        own = {self._constants[name] for name in self._names(index) if name in self._constants}
        return own.union(*(self._constants_of(constant) for constant in own))

    def places(self, weights: BlobReader) -> dict[str, Place]:
        """Return the places at which the program can be cut, each by the name of the value made before it."""
        places: dict[str, Place] = {}
        seen: set[int] = set()
        live: dict[str, int | None] = {}
        before = 0
        for step, index in enumerate(self._steps):
            op = self._all[index]
            for constant in self._constants_of(index):
                offsets = {blob.offset for blob in _blobs(self._all[constant])} - seen
                before += sum(weights.blob(offset)[1].size for offset in offsets)
                seen |= offsets
            live |= {output.name: _bytes(output.type.tensorType) for output in op.outputs}
            live = {name: size for name, size in live.items() if self._last_use.get(name, -1) > step}
            sizes = list(live.values())
            if None not in sizes:
                places[op.outputs[0].name] = Place(before, sum(size or 0 for size in sizes))
        return places

    def cut(self, ends: Sequence[str], weights: Sequence[CopiedWeights]) -> list[Function]:
        """Return the chunks of the program that end after the values ``ends``, and the last; each has its own weights file."""
        bounds = pairwise([0, *(self._ends[name] for name in ends), len(self._steps)])
        return [self._chunk(begin, end, own) for (begin, end), own in zip(bounds, weights, strict=True)]

    def _chunk(self, begin: int, end: int, weights: CopiedWeights) -> Function:
        steps = self._steps[begin:end]
        used = dict.fromkeys(name for index in steps for name in self._names(index))
        chunk = Function(weights, self._program.target)
        chunk.scales = self._program.scales
        for tensor in (*self._program.inputs, *self._made(0, begin)):
            if tensor.name in used:
                chunk.input(tensor.name, tensor.shape, tensor.dtype)
        for index in sorted({*steps, *(c for step in steps for c in self._constants_of(step))}):
            op = mil().Operation()
            op.CopyFrom(self._all[index])
            for blob in _blobs(op):
                blob.offset = weights.copy(blob.offset)
            chunk.append(op)
        results = {tensor.name for tensor in self._program.outputs}
        for tensor in self._made(begin, end):
            if tensor.name in results or self._last_use.get(tensor.name, -1) >= end:
                chunk.hand_over(tensor)
        return chunk

    def _made(self, begin: int, end: int) -> Iterator[Tensor]:
        """Yield the values of these steps that may be handed over, in order."""
        for index in self._steps[begin:end]:
            for output in self._all[index].outputs:
                kind = output.type.tensorType
                if kind.dataType in _HANDED:
                    yield Tensor(output.name, _shape(kind), _HANDED[kind.dataType])


def _shape(kind: Any) -> tuple[int, ...]:
    return tuple(dimension.constant.size for dimension in kind.dimensions)


def _bytes(kind: Any) -> int | None:
    """Return the bytes of a value of a tensor type; None if it cannot be handed over."""
    dtype = _HANDED.get(kind.dataType)
    return None if dtype is None else math.prod(_shape(kind)) * dtype.itemsize


def choose_ends(places: Mapping[str, Place], common: Iterable[str], count: int) -> list[str]:
    """Return the ``common`` ones of the places after which ``count`` chunks end, all but the last.

    Chunks have about equally many bytes of weights. Of the places within a tenth of a chunk from the even one, that with the
    fewest bytes to hand over is taken. Raises ValueError if the weights are too few to give each chunk some.
    """
    known = frozenset(common)
    total = max(place.weights for place in places.values())
    possible = {name: place for name, place in places.items() if name in known and 0 < place.weights < total}
    if len({place.weights for place in possible.values()}) < count - 1:
        raise ValueError(f"its weights cannot be divided into {count} chunks")
    ends: list[str] = []
    before = 0
    for number in range(1, count):
        levels = sorted({place.weights for place in possible.values() if place.weights > before})
        # Each later chunk needs weights, too.
        latest = levels[len(levels) - (count - number)]
        even = total * number / count
        left = {name: place for name, place in possible.items() if before < place.weights <= latest}
        off = {name: abs(place.weights - even) for name, place in left.items()}
        allowed = max(min(off.values()), _TOLERANCE * total / count)
        end = min((name for name in left if off[name] <= allowed), key=lambda name: (left[name].values, off[name]))
        ends.append(end)
        before = left[end].weights
    return ends
