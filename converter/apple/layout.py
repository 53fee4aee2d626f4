"""Find the networks of a folder by the file names that Apple's converter gives packages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from converter.errors import CheckpointError
from converter.networks.registry import CONTROLNET, KINDS

#: torch2coreml.py, get_out_path: the model's version with every "/" as "_", then the network.
_PACKAGE = re.compile(
    r"Stable_Diffusion_version_(?P<version>.+)_(?P<network>"
    r"text_encoder|text_encoder_2|unet|control-unet|refiner|mmdit|vae_decoder|vae_encoder|safety_checker|"
    r"(?:unet|refiner|control-unet|mmdit)_chunk[12])\.mlpackage"
)
_SUFFIXES = (".mlpackage", ".mlmodelc")
_CONTROLNET = "ControlNet_"
#: The Swift package's names of models (its +Resources.swift files) -> Apple's names of networks.
SWIFT = {kind.resource: kind.name for kind in KINDS if kind.resource is not None} | {
    "UnetChunk1": "unet_chunk1",
    "UnetChunk2": "unet_chunk2",
    "UnetRefiner": "refiner",
    "UnetRefinerChunk1": "refiner_chunk1",
    "UnetRefinerChunk2": "refiner_chunk2",
    "ControlledUnet": "control-unet",
    "ControlledUnetChunk1": "control-unet_chunk1",
    "ControlledUnetChunk2": "control-unet_chunk2",
    "MultiModalDiffusionTransformer": "mmdit",
    "MultiModalDiffusionTransformerChunk1": "mmdit_chunk1",
    "MultiModalDiffusionTransformerChunk2": "mmdit_chunk2",
}


@dataclass(frozen=True)
class Layout:
    """A folder of Apple's packages: the networks by Apple's names, with their paths.

    version: the model's name in the packages' file names; empty for those with the Swift package's names, which lack it.
    controlnets: the folder's ControlNets by name.
    """

    folder: Path
    version: str
    paths: dict[str, Path]
    controlnets: dict[str, Path]


def _packages(folder: Path) -> list[tuple[str, str, Path]]:
    """Return version, network and path of every .mlpackage."""
    packages = []
    for path in sorted(folder.glob("*.mlpackage")):
        match = _PACKAGE.fullmatch(path.name)
        if match is not None and path.is_dir():
            packages.append((match["version"], match["network"], path))
    return packages


def _resources(folder: Path) -> dict[str, Path]:
    """Return the models with the Swift package's names: compiled, or packages that `converter.apple.resources` wrote.

    Where both are, Core ML compiled the package here.
    """
    found = {}
    for name, network in SWIFT.items():
        candidates = (folder / f"{name}{suffix}" for suffix in _SUFFIXES)
        if (path := next((path for path in candidates if path.is_dir()), None)) is not None:
            found[network] = path
    return found


def is_apple(folder: Path) -> bool:
    """Return whether a folder has models with the names that Apple's converter or its Swift package use."""
    return folder.is_dir() and bool(_packages(folder) or _resources(folder))


def _below(folder: Path) -> str:
    """Say which folders within have such models: published ones are often given whole, from a level too high."""
    found = sorted({path.parent for path in folder.glob("**/*.ml*") if path.is_dir() and is_apple(path.parent)})
    return f"; these folders within it do: {', '.join(map(str, found))}" if found else ""


def find_layout(folder: Path) -> Layout:
    """Return the folder's .mlpackages with the converter's names, or if it has none the models with the Swift package's.

    Raises CheckpointError if it has neither, or packages of several models.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {what}; a folder of packages that Apple's converter wrote is accepted")
    packages = _packages(folder)
    if not packages:
        resources = _resources(folder)
        if not resources:
            raise CheckpointError(
                f"{folder} holds no models by the names of Apple's converter: Stable_Diffusion_version_*_unet.mlpackage "
                f"and the like, or Unet.mlmodelc and the like{_below(folder)}"
            )
        # Packages last: where both are, Core ML compiled the package here.
        named = sorted((folder / CONTROLNET.name).glob("*.ml*"), reverse=True, key=lambda path: path.suffix)
        found = {path.stem: path for path in named if path.suffix in _SUFFIXES and path.is_dir()}
        return Layout(folder, "", resources, dict(sorted(found.items())))
    versions = sorted({version for version, _, _ in packages})
    if len(versions) > 1:
        raise CheckpointError(
            f"{folder} holds packages of several models ({', '.join(versions)}); give each a folder of its own"
        )
    controlnets = {p.stem.removeprefix(_CONTROLNET): p for p in sorted(folder.glob(f"{_CONTROLNET}*.mlpackage"))}
    return Layout(folder, versions[0], {network: path for _, network, path in packages}, controlnets)
