"""Requests to convert: a source, the model's name, and options."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from converter.options import DEFAULT_OPTIONS, ConvertOptions
from server.models.library import model_name

#: A model's name is the name of its folder, and part of URLs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: An address on the hub (see `converter.sources.hub`): repository, file in it, revision; the last two are optional.
_HUB = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(/\S{1,200}\.safetensors)?(@[^\s@]{1,100})?", re.ASCII)


@dataclass(frozen=True)
class ConversionRequest:
    """A request to convert ``source`` (a path or an address on the hub, as for `open_source`) into the model ``name``."""

    source: str
    name: str
    options: ConvertOptions = DEFAULT_OPTIONS

    @property
    def id(self) -> str:
        """A hash of source and options. It does not depend on the name, so that nothing is converted twice."""
        identity = {"source": self.source, **self.options.identity()}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def hub_source(text: str) -> str | None:
    """Return the address on the hub with its revision, which never looks like a path; None if ``text`` is not an address."""
    if ".." in text or not _HUB.fullmatch(text):
        return None
    return text if "@" in text else f"{text}@main"


def usual_name(source: str) -> str:
    """Return the default name of a model from ``source`` (as in `ConversionRequest`)."""
    if (Path(source)).is_absolute():
        return model_name(Path(source))
    address, _, revision = source.partition("@")
    name = model_name(Path(address))
    return name if revision == "main" else f"{name}-{re.sub(r'[^A-Za-z0-9._-]', '-', revision)}"


def first_request(model: Path) -> ConversionRequest:
    """Return the request to convert ``--model``: a path if it exists, or else an address on the hub."""
    if not model.exists() and (address := hub_source(str(model))) is not None:
        return ConversionRequest(address, usual_name(address))
    return ConversionRequest(str(model.absolute()), usual_name(str(model.absolute())))
