"""PEFT's settings of a LoRA: in the file's metadata, as diffusers writes them, or in adapter_config.json beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.errors import quoted
from converter.loras.errors import LoraError

_METADATA = "lora_adapter_metadata"
_FILE = "adapter_config.json"
#: The name of the file that PEFT writes it for.
_ADAPTER = "adapter_model"
_LARGEST = 1 << 22
#: The greatest alpha and rank; trainers' are below a few thousand.
_MOST = 1_000_000
#: PEFT takes patterns as regular expressions; all it writes itself are names, whose dots it does not escape.
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class Setting:
    """A number for all modules (None if it is not stated), and those of modules whose path ends in a name."""

    usual: float | None = None
    by_module: Mapping[str, float] = field(default_factory=dict)

    def of(self, module: str) -> float | None:
        """Return the number of a module by its path."""
        found = (value for end, value in self.by_module.items() if module == end or module.endswith(f".{end}"))
        return next(found, self.usual)


@dataclass(frozen=True)
class AdapterConfig:
    """The settings that change what a file's tensors mean."""

    alpha: Setting = Setting()
    rank: Setting = Setting()
    rank_stabilized: bool = False


def read_adapter_configs(path: Path, metadata: Mapping[str, str], *, peft: bool) -> dict[str, AdapterConfig]:
    """Return the settings by network ("" for those of a file of one network); nothing if there are none.

    ``peft``: whether the tensors have PEFT's names, which a file beside them may be for.
    """
    if _METADATA in metadata:
        entries = _json(metadata[_METADATA], f"its metadata's {_METADATA}")
        networks: dict[str, dict[str, Any]] = {}
        for key, value in entries.items():
            network, _, name = key.rpartition(".")
            networks.setdefault(network, {})[name] = value
        return {network: _config(settings) for network, settings in networks.items()}
    beside = settings_beside(path) if peft else None
    if beside is not None:
        if beside.stat().st_size > _LARGEST:
            raise LoraError(f"{_FILE} beside it is {beside.stat().st_size} bytes; at most {_LARGEST} are read")
        return {"": _config(_json(beside.read_bytes(), f"{_FILE} beside it"))}
    return {}


def settings_beside(path: Path) -> Path | None:
    """Return the settings in a file's folder if they are that file's: it has PEFT's own name, or is the only one there."""
    settings = path.with_name(_FILE)
    if not settings.is_file():
        return None
    with os.scandir(path.parent) as entries:
        is_alone = all(each.name == path.name or Path(each.name).suffix != path.suffix for each in entries)
    return settings if is_alone or path.stem == _ADAPTER else None


def _json(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise LoraError(f"{where} is {quoted(value)}; an object is accepted")
    return value


def _config(settings: Mapping[str, Any]) -> AdapterConfig:
    return AdapterConfig(
        # LoHa's and LoKr's settings have alpha in place of lora_alpha.
        _setting(settings, "lora_alpha" if "lora_alpha" in settings else "alpha", "alpha_pattern"),
        _setting(settings, "r", "rank_pattern"),
        settings.get("use_rslora") is True,
    )


def _setting(settings: Mapping[str, Any], name: str, pattern: str) -> Setting:
    by_module = settings.get(pattern) or {}
    if not isinstance(by_module, dict) or not all(_PLAIN.fullmatch(module) for module in by_module):
        raise LoraError(f"its {pattern} is {quoted(by_module)}; an object of modules' names and numbers is accepted")
    usual = settings.get(name)
    return Setting(
        None if usual is None else _number(name, usual),
        {module: _number(f"{pattern} of {module}", value) for module, value in by_module.items()},
    )


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
        raise LoraError(f"its {what} is {quoted(value)}; a number up to {_MOST} is accepted")
    return float(value)
