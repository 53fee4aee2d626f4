"""The upscaling networks in PyTorch, as the reference that verifies their packages (no library that we use has them)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2)


class DenseBlock(nn.Module):
    """A residual dense block of five convolutions."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for number in range(4):
            setattr(self, f"conv{number + 1}", nn.Conv2d(width + number * growth, growth, 3, padding=1))
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` and a fifth of the block's result."""
        seen = [x]
        for number in range(1, 5):
            seen.append(_leaky(getattr(self, f"conv{number}")(torch.cat(seen, 1))))
        added: torch.Tensor = self.conv5(torch.cat(seen, 1))
        return x + 0.2 * added


class RRDB(nn.Module):
    """A residual in residual dense block."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` and a fifth of what three dense blocks make of it."""
        blocks: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + 0.2 * blocks


class RRDBNet(nn.Module):
    """ESRGAN's generator, with BasicSR's names (Wang et al. 2018, arXiv:1809.00219)."""

    def __init__(self, *, width: int, growth: int, blocks: int, unshuffle: int, doublings: int) -> None:
        super().__init__()
        self._unshuffle, self._doublings = unshuffle, doublings
        self.conv_first = nn.Conv2d(3 * unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for number in range(1, doublings + 1):
            setattr(self, f"conv_up{number}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image enlarged; RGB in [0, 1]."""
        h = self.conv_first(F.pixel_unshuffle(x, self._unshuffle))
        h = h + self.conv_body(self.body(h))
        for number in range(1, self._doublings + 1):
            doubled = F.interpolate(h, scale_factor=2, mode="nearest")
            h = _leaky(getattr(self, f"conv_up{number}")(doubled))
        enlarged: torch.Tensor = self.conv_last(_leaky(self.conv_hr(h)))
        return enlarged


class Compact(nn.Module):
    """Real-ESRGAN's compact network (SRVGGNetCompact of its srvgg_arch.py)."""

    def __init__(self, *, width: int, convolutions: int, scale: int) -> None:
        super().__init__()
        self._scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * scale**2, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image enlarged; RGB in [0, 1]."""
        detail = F.pixel_shuffle(self.body(x), self._scale)
        return detail + F.interpolate(x, scale_factor=self._scale, mode="nearest")


def upscaler_module(config: dict[str, Any]) -> nn.Module:
    """Return the network that an `UpscalerFile`'s configuration describes."""
    sizes = {name: value for name, value in config.items() if name != "architecture"}
    if config["architecture"] == "compact":
        return Compact(**sizes)
    return RRDBNet(**{name: value for name, value in sizes.items() if name != "scale"})
