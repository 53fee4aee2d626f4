"""E4, E6, E7, E9, W7, W11: declared shapes, versions and types, and stored weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converter.lint.context import MIB, SMALL, RuleContext, megabytes
from converter.lint.finding import Problem
from converter.lint.listing import Function, ProgramListing
from converter.lint.stored import Constant, Weight

#: Opset -> the least version of Core ML's format that has it: macOS 12, 13, 14, 15, 26.
SPECIFICATIONS = {"CoreML5": 6, "CoreML6": 7, "CoreML7": 8, "CoreML8": 9, "CoreML9": 10}
_FP16_FEATURES = 7
_SEVERAL_FUNCTIONS = 9
#: Operation -> the version of the opset that added it (coremltools' ops/defs/iOS16, iOS17, iOS18).
_SINCE = {
    "constexpr_affine_dequantize": 7,
    "constexpr_cast": 7,
    "constexpr_lut_to_dense": 7,
    "constexpr_sparse_to_dense": 7,
    "fill_like": 7,
    "pixel_unshuffle": 7,
    "reshape_like": 7,
    "dequantize": 8,
    "quantize": 8,
    "resize": 8,
    "constexpr_blockwise_shift_scale": 9,
    "constexpr_lut_to_sparse": 9,
    "constexpr_sparse_blockwise_shift_scale": 9,
    "read_state": 9,
    "scaled_dot_product_attention": 9,
    "slice_update": 9,
    "coreml_update_state": 9,
}
#: Measured on M2 Pro: the compiler refuses a larger tensor, and a program with more weights.
_LARGEST_WEIGHT = 224 * MIB
_LARGEST_PROGRAM = 2 * 2**30
_MUCH_TRAFFIC = 16 * MIB


def flexible_shapes(context: RuleContext) -> Iterator[Problem]:
    """E4: shapes that are not fixed, in the description or the program."""
    function = context.function
    what = "A shape is not fixed; the engine runs fixed shapes only (or only the default one)."
    cure = "Convert a package (or function) for each size; they can share one weights file."
    for feature in function.description.input:
        array, image = feature.type.multiArrayType, feature.type.imageType
        kind = array.WhichOneof("ShapeFlexibility") or image.WhichOneof("SizeFlexibility")
        if kind:
            yield Problem("E4", "error", what, cure, context.feature(feature.name, f"declared by {kind}", 2.0))
    for op in function.operations:
        if any(None in function.types[n].shape for n in op.outputs):
            yield Problem("E4", "error", what, cure, context.place(op, "its size depends on data", 1.0))


def _streamed(context: RuleContext, weight: Weight) -> bool:
    return not context.chip.unstreamed & set(weight.kinds)


def _used(function: Function) -> list[Weight]:
    """Return the weights that the computation takes, each stored blob once."""
    by_blob = {}
    for name, weight in function.weights.items():
        if function.uses(name) or name in function.outputs:
            identity = weight.parts[0][1].identity if weight.parts else None
            by_blob[identity or name] = weight
    return list(by_blob.values())


def sizes(context: RuleContext) -> Iterator[Problem]:
    """E6: weights larger than the engine's compiler takes, by their size in memory at run time."""
    function, total, stored = context.function, 0, 0
    for weight in _used(function):
        in_memory = weight.stored if _streamed(context, weight) else weight.type.nbytes
        total, stored = total + in_memory, stored + weight.stored
        on_engine = any(context.placement.on_engine(op) for op in function.uses(weight.name))
        if weight.type.nbytes > _LARGEST_WEIGHT and on_engine:
            yield Problem(
                "E6",
                "error",
                f"A weight is larger than the {megabytes(_LARGEST_WEIGHT)} that the engine's compiler takes.",
                "Split the layer into two along its output channels.",
                context.weight(weight, megabytes(weight.type.nbytes), weight.type.nbytes),
            )
    if total > _LARGEST_PROGRAM:
        yield Problem(
            "E6",
            "error",
            f"The function's weights exceed the {megabytes(_LARGEST_PROGRAM)} that one program may have on the engine.",
            "Compress the weights (a palette of 6 bits or fewer), or cut the network into chunks.",
            context.whole(f"{megabytes(total)} at run time, {megabytes(stored)} in the package", total),
        )


def versions(context: RuleContext) -> Iterator[Problem]:
    """E7: operations and types that need a later version than the package's own, so that it does not load."""
    function, version = context.function, context.listing.specification
    what = "The package declares an older system than it needs, so it does not load."
    cure = "Convert with a deployment target that has it (macOS 13 is version 7, 14 is 8, 15 is 9)."
    needed = SPECIFICATIONS.get(function.opset, 0)
    if needed > version:
        detail = f"{function.opset} came with version {needed}; the package is version {version}"
        yield Problem("E7", "error", what, cure, context.whole(detail, needed))
    if len(context.listing.functions) > 1 and version < _SEVERAL_FUNCTIONS:
        detail = f"several functions came with version {_SEVERAL_FUNCTIONS}; the package is version {version}"
        yield Problem("E7", "error", what, cure, context.whole(detail, _SEVERAL_FUNCTIONS))
    for feature in (*function.description.input, *function.description.output):
        array = feature.type.multiArrayType
        if array.dataType == array.FLOAT16 and version < _FP16_FEATURES:
            detail = f"fp16 inputs and outputs came with version {_FP16_FEATURES}; the package is version {version}"
            yield Problem("E7", "error", what, cure, context.feature(feature.name, detail, _FP16_FEATURES))
    offered = SPECIFICATIONS.get(function.opset, max(SPECIFICATIONS.values()))
    for op in function.operations:
        if (since := _SINCE.get(op.kind, 0)) > offered:
            detail = f"{op.kind} came with version {since}; {function.opset} is version {offered}"
            yield Problem("E7", "error", what, cure, context.place(op, detail, since))
    for weight in function.weights.values():
        if (since := max((_SINCE.get(k, 0) for k in weight.kinds), default=0)) > offered:
            detail = f"{weight.kinds[-1]} came with version {since}; {function.opset} is version {offered}"
            yield Problem("E7", "error", what, cure, context.weight(weight, detail, since))


