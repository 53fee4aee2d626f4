"""What a LoRA does to one weight: low-rank changes and their relatives, in fp32.

Factors are read when a layer is merged, so a merge takes the memory of one layer. The formulas are those of the libraries
that train the files: kohya's sd-scripts, LyCORIS (https://github.com/KohakuBlueleaf/LyCORIS) and PEFT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from converter.loras.errors import LoraError
from converter.sources.tensors import Tensors

Array = NDArray[np.float32]


class LoraLayer(Protocol):
    """What a LoRA does to one weight."""

    @property
    def kind(self) -> str:
        """The kind in users' words: LoRA, LoHa, ..."""

    @property
    def rank(self) -> int | None:
        """The rank; None for a kind without."""

    @property
    def sizes(self) -> tuple[int, int]:
        """The first size of the weight, and the product of the others."""

    def merged(self, weight: Array, multiplier: float) -> Array:
        """Return the merged weight in fp32; ``weight`` is the checkpoint's, [out, in, ...]. Raises LoraError."""


class Change(Protocol):
    """The difference between a trained weight and the checkpoint's."""

    @property
    def kind(self) -> str:
        """The kind in users' words."""

    @property
    def rank(self) -> int | None:
        """The rank; None for a kind without."""

    @property
    def sizes(self) -> tuple[int, int]:
        """The first size of the weight, and the product of the others."""

    def difference(self) -> Array:
        """Return the difference at full strength; its elements are in the weight's order."""


@dataclass(frozen=True)
class Factor:
    """A tensor of the file."""

    tensors: Tensors
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, without reading it."""
        return self.tensors.shape(self.name)

    def read(self) -> Array:
        """Return it in fp32."""
        return self.tensors.array(self.name).astype(np.float32)

    def matrix(self) -> Array:
        """Return it in fp32 as [first size, the others]."""
        return self.read().reshape(self.shape[0], -1)


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _expect(ok: bool, factors: tuple[Factor, ...]) -> None:
    if not ok:
        described = ", ".join(f"{factor.name} {list(factor.shape)}" for factor in factors)
        raise LoraError(f"the shapes of {described} do not fit together")


def _tucker(core: Factor, out: Array, into: Array) -> Array:
    """Return core [r, s, ...] with its first axis replaced by out [r, out], its second by into [s, in]."""
    product: Array = np.einsum("rs...,ro,si->oi...", core.read(), out, into, optimize=True)
    return product


@dataclass(frozen=True)
class LowRank:
    """LoRA (Hu et al. 2021), and LoCon's for convolutions: up [out, r], down [r, in, ...], mid [r, r, ...] if Tucker's."""

    up: Factor
    down: Factor
    mid: Factor | None
    scale: float

    def __post_init__(self) -> None:
        up, down = self.up.shape, self.down.shape
        fit = min(len(up), len(down)) >= 2 and up[1] == down[0] > 0 and math.prod(up[2:]) == 1
        if self.mid is None:
            _expect(fit, (self.up, self.down))
        else:
            fit = fit and len(self.mid.shape) > 2 and self.mid.shape[:2] == (down[0], down[0])
            _expect(fit and math.prod(down[2:]) == 1, (self.up, self.mid, self.down))

    @property
    def kind(self) -> str:
        return "LoRA" if self.mid is None and math.prod(self.down.shape[2:]) == 1 else "LoCon"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def sizes(self) -> tuple[int, int]:
        into = math.prod(self.down.shape[1:])
        return self.up.shape[0], into * (math.prod(self.mid.shape[2:]) if self.mid else 1)

    def difference(self) -> Array:
        if self.mid is None:
            up = self.up.matrix()
            up *= np.float32(self.scale)
            return up @ self.down.matrix()
        return self.scale * _tucker(self.mid, self.up.matrix().T, self.down.matrix())


@dataclass(frozen=True)
class Product:
    """A matrix [out, in] of rank r: a [out, r], b [r, in]; with a core [r, r, ...]: a [r, out], b [r, in]."""

    a: Factor
    b: Factor
    core: Factor | None

    def __post_init__(self) -> None:
        a, b = self.a.shape, self.b.shape
        if self.core is None:
            _expect(len(a) == len(b) == 2 and a[1] == b[0] > 0, (self.a, self.b))
        else:
            core = self.core.shape
            fit = len(a) == len(b) == 2 and len(core) > 2 and core[:2] == (a[0], b[0]) and b[0] > 0
            _expect(fit, (self.a, self.b, self.core))

    @property
    def rank(self) -> int:
        return self.b.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, [out, in, ...]."""
        if self.core is None:
            return self.a.shape[0], self.b.shape[1]
        return self.a.shape[1], self.b.shape[1], *self.core.shape[2:]

    def read(self) -> Array:
        """Return it in fp32."""
        a, b = self.a.read(), self.b.read()
        return a @ b if self.core is None else _tucker(self.core, a, b)


