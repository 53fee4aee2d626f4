"""W3, W8, W9, N3: forms of attention that are slow on the engine, or overflow before they are scaled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converter.lint.context import MIB, RuleContext, megabytes
from converter.lint.finding import Problem
from converter.lint.listing import Function, Operation

#: Logits that fit the engine's memory of some tens of MB; larger ones move between it and the main memory.
_LOGITS, _HUGE_LOGITS = 16 * MIB, 512 * MIB
#: Over the last axis the engine reduces within rows; below this size that costs little.
_ROW_LOGITS = MIB
#: As measured on M4: products of smaller tensors stay on the CPU.
_FUSED_ELEMENTS = 2_000_000
#: Operations between the product of queries and keys and its softmax.
_BETWEEN = frozenset({"add", "cast", "mul", "real_div", "reshape"})
#: By users' reports, SDXL in split_einsum_v2 (12 800) never finishes compiling; in split_einsum (5 200) it does.
_MANY_EINSUMS = 6000


def softmaxes(context: RuleContext) -> Iterator[Problem]:
    """W3: softmax over the last axis, and logits too large for the engine's memory."""
    function = context.function
    for op in function.operations:
        if op.kind != "softmax":
            continue
        kind = function.types[op.outputs[0]]
        rank = len(kind.shape)
        last = function.axes(op, "axis", rank) == (rank - 1,) and rank > 2
        place = context.place(op, megabytes(kind.nbytes), kind.nbytes)
        if last and kind.nbytes > _ROW_LOGITS:
            what = "A softmax runs over the last axis of a large tensor: all heads' logits at once, within rows."
            cure = "Convert with split_einsum: one head at a time, with the keys on the channel axis."
            yield Problem("W3", "warning", what, cure, place)
        elif kind.nbytes > _HUGE_LOGITS:
            what = f"One head's logits exceed {megabytes(_HUGE_LOGITS)}; the engine's own memory has some tens of MB."
            cure = "Convert with split_einsum_v2, which cuts the queries, or for a smaller image."
            yield Problem("W3", "warning", what, cure, place)
        elif kind.nbytes > _LOGITS:
            what = "One head's logits exceed the engine's own memory, so they move between it and the main memory. This works."
            cure = (
                "split_einsum_v2 cuts the queries: according to Apple faster on phones, according to others equally "
                "fast on an M2 Pro, and slower to compile."
            )
            yield Problem("W3", "note", what, cure, place)


def fused_attention(context: RuleContext) -> Iterator[Problem]:
    """W8: attention as one operation, or with three axes, which a GPU's compiler fuses into one."""
    yield from _flat_attention(context)
    function = context.function
    for op in function.operations:
        if op.kind == "scaled_dot_product_attention":
            count = function.types[function.first(op, "query") or ""].count
            where = "on the CPU" if count < _FUSED_ELEMENTS else "on the engine"
            yield Problem(
                "W8",
                "warning",
                "Where scaled_dot_product_attention runs depends on its size and on the system.",
                "Write it as split einsums, or look at Core ML's compute plan on the Mac that runs it.",
                context.place(op, f"queries of {count / 1e6:.1f} million numbers; measured {where} on M4", count),
            )


def _descends(function: Function, op: Operation, kind: str, through: frozenset[str]) -> bool:
    """Return whether an input of an operation comes from a ``kind``, with only ``through`` between them."""
    for name in function.tensors(op):
        producer = function.producers.get(name)
        if producer is not None and (
            producer.kind == kind or (producer.kind in through and _descends(function, producer, kind, through))
        ):
            return True
    return False


def _flat_attention(context: RuleContext) -> Iterator[Problem]:
    """W8: products of three axes around a softmax, as coremltools before version 9 wrote CLIP's."""
    function = context.function
    for op in function.operations:
        if op.kind != "matmul" or any(len(function.types[n].shape) != 3 for n in function.tensors(op)):
            continue
        probs = function.source(op)
        if probs is None or probs.kind != "softmax" or not _descends(function, probs, "matmul", _BETWEEN):
            continue
        yield Problem(
            "W8",
            "note",
            "Attention has three axes; text encoders of that form crashed on the GPU under macOS 27.2's beta "
            "(MochiDiffusion issue 521).",
            "Run it with CPU_AND_NE, or convert it again with heads on an axis of their own.",
            context.place(op, megabytes(context.bytes_of(op)), context.bytes_of(op)),
        )


def compile_time(context: RuleContext) -> Iterator[Problem]:
    """W9: more products than the engine's compiler can handle."""
    count = sum(op.kind in ("einsum", "matmul") for op in context.function.operations)
    if count > _MANY_EINSUMS:
        yield Problem(
            "W9",
            "warning",
            f"More than {_MANY_EINSUMS} matrix products: compiling for the engine takes very long or never ends.",
            "Use split_einsum instead of split_einsum_v2, a smaller image, or cut the network into two packages.",
            context.whole(f"{count} products among {len(context.function.operations)} operations", count),
        )


def _scale(function: Function, op: Operation) -> float | None:
    """Return the constant below 1 that an operation multiplies by; None if there is none."""
    for parameter in ("x", "y"):
        value = function.value(op, parameter)
        if value is not None and value.size == 1:
            number = abs(float(value.reshape(-1)[0]))
            if op.kind == "real_div":
                number = 1 / number if parameter == "y" and number else 1.0
            return number if number < 1 else None
    return None


def _reaches_softmax(function: Function, name: str, steps: int = 4) -> bool:
    return any(
        user.kind == "softmax"
        or (
            steps > 0
            and user.kind in ("add", "sub", "reshape", "transpose", "cast")
            and _reaches_softmax(function, user.outputs[0], steps - 1)
        )
        for user in function.uses(name)
    )


def late_scale(context: RuleContext) -> Iterator[Problem]:
    """N3: logits scaled after their product, in fp16."""
    function = context.function
    for op in function.operations:
        if op.kind not in ("mul", "real_div") or (scale := _scale(function, op)) is None:
            continue
        producer = next((m for n in function.tensors(op) if (m := function.producers.get(n))), None)
        if (
            producer is None
            or producer.kind not in ("einsum", "matmul")
            or function.types[op.outputs[0]].dtype != "fp16"
        ):
            continue
        if _reaches_softmax(function, op.outputs[0]):
            reach = (
                f"scaled by {np.format_float_positional(scale, 4)}: the product reaches {1 / scale:.1f} times as far"
            )
            yield Problem(
                "N3",
                "warning",
                "The logits are scaled after their product, which may overflow fp16 before (black images).",
                "Fold the scale into the query's weights.",
                context.place(op, reach, function.types[op.outputs[0]].nbytes),
            )
