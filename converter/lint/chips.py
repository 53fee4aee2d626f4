"""The limits of each Apple chip's Neural Engine in which the generations differ.

Apple does not document them in one place: the axis limits are from the compiler's own message, the rest is from
public measurements of the engine (the "ANE book", hollance/neural-engine). M5 is M4 here: ANEForge's
docs/numeric-cliffs.md and aneforge/_targets.py, measured on M5, find more cores in it and no other limits.

How fast a chip's engine is compared with its GPU is not a limit, and a package does not show it.
"""

from __future__ import annotations

from dataclasses import dataclass

from converter.errors import AnemoneError


class ChipError(AnemoneError, ValueError):
    """A chip whose limits this lint does not know."""


@dataclass(frozen=True)
class Chip:
    """One generation's limits.

    axis: the longest depth, height or width of a tensor; batch and channels go to 65536 everywhere.
    kernel: the largest side of a convolution's kernel.
    lacks: operations that leave the engine on this chip but not on later ones.
    emulated: operations that stay on the engine but are built from others there.
    unstreamed: compressed weights that the chip unfolds to fp16 in memory, and not while it uses them.
    narrow_slices: whether a slice that starts within the last axis saturates beyond +-4094.
    """

    name: str
    axis: int
    kernel: int
    lacks: frozenset[str]
    emulated: frozenset[str]
    unstreamed: frozenset[str]
    narrow_slices: bool


_WAVES = frozenset({"sin", "cos", "reduce_argmin"})
_BLOCKWISE = frozenset({"constexpr_blockwise_shift_scale"})
_NONE: frozenset[str] = frozenset()

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            "M1",
            16384,
            29,
            _WAVES | {"topk", "argsort", "gather_nd"},
            frozenset({"upsample_nearest_neighbor", "upsample_bilinear"}),
            _BLOCKWISE | {"constexpr_affine_dequantize"},
            narrow_slices=True,
        ),
        Chip("M2", 16384, 32, _WAVES, _NONE, _BLOCKWISE, narrow_slices=True),
        Chip("M3", 16384, 32, _NONE, _NONE, _NONE, narrow_slices=True),
        Chip("M4", 65536, 32, _NONE, _NONE, _NONE, narrow_slices=False),
        Chip("M5", 65536, 32, _NONE, _NONE, _NONE, narrow_slices=False),
    )
}
#: The first Apple Silicon Mac, and the strictest: a package that fits it fits every chip.
DEFAULT_CHIP = "M1"
#: The longest batch or channel axis on any chip.
WIDEST = 65536


def chip_named(name: str) -> Chip:
    """Return the limits of a chip; raises ChipError naming the accepted ones."""
    if name not in CHIPS:
        raise ChipError(f"chip is {name!r}; accepted: {', '.join(CHIPS)}")
    return CHIPS[name]
