"""Check the ranks of operators' arguments, so that a program with wrong ranks is refused when it is read.

MIL's own documentation (coremltools' ``converters/mil/mil/ops/defs``) allows fewer ranks for some operators; these are
the ranks for which our operators compute the documented results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from converter.runtime.body import Statement, Type
from converter.runtime.feature import PackageError

#: The least and the greatest rank of a parameter; None means no greatest.
Ranks = tuple[int, int | None]

_IMAGE: Ranks = (4, 4)
_WINDOWED: Ranks = (3, 5)
_VECTOR: Ranks = (1, None)
_MATRIX: Ranks = (2, None)
#: (operator, parameter) -> the accepted ranks. Other parameters accept any rank, scalars too.
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
#: Operators that have no result over an axis without elements.
_NONEMPTY = frozenset({"reduce_argmax", "reduce_argmin", "reduce_max", "reduce_min"})


def _words(ranks: Ranks) -> str:
    least, greatest = ranks
    return str(least) if least == greatest else f"{least} or more" if greatest is None else f"{least} to {greatest}"


def _has_result(op: Statement) -> bool:
    """Return whether the type of an operation's first result says that it has elements."""
    first = next(iter(op.outputs.values()), None)
    return first is not None and bool(first.fixed is not None and 0 not in first.fixed)


def check_ranks(statements: Iterable[Statement], types: Mapping[str, Type]) -> None:
    """Raise PackageError naming the first operation that gets a tensor of a rank it does not accept.

    ``types`` are those of the named values.
    """
    for op in statements:
        for parameter, arguments in op.inputs.items():
            least, greatest = RANKS.get((op.kind, parameter), (0, None))
            for argument in arguments:
                value_type = types.get(argument) if isinstance(argument, str) else argument.type
                if value_type is None or value_type.kind != "tensorType" or value_type.state or not value_type.ranked:
                    continue
                rank = len(value_type.shape)
                if rank < least or (greatest is not None and rank > greatest):
                    raise PackageError(
                        f"{op.name} ({op.kind}): {parameter} has rank {rank}; "
                        f"rank {_words((least, greatest))} is accepted"
                    )
                if parameter == "x" and op.kind in _NONEMPTY and 0 in value_type.shape and _has_result(op):
                    raise PackageError(f"{op.name} ({op.kind}): x has no elements along the axes that it reduces")
