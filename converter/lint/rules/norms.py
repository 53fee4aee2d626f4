"""W6, N2, N5: norms in small operations, intermediate results that overflow, epsilons that are zero in fp16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from converter.lint.context import RuleContext, megabytes
from converter.lint.finding import Problem
from converter.lint.listing import Function, Operation

#: The smallest number of fp16; numbers below half of it become zero.
_TINY = 6e-8
#: Operations that take a logarithm of exponentials, and their results measured on the engine: softplus in coremltools
#: #2687 (M3 Max) and ANEForge #113 (M5), the sum over 32 channels in coremltools #2690.
_EXPONENTIALS = {
    "softplus": ("0 beyond 10.4", "Write max(x, 0) + log(1 + exp(-|x|)), whose exponential is at most 1."),
    "reduce_log_sum_exp": (
        "0 once the exponentials' sum exceeds 65504 (beyond 7.6 in each of 32 channels)",
        "Subtract the maximum before, and add it to the result.",
    ),
}


@dataclass(frozen=True)
class _Variance:
    """A mean of squares: the squaring, the mean, and their norm.

    "group" and "other" square values minus their mean, "root mean square" anything else; "bounded" values were divided
    by the greatest of them before.
    """

    square: Operation
    mean: Operation
    norm: str


def _squared(function: Function, op: Operation) -> str | None:
    """Return the tensor that an operation squares."""
    x = function.first(op)
    if op.kind == "square":
        return x
    if op.kind == "mul" and x == function.first(op, "y"):
        return x
    if op.kind == "pow" and (power := function.value(op, "y")) is not None and power.size == 1:
        return x if float(power.reshape(-1)[0]) == 2 else None
    return None


def _bounded(function: Function, divided: Operation) -> bool:
    """Return whether a division is by the greatest magnitude of the divided values, apart from constants."""
    divisor = function.source(divided, "y")
    while divisor is not None and divisor.kind in ("add", "mul", "maximum"):
        tensors = function.tensors(divisor)
        divisor = function.producers.get(tensors[0]) if len(tensors) == 1 else None
    magnitude = function.source(divisor) if divisor is not None and divisor.kind == "reduce_max" else None
    return magnitude is not None and magnitude.kind == "abs" and function.first(magnitude) == function.first(divided)


def _norm(function: Function, squared: str, axes: tuple[int, ...]) -> str:
    """Return the norm that a mean of squares over ``axes`` belongs to, by the source of the squared values."""
    centred = function.producers.get(squared)
    if centred is not None and centred.kind == "real_div" and _bounded(function, centred):
        return "bounded"
    mean = function.source(centred, "y") if centred is not None and centred.kind == "sub" else None
    if centred is None or mean is None or mean.kind != "reduce_mean" or function.first(mean) != function.first(centred):
        return "root mean square"
    source = function.source(centred)
    grouped = source is not None and source.kind == "reshape" and len(axes) > 1
    return "group" if grouped else "other"


def _variances(function: Function) -> Iterator[_Variance]:
    for op in function.operations:
        square = function.source(op) if op.kind == "reduce_mean" else None
        if square is not None and (squared := _squared(function, square)) is not None:
            axes = function.axes(op, "axes", len(function.types[function.first(op) or ""].shape))
            yield _Variance(square, op, _norm(function, squared, axes))


def decomposed(context: RuleContext) -> Iterator[Problem]:
    """W6: a norm in small operations for which MIL has one operation; a note for group norm, for which it has none."""
    for variance in _variances(context.function):
        size = context.bytes_of(variance.square)
        place = context.place(variance.mean, megabytes(size), size, context.function.tensors(variance.mean))
        if variance.norm == "group":
            what = "A group norm is written as coremltools lowers it, over five axes: MIL has no operation for it."
            yield Problem("W6", "note", what, "Nothing to do, unless a compute plan shows it on the CPU.", place)
        elif variance.norm == "other":
            what = "A norm is written in small operations, which the engine runs one by one."
            yield Problem("W6", "warning", what, "Use layer_norm (or instance_norm).", place)


def squares(context: RuleContext) -> Iterator[Problem]:
    """N2: squares before a mean, and exponentials before a logarithm, that are infinite in fp16."""
    yield from _exponentials(context)
    for variance in _variances(context.function):
        op = variance.square
        if context.function.types[op.outputs[0]].dtype != "fp16" or variance.norm == "bounded":
            continue
        place = context.place(op, megabytes(context.bytes_of(op)), context.bytes_of(op))
        if variance.norm == "group":
            what = "A group norm squares its centred values in fp16: infinite beyond 255 unless it is fused."
            cure = "If images come out black, use a checkpoint made for fp16 (such as sdxl-vae-fp16-fix)."
            yield Problem("N2", "note", what, cure, place)
        else:
            what = "Values are squared in fp16 before their mean: beyond 255 the square is infinite."
            cure = "Use layer_norm, which does not overflow; for a root mean square apply it to x joined with -x."
            yield Problem("N2", "warning", what, cure, place)


def _exponentials(context: RuleContext) -> Iterator[Problem]:
    """Yield logarithms of exponentials, which are 0 on the engine if an exponential exceeds fp16."""
    for op in context.function.operations:
        if op.kind in _EXPONENTIALS and context.placement.on_engine(op):
            result, cure = _EXPONENTIALS[op.kind]
            what = f"{op.kind} takes exponentials in fp16: measured on the engine, the result is {result}."
            place = context.place(op, megabytes(context.bytes_of(op)), context.bytes_of(op))
            yield Problem("N2", "warning", what, cure, place)


def epsilons(context: RuleContext) -> Iterator[Problem]:
    """N5: epsilons that are zero in fp16."""
    function = context.function
    for op in function.operations:
        if function.types[op.outputs[0]].dtype != "fp16" if op.outputs else True:
            continue
        value = None
        if op.kind in ("layer_norm", "instance_norm", "l2_norm"):
            value = function.value(op, "epsilon")
        elif op.kind == "add" and any(u.kind in ("sqrt", "rsqrt") for u in function.uses(op.outputs[0])):
            value = next((v for p in ("y", "x") if (v := function.value(op, p)) is not None), None)
        if value is not None and value.size == 1 and abs(float(np.ravel(value)[0])) < _TINY:
            yield Problem(
                "N5",
                "warning",
                "An epsilon is zero in fp16, so the norm divides by a variance of zero.",
                "Use at least 1e-7; the 1e-5 and 1e-6 of checkpoints are fine.",
                context.place(op, f"epsilon {float(np.ravel(value)[0]):g}", 1.0),
            )
