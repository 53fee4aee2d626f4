"""How strongly a network's output reacts to errors in the weights of each layer, by differentiation.

A small error e in a weight changes the outputs by J e. If the elements of e are independent of each other, the squared
change is on average that of e times the mean square of J's elements, and J^T v for a random v of signs has the same mean
square (Hutchinson 1989). One pass back through the network thus measures all layers at once, where a pass for each layer
took hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.verification.reference import ReferenceNetwork

Output = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


class _Layer:
    """A linear layer or convolution, whose weight is read again on the way back: only its input is kept."""

    def __init__(self, module: torch.nn.Module, note: Callable[[float], None]) -> None:
        self.module, self.note, self.run = module, note, module.forward

    def weight(self) -> torch.Tensor:
        """Return the weight as `converter.verification.streamed` reads it before a run and drops it after."""
        for read in self.module._forward_pre_hooks.values():
            read(self.module, ())
        weight = self.module.get_parameter("weight").detach()
        for drop in self.module._forward_hooks.values():
            drop(self.module, (), None)
        return weight.requires_grad_(True)

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the layer's output without its bias."""
        if isinstance(self.module, torch.nn.Conv2d):
            stride, padding = self.module.stride, self.module.padding
            return torch.nn.functional.conv2d(
                x, weight, None, stride, padding, self.module.dilation, self.module.groups
            )
        return torch.nn.functional.linear(x, weight)


class _Watched(torch.autograd.Function):
    """A layer's run, which notes the squared gradient of its weight on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, start: torch.Tensor, layer: _Layer) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.layer = layer
        result: torch.Tensor = layer.run(x)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        layer: _Layer = ctx.layer
        x, weight = ctx.saved_tensors[0].detach().requires_grad_(True), layer.weight()
        with torch.enable_grad():
            product = layer.product(x, weight)
        of_x, of_weight = torch.autograd.grad(product, (x, weight), gradients)
        layer.note(float(of_weight.square().sum(dtype=torch.float64)))
        return of_x, None, None


@contextmanager
def _watched(network: ReferenceNetwork, paths: Iterable[str]) -> Iterator[dict[str, list[float]]]:
    """Yield the squared gradients of the layers at ``paths``, of each pass back within the context."""
    noted: dict[str, list[float]] = {path: [] for path in paths}
    # What depends on no other tensor that has a gradient is watched too, such as products of the prompt's states.
    start = torch.zeros((), requires_grad=True)
    modules = [network.layer(path) for path in noted]
    for module, found in zip(modules, noted.values(), strict=True):
        layer = _Layer(module, found.append)
        module.forward = lambda x, layer=layer: _Watched.apply(x, start, layer)  # type: ignore[no-untyped-call]
    try:
        yield noted
    finally:
        for module in modules:
            del module.forward


def weight_gains(
    network: ReferenceNetwork, paths: Iterable[str], inputs: Mapping[str, NDArray[Any]], output: Output, *, seed: int
) -> dict[str, float]:
    """Return for each layer what its weight's squared error, summed, is multiplied by to be the output's, averaged.

    ``output`` makes the output of the network's outputs; the error is relative to its greatest magnitude. It is an estimate
    from one random projection (``seed``): for errors that are small, of mean 0 and independent of each other.
    """
    with torch.enable_grad(), _watched(network, paths) as noted:
        result = output(network.run(inputs))
        signs = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], tuple(result.shape))).to(result.dtype)
        (result * signs).sum().backward()  # type: ignore[no-untyped-call]
        scale = result.numel() * float(result.detach().abs().max()) ** 2
    sizes = {path: network.layer(path).get_parameter("weight").numel() for path in noted}
    return {path: sum(squares) / sizes[path] / scale for path, squares in noted.items()}
