"""How many axes operators take, so that a program which gives them others is refused when it is read.

MIL's own documentation (coremltools' ``converters/mil/mil/ops/defs``) allows fewer ranks for some; what is here is what
our operators compute as documented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from converter.runtime.feature import PackageError

#: The least and the greatest rank of a parameter; None where there is no greatest.
Ranks = tuple[int, int | None]

_IMAGE: Ranks = (4, 4)
_WINDOWED: Ranks = (3, 5)
_VECTOR: Ranks = (1, None)
_MATRIX: Ranks = (2, None)
#: (operator, parameter) -> the ranks it takes. What is not here takes any, a scalar included.
RANKS: dict[tuple[str, str], Ranks] = {
    **{(kind, "x"): _IMAGE for kind in ("affine", "crop_resize", "depth_to_space", "resample", "space_to_depth")},
    **{(kind, "x"): _IMAGE for kind in ("batch_to_space", "space_to_batch")},
    **{(kind, "x"): _WINDOWED for kind in ("avg_pool", "conv", "conv_transpose", "l2_pool", "max_pool")},
    **{(kind, "x"): (3, None) for kind in ("instance_norm", "l2_norm", "local_response_norm")},
    **{(kind, "x"): (3, None) for kind in ("pixel_shuffle", "pixel_unshuffle")},
    **{(kind, "x"): _MATRIX for kind in ("band_part", "batch_norm", "prelu", "softplus_parametric")},
    **{(kind, "x"): _MATRIX for kind in ("crop", "resize_bilinear", "resize_nearest_neighbor")},
    **{(kind, "x"): _MATRIX for kind in ("reverse_sequence", "upsample_bilinear", "upsample_nearest_neighbor")},
    **{(kind, "x"): _VECTOR for kind in ("argsort", "cumsum", "gather", "gather_along_axis", "gather_nd")},
    **{(kind, "x"): _VECTOR for kind in ("layer_norm", "linear", "matmul", "random_categorical", "topk")},
    **{(kind, "x"): _VECTOR for kind in ("reduce_argmax", "reduce_argmin", "sliding_windows", "softmax", "split")},
    **{(kind, "data"): _VECTOR for kind in ("scatter", "scatter_along_axis", "scatter_nd")},
    **{(kind, "indices"): _VECTOR for kind in ("gather_along_axis", "gather_nd", "scatter_along_axis", "scatter_nd")},
    **{("non_maximum_suppression", parameter): (3, 3) for parameter in ("boxes", "scores")},
    **{("scaled_dot_product_attention", parameter): _MATRIX for parameter in ("query", "key", "value")},
    ("linear", "weight"): (2, 2),
    ("matmul", "y"): _VECTOR,
    ("resample", "coordinates"): _IMAGE,
}
#: Operators that have no result over nothing.
_SOME = frozenset({"reduce_argmax", "reduce_argmin", "reduce_max", "reduce_min"})


def _words(ranks: Ranks) -> str:
    least, greatest = ranks
    return str(least) if least == greatest else f"{least} or more" if greatest is None else f"{least} to {greatest}"


def _sizes(kind: Any) -> list[int | None] | None:
    """A tensor's sizes, None where they are not fixed; None of a type that does not tell even their number."""
    if kind.WhichOneof("type") != "tensorType":
        return None
    dimensions = kind.tensorType.dimensions
    if any(d.WhichOneof("dimension") == "unknown" and d.unknown.variadic for d in dimensions):
        return None
    return [int(d.constant.size) if d.WhichOneof("dimension") == "constant" else None for d in dimensions]


def _some(outputs: Any) -> bool:
    """Whether an operation's first result has elements, as far as its type tells."""
    sizes = _sizes(outputs[0].type) if outputs else None
    return sizes is not None and None not in sizes and 0 not in sizes


def check_ranks(operations: Iterable[Any], type_of: Callable[[str], Any]) -> None:
    """Raise PackageError naming the first of the operation messages that is given a tensor of a rank it does not take.

    ``type_of`` gives the ValueType message of a named value, or None.
    """
    for op in operations:
        where = op.outputs[0].name if op.outputs else op.type
        for parameter, argument in op.inputs.items():
            for bound in argument.arguments:
                kind = bound.value.type if bound.WhichOneof("binding") == "value" else type_of(bound.name)
                sizes = None if kind is None else _sizes(kind)
                if sizes is None:
                    continue
                ranks = RANKS.get((op.type, parameter), (0, None))
                if len(sizes) < ranks[0] or (ranks[1] is not None and len(sizes) > ranks[1]):
                    raise PackageError(
                        f"{where} ({op.type}): {parameter} has rank {len(sizes)}; rank {_words(ranks)} is accepted"
                    )
                if parameter == "x" and op.type in _SOME and 0 in sizes and _some(op.outputs):
                    raise PackageError(f"{where} ({op.type}): x has no elements along the axes it is folded over")
