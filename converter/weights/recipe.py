"""Recipes of mixed palettes: a JSON file that says how many bits the weights of each layer of a UNet take.

The form is that of Apple's converter (mixed_bit_compression_pre_analysis.py): ``recipes`` has one or more by name, each
with the layers' paths in diffusers' UNet and their bits; 16 keeps fp16, as do layers that a recipe does not name.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, quoted, shown
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
        names = shown([each if each.isprintable() and len(each) < 200 else quoted(each) for each in recipes], most=20)
        if not name and len(recipes) > 1:
            raise CheckpointError(f"{path} has several recipes; give one as {path}{_NAMED}NAME: {names}")
        name = name or next(iter(recipes))
        if name not in recipes:
            raise CheckpointError(f"{path} has no recipe {quoted(name)}; it has {names}")
        return Recipe(name, recipes[name])


def require_layers(source: str, named: Collection[str], known: Collection[str]) -> None:
    """Raise CheckpointError if a layer that the file ``source`` names is not among those of a UNet, ``known``."""
    if unknown := sorted(set(named) - set(known)):
        more = f", nor {len(unknown) - 1} more of the {len(named)} that are named" if len(unknown) > 1 else ""
        raise CheckpointError(f"{source} is for another model: the UNet has no layer {quoted(unknown[0])}{more}")


def read_json(path: str, what: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError naming ``what`` it should be."""
    if not path:
        raise CheckpointError(f"the {what} has no name; give the JSON file")
    try:
        with Path(path).open("rb") as file:
            written = file.read(_LARGEST + 1)  # a device has no size, and may have no end
        if len(written) > _LARGEST:
            raise CheckpointError(f"{path} is no {what}: it has more than {_LARGEST // 2**20} MB")
        content = json.loads(written)
    except OSError as error:
        raise CheckpointError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} is no {what}: it is nested too deeply") from error
    except ValueError as error:
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
