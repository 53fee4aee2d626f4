"""Packages of single diffusers or transformers modules, without a complete checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converter.mil import Graph, Weights
from converter.mil.package import write_package
from converter.networks.features import describe
from converter.networks.layers import Attention, Layers
from converter.runtime import Network, load
from converter.sources.canonical import canonical
from converter.sources.component_kinds import SAFETY_CHECKER, TEXT_ENCODER, UNET, VAE, ComponentKind
from converter.sources.tensors import Tensors
from converter.weights.blob import BlobWriter

METADATA = {"com.github.apple.coremltools.version": "9.0"}


def halved(module: torch.nn.Module) -> torch.nn.Module:
    """Round the module's weights to fp16 but compute in fp32: a package's reference."""
    return module.half().float().eval()


def component_of(module: torch.nn.Module) -> ComponentKind:
    """Return the component of a checkpoint that a module is."""
    kinds = {"CLIPText": TEXT_ENCODER, "AutoencoderKL": VAE, "StableDiffusionSafetyChecker": SAFETY_CHECKER}
    return next((part for kind, part in kinds.items() if type(module).__name__.startswith(kind)), UNET)


def package_of(
    module: Any, folder: Path, write: Callable[[Layers], None], attention: Attention = "split_einsum"
) -> Path:
    """Write a package of the module's weights by ``write``."""
    module.half().save_pretrained(folder / "module", safe_serialization=True)
    module.float()
    tensors, kind = Tensors(sorted((folder / "module").glob("*.safetensors"))), component_of(module)
    tensors = canonical(kind.name, tensors, kind.canonical_name)
    blob = folder / "weights"
    with BlobWriter(blob) as writer:
        graph = Graph(Weights(writer, lambda size: None))
        write(Layers(graph, tensors, attention))
    path = folder / "network.mlpackage"
    write_package(path, graph, blob, about="test", describe=describe, metadata=METADATA)
    return path


def psnr(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the PSNR in dB, relative to the peak of ``expected``."""
    error = np.sqrt(np.mean((actual.astype(np.float64) - expected) ** 2))
    return float(20 * np.log10(np.abs(expected).max() / (error + 1e-12)))


def as_written(path: Path, *, function: str = "main") -> Network:
    """Load a package to run operation by operation in fp32, without optimizations."""
    return load(path, function=function, precision="fp32")
