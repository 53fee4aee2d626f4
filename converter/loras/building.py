"""Make a LoRA's layers of the tensors that a file has for one target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from converter.errors import shown
from converter.loras.adapter_config import AdapterConfig
from converter.loras.errors import LoraError
from converter.loras.layers import (
    Change,
    Decomposed,
    Difference,
    Factor,
    Hadamard,
    Kronecker,
    LoraLayer,
    LowRank,
    Product,
    Sum,
)

#: Parameters that a target's bias may have; only one of them.
_BIASES = ("diff_b", "b_norm", "up_bias")


@dataclass
class Target:
    """The tensors of one target, by parameter; ``module`` is its path in the file, ``config`` what PEFT states of it."""

    name: str
    module: str
    config: AdapterConfig
    factors: dict[str, Factor] = field(default_factory=dict)


def layers_of(target: Target) -> tuple[LoraLayer | None, LoraLayer | None]:
    """Return the layers of the target's weight and of its bias. Raises LoraError unless each tensor has its place."""
    left = dict(target.factors)
    alpha = left.pop("alpha", None)
    for factor in left.values():
        if not factor.shape or 0 in factor.shape:
            raise LoraError(
                f"{factor.name} is {list(factor.shape)}; a tensor of one axis or more with values is accepted"
            )
    magnitude, scale = left.pop("magnitude", None), left.pop("dora_scale", None)
    change = _change(target, left, alpha)
    biases = [left.pop(name) for name in _BIASES if name in left]
    odd = [*left.values(), *biases[1:]]
    if change is None:
        odd += [factor for factor in (alpha, magnitude, scale) if factor is not None]
    elif isinstance(change, Difference) or (magnitude and scale):
        odd += [factor for factor in (magnitude, scale) if factor is not None]
    if odd:
        others = [factor.name for factor in target.factors.values() if factor not in odd]
        beside = f" beside {shown(others)}" if others else " alone"
        raise LoraError(
            f"it has {shown([factor.name for factor in odd])}{beside}, which is no kind of LoRA that is supported"
        )
    # PEFT multiplies a bias of lora_B like the product.
    bias = None
    if biases:
        factor = biases[0]
        scaled = change.scale if isinstance(change, LowRank) and factor is target.factors.get("up_bias") else 1.0
        bias = Sum(f"the bias of {target.name}", Difference(factor, scaled))
    if change is None:
        return None, bias
    weight = Sum(target.name, change)
    if magnitude is not None:
        return _decomposed(weight, magnitude, 0), bias
    if scale is not None:
        return _decomposed(weight, scale, 1 if scale.shape[:1] == (1,) and math.prod(scale.shape) > 1 else 0), bias
    return weight, bias


def _decomposed(weight: Sum, magnitude: Factor, axis: Literal[0, 1]) -> Decomposed:
    out, into = weight.sizes
    numbers = math.prod(magnitude.shape)
    # A convolution's inputs are its channels times the kernel's size, which a change of low rank need not show.
    if numbers != out if axis == 0 else into % numbers:
        raise LoraError(f"{magnitude.name} has {numbers} numbers, and the change of {weight.target} is {out}x{into}")
    return Decomposed(weight, magnitude, axis)


def _change(target: Target, left: dict[str, Factor], alpha: Factor | None) -> Change | None:
    """Return the change of the weight, taking its tensors out of ``left``; None without one."""
    if {"down", "up"} <= left.keys():
        down = left.pop("down")
        return LowRank(left.pop("up"), down, left.pop("mid", None), _scale(target, alpha, down.shape[0]))
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= left.keys() and ("hada_t1" in left) == (
        "hada_t2" in left
    ):
        first, second = (
            Product(left.pop(f"hada_w{n}_a"), left.pop(f"hada_w{n}_b"), left.pop(f"hada_t{n}", None)) for n in (1, 2)
        )
        return Hadamard(first, second, _scale(target, alpha, first.rank))
    sides = _side(left, 1), _side(left, 2)
    if sides[0] is not None and sides[1] is not None:
        for name in [name for name in left if name.startswith("lokr_")]:
            del left[name]
        rank: float | None = next((side.rank for side in sides[::-1] if isinstance(side, Product)), None)
        if rank is None:
            # LyCORIS ignores alpha where both matrices are whole; PEFT does not, and its settings have the rank.
            rank = target.config.rank.of(target.module)
            alpha = None
        return Kronecker(sides[0], sides[1], _scale(target, alpha, rank))
    whole = left.pop("diff", None) or left.pop("w_norm", None)
    return Difference(whole) if whole is not None else None


def _side(left: Mapping[str, Factor], side: int) -> Factor | Product | None:
    whole, a, b = (left.get(f"lokr_w{side}{end}") for end in ("", "_a", "_b"))
    core = left.get("lokr_t2") if side == 2 else None
    if whole is not None:
        return whole if a is b is core is None else None
    return Product(a, b, core) if a is not None and b is not None else None


def _scale(target: Target, alpha: Factor | None, rank: float | None) -> float:
    """Return alpha / rank; 1 without a stated alpha or a rank."""
    value = target.config.alpha.of(target.module)
    if alpha is not None:
        value = alpha.tensors.number(alpha.name)
    # Trainers write 0 where none was chosen, and take the rank.
    if not value or rank is None or rank <= 0:
        return 1.0
    return value / (math.sqrt(rank) if target.config.rank_stabilized else rank)
