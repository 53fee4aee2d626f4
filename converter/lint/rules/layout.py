"""W1, W2, W4, W5, W7, N9: layouts that the engine has to pad, copy or transpose, or computes with an error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converter.lint.context import COPY, MIB, RuleContext, megabytes
from converter.lint.finding import Problem
from converter.lint.listing import Function, Operation

#: The engine's rows are multiples of 64 bytes: 32 numbers of fp16.
_ROW = 64
_ROW_NUMBERS = 32
#: Padding by this factor, of a tensor this large, is worth another layout; small feature maps cost less than that anyway.
_WASTEFUL, _WASTED_LARGE = 4, 8 * MIB
_NOTED, _WASTED_NOTED = 1.2, MIB
#: Operations that give the same numbers under another shape or order.
MOVES = frozenset({"reshape", "transpose", "expand_dims", "squeeze", "slice_by_index", "slice_by_size", "split"})
_PRODUCTS = frozenset({"einsum", "matmul", "scaled_dot_product_attention"})
#: Activations that were inexact on the engine after a product of rank 2 (coreai-torch #51, MobileNetV3's hardswish:
#: 3.9 % of the classifier's norm; at rank 4, and with relu at rank 2, 0.1 %). coremltools writes hardswish as the first
#: two. relu6 and clip are its hard sigmoid only after an addition of 3.
_HARD = frozenset({"sigmoid_hard", "thresholded_relu"})
_CLAMPS = frozenset({"clip", "relu6"})
#: Other curved activations, for which no measurement is published.
_CURVED = frozenset(
    {
        "elu",
        "erf",
        "exp",
        "gelu",
        "scaled_tanh",
        "sigmoid",
        "silu",
        "softplus",
        "softplus_parametric",
        "softsign",
        "tanh",
    }
)
#: Operations with a constant that may be between a product and its activation.
_AFFINE = frozenset({"add", "mul", "real_div", "sub"})


def linear_layers(context: RuleContext) -> Iterator[Problem]:
    """W1: products with a weight that are not convolutions; N9: products of rank 2 that feed an activation."""
    yield from _flat_products(context)
    function = context.function
    for op in function.operations:
        if op.kind not in ("linear", "matmul") or not context.placement.on_engine(op):
            continue
        x, constant = function.first(op), function.first(op, "weight" if op.kind == "linear" else "y")
        if constant not in function.weights or x in function.weights or x is None:
            continue
        many_rows = len(function.types[x].shape) > 2
        work = function.types[op.outputs[0]].count * function.types[x].sizes[-1]
        yield Problem(
            "W1",
            "warning" if many_rows else "note",
            f"A {op.kind} with a constant weight is slower on the engine than a convolution that computes the same."
            if many_rows
            else f"A {op.kind} of single rows could be a convolution; with so few rows it matters little.",
            "Keep the tensor as (batch, channels, 1, length) and use a 1x1 convolution.",
            context.place(op, f"{work / 1e6:.1f} million multiplications", work, (x,)),
        )


def _activations(function: Function, name: str, shifted: bool = False) -> Iterator[Operation]:
    """Yield the activations that take a tensor of rank 2, directly or after it is scaled, shifted, cast, sliced or reshaped.

    ``shifted``: whether 3 was added before, as decomposed hard sigmoids do before they clamp.
    """
    for user in function.uses(name):
        if user.kind in _HARD | _CURVED or (shifted and user.kind in _CLAMPS):
            yield user
            continue
        affine = user.kind in _AFFINE and len(function.tensors(user)) == 1
        if not affine and user.kind not in MOVES | {"cast", "identity"}:
            continue
        three = user.kind == "add" and any(
            value is not None and value.size == 1 and float(np.ravel(value)[0]) == 3
            for value in (function.value(user, parameter) for parameter in ("x", "y"))
        )
        for out in user.outputs:
            if len(function.types[out].shape) == 2:
                yield from _activations(function, out, shifted or three)


def _flat_products(context: RuleContext) -> Iterator[Problem]:
    """N9: products of rank 2 that feed an activation; a note for activations that nobody has measured."""
    function, placement = context.function, context.placement
    for op in function.operations:
        if op.kind not in ("linear", "matmul") or not placement.on_engine(op):
            continue
        if len(function.types[op.outputs[0]].shape) != 2:
            continue
        activations = [user for user in _activations(function, op.outputs[0]) if placement.on_engine(user)]
        for hard in (True, False):
            kinds = dict.fromkeys(a.kind for a in activations if (a.kind not in _CURVED) == hard)
            if not kinds:
                continue
            what = "A product of rank 2 feeds an activation"
            what += (
                ": with hardswish, its results were 3.9 % off on the engine (coreai-torch issue 51)."
                if hard
                else " of a kind that was not measured on the engine; with hardswish, results were 3.9 % off there."
            )
            cure = "Compute both at rank 4, which had no such error: (batch, channels, 1, 1) and a 1x1 convolution."
            size = context.bytes_of(op)
            yield Problem("N9", "warning" if hard else "note", what, cure, context.place(op, " and ".join(kinds), size))


def padding(context: RuleContext) -> Iterator[Problem]:
    """W2: tensors whose last axis the engine pads to many times their size."""
    function = context.function
    plain = padded = 0
    larger = []
    for op in function.operations:
        if not context.placement.on_engine(op):
            continue
        for name in op.outputs:
            kind = function.types[name]
            if not kind.shape or kind.dtype != "fp16":
                continue
            row = kind.sizes[-1] * 2
            size_padded = kind.nbytes // row * -(-row // _ROW) * _ROW
            plain, padded = plain + kind.nbytes, padded + size_padded
            if size_padded > kind.nbytes:
                larger.append((op, name, kind.nbytes, size_padded))
    for op, name, size, size_padded in larger:
        detail = f"{megabytes(size)} take {megabytes(size_padded)}"
        cure = "Put a long axis last, at best a multiple of 32: (batch, channels, 1, length)."
        if size_padded >= _WASTEFUL * size and size_padded > _WASTED_LARGE and context.placement.between(op):
            what = "The engine pads the last axis to 64 bytes, which makes this tensor several times as large."
            yield Problem("W2", "warning", what, cure, context.place(op, detail, size_padded - size, (name,)))
        elif size_padded > _NOTED * size and size_padded - size > _WASTED_NOTED:
            what = "The engine pads the last axis to 64 bytes. All activations of this function: "
            what += f"{megabytes(plain)} take {megabytes(padded)}."
            cure = "Image sizes with widths that are a multiple of 32 at every level pad least."
            yield Problem("W2", "note", what, cure, context.place(op, detail, size_padded - size, (name,)))


def _only_products(function: Function, op: Operation) -> bool:
    """Return whether only attention's products take the result, split into heads or not."""
    waiting, seen = list(op.outputs), set[str]()
    while waiting:
        name = waiting.pop()
        if name in function.outputs:
            return False
        for user in function.uses(name):
            if user.kind in _PRODUCTS:
                continue
            if user.kind not in MOVES - {"transpose", "reshape"}:
                return False
            waiting += [n for n in user.outputs if n not in seen]
            seen |= set(user.outputs)
    return True


