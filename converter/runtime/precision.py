"""Round operations' results to the arithmetic that a package was made for: fp16 on any unit, or the Neural Engine's.

The operators compute in fp32, and this module rounds their results, so that a convolution, product, norm or softmax
accumulates in fp32 and is rounded once. We do not know how Apple's GPUs and the Neural Engine round within one.

These precisions show overflow, not a device's own error. The one public measurement (aszc-dev's
coreml-diffusion-benchmarks: Stable Diffusion 1.5's UNet, 512x512, M2 Pro) has the engine at 34.5 dB of fp32 and the
GPU at 74 dB with the same fp16 weights; ``ane`` gives 63 to 78 dB for the bundled model's networks.

``ane`` has the Neural Engine's own limits. Apple documents none of them. They are other people's measurements, which we
did not confirm on a Mac:

- A matrix product beyond 32752, half of fp16's largest number, is infinite: ANEForge's docs/numeric-cliffs.md and its
  issue 115, on M1, M1 Max, M2 Pro and M5 for every length of the sum. Measured for ``matmul``; we assume the same limit
  for other operations of the same multiply-accumulate units.
- A slice that begins within the last axis passes through a fixed-point path on chips before A16 (M1 to M3), where values
  beyond 4094, a sixteenth of fp16's largest number, become infinite; on M5 they do not: the same page.
- Subnormal results are 0: john-rocky/CoreML-LLM's docs/PROBE_GEMMA4_VISION_ANE.md, where rsqrt of such a 0 was seen.

The engine is said to add in fp16 in ``reduce_sum`` as well (ANEForge's docs/developer/numerics.md), but not in which
order, so this rounds such sums once like all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray

from converter.runtime.compressed import dense
from converter.runtime.program import Operation

#: fp32: never rounded, whatever types the package names. fp16 and ane: rounded by this module.
Precision = Literal["fp32", "fp16", "ane"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

#: The least normal number of fp16.
NORMAL = 2.0**-14


@dataclass(frozen=True)
class Format:
    """The range of numbers that an operation's result can have.

    ceiling: the largest number; results that round to more become infinite.
    flushed: whether subnormal numbers become 0.
    """

    ceiling: float = 65504.0
    flushed: bool = False

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """Round ``x`` (fp32, any shape) to this format, as fp32 again; NaN and infinities stay."""
        rounded = x.half().float()
        if self.ceiling < FP16.ceiling:
            rounded = torch.where(rounded.abs() > self.ceiling, rounded * torch.inf, rounded)
        if self.flushed:
            rounded = torch.where(rounded.abs() < NORMAL, rounded * 0, rounded)
        return rounded


FP16 = Format()
_ENGINE = Format(flushed=True)
_ENGINE_PRODUCT = Format(ceiling=32752.0, flushed=True)
_ENGINE_SLICE = Format(ceiling=4094.0, flushed=True)

_PRODUCTS = frozenset({"conv", "conv_transpose", "einsum", "linear", "matmul"})
_SLICES = frozenset({"crop", "slice_by_index", "slice_by_size"})
#: Operations whose results are numbers of their arguments, which need no rounding.
_EXACT = _SLICES | frozenset(
    {
        "abs",
        "band_part",
        "batch_to_space",
        "concat",
        "const",
        "depth_to_space",
        "expand_dims",
        "flatten2d",
        "gather",
        "gather_along_axis",
        "gather_nd",
        "identity",
        "max_pool",
        "maximum",
        "minimum",
        "pad",
        "pixel_shuffle",
        "pixel_unshuffle",
        "read_state",
        "reduce_max",
        "reduce_min",
        "relu",
        "reshape",
        "reshape_like",
        "resize_nearest_neighbor",
        "reverse",
        "reverse_sequence",
        "select",
        "slice_update",
        "sliding_windows",
        "space_to_batch",
        "space_to_depth",
        "split",
        "squeeze",
        "stack",
        "tile",
        "topk",
        "transpose",
        "upsample_nearest_neighbor",
    }
)


def _numbers(op: Operation, parameter: str) -> NDArray[Any]:
    (value,) = op.constants[parameter]
    assert not isinstance(value, str)
    return dense(value).reshape(-1)


def _begins_inside(op: Operation) -> bool:
    """Return whether a slice's last axis begins after its first element, or may do so if the begin is computed."""
    if op.kind == "crop":
        return bool(_numbers(op, "crop_width")[0])
    if "begin" in op.inputs:
        return True
    masked = "begin_mask" in op.constants and bool(_numbers(op, "begin_mask")[-1:].any())
    return not masked and bool(_numbers(op, "begin")[-1:].any())


def result_format(op: Operation, precision: str, *, narrow_slices: bool) -> Format | None:
    """Return the format of an operation's fp16 results; None if they are numbers of its arguments.

    For ``fp32`` that is the format of ``fp16``, which the results would have to fit. ``narrow_slices``: whether the
    engine is from before A16; it matters for ``ane`` only.
    """
    if precision == "ane" and narrow_slices and op.kind in _SLICES and _begins_inside(op):
        return _ENGINE_SLICE
    if op.kind in _EXACT:
        return None
    if precision != "ane":
        return FP16
    return _ENGINE_PRODUCT if op.kind in _PRODUCTS else _ENGINE