def compression(context: RuleContext) -> Iterator[Problem]:
    """E9: compressed weights that the chip unfolds before it uses them."""
    function, chip = context.function, context.chip
    for weight in function.weights.values():
        if not function.uses(weight.name):
            continue
        sizes = f"{megabytes(weight.stored)} stored, {megabytes(weight.type.nbytes)} at run time"
        if "constexpr_cast" in weight.kinds:
            what = "The engine does not support weights that are cast when loaded."
            yield Problem("E9", "error", what, "Store them in fp16.", context.weight(weight, sizes, weight.type.nbytes))
        elif not _streamed(context, weight):
            what = f"{chip.name} unfolds these compressed weights to fp16 in memory: smaller on disk, not when running."
            cure = "Use a palette (constexpr_lut_to_dense), which every chip reads directly."
            yield Problem("E9", "warning", what, cure, context.weight(weight, sizes, weight.type.nbytes))


def traffic(context: RuleContext) -> Iterator[Problem]:
    """W11: the bytes that go in and out of the program at every call."""
    function = context.function
    total = 0
    for name in (*function.inputs, *function.outputs):
        kind, fixed = function.types[name], function.types[name].sizes
        total += kind.nbytes
        if name in function.inputs and kind.dtype.startswith(("int", "uint")):
            what = (
                "An integer input keeps the program's beginning off the engine, and on some systems the whole program."
            )
            cure = "Declare it fp32 and cast it in the program; integers are exact below 16777216."
            yield Problem("W11", "warning", what, cure, context.feature(name, kind.dtype, kind.nbytes))
        elif kind.dtype == "fp32" and kind.nbytes >= SMALL:
            what = "An fp32 input or output is cast on the CPU at every call."
            cure = "Declare it fp16 if the caller supports that."
            yield Problem("W11", "note", what, cure, context.feature(name, megabytes(kind.nbytes), kind.nbytes))
        if name in function.inputs and len(fixed) > 1 and fixed[-1] == 1 and kind.count * 64 >= MIB:
            what = "An input's last axis is 1, which the engine pads to 64 bytes."
            detail = f"{megabytes(kind.nbytes)} take {megabytes(kind.count * 64)}"
            cure = "Put a long axis last: (batch, channels, 1, length)."
            yield Problem("W11", "warning", what, cure, context.feature(name, detail, kind.count * 64))
    if total > _MUCH_TRAFFIC:
        what = "Much data goes in and out at every call."
        cure = "Keep data that does not change between calls inside, as a state (macOS 15) or a constant, or use fp16."
        yield Problem("W11", "note", what, cure, context.whole(megabytes(total), total))


def unused_constants(context: RuleContext) -> Iterator[Problem]:
    """W7: weights that no operation takes."""
    function = context.function
    if any(op.nested for op in function.operations):
        return  # the listing does not have what a nested block takes
    used = {n for op in function.operations for names in op.inputs.values() for n in names}
    used |= function.folded | set(function.outputs)
    for name, weight in function.weights.items():
        if name not in used and weight.stored >= SMALL:
            what = "The package stores a weight that no operation takes."
            place = context.weight(weight, megabytes(weight.stored), weight.stored)
            yield Problem("W7", "warning", what, "Remove it.", place)


def _same(a: Constant, b: Constant) -> bool:
    key = (min(a.identity or (0, 0, 0), b.identity or (0, 0, 0)), f"same as {max(a.identity or (), b.identity or ())}")
    if key not in a.results:
        left, right = a.array(), b.array()
        a.results[key] = left is not None and right is not None and left.tobytes() == right.tobytes()
    return bool(a.results[key])


def twice_stored(listing: ProgramListing, contexts: list[RuleContext]) -> Iterator[Problem]:
    """W7: weights that the file stores twice, over all functions of a package."""
    seen: set[object] = set()
    groups: dict[object, list[Constant]] = {}
    for context in contexts:
        for weight in context.function.weights.values():
            constant = weight.constant
            if constant is None or constant.identity in seen or constant.type.nbytes < SMALL or not constant.in_file:
                continue
            seen.add(constant.identity)
            array = constant.array()
            if array is None:
                continue
            head = np.ascontiguousarray(array.reshape(-1)[:1024]).tobytes()
            candidates = groups.setdefault((constant.type.dtype, constant.type.nbytes, head), [])
            if any(_same(other, constant) for other in candidates):
                what = "The file stores a weight twice."
                place = context.weight(weight, megabytes(weight.stored), weight.stored)
                yield Problem("W7", "warning", what, "Store it once and use it in both layers.", place)
            else:
                candidates.append(constant)
