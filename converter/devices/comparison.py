"""Compare a network on a Mac's CPU, GPU and Neural Engine, block by block, with the same program in fp32.

>>> comparison = compare_devices(Path("unet.mlpackage"), "main", ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"))
>>> comparison.first_loss("CPU_AND_NE")

Core ML does not return intermediate results, so the package is written again with the blocks' results as outputs. More
outputs can change how Core ML splits and fuses a program; so the unchanged package runs too, in its own rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from converter.devices.blocks import blocks, in_rounds, with_block_outputs
from converter.devices.child import in_child
from converter.errors import AnemoneError
from converter.networks.features import Arrays, random_inputs
from converter.runtime import Network, load
from converter.runtime.chunks import chunk_paths
from converter.runtime.mil import MILNetwork
from converter.runtime.program import declared_features, own_features
from converter.runtime.summary import read_summary
from converter.verification.verify import psnr

#: The arithmetic expected of a device: every result rounded to fp16, computed by our runtime.
EXPECTED = "fp16"
#: `first_loss` reports a block whose loss against fp16 arithmetic is this much greater than in all blocks before it; 6 dB
#: is twice the error.
LOSS_DB = 6.0

#: Runs a function of a package once on a compute unit.
Run: TypeAlias = Callable[[Path, str, str, Arrays], Arrays]


@dataclass(frozen=True)
class Row:
    """The PSNR of a block's result against the same program's in fp32, by run (EXPECTED or a compute unit)."""

    block: str
    psnr_db: dict[str, float]

    def loss(self, units: str) -> float:
        """Return the PSNR of fp16 arithmetic less the compute unit's, in dB; negative if the unit is nearer to fp32.

        0 if fp16 arithmetic itself is not finite.
        """
        actual, expected = self.psnr_db[units], self.psnr_db[EXPECTED]
        if not np.isfinite(expected):
            return 0.0
        return expected - actual if np.isfinite(actual) else np.inf


@dataclass
class DeviceComparison:
    """A network on several compute units.

    rows: its blocks in order, then its outputs, which are those of the unchanged package.
    failed: why a compute unit has no numbers, or no further ones.
    """

    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def first_loss(self, units: str) -> Row | None:
        """Return the first block at which a compute unit loses LOSS_DB more than in all blocks before; None if there is none."""
        most = 0.0
        for row in self.rows:
            if units in row.psnr_db:
                if row.loss(units) > most + LOSS_DB:
                    return row
                most = max(most, row.loss(units))
        return None


def likely_inputs(path: Path, function: str = "main") -> Arrays:
    """Return inputs like the real ones of the network at ``path``, always the same; see `converter.networks.features.random_inputs`."""
    inputs, _ = declared_features(path, function)
    words = read_summary(path).embedding_rows if "input_ids" in inputs else None
    # A compressed embedding does not show its rows; the default is CLIP's.
    return random_inputs(inputs, {"vocab_size": words} if words else {})


def _predict(path: Path, function: str, units: str, inputs: Arrays) -> Arrays:
    return load(path, function=function, compute_units=units).predict(inputs)


def run_in_child(path: Path, function: str, units: str, inputs: Arrays) -> Arrays:
    """Run a package once in a child process, which Core ML may end; raises ChildDied and WorkFailed."""
    return in_child(_predict, path, function, units, inputs)


class _Comparer:
    def __init__(self, function: str, units: tuple[str, ...], run: Run) -> None:
        self._function, self._units, self._run = function, units, run
        self.comparison = DeviceComparison()

    def _runs(self, path: Path, inputs: Arrays) -> Iterator[tuple[str, Arrays]]:
        """Yield each run's name and outputs, without the runs that failed; one after the other, since packages are large."""
        network: Network = MILNetwork(path, self._function, precision=EXPECTED, stream=True)
        yield EXPECTED, network.predict(inputs)
        for units in self._units:
            if units not in self.comparison.failed:
                try:
                    outputs = self._run(path, self._function, units, inputs)
                except AnemoneError as error:
                    self.comparison.failed[units] = str(error)
                else:
                    yield units, outputs

    def _rows(self, path: Path, inputs: Arrays, names: Mapping[str, str]) -> Arrays:
        """Add a row for each output in ``names`` (output -> block); return the outputs in fp32."""
        expected = MILNetwork(path, self._function, stream=True).predict(inputs)
        rows = {output: Row(block, {}) for output, block in names.items()}
        for run, outputs in self._runs(path, inputs):
            for output, row in rows.items():
                row.psnr_db[run] = psnr(outputs[output], expected[output])
        self.comparison.rows += rows.values()
        return expected

    def compare(self, path: Path, available: Arrays, alone: bool) -> Arrays:
        """Compare one package; return its outputs in fp32. alone: whether it is the complete network."""
        input_features, output_features = own_features(path, self._function)
        inputs = {name: available[name] for name in input_features}
        with tempfile.TemporaryDirectory(prefix="anemone-blocks-") as folder:
            for number, group in enumerate(in_rounds(blocks(path, self._function))):
                probe = Path(folder) / f"round-{number}.mlpackage"
                with_block_outputs(path, probe, group, self._function)
                self._rows(probe, inputs, {block.output: block.name for block in group})
            if not alone:
                # The name of a chunk's package makes the runtime load the others too.
                chunk = Path(folder) / "chunk.mlpackage"
                with_block_outputs(path, chunk, (), self._function)
                path = chunk
            return self._rows(path, inputs, {name: name for name in output_features})


def compare_devices(
    path: Path, function: str, units: tuple[str, ...], run: Run = run_in_child, inputs: Arrays | None = None
) -> DeviceComparison:
    """Compare a network's blocks and outputs on each compute unit with the same program in fp32.

    For a network in chunks, ``path`` is the first; the others get the outputs in fp32 of those before. ``run`` runs a package,
    by default in a child process; a compute unit at which it raises has no further numbers. Raises PackageError if the
    package cannot be read or is compiled.
    """
    comparer = _Comparer(function, units, run)
    live = dict(likely_inputs(path, function) if inputs is None else inputs)
    packages = chunk_paths(path)
    for package in packages:
        live |= comparer.compare(package, live, len(packages) == 1)
    return comparer.comparison
