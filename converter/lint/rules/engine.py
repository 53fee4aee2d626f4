"""E1, E2, E3, E5, E8, W10: operations the engine does not support, and where the program leaves it for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converter.lint.chips import WIDEST
from converter.lint.context import MIB, RuleContext, megabytes
from converter.lint.finding import Problem
from converter.lint.listing import Operation
from converter.mil.graph import HEAVY

#: Bytes from which an operation at the program's ends matters.
_LARGE = MIB
_NOTHING_TO_DO = "Nothing to do: exact arithmetic and integers belong there."

#: Replacements for operations that the engine does not support.
_INSTEAD = {
    "select": "Write condition * a + (1 - condition) * b in fp16.",
    "sin": "Make the sines an input, or compute them first in fp32; on M3 and later the engine runs them.",
    "cos": "Make the cosines an input, or compute them first in fp32; on M3 and later the engine runs them.",
    "shape": "Convert with fixed shapes, so that the size is a constant.",
    "mod": "Compute it before the network and make it an input.",
}


def _types(context: RuleContext, op: Operation) -> str:
    function = context.function
    inputs = " and ".join(sorted({function.types[n].dtype for n in function.tensors(op)})) or "nothing"
    outputs = " and ".join(sorted({function.types[n].dtype for n in op.outputs}))
    return f"{inputs} in, {outputs} out, {megabytes(context.bytes_of(op))}"


def unsupported_types(context: RuleContext) -> Iterator[Problem]:
    """E1: operations that compute in fp32, integers or bool; a note at the program's ends."""
    placement = context.placement
    off = [op for op in context.function.operations if placement.reasons[op.index] == "type"]
    nothing_else = placement.total == 0 and any(op.kind in HEAVY for op in off)
    for op in off:
        if placement.at_edge(op):
            continue  # W11 is about the types of inputs and outputs
        large = context.bytes_of(op)
        place = context.place(op, _types(context, op), large)
        cure = "Keep it in fp16, or move it before or after all of the engine's work."
        if placement.between(op):
            what = "An operation between the engine's own computes in a type the engine lacks: the data goes to the CPU and back."
            yield Problem("E1", "error", what, cure, place)
        elif nothing_else or placement.is_heavy(op) or (large > _LARGE and op.kind != "cast"):
            what = "A large operation computes in a type the engine lacks, so the CPU or GPU does it."
            yield Problem("E1", "error", what, "Convert with fp16 as the compute precision.", place)
        else:
            what = "A small operation next to the inputs or outputs runs on the CPU, before or after the engine's work."
            yield Problem("E1", "note", what, _NOTHING_TO_DO, place)


def unsupported_operations(context: RuleContext) -> Iterator[Problem]:
    """E5: operations that no engine runs, or that this chip's engine does not run."""
    placement, chip = context.placement, context.chip
    for op in context.function.operations:
        reason = placement.reasons[op.index]
        if op.kind in chip.emulated:
            yield Problem(
                "E5",
                "note",
                f"{chip.name} has no unit for this operation and builds it from other operations.",
                "Nothing to do for M2 and later.",
                context.place(op, megabytes(context.bytes_of(op)), context.bytes_of(op)),
            )
        if reason not in ("operation", "chip"):
            continue
        whose = "The Neural Engine" if reason == "operation" else f"{chip.name}'s Neural Engine"
        place = context.place(op, megabytes(context.bytes_of(op)), context.bytes_of(op))
        if placement.between(op) or context.bytes_of(op) > _LARGE:
            cure = _INSTEAD.get(op.kind, "Rewrite it with operations the engine has, or move it out of the network.")
            yield Problem("E5", "error", f"{whose} does not support {op.kind}.", cure, place)
        else:
            what = f"{whose} does not support {op.kind}; here it runs on the CPU before or after the engine's work."
            yield Problem("E5", "note", what, _NOTHING_TO_DO, place)


def ranks(context: RuleContext) -> Iterator[Problem]:
    """E2: tensors of more than five axes."""
    function = context.function
    for op in function.operations:
        names = [n for n in (*op.outputs, *function.tensors(op)) if len(function.types[n].shape) > 5]
        if names:
            rank = max(len(function.types[n].shape) for n in names)
            yield Problem(
                "E2",
                "error",
                "A tensor has more than five axes, which the engine does not support.",
                "Merge neighboring axes, or compute the step on slices.",
                context.place(op, f"{rank} axes", rank, names),
            )


