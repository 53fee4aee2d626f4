"""Ranges of layers' inputs, measured by ``anemone analyze --activations``, for layers that take them in 8 bits (W8A8)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from converter.errors import CheckpointError
from converter.weights.recipe import read_json, require_layers

#: A layer is rounded if the UNet's prediction keeps this PSNR in dB; Apple's converter has the same limit (--conv-psnr).
LEAST_DB = 40.0
_LARGEST_INTEGER = 127


@dataclass(frozen=True)
class Activation:
    """The input of a layer.

    largest: the greatest magnitude of its values on the calibration images.
    psnr_db: of the UNet's prediction with this input alone in 8 bits.
    """

    largest: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    psnr_db: Annotated[float, Field(allow_inf_nan=False)]

    @property
    def scale(self) -> float:
        """The value of one step of 8-bit integers."""
        return self.largest / _LARGEST_INTEGER


@dataclass(frozen=True)
class Activations:
    """The inputs of a UNet's layers, by the layer's path."""

    layers: Mapping[str, Activation]

    @property
    def sha256(self) -> str:
        """A hash of its content."""
        content = sorted((layer, each.largest, each.psnr_db) for layer, each in self.layers.items())
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def scales(self) -> dict[str, float]:
        """The scales of the layers that lose little."""
        return {layer: each.scale for layer, each in self.layers.items() if each.psnr_db >= LEAST_DB}

    def require_layers(self, known: Mapping[str, object]) -> None:
        """Raise CheckpointError if it names layers that a UNet with the layers ``known`` does not have."""
        require_layers("the file of activations", self.layers, known)

    @staticmethod
    def read(path: str) -> Activations:
        """Return the activations in a file. Raises CheckpointError."""
        content = read_json(path, "file of activations")
        try:
            return Activations(_LAYERS.validate_python(content.get("activations")))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"{path} is no file of activations ({where or 'activations'}: {first['msg']}); accepted: what "
                "`anemone analyze --activations` writes"
            ) from error


_LAYERS = TypeAdapter(dict[str, Activation])