def _moves_rows(function: Function, op: Operation) -> bool:
    """Return whether a transpose or reshape takes rows of the last axis apart."""
    before, after = function.types[function.first(op) or ""].sizes, function.types[op.outputs[0]].sizes
    if op.kind == "transpose":
        order = np.atleast_1d(function.value(op, "perm"))
        return int(order[-1]) % len(before) != len(before) - 1 and not _only_products(function, op)
    # A feature map made flat, or the reverse: channels stay in place.
    flat = len(before) >= 4 and len(after) >= 4 and before[:2] == after[:2]
    return before[-1:] != after[-1:] and not flat and not _only_products(function, op)


def transposed_rows(context: RuleContext) -> Iterator[Problem]:
    """W4: transposes and reshapes of the last axis between the engine's work."""
    function, placement = context.function, context.placement
    for op in function.operations:
        size = context.bytes_of(op)
        if op.kind not in ("transpose", "reshape") or not placement.on_engine(op) or size < COPY:
            continue
        if placement.between(op) and function.first(op) not in function.weights and _moves_rows(function, op):
            before = list(function.types[function.first(op) or ""].shape)
            yield Problem(
                "W4",
                "warning",
                f"A {op.kind} between the engine's work takes the last axis apart, so the engine copies every number.",
                "Keep (batch, channels, 1, length) throughout, so that only whole rows move.",
                context.place(op, f"from {before}, {megabytes(size)}", size),
            )


def joined_rows(context: RuleContext) -> Iterator[Problem]:
    """W5: tensors joined along the last axis where a row does not begin at a multiple of 32."""
    function = context.function
    for op in function.operations:
        size = context.bytes_of(op)
        if op.kind != "concat" or not context.placement.on_engine(op) or size < COPY:
            continue
        rank = len(function.types[op.outputs[0]].shape)
        if rank < 3 or function.axes(op, "axis", rank) != (rank - 1,):
            continue
        widths = [function.types[n].sizes[-1] for n in op.inputs["values"]]
        if any(w % _ROW_NUMBERS for w in widths[:-1]):
            yield Problem(
                "W5",
                "warning",
                "Tensors are joined along the last axis, where one does not begin at a multiple of 32.",
                "Join along the channels, or make their widths multiples of 32.",
                context.place(op, f"widths {widths}, {megabytes(size)}", size),
            )


def idle_operations(context: RuleContext) -> Iterator[Problem]:
    """W7: casts, reshapes and transposes that change nothing."""
    function = context.function
    for op in function.operations:
        x = function.first(op)
        if op.kind not in ("cast", "reshape", "transpose") or x is None or x in function.weights:
            continue
        same = function.types[x] == function.types[op.outputs[0]] and None not in function.types[x].shape
        if same and op.kind == "transpose":
            order = np.atleast_1d(function.value(op, "perm")) % len(function.types[x].shape)
            same = order.tolist() == list(range(order.size))
        if same:
            size = context.bytes_of(op)
            yield Problem(
                "W7",
                "warning" if size >= COPY else "note",
                f"A {op.kind} changes nothing.",
                "Remove it.",
                context.place(op, megabytes(size), size),
            )