def axes(context: RuleContext) -> Iterator[Problem]:
    """E3: axes longer than the engine's."""
    function, chip, seen = context.function, context.chip, set[str]()
    for op in function.operations:
        if not context.placement.on_engine(op):
            continue
        for name in (*function.tensors(op), *op.outputs):
            shape = function.types[name].sizes
            # With three axes the last is certainly the width; with two neither need be.
            inner = shape[2:] if len(shape) > 2 else ()
            over = max(max(inner, default=0) / chip.axis, max(shape[: len(shape) - len(inner)], default=0) / WIDEST)
            if name in seen or over <= 1:
                continue
            seen.add(name)
            longest = max(shape)
            yield Problem(
                "E3",
                "error",
                f"An axis is longer than {chip.name}'s engine takes: {chip.axis} for depth, height and width, {WIDEST} "
                "for batch and channels.",
                "Convert for a smaller image, or split the axis.",
                context.place(op, f"an axis of {longest}", longest, (name,)),
            )


def _factors(number: int) -> bool:
    """Return whether a number is a product of twos and threes."""
    for prime in (2, 3):
        while number % prime == 0:
            number //= prime
    return number == 1


def _kernel_faults(context: RuleContext, op: Operation) -> Iterator[tuple[str, str, str]]:
    """Yield the faults of a convolution or pooling: what, cure, detail."""
    function, chip = context.function, context.chip
    strides = [int(s) for s in np.atleast_1d(v)] if (v := function.value(op, "strides")) is not None else [1]
    if op.kind.endswith("_pool"):
        if not set(strides) <= {1, 2, 4}:
            yield "The engine pools at strides of 1, 2 and 4 only.", "Pool in steps of 2 or 4.", f"stride {strides}"
        return
    weight = function.weights.get(function.first(op, "weight") or "")
    kernel = function.types[function.first(op, "weight") or ""].sizes[2:]
    if kernel and max(kernel) > chip.kernel:
        what = f"A kernel is larger than {chip.name}'s engine takes ({chip.kernel} a side)."
        yield what, "Replace it by several smaller kernels.", f"kernel {list(kernel)}"
    if not all(_factors(s) for s in strides):
        yield "The engine takes strides that are products of 2 and 3 only.", "Use such a stride.", f"stride {strides}"
    dilations = function.value(op, "dilations")
    if dilations is not None and not all(_factors(int(d)) for d in np.atleast_1d(dilations)):
        what = "The engine takes dilations that are products of 2 and 3 only."
        yield what, "Use such a dilation.", f"dilation {np.atleast_1d(dilations).tolist()}"
    if weight is not None and any("lut" in k for k in weight.kinds) and max(strides) > 2:
        what = "The engine cannot read a palette's weights at strides above 2."
        yield what, "Leave this layer's weights uncompressed.", f"stride {strides}, {weight.kinds[-1]}"
    groups = function.value(op, "groups")
    if groups is not None and int(groups) > 1 and int(groups) % 2:
        what = "The engine runs grouped convolutions with an even number of groups only."
        yield what, "Pad the channels to an even number of groups.", f"{int(groups)} groups"


def kernels(context: RuleContext) -> Iterator[Problem]:
    """E8: kernels, strides, dilations and groups that the engine does not take; a note for little work at the ends."""
    placement = context.placement
    for op in context.function.operations:
        if placement.on_engine(op) and op.kind in ("conv", "conv_transpose", "avg_pool", "max_pool", "l2_pool"):
            # A pool is never heavy, but a program without heavy operations has no ends either.
            matters = placement.between(op) or placement.is_heavy(op) or placement.total == 0
            for what, cure, detail in _kernel_faults(context, op):
                place = context.place(op, detail, context.bytes_of(op))
                yield Problem("E8", "error" if matters else "note", what, cure, place)


def islands(context: RuleContext) -> Iterator[Problem]:
    """W10: places where the program leaves the engine and comes back."""
    function = context.function
    for island in context.placement.islands:
        inside = {n for op in island for n in op.outputs}
        entering = {n for op in island for n in function.tensors(op) if n not in inside}
        moved = sum(function.types[n].nbytes for n in entering | inside)
        casts = sum(op.kind == "cast" for op in island)
        yield Problem(
            "W10",
            "warning",
            "The program leaves the engine here and comes back: a copy each way and another start of the engine.",
            "Fix what E1 and E5 report for these operations.",
            context.place(island[0], f"{len(island)} operations, {casts} casts, {megabytes(moved)}", moved),
        )
