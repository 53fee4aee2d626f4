"""N1, N4, N6, N7, N8: constants, angles, slices, indices and palettes that fp16 cannot represent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.lint.context import RuleContext
from converter.lint.finding import Problem
from converter.lint.listing import Function, Operation
from converter.lint.rules.layout import MOVES
from converter.lint.stored import Constant

_LARGEST_FP16 = 65504.0
#: exp of this is already 0 in fp16, and the sum with any logit is finite.
_LOWEST_MASK = -4e4
#: The limit at which a slice within the last axis saturates.
_NARROW = 4094.0
#: fp16 represents every integer up to here.
_EXACT_INTEGERS = 2048
_CHUNK = 2**22


def _infinite(constant: Constant) -> int:
    """Count a constant's numbers that are not finite; each blob is read once in a run."""
    key = (constant.identity, "infinite") if constant.identity is not None else None
    if key is not None and key in constant.results:
        return int(constant.results[key])
    array = constant.array()
    count = 0
    if array is not None and array.dtype.kind == "f":
        flat = array.reshape(-1)
        for begin in range(0, flat.size, _CHUNK):
            chunk = flat[begin : begin + _CHUNK]
            # This tests the exponent's bits: NumPy's isfinite on fp16 is ten times slower.
            bad = chunk.view(np.uint16) & 0x7C00 == 0x7C00 if chunk.dtype == np.float16 else ~np.isfinite(chunk)
            count += int(np.count_nonzero(bad))
    if key is not None:
        constant.results[key] = count
    return count


def _masks(function: Function, name: str) -> bool:
    """Return whether a constant is added to the input of a softmax."""
    return any(
        user.kind == "add" and any(u.kind == "softmax" for u in function.uses(user.outputs[0]))
        for user in function.uses(name)
    )


def constants(context: RuleContext) -> Iterator[Problem]:
    """N1: infinities, numbers beyond fp16, and masks so low that the sum with a logit is infinite."""
    function = context.function
    for name, weight in function.weights.items():
        if not function.uses(name) and name not in function.outputs:
            continue
        count = sum(_infinite(c) for part, c in weight.parts if part != "lut")
        if count:
            what = "A constant has infinities or NaN, with which the engine's softmax fails."
            cure = "Use a finite number, -40000 for a mask."
            yield Problem("N1", "warning", what, cure, context.weight(weight, f"{count} of {weight.type.count}", count))
            continue
        array = weight.constant.array() if weight.constant is not None else None
        if array is None or array.dtype.kind != "f" or not array.size:
            continue
        if weight.type.dtype == "fp32" and any(
            u.kind == "cast" and function.types[u.outputs[0]].dtype == "fp16" for u in function.uses(name)
        ):
            peak = float(np.abs(array).max())
            if peak > _LARGEST_FP16:
                what = "A constant beyond fp16's 65504 is cast to it and becomes infinite."
                yield Problem("N1", "warning", what, "Scale it.", context.weight(weight, f"up to {peak:g}", peak))
        if array.dtype == np.float16 and _masks(function, name) and float(array.min()) < _LOWEST_MASK:
            what = "A mask is so low that its sum with a logit may be infinite in fp16."
            detail = f"down to {float(array.min()):g}"
            yield Problem("N1", "warning", what, "Use -40000.", context.weight(weight, detail, -float(array.min())))


def _origin(function: Function, name: str, through: frozenset[str]) -> str:
    """Follow a tensor back through operations of the kinds ``through``; return the first that another kind gives."""
    while (producer := function.producers.get(name)) is not None and producer.kind in through:
        tensors = function.tensors(producer)
        if len(tensors) != 1:
            break
        name = tensors[0]
    return name


def angles(context: RuleContext) -> Iterator[Problem]:
    """N4: sines and cosines of an input in fp16."""
    function = context.function
    for op in function.operations:
        x = function.first(op)
        if op.kind not in ("sin", "cos") or x is None or function.types[x].dtype != "fp16":
            continue
        if _origin(function, x, MOVES | {"mul", "add", "real_div", "cast"}) in function.inputs:
            yield Problem(
                "N4",
                "warning",
                f"A {op.kind} of an input in fp16: there an angle near 1000 is exact to half a radian only.",
                "Compute the angle and its sine in fp32, or make the embedding an input.",
                context.place(op, "", function.types[x].count, (x,)),
            )


