"""Ranges of layers' inputs, measured by ``anemone analyze --activations``, for layers that take them in 8 bits (W8A8)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from converter.errors import CheckpointError
from converter.weights.recipe import read_json

#: A layer is rounded if the UNet's prediction keeps this PSNR in dB; Apple's converter has the same limit (--conv-psnr).
LEAST_DB = 40.0
_LARGEST_INTEGER = 127
#: Magnitudes whose scales fp16 has: a smaller one would be 0, a larger one infinite.
LEAST_LARGEST, MOST_LARGEST = 2.0**-24 * _LARGEST_INTEGER, 65504.0 * _LARGEST_INTEGER


@dataclass(frozen=True)
class Activation:
    """The input of a layer.

    largest: the greatest magnitude of its values on the calibration images.
    psnr_db: of the UNet's prediction with this input alone in 8 bits.
    """

    largest: Annotated[float, Field(strict=True, ge=LEAST_LARGEST, le=MOST_LARGEST, allow_inf_nan=False)]
    psnr_db: Annotated[float, Field(strict=True, allow_inf_nan=False)]

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

    @staticmethod
    def read(path: str) -> Activations:
        """Return the activations in a file. Raises CheckpointError."""
        content = read_json(path, "file of activations")
        try:
            activations = Activations(_LAYERS.validate_python(content.get("activations")))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"{path} is no file of activations ({where or 'activations'}: {first['msg']}); accepted: "
                "what `anemone analyze --activations` writes"
            ) from error
        if not activations.scales:
            raise CheckpointError(
                f"no layer in {path} keeps {LEAST_DB:.0f} dB with an input of 8 bits, so none would have one; leave it out"
            )
        return activations


_LAYERS = TypeAdapter(dict[str, Activation])
