"""Requests to convert: a source, the model's name, and options."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from converter.options import DEFAULT_OPTIONS, ConvertOptions
from server.models.library import model_name

#: A model's name is its folder's, and part of addresses.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: A repository on the hub, one of its files, a revision: what `converter.sources.hub` takes for an address.
_HUB = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(/\S{1,200}\.safetensors)?(@[^\s@]{1,100})?", re.ASCII)


@dataclass(frozen=True)
class ConversionRequest:
    """A conversion of ``source`` (what `open_source` takes: a path, or an address on the hub) into the model ``name``."""

    source: str
    name: str
    options: ConvertOptions = DEFAULT_OPTIONS

    @property
    def id(self) -> str:
        """The same for the same source and options, whatever the model is to be called: nothing is converted twice."""
        identity = {"source": self.source, **self.options.identity()}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def hub_source(given: str) -> str | None:
    """Return an address on the hub, which is never taken for a path; None where ``given`` is not one."""
    if ".." in given or not _HUB.fullmatch(given):
        return None
    return given if "@" in given else f"{given}@main"


def usual_name(source: str) -> str:
    """Return the name of a model from ``source`` (as in `ConversionRequest`) where the request gives none."""
    if (Path(source)).is_absolute():
        return model_name(Path(source))
    address, _, revision = source.partition("@")
    name = model_name(Path(address))
    return name if revision == "main" else f"{name}-{re.sub(r'[^A-Za-z0-9._-]', '-', revision)}"


def first_request(given: Path) -> ConversionRequest:
    """Return the conversion of what ``--model`` names: of a checkpoint here, or else one on the hub."""
    if not given.exists() and (address := hub_source(str(given))) is not None:
        return ConversionRequest(address, usual_name(address))
    return ConversionRequest(str(given.absolute()), usual_name(str(given.absolute())))
