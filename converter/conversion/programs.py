"""Write a network's variants on one weights file, as packages or as functions of one package, and verify them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from converter import __version__
from converter.checksums import FileSum
from converter.conversion.plan import ConversionPlan
from converter.folder import Package
from converter.mil import Graph, Weights
from converter.mil.package import SCALES, WEIGHTS, write_functions, write_package
from converter.networks.features import describe
from converter.networks.registry import Variant, kind_of, write_graph
from converter.weights.blob import BlobWriter

Graphs = list[tuple[Variant, Graph]]


@dataclass(frozen=True)
class WrittenNetwork:
    """A network's packages, and the checksum of their weights file by its path in each."""

    packages: tuple[Package, ...]
    weights: dict[str, FileSum]


def _label(network: str, variant: Variant) -> str:
    kind = kind_of(network)
    parts = [f"{variant.width}x{variant.height}"] if kind.per_size else []
    if kind.per_prompt:
        parts += [f"batch{variant.batch}", f"tokens{variant.tokens}"]
    return "_".join(parts)


def _stem(network: str, plan: ConversionPlan, variant: Variant) -> str:
    """Return the file name without its suffix, Apple's where Apple's converter has such a package."""
    if (prefix := kind_of(network).named) is not None:
        return f"{prefix}_{network.partition('/')[2]}"
    name = plan.name.replace("/", "_")
    form = "control-unet" if variant.control else network
    image = f"_image{variant.image_tokens}" if variant.image_tokens else ""
    return f"Stable_Diffusion_version_{name}_{form}{image}"


def _write_packages(
    network: str, plan: ConversionPlan, out: Path, blob: Path, graphs: Graphs, texts: dict[str, Any]
) -> list[Package]:
    """Write a package for each variant; the first has Apple's file name, and so has the first that takes residuals."""
    packages: list[Package] = []
    stems: set[str] = set()
    for variant, graph in graphs:
        stem = _stem(network, plan, variant)
        file = f"{stem}_{_label(network, variant)}.mlpackage" if stem in stems else f"{stem}.mlpackage"
        stems.add(stem)
        write_package(out / file, graph, blob, **texts)
        packages.append(_package(network, file, variant))
    return packages


def _write_functions(
    network: str, plan: ConversionPlan, out: Path, blob: Path, graphs: Graphs, texts: dict[str, Any]
) -> list[Package]:
    """Write one package under Apple's file name; its functions are named by size, batch and tokens, the first is main."""
    file, functions, packages = f"{_stem(network, plan, graphs[0][0])}.mlpackage", {}, []
    for index, (variant, graph) in enumerate(graphs):
        form = "_control" if variant.control else ""
        form += f"_image{variant.image_tokens}" if variant.image_tokens else ""
        function = f"at_{_label(network, variant)}{form}" if index else "main"
        functions[function] = graph
        packages.append(replace(_package(network, file, variant), function=function))
    write_functions(out / file, functions, blob, default="main", **texts)
    return packages


def _metadata(network: str, plan: ConversionPlan, graph: Graph) -> dict[str, str]:
    """Return what the packages say of themselves; ``graph`` is any variant's: all scale the same weights."""
    return {
        "com.github.apple.coremltools.version": version("coremltools"),
        "app.anemone.converter.version": __version__,
        "app.anemone.family": plan.family.name,
        "app.anemone.model": plan.name,
        "app.anemone.network": network,
        SCALES: json.dumps(graph.scales),
        "app.anemone.attention": plan.options.attention,
        "app.anemone.prediction_type": plan.family.prediction_type,
        "app.anemone.vae_scaling_factor": repr(plan.family.vae_scaling_factor),
    }


def _package(network: str, file: str, variant: Variant) -> Package:
    kind = kind_of(network)
    return Package(
        file,
        variant.width if kind.per_size else None,
        variant.height if kind.per_size else None,
        variant.batch,
        tokens=variant.tokens if kind.per_prompt else None,
        control=variant.control,
        image_tokens=variant.image_tokens or None,
    )


def write_network(
    network: str,
    plan: ConversionPlan,
    out: Path,
    *,
    written: Callable[[int], None] = lambda size: None,
    verifying: Callable[[], None] = lambda: None,
    verified: Callable[[float], None] = lambda psnr_db: None,
) -> WrittenNetwork:
    """Write a network's packages into ``out``, all on one weights file; the first has Apple's file name.

    ``written`` is called with the bytes of each weight, ``verifying`` when verification begins, and ``verified`` with the
    least PSNR in dB when it ends. Raises VerificationError.
    """
    tensors, config = plan.tensors(network), plan.config(network)
    blob = out / "weights"
    encodings = plan.encodings(network)
    with BlobWriter(blob) as writer, Weights(writer, written) as weights:

        def graph_of(variant: Variant) -> Graph:
            return write_graph(network, tensors, config, plan.family.sizes, variant, weights, plan.target, encodings)

        graphs = [(variant, graph_of(variant)) for variant in plan.variants(network)]
        small_graphs = [graph_of(variant) for variant in plan.verified(network)] if plan.options.verify else []

    texts: dict[str, Any] = {
        "about": kind_of(network).about,
        "describe": describe,
        "metadata": _metadata(network, plan, graphs[0][1]),
    }
    packages = (_write_functions if plan.options.functions else _write_packages)(
        network, plan, out, blob, graphs, texts
    )
    if small_graphs:
        # This imports PyTorch, which takes a second that a conversion without verification does not need.
        from converter.verification.verify import verify_package

        verifying()
        least = float("inf")
        for graph in small_graphs:
            write_package(out / "verify.mlpackage", graph, blob, **texts)
            package = out / "verify.mlpackage"
            least = min(
                least, verify_package(network, package, plan.published_config(network), tensors, encodings.usual)
            )
            shutil.rmtree(out / "verify.mlpackage")
        verified(least)
    blob.unlink()
    return WrittenNetwork(tuple(packages), {f"{package.path}/{WEIGHTS}": writer.sum for package in packages})