def _added(function: Function, name: str) -> float:
    """Return the largest constant that the last operations before a tensor add to it or multiply it by."""
    reach = 0.0
    while (producer := function.producers.get(name)) is not None and producer.kind in MOVES | {"add", "sub", "mul"}:
        for parameter in ("x", "y"):
            value = function.value(producer, parameter)
            if value is not None and producer.kind in ("add", "sub", "mul") and value.size:
                reach = max(reach, float(np.abs(value).max()))
        tensors = function.tensors(producer)
        if len(tensors) != 1:
            break
        name = tensors[0]
    return reach


def narrow_slices(context: RuleContext) -> Iterator[Problem]:
    """N6: slices that begin within the last axis, of values that a constant moves beyond +-4094."""
    function = context.function
    if not context.chip.narrow_slices:
        return
    for op in function.operations:
        x, begin = function.first(op), function.value(op, "begin")
        if not op.kind.startswith("slice_by") or x is None or begin is None or not context.placement.on_engine(op):
            continue
        if not int(np.ravel(begin)[-1]) or _masked_begin(function, op) or (reach := _added(function, x)) <= _NARROW:
            continue
        yield Problem(
            "N6",
            "warning",
            f"A slice that begins within the last axis saturates beyond {_NARROW:.0f} on chips before M4.",
            "Slice before adding the constant, or along the channels.",
            context.place(op, f"the values contain a constant of {reach:g}", reach, (x,)),
        )


def _masked_begin(function: Function, op: Operation) -> bool:
    """Return whether a mask makes the last axis begin at 0, whatever ``begin`` says."""
    mask = function.value(op, "begin_mask")
    return mask is not None and bool(np.ravel(mask)[-1])


def inexact_indices(context: RuleContext) -> Iterator[Problem]:
    """N7: indices that were fp16 numbers, into more rows than fp16 can count."""
    function = context.function
    for op in function.operations:
        indices = function.first(op, "indices")
        if op.kind not in ("gather", "gather_along_axis", "gather_nd") or indices is None:
            continue
        shape = function.types[function.first(op) or ""].sizes
        axes = function.axes(op, "axis", len(shape)) or (0,)
        origin = _origin(function, indices, MOVES | {"cast"})
        if function.types[origin].dtype == "fp16" and shape[axes[0]] > _EXACT_INTEGERS:
            yield Problem(
                "N7",
                "warning",
                f"Indices are fp16 numbers, which skip integers beyond {_EXACT_INTEGERS}, so wrong rows are read.",
                "Declare them fp32 or int32.",
                context.place(op, f"{shape[axes[0]]} rows, indices from {origin}", shape[axes[0]], (indices,)),
            )


def _duplicates(palette: NDArray[Any], vector: bool) -> int:
    """Count entries of a palette that equal an earlier one, over all its groups."""
    entries = palette.reshape(-1, *palette.shape[-2:]) if vector else palette.reshape(1, -1, 1)
    return sum(len(group) - len(np.unique(group, axis=0)) for group in entries)


def palettes(context: RuleContext) -> Iterator[Problem]:
    """N8: palettes with infinities or with duplicate entries."""
    function = context.function
    for name, weight in function.weights.items():
        if not function.uses(name):
            continue
        for part, constant in weight.parts:
            array = constant.array() if part == "lut" else None
            if array is None:
                continue
            if bad := _infinite(constant):
                what = "A palette has infinities or NaN."
                place = context.weight(weight, f"{bad} of {array.size} entries", bad)
                yield Problem("N8", "warning", what, "Compress the layer again from finite weights.", place)
            elif duplicates := _duplicates(array, array.ndim > 2):
                what = "A palette has the same entry more than once, so it could be smaller or more exact."
                place = context.weight(weight, f"{duplicates} of {array.size} entries equal an earlier one", duplicates)
                yield Problem("N8", "note", what, "Compress the layer with fewer bits.", place)
