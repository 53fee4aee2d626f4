"""Convert an upscaling network's file into an upscaler folder."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from converter import __version__
from converter.checksums import checksums
from converter.conversion.partial import require_replaceable
from converter.conversion.preflight import require_space
from converter.errors import CheckpointError
from converter.manifest import Source, Versions
from converter.mil import Graph, Target, Unwritten, Weights, target_named
from converter.mil.package import WEIGHTS, write_package
from converter.networks.features import describe
from converter.networks.registry import UPSCALER, ModelSizes, Variant, write_graph
from converter.options import DEFAULT_OPTIONS, ConvertOptions
from converter.sources.checkpoint import size_and_time
from converter.sources.upscaler import UpscalerFile
from converter.upscaler_folder import FILE, UpscalerFolder, UpscalerManifest
from converter.weights.blob import BlobWriter

#: The release that last changed what a package holds.
REVISION = "0.2.1"
#: The side of the tile that a package is verified at: all sizes have the same weights.
_VERIFIED_TILE = 32
#: What an upscaler does not depend on.
_SIZES = ModelSizes(latent_factor=1, pooled_width=0, penultimate=False)
_PACKAGE = "upscaler.mlpackage"


def _graph(source: UpscalerFile, tile: int, weights: Weights, target: Target) -> Graph:
    variant = Variant(tile, tile, 1, 0, DEFAULT_OPTIONS.attention)
    return write_graph(UPSCALER.name, source.tensors, source.config, _SIZES, variant, weights, target)


def _taken(source: UpscalerFile, tile: int, target: Target) -> set[str]:
    """Return the tensors that the network takes; raises CheckpointError if one is missing, left over or beyond fp16."""
    names: set[str] = set()
    noting = UpscalerFile(source.path, source.config, source.tensors.noting(names))
    _graph(noting, tile, Unwritten(), target)
    if rest := sorted(set(source.tensors) - names):
        raise CheckpointError(f"{rest[0]} belongs to no layer of a known upscaler")
    for name in sorted(names):
        source.tensors.require_fp16(name)
    return names


def write_upscaler(
    source: UpscalerFile,
    out: Path,
    options: ConvertOptions = DEFAULT_OPTIONS,
    *,
    verified: Callable[[float], None] = lambda psnr_db: None,
) -> UpscalerFolder:
    """Write the upscaler folder ``out``, which appears whole or not at all; replaces an upscaler there.

    Of the options it takes name, tile, target and verify, and refuses others that are set. ``verified`` is called with
    the PSNR in dB against the network in PyTorch. Raises CheckpointError, SpaceError and VerificationError.
    """
    require_replaceable(out, FILE)
    if other := options.changed().keys() - {"name", "tile", "target", "verify"}:
        raise CheckpointError(f"{sorted(other)[0]} is of no use to an upscaler; leave it out")
    target, tile = target_named(options.target), options.tile
    try:
        taken = _taken(source, tile, target)
    except CheckpointError as error:
        raise CheckpointError(f"{source.path} cannot be converted: {error}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, source.tensors.fp16_bytes(taken))
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        blob = folder / "weights"
        with BlobWriter(blob) as writer:
            weights = Weights(writer, lambda size: None)
            graph = _graph(source, tile, weights, target)
            small = _graph(source, min(tile, _VERIFIED_TILE), weights, target)
        metadata = {
            "com.github.apple.coremltools.version": version("coremltools"),
            "app.anemone.converter.version": __version__,
            "app.anemone.network": UPSCALER.name,
        }

        def write(path: Path, graph: Graph) -> None:
            write_package(path, graph, blob, about=UPSCALER.about, describe=describe, metadata=metadata)

        write(folder / _PACKAGE, graph)
        if options.verify:
            # This imports PyTorch, which takes a second that a conversion without verification does not need.
            from converter.verification.verify import verify_package

            write(Path(temporary) / "verify.mlpackage", small)
            verify = Path(temporary) / "verify.mlpackage"
            verified(verify_package(UPSCALER.name, verify, source.config, source.tensors))
        blob.unlink()
        sums = checksums(folder, [_PACKAGE], {f"{_PACKAGE}/{WEIGHTS}": writer.sum})
        stamp = hashlib.sha256(f"{source.path.name} {size_and_time(source.path)}".encode()).hexdigest()
        UpscalerManifest(
            name=options.name or source.name,
            architecture=source.config["architecture"],
            scale=source.scale,
            tile=tile,
            package=_PACKAGE,
            source=Source("single_file", source.name, source.sha256, stamp),
            converter=Versions(__version__, version("coremltools"), REVISION),
            files=sums,
        ).write(folder)
        if out.exists():
            out.rename(Path(temporary) / "former")
        folder.rename(out)
    return UpscalerFolder.open(out)
