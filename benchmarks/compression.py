"""Measures the time, memory and error of palettes beside coremltools'.

    python -m benchmarks.compression --size sd15 --bits 6

It writes a UNet of random weights with palettes, and has ``coremltools.optimize.coreml.palettize_weights`` compress the
same UNet's fp16 package, each in a process of its own. `benchmarks.quality` compares what models predict and paint.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.checkpoints import SIZES, write_checkpoint
from benchmarks.measure import Cost, cost
from converter.mil.package import WEIGHTS
from converter.runtime.compressed import dense
from converter.runtime.program import read_program

_ROOT = Path(__file__).resolve().parent.parent
_OURS = """
import sys
from pathlib import Path
from converter.conversion.planning import make_plan
from converter.options import ConvertOptions
from converter.conversion.programs import write_network
from converter.sources.source import open_source
out = Path(sys.argv[2])
out.mkdir()
bits = int(sys.argv[3]) or None
group = int(sys.argv[4]) or None
target = "macOS15" if group or bits == 3 else "macOS13"
options = ConvertOptions(verify=False, bits=bits, group_size=group, target=target)
write_network("unet", make_plan(open_source(sys.argv[1]), options), out)
"""
_COREMLTOOLS = """
import sys, coremltools as ct
from coremltools.optimize import coreml
model = ct.models.MLModel(sys.argv[1], skip_model_load=True)
config = coreml.OpPalettizerConfig(mode="kmeans", nbits=int(sys.argv[3]))
coreml.palettize_weights(model, coreml.OptimizationConfig(config)).save(sys.argv[2])
"""


def _package(folder: Path) -> Path:
    return next(folder.glob("*.mlpackage"))


def squared_error(package: Path, exact: Path) -> float:
    """Return the squared error of a package's convolution weights against those of ``exact``, relative to their squares."""
    error = total = 0.0
    convs = ([op for op in read_program(path).operations if op.kind == "conv"] for path in (package, exact))
    for op, expected in zip(*convs, strict=True):
        ours, theirs = (dense(each.constants["weight"][0]).astype(np.float32) for each in (op, expected))
        error += float(np.square(ours - theirs).sum(dtype=np.float64))
        total += float(np.square(theirs).sum(dtype=np.float64))
    return error / total


def _print_cost(name: str, measured: Cost, package: Path, exact: Path, ours: Cost | None = None) -> None:
    megabytes = (package / WEIGHTS).stat().st_size / 1e6
    error = 10 * np.log10(squared_error(package, exact))
    ratio = "" if ours is None else f"  {measured.seconds / ours.seconds:.1f} x the time"
    print(
        f"{name:28} {measured.seconds:7.1f} s  {measured.own_bytes / 1e9:5.2f} GB own  {megabytes:6.0f} MB  "
        f"error {error:.2f} dB{ratio}",
        flush=True,
    )


def measure_times(size: str, bits: Sequence[int], group: int, scratch: Path, *, with_peer: bool) -> None:
    """Measure and print the time, memory and error of a UNet's palettes, and of coremltools'."""
    source, exact = scratch / size, scratch / "exact"
    write_checkpoint(source, SIZES[size], _ROOT / "demo" / "model" / "tokenizer")
    cost([sys.executable, "-c", _OURS, str(source), str(exact), "0", "0"])
    for width in bits:
        out = scratch / f"ours-{width}"
        ours = cost([sys.executable, "-c", _OURS, str(source), str(out), str(width), str(group)])
        name = f"anemone, {width} bits" + (f", groups of {group}" if group else "")
        _print_cost(name, ours, _package(out), _package(exact))
        if with_peer:
            theirs = scratch / f"theirs-{width}.mlpackage"
            peer = cost([sys.executable, "-c", _COREMLTOOLS, str(_package(exact)), str(theirs), str(width)])
            _print_cost(f"coremltools, {width} bits", peer, theirs, _package(exact), ours)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--bits", type=int, nargs="*", default=[6], choices=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--group", type=int, default=0, help="output channels that share a palette; all if 0")
    parser.add_argument("--no-peer", action="store_true", help="without coremltools (minutes)")
    parser.add_argument("--folder", type=Path, help="the folder for what is written (a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        measure_times(args.size, args.bits, args.group, Path(scratch), with_peer=not args.no_peer)


if __name__ == "__main__":
    main()
