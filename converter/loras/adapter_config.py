"""PEFT's settings of a LoRA: in the file's metadata, as diffusers writes them, or in adapter_config.json beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import quoted
from converter.loras.errors import LoraError

_METADATA = "lora_adapter_metadata"
_FILE = "adapter_config.json"
_LARGEST = 1 << 22
#: PEFT takes patterns as regular expressions; all it writes itself are names, whose dots it does not escape.
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class AdapterConfig:
    """The settings that change what a file's tensors mean.

    alpha: lora_alpha; None if it is not stated. by_module: alpha of modules whose path ends so.
    """

    alpha: float | None
    by_module: Mapping[str, float]
    rank_stabilized: bool

    def alpha_of(self, module: str) -> float | None:
        """Return the alpha of a module by its path."""
        found = (value for end, value in self.by_module.items() if module == end or module.endswith(f".{end}"))
        return next(found, self.alpha)


NONE = AdapterConfig(None, {}, False)


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
    beside = path.with_name(_FILE)
    if peft and beside.is_file():
        if beside.stat().st_size > _LARGEST:
            raise LoraError(f"{_FILE} beside it is {beside.stat().st_size} bytes; at most {_LARGEST} are read")
        return {"": _config(_json(beside.read_text("utf-8"), f"{_FILE} beside it"))}
    return {}


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise LoraError(f"{where} is {quoted(value)}; an object is accepted")
    return value


def _config(settings: Mapping[str, Any]) -> AdapterConfig:
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_PLAIN.fullmatch(name) for name in patterns):
        raise LoraError(f"its alpha_pattern is {quoted(patterns)}; an object of modules' names and numbers is accepted")
    # LoHa's and LoKr's settings have alpha in place of lora_alpha.
    alpha = settings.get("lora_alpha", settings.get("alpha"))
    return AdapterConfig(
        None if alpha is None else _number("lora_alpha", alpha),
        {name: _number(f"alpha_pattern of {name}", value) for name, value in patterns.items()},
        settings.get("use_rslora") is True,
    )


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LoraError(f"its {what} is {quoted(value)}; a number is accepted")
    return float(value)
