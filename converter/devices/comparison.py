"""Compare a network on a Mac's CPU, GPU and Neural Engine, block by block, with the same program in fp32.

>>> found = compare_devices(Path("unet.mlpackage"), "main", ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"))
>>> found.apart("CPU_AND_NE")

Core ML does not say what it computed in between, so the package is written anew with the blocks' results as outputs of
its own. More outputs can change how Core ML cuts and fuses a program; the package as it is runs too, for its own row.
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

#: The arithmetic that a device is expected to have: every result rounded to fp16, computed here.
EXPECTED = "fp16"
#: So many dB more than in all blocks before it must a block lose, against what fp16 arithmetic gives there, to be where a
#: device parts: 6 dB is twice the error.
LOSS_DB = 6.0

#: Runs a function of a package once on a compute unit.
Run: TypeAlias = Callable[[Path, str, str, Arrays], Arrays]


@dataclass(frozen=True)
class Row:
    """A block's result against the same program's in fp32: dB by run (EXPECTED or a compute unit)."""

    block: str
    psnr_db: dict[str, float]

    def loss(self, units: str) -> float:
        """Return how far a compute unit is under what fp16 arithmetic gives here, in dB; below 0 where it is nearer.

        0 where fp16 arithmetic itself is not finite.
        """
        found, expected = self.psnr_db[units], self.psnr_db[EXPECTED]
        if not np.isfinite(expected):
            return 0.0
        return expected - found if np.isfinite(found) else np.inf


@dataclass
class DeviceComparison:
    """A network on several compute units.

    rows: its blocks in order, then its outputs, which are those of the package as it is.
    failed: why a compute unit has no figures, or none further on.
    """

    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def apart(self, units: str) -> Row | None:
        """Return the first block at which a compute unit loses LOSS_DB more than in all before it; None where there is none."""
        most = 0.0
        for row in self.rows:
            if units in row.psnr_db:
                if row.loss(units) > most + LOSS_DB:
                    return row
                most = max(most, row.loss(units))
        return None


def likely_inputs(path: Path, function: str = "main") -> Arrays:
    """Return inputs such as the network at ``path`` meets, always the same; see `converter.networks.features.random_inputs`."""
    inputs, _ = declared_features(path, function)
    words = read_summary(path).embedding_rows if "input_ids" in inputs else None
    # A compressed embedding does not show its rows; CLIP's are taken for it then.
    return random_inputs(inputs, {"vocab_size": words} if words else {})


def _predict(path: Path, function: str, units: str, inputs: Arrays) -> Arrays:
    return load(path, function=function, compute_units=units).predict(inputs)


def run_in_child(path: Path, function: str, units: str, inputs: Arrays) -> Arrays:
    """Run a package once in a process of its own, which Core ML may end; raises ChildDied and WorkFailed."""
    return in_child(_predict, path, function, units, inputs)


class _Comparing:
    def __init__(self, function: str, units: tuple[str, ...], run: Run) -> None:
        self._function, self._units, self._run = function, units, run
        self.found = DeviceComparison()

    def _runs(self, path: Path, inputs: Arrays) -> Iterator[tuple[str, Arrays]]:
        """Return what each run of a package gives, of those that have not failed; one after the other, for they may be large."""
        here: Network = MILNetwork(path, self._function, precision=EXPECTED, stream=True)
        yield EXPECTED, here.predict(inputs)
        for units in self._units:
            if units not in self.found.failed:
                try:
                    found = self._run(path, self._function, units, inputs)
                except AnemoneError as error:
                    self.found.failed[units] = str(error)
                else:
                    yield units, found

    def _rows(self, path: Path, inputs: Arrays, names: Mapping[str, str]) -> Arrays:
        """Add a row for each output in ``names`` (output -> block); returns the outputs in fp32."""
        expected = MILNetwork(path, self._function, stream=True).predict(inputs)
        rows = {output: Row(block, {}) for output, block in names.items()}
        for run, found in self._runs(path, inputs):
            for output, row in rows.items():
                row.psnr_db[run] = psnr(found[output], expected[output])
        self.found.rows += rows.values()
        return expected

    def part(self, path: Path, given: Arrays, alone: bool) -> Arrays:
        """Compare one package; returns what it gives in fp32. ``alone``: it is the whole network."""
        taken, made = own_features(path, self._function)
        inputs = {name: given[name] for name in taken}
        with tempfile.TemporaryDirectory(prefix="anemone-blocks-") as folder:
            for number, group in enumerate(in_rounds(blocks(path, self._function))):
                probe = Path(folder) / f"round-{number}.mlpackage"
                with_block_outputs(path, probe, group, self._function)
                self._rows(probe, inputs, {block.output: block.name for block in group})
            if not alone:
                # A half's name brings the other half along.
                half = Path(folder) / "half.mlpackage"
                with_block_outputs(path, half, (), self._function)
                path = half
            return self._rows(path, inputs, {name: name for name in made})


def compare_devices(
    path: Path, function: str, units: tuple[str, ...], run: Run = run_in_child, inputs: Arrays | None = None
) -> DeviceComparison:
    """Compare a network's blocks and outputs on each compute unit with the same program in fp32.

    Of a network cut in two ``path`` is the first half; the second gets what the first gives in fp32. ``run`` runs
    packages, each in a process of its own unless told otherwise; a compute unit at which it raises has no further
    figures. Raises PackageError where the package cannot be read or is compiled.
    """
    comparing = _Comparing(function, units, run)
    live = dict(likely_inputs(path, function) if inputs is None else inputs)
    packages = chunk_paths(path)
    for package in packages:
        live |= comparing.part(package, live, len(packages) == 1)
    return comparing.found
