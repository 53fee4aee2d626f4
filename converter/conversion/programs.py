"""Write a network's variants on common weights, as packages or as functions of one package, and verify them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from converter import __version__
from converter.checksums import FileSum
from converter.conversion.chunks import WeightsFile, cut_network
from converter.conversion.plan import ConversionPlan
from converter.manifest import Package
from converter.mil import Graph, Weights
from converter.mil.function import Function
from converter.mil.package import SCALES, WEIGHTS, write_functions, write_package
from converter.networks.features import HANDED_OVER, describe
from converter.networks.registry import UNET, Variant, kind_of, write_graph
from converter.runtime.chunks import chunk_name
from converter.weights.blob import BlobWriter

#: Variants, each with its program or the program's chunks.
Programs = list[tuple[Variant, list[Function]]]
#: The function that Core ML runs if the caller names none.
_MAIN = "main"


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


@dataclass
class _Writer:
    """Writes a network's programs, whole or in chunks, as packages into a folder.

    files: the weights files, one for each chunk. texts: what the packages say of themselves. written: the packages' names,
    each with the weights file that it has.
    """

    network: str
    plan: ConversionPlan
    out: Path
    files: Sequence[WeightsFile]
    texts: dict[str, Any]
    written: dict[str, WeightsFile] = field(default_factory=dict)

    def packages(self, programs: Programs) -> Iterator[Package]:
        """Write packages for each variant; the first has Apple's file name, and so has the first that takes residuals."""
        stems: set[str] = set()
        for variant, parts in programs:
            stem = _stem(self.network, self.plan, variant)
            name = f"{stem}_{_label(self.network, variant)}" if stem in stems else stem
            stems.add(stem)
            yield _package(self.network, self.write(name, parts), variant)

    def functions(self, programs: Programs) -> Iterator[Package]:
        """Write one package (or one for each chunk) under Apple's file name; the first of its functions is main.

        The others are named by size, batch and tokens.
        """
        names = [_MAIN]
        for variant, _ in programs[1:]:
            form = "_control" if variant.control else ""
            form += f"_image{variant.image_tokens}" if variant.image_tokens else ""
            names.append(f"at_{_label(self.network, variant)}{form}")
        stem = _stem(self.network, self.plan, programs[0][0])
        for number, name, file, texts in self._chunks(stem):
            functions = {function: parts[number] for function, (_, parts) in zip(names, programs, strict=True)}
            write_functions(self.out / name, functions, file.path, default=_MAIN, **texts)
        first = next(iter(self.written))
        for function, (variant, _) in zip(names, programs, strict=True):
            yield replace(_package(self.network, first, variant), function=function)

    def write(self, stem: str, parts: Sequence[Function]) -> str:
        """Write a package for each part of a program; return the name of the first."""
        chunks = list(self._chunks(stem))
        for number, name, file, texts in chunks:
            write_package(self.out / name, parts[number], file.path, **texts)
        return chunks[0][1]

    def _chunks(self, stem: str) -> Iterator[tuple[int, str, WeightsFile, dict[str, Any]]]:
        """Yield each chunk's number from 0, its package's name, its weights file, and its texts."""
        count = len(self.files)
        for number, file in enumerate(self.files):
            name, texts = f"{stem}.mlpackage", self.texts
            if count > 1:
                name = chunk_name(name, number + 1)
                metadata = self.texts["metadata"] | {"app.anemone.chunk": f"{number + 1} of {count}"}
                texts = self.texts | {"metadata": metadata}
            self.written[name] = file
            yield number, name, file, texts


def _metadata(network: str, plan: ConversionPlan, graph: Graph) -> dict[str, str]:
    """Return what the packages say of themselves; ``graph`` is any variant's: all scale the same weights."""
    stated = {
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
    if network == UNET.name:
        conditions = plan.family.conditions(plan.checkpoint.index)
        stated |= {
            "app.anemone.noise_schedule": json.dumps(asdict(plan.family.schedule)),
            "app.anemone.defaults": json.dumps(asdict(plan.defaults)),
            "app.anemone.zeros_for_no_prompt": json.dumps(conditions.zeros_for_no_prompt),
        }
    return stated


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
    """Write a network's packages into ``out``, all on one weights file (or one for each chunk); the first has Apple's file name.

    ``written`` is called with the bytes of each weight, ``verifying`` when verification begins, and ``verified`` with the
    least PSNR in dB when it ends. Raises VerificationError, and CheckpointError if the network is too small to be cut.
    """
    tensors, config = plan.tensors(network), plan.config(network)
    blob = out / "weights"
    encodings = plan.encodings(network)
    with BlobWriter(blob) as writer, Weights(writer, written) as weights:

        def graph_of(variant: Variant) -> Graph:
            return write_graph(network, tensors, config, plan.family.sizes, variant, weights, plan.target, encodings)

        variants = plan.variants(network)
        verified_variants = plan.verified(network) if plan.options.verify else []
        graphs = [graph_of(variant) for variant in (*variants, *verified_variants)]

    parts: list[list[Function]] = [[graph] for graph in graphs]
    files = [WeightsFile(blob, writer.sum)]
    if (count := plan.chunks(network)) > 1:
        parts, files = cut_network(network, graphs, blob, count)
        blob.unlink()
    own = frozenset(tensor.name for graph in graphs for tensor in (*graph.inputs, *graph.outputs))
    texts: dict[str, Any] = {
        "about": kind_of(network).about,
        "describe": lambda name: describe(name) if name in own else HANDED_OVER,
        "metadata": _metadata(network, plan, graphs[0]),
    }
    to_install = _Writer(network, plan, out, files, texts)
    programs = list(zip(variants, parts, strict=False))
    packages = tuple((to_install.functions if plan.options.functions else to_install.packages)(programs))
    if verified_variants:
        # This imports PyTorch, which takes a second that a conversion without verification does not need.
        from converter.verification.verify import verify_package

        verifying()
        least = float("inf")
        for small in parts[len(variants) :]:
            to_verify = _Writer(network, plan, out, files, texts)
            package = out / to_verify.write("verify", small)
            least = min(
                least,
                verify_package(network, package, plan.published_config(network), tensors, plan.least_db(network)),
            )
            for name in to_verify.written:
                shutil.rmtree(out / name)
        verified(least)
    for file in files:
        file.path.unlink()
    return WrittenNetwork(packages, {f"{name}/{WEIGHTS}": file.sum for name, file in to_install.written.items()})
