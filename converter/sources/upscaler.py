"""Upscaling networks in one .safetensors file: RRDB networks (ESRGAN, Real-ESRGAN) and compact ones (SRVGGNetCompact).

Such files have no configuration: the network follows from its tensors' names and shapes. RRDB networks have three
namings, that of BasicSR (https://github.com/XPixelGroup/BasicSR, basicsr/archs/rrdbnet_arch.py), which is the canonical
one here, ESRGAN's first release (RRDB_trunk, HRconv), and the numbered one of the training code before it (model.1.sub).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError
from converter.sources.checkpoint import content_hash
from converter.sources.snapshot import file_name
from converter.sources.tensors import Tensors

#: Prefixes under which trainers save a network; averaged weights go before the last ones.
_SAVED = ("params_ema.", "params.", "state_dict.", "module.")
_NUMBERED = re.compile(r"model\.(\d+)\.(.+)")
_NUMBERED_BLOCK = re.compile(r"sub\.(\d+)\.RDB([123])\.conv([1-5])\.0\.(weight|bias)")
_NUMBERED_TRUNK = re.compile(r"sub\.\d+\.(weight|bias)")
_FIRST_RELEASE = (
    (re.compile(r"^RRDB_trunk\.(\d+)\.RDB([123])\."), r"body.\1.rdb\2."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
_BLOCK = re.compile(r"^body\.(\d+)\.rdb1\.conv1\.weight$")
_UP = re.compile(r"^conv_up(\d)\.weight$")
_COMPACT_LAYER = re.compile(r"^body\.(\d+)\.weight$")
_COLORS = 3
#: The Neural Engine is wrong when a pixel shuffle takes more than 256 channels; 8x takes 192.
_LARGEST_SCALE = 8


def _numbered(names: Iterable[str]) -> dict[str, str]:
    """Map the numbered naming's tensors to their canonical names.

    After the trunk (0, 1) come an enlargement and its convolution for each doubling (at 3, 6 and so on), then the two
    last convolutions, with an activation before each.
    """
    rest = {int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name)) and int(match[1]) > 1}
    doublings = max(0, len(rest) - 2)
    places = {0: "conv_first", 3 * doublings + 2: "conv_hr", 3 * doublings + 4: "conv_last"}
    places |= {3 * (i + 1): f"conv_up{i + 1}" for i in range(doublings)}
    renamed: dict[str, str] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            renamed[name] = name
        elif (block := _NUMBERED_BLOCK.fullmatch(match[2])) is not None:
            renamed[name] = f"body.{block[1]}.rdb{block[2]}.conv{block[3]}.{block[4]}"
        elif (trunk := _NUMBERED_TRUNK.fullmatch(match[2])) is not None:
            renamed[name] = f"conv_body.{trunk[1]}"
        else:
            renamed[name] = f"{places.get(int(match[1]), f'model.{match[1]}')}.{match[2]}"
    return renamed


def _canonical(tensors: Tensors) -> Tensors:
    """Return the network's tensors under BasicSR's names."""
    names = {name: name for name in tensors}
    for prefix in _SAVED:
        inside = {full: name.removeprefix(prefix) for full, name in names.items() if name.startswith(prefix)}
        names = inside or names
    numbered = _numbered(names.values())
    renamed: dict[str, str] = {}
    for full, name in names.items():
        new = numbered[name]
        for pattern, replacement in _FIRST_RELEASE:
            new = pattern.sub(replacement, new)
        if new in renamed:
            raise CheckpointError(f"it has both {renamed[new]} and {full}, which are the same tensor")
        renamed[new] = full
    return tensors.under(renamed)


def _rrdb_config(tensors: Tensors) -> dict[str, Any]:
    inputs = tensors.size("conv_first.weight", 1)
    unshuffle = math.isqrt(inputs // _COLORS)
    if inputs % _COLORS or unshuffle**2 * _COLORS != inputs or unshuffle not in (1, 2, 4):
        raise CheckpointError(
            f"its first convolution takes {inputs} channels; accepted: 3, or 12 and 48 after a pixel unshuffle"
        )
    doublings = sum(_UP.match(name) is not None for name in tensors)
    if 2**doublings % unshuffle or 2**doublings // unshuffle > _LARGEST_SCALE:
        raise CheckpointError(
            f"it enlarges {2**doublings} times and begins at 1/{unshuffle}; scales of 1, 2, 4 and 8 are accepted"
        )
    return {
        "architecture": "rrdb",
        "width": tensors.size("conv_first.weight", 0),
        "growth": tensors.size("body.0.rdb1.conv1.weight", 0),
        "blocks": sum(_BLOCK.match(name) is not None for name in tensors),
        "unshuffle": unshuffle,
        "doublings": doublings,
        "scale": 2**doublings // unshuffle,
    }


def _compact_config(tensors: Tensors) -> dict[str, Any]:
    layers = sorted(int(match[1]) for name in tensors if (match := _COMPACT_LAYER.match(name)))
    last = layers[-1]
    if layers != list(range(last + 1)) or last % 2 or len(tensors.shape("body.1.weight")) != 1:
        raise CheckpointError(
            "its body is not convolutions with a PReLU between each two; compact networks with another activation are "
            "not supported"
        )
    outputs = tensors.size(f"body.{last}.weight", 0)
    scale = math.isqrt(outputs // _COLORS)
    if scale**2 * _COLORS != outputs or not 1 <= scale <= _LARGEST_SCALE:
        raise CheckpointError(
            f"its last convolution gives {outputs} channels; 3 times the square of a scale from 1 to {_LARGEST_SCALE} "
            "are accepted"
        )
    return {
        "architecture": "compact",
        "width": tensors.size("body.0.weight", 0),
        "convolutions": last // 2 - 1,
        "scale": scale,
    }


def _configuration(tensors: Tensors) -> dict[str, Any] | None:
    """Return the network's configuration; None if the tensors are no upscaler's."""
    if "conv_first.weight" in tensors and "body.0.rdb1.conv1.weight" in tensors:
        return _rrdb_config(tensors)
    if "body.0.weight" in tensors and "body.1.weight" in tensors and "conv_first.weight" not in tensors:
        return _compact_config(tensors)
    return None


@dataclass(frozen=True)
class UpscalerFile:
    """An upscaling network in a file.

    config: architecture (rrdb or compact), scale, and the sizes that the architecture has.
    tensors: its weights under canonical names.
    """

    path: Path
    config: dict[str, Any]
    tensors: Tensors

    @staticmethod
    def open(path: Path) -> UpscalerFile | None:
        """Return the network in a .safetensors file; None if the file is something else.

        Raises CheckpointError if it is an upscaler that is not supported, or no safetensors file.
        """
        tensors = _canonical(Tensors([path]))
        try:
            config = _configuration(tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{path} cannot be converted: {error}") from error
        return None if config is None else UpscalerFile(path, config, tensors)

    @property
    def name(self) -> str:
        """The file's name without its suffix; a file from the hub has its repository in front."""
        return file_name(self.path)

    @property
    def scale(self) -> int:
        """How many times it enlarges an image."""
        return int(self.config["scale"])

    @cached_property
    def sha256(self) -> str:
        """The file's SHA-256, as other tools compute it."""
        return content_hash(self.path)
