"""What is to be converted, and how: small enough for a line of JSON, whoever asks for it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converter.mil import TargetName
from converter.networks.layers import Attention
from server.models.library import model_name

#: A model's name is its folder's, and part of addresses.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: A repository on the hub, one of its files, a revision: what `converter.sources.hub` takes for an address.
_HUB = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(/\S{1,200}\.safetensors)?(@[^\s@]{1,100})?", re.ASCII)


@dataclass(frozen=True)
class ConversionOrder:
    """A conversion of ``source`` into the model ``name``.

    source: what `open_source` takes: a path, or an address on the hub with its revision.
    prediction_type: what the UNet predicts, where the source says it wrong.
    vae, preview, safety_checker, controlnets: sources of networks beside it, each None or empty for none.
    The others are those of `ConvertOptions`.
    """

    source: str
    name: str
    prediction_type: str | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    attention: Attention = "split_einsum"
    batches: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None
    vae: str | None = None
    preview: str | None = None
    safety_checker: str | None = None
    controlnets: tuple[str, ...] = ()
    prompt_once: bool = False
    target: TargetName = "macOS13"
    functions: bool = False

    @property
    def id(self) -> str:
        """The same for the same source and options, whatever the model is to be called: nothing is converted twice."""
        told = {name: value for name, value in asdict(self).items() if name != "name"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for beside the source, without what was left to the usual."""
        usual = ConversionOrder("", "")
        told = asdict(self).items()
        return {n: v for n, v in told if n not in ("source", "name") and v != getattr(usual, n)}

    @staticmethod
    def from_json(found: dict[str, Any]) -> ConversionOrder:
        """The order that ``asdict`` and JSON made ``found`` of."""
        listed = {n: None if found[n] is None else tuple(found[n]) for n in ("batches", "tokens", "controlnets")}
        sizes = None if found["sizes"] is None else tuple((int(w), int(h)) for w, h in found["sizes"])
        return ConversionOrder(**{**found, **listed, "sizes": sizes})


def hub_source(given: str) -> str | None:
    """An address on the hub, never to be taken for a path; None where ``given`` is none."""
    if ".." in given or not _HUB.fullmatch(given):
        return None
    return given if "@" in given else f"{given}@main"


def usual_name(source: str) -> str:
    """What a model from ``source`` (as in `ConversionOrder`) is called where nobody says."""
    if (Path(source)).is_absolute():
        return model_name(Path(source))
    address, _, revision = source.partition("@")
    name = model_name(Path(address))
    return name if revision == "main" else f"{name}-{re.sub(r'[^A-Za-z0-9._-]', '-', revision)}"


def first_order(given: Path) -> ConversionOrder:
    """The conversion that makes what ``--model`` names ready: of a checkpoint here, or else one on the hub."""
    if not given.exists() and (address := hub_source(str(given))) is not None:
        return ConversionOrder(address, usual_name(address))
    return ConversionOrder(str(given.absolute()), usual_name(str(given.absolute())))