@dataclass(frozen=True)
class Hadamard:
    """LoHa (LyCORIS): the elementwise product of two low-rank matrices (Hyeon-Woo et al. 2021, FedPara)."""

    first: Product
    second: Product
    scale: float
    kind: str = "LoHa"

    def __post_init__(self) -> None:
        _expect(self.first.shape == self.second.shape, (self.first.a, self.first.b, self.second.a, self.second.b))

    @property
    def rank(self) -> int:
        return self.first.rank

    @property
    def sizes(self) -> tuple[int, int]:
        return _flat(self.first.shape)

    def difference(self) -> Array:
        return self.scale * (self.first.read() * self.second.read())


@dataclass(frozen=True)
class Kronecker:
    """LoKr (LyCORIS): the Kronecker product of two matrices, each whole or of low rank."""

    first: Factor | Product
    second: Factor | Product
    scale: float
    kind: str = "LoKr"

    def __post_init__(self) -> None:
        if len(self.first.shape) != 2 or len(self.second.shape) < 2:
            names = [side.name if isinstance(side, Factor) else side.a.name for side in (self.first, self.second)]
            raise LoraError(
                f"{names[0]} is {list(self.first.shape)} and {names[1]} is {list(self.second.shape)}; a matrix, and a weight "
                "of two axes or more, are accepted"
            )

    @property
    def rank(self) -> int | None:
        return next((side.rank for side in (self.second, self.first) if isinstance(side, Product)), None)

    @property
    def sizes(self) -> tuple[int, int]:
        (a, b), (c, d) = _flat(self.first.shape), _flat(self.second.shape)
        return a * c, b * d

    def difference(self) -> Array:
        second = self.second.read()
        first = self.first.read().reshape(*self.first.shape, *[1] * (second.ndim - 2))
        return self.scale * np.kron(first, second)


@dataclass(frozen=True)
class Difference:
    """A whole difference of a weight or bias: LyCORIS' full and norm kinds, and files of extracted differences."""

    whole: Factor
    scale: float = 1.0
    kind: str = "difference"
    rank: None = None

    @property
    def sizes(self) -> tuple[int, int]:
        return _flat(self.whole.shape)

    def difference(self) -> Array:
        return self.scale * self.whole.read()


@dataclass(frozen=True)
class Sum:
    """The checkpoint's weight plus a change."""

    target: str
    change: Change

    @property
    def kind(self) -> str:
        return self.change.kind

    @property
    def rank(self) -> int | None:
        return self.change.rank

    @property
    def sizes(self) -> tuple[int, int]:
        return self.change.sizes

    def merged(self, weight: Array, multiplier: float) -> Array:
        merged = self.difference(weight)
        merged *= np.float32(multiplier)
        merged += weight
        return merged

    def difference(self, weight: Array) -> Array:
        """Return the change at full strength in the weight's shape, an array of its own. Raises LoraError if it has another size."""
        # Packages have norms and positions with axes of 1 before the channels.
        begin = next((axis for axis, size in enumerate(weight.shape) if size != 1), 0)
        if self.change.sizes not in (_flat(weight.shape), _flat(weight.shape[begin:])):
            out, into = self.change.sizes
            raise LoraError(
                f"{self.target} of the LoRA is {out}x{into}, and of the model {'x'.join(map(str, _flat(weight.shape)))}; a LoRA "
                "of the model's family is accepted"
            )
        return self.change.difference().reshape(weight.shape)


@dataclass(frozen=True)
class Decomposed:
    """DoRA (Liu et al. 2024): the sum's direction with a trained magnitude, by output channel (``axis`` 0) or input (1).

    A multiplier goes the way from the checkpoint's weight to the trained one in proportion, as in AUTOMATIC1111 and
    ComfyUI; PEFT and LyCORIS scale the change before it is normalized, or the magnitude too. At 1 all agree.
    """

    sum: Sum
    magnitude: Factor
    axis: Literal[0, 1]

    @property
    def kind(self) -> str:
        return f"DoRA of {self.sum.kind}"

    @property
    def rank(self) -> int | None:
        return self.sum.rank

    @property
    def sizes(self) -> tuple[int, int]:
        return self.sum.sizes

    def merged(self, weight: Array, multiplier: float) -> Array:
        trained = weight + self.sum.difference(weight)
        axes = tuple(axis for axis in range(weight.ndim) if axis != self.axis)
        norm = np.sqrt(np.square(trained).sum(axes, keepdims=True))
        magnitude = self.magnitude.read()
        if magnitude.size != norm.size:
            raise LoraError(
                f"{self.magnitude.name} has {magnitude.size} numbers, and {self.sum.target} of the model {norm.size} channels"
            )
        # LyCORIS adds the same, against channels of zeros.
        trained *= magnitude.reshape(norm.shape) / (norm + np.finfo(np.float32).eps)
        return trained if multiplier == 1 else weight + np.float32(multiplier) * (trained - weight)
