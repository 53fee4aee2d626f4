"""The operations that decode compressed weights, in the form that coremltools writes for a program's target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from converter.mil.target import MACOS15, Target, TargetError
from converter.mil.tensor import Array
from converter.weights.dtypes import BY_NAME
from converter.weights.encodings import Encoding, Part


def check_encoding(encoding: Encoding, target: Target) -> None:
    """Raise TargetError if the target's programs cannot store weights in an encoding."""
    if target.at_least(MACOS15):
        return
    if encoding.group is not None:
        what = "palettes for groups of channels" if encoding.kind == "palette" else "scales for blocks of channels"
    elif encoding.kind == "palette" and encoding.bits == 3:
        what = "palettes of 3 bits"
    elif encoding.kind == "linear" and encoding.bits != 8:
        what = f"linear integers of {encoding.bits} bits"
    else:
        return
    raise TargetError(f"{what} need macOS 15, and the target is {target.name}; convert for macOS15")


def can_store(encoding: Encoding, target: Target) -> bool:
    """Return whether the target's programs can store weights in an encoding."""
    try:
        check_encoding(encoding, target)
    except TargetError:
        return False
    return True


def stored_form(
    encoding: Encoding, shape: tuple[int, ...], target: Target
) -> tuple[str, Sequence[Part], Mapping[str, Array]]:
    """Return the operation that decodes a weight, the parts that hold the weight, and its further parameters.

    Raises TargetError as `check_encoding` does.
    """
    check_encoding(encoding, target)
    codes, table = encoding.parts(shape)
    if target.at_least(MACOS15):
        return (
            f"constexpr_{'lut_to_dense' if encoding.kind == 'palette' else 'blockwise_shift_scale'}",
            (codes, table),
            {},
        )
    if encoding.kind == "palette":
        packed = replace(codes, dtype=BY_NAME["uint8"], shape=(codes.nbytes,))
        sizes = np.array(shape, np.uint32)
        return "constexpr_lut_to_dense", (packed, replace(table, shape=(table.size,))), {"shape": sizes}
    channels = shape[0]
    parts = replace(codes, name="quantized_data"), replace(table, shape=(channels,))
    zeros = {"zero_point": np.zeros(channels, np.int8), "axis": np.int32(0)}
    return "constexpr_affine_dequantize", parts, {key: np.asarray(value) for key, value in zeros.items()}
