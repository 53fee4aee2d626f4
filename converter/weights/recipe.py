"""Recipes of mixed palettes: a JSON file that says how many bits the weights of each layer of a UNet take.

The form is that of Apple's converter (mixed_bit_compression_pre_analysis.py): ``recipes`` has one or more by name, each
with the layers' paths in diffusers' UNet and their bits; 16 keeps fp16, as do layers that a recipe does not name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, quoted
from converter.weights.encodings import PALETTE_BITS

#: What a recipe calls fp16.
FP16_BITS = 16
_LARGEST = 2**24
_NAMED = "#"


@dataclass(frozen=True)
class Recipe:
    """Bits of the weights of each layer, by the layer's path; 16 is fp16."""

    name: str
    bits: Mapping[str, int]

    @property
    def sha256(self) -> str:
        """A hash of its content."""
        return hashlib.sha256(json.dumps(sorted(self.bits.items())).encode()).hexdigest()

    def average(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Return the bits of an element of these layers' weights, on average."""
        sizes = {layer: math.prod(shape) for layer, shape in shapes.items()}
        return sum(self.bits.get(layer, FP16_BITS) * size for layer, size in sizes.items()) / sum(sizes.values())

    @staticmethod
    def read(source: str) -> Recipe:
        """Return a recipe of a file: FILE if it has one, or FILE#NAME. Raises CheckpointError."""
        path, _, name = source.partition(_NAMED) if not Path(source).is_file() else (source, "", "")
        recipes = _recipes(path)
        if not name and len(recipes) > 1:
            raise CheckpointError(f"{path} has several recipes; give one as {path}{_NAMED}NAME: {', '.join(recipes)}")
        name = name or next(iter(recipes))
        if name not in recipes:
            raise CheckpointError(f"{path} has no recipe {quoted(name)}; it has {', '.join(recipes)}")
        return Recipe(name, recipes[name])

    def require_layers(self, known: Mapping[str, object]) -> None:
        """Raise CheckpointError if it names layers that a UNet with the layers ``known`` does not have."""
        require_layers(f"the recipe {self.name}", self.bits, known)


def require_layers(what: str, named: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raise CheckpointError if a layer of ``named`` is not among those of a UNet, ``known``."""
    if unknown := sorted(named.keys() - known.keys()):
        more = f", nor {len(unknown) - 1} others of its {len(named)}" if len(unknown) > 1 else ""
        raise CheckpointError(f"{what} is for another model: the UNet has no layer {quoted(unknown[0])}{more}")


def read_json(path: str, what: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError naming ``what`` it should be."""
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise CheckpointError(f"{path} is no {what}: it has more than {_LARGEST // 2**20} MB")
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the {what} {path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _recipes(path: str) -> dict[str, dict[str, int]]:
    recipes: Any = read_json(path, "recipe").get("recipes")
    if not isinstance(recipes, dict) or not recipes or not all(isinstance(r, dict) and r for r in recipes.values()):
        raise CheckpointError(
            f'{path} is no recipe; accepted: {{"recipes": {{"a name": {{"a layer\'s path": bits}}}}}}, as anemone analyze '
            "and Apple's converter write it"
        )
    accepted = (*PALETTE_BITS, FP16_BITS)
    for name, recipe in recipes.items():
        for layer, bits in recipe.items():
            if type(bits) is not int or bits not in accepted:
                raise CheckpointError(
                    f"{path}: {quoted(name)} has {quoted(bits)} bits for {quoted(layer)}; accepted: "
                    f"{', '.join(map(str, accepted))}"
                )
    return recipes
