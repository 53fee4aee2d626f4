"""``anemone verify --device``: compares each network on this Mac's CPU, GPU and Neural Engine, block by block."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from converter.devices.comparison import EXPECTED, LOSS_DB, DeviceComparison, Run, compare_devices, run_in_child
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.networks.registry import kind_of
from converter.runtime.package import default_function
from server.terminal import Bar

#: Each allows Core ML the CPU and at most one other processor.
UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")
_NO_MAC = (
    "--device compares Core ML's results on a Mac's CPU, GPU and Neural Engine, but this machine is not a Mac; here use "
    "`anemone verify {path} --against SOURCE`: it compares the model with its source in fp32 and in fp16, and with "
    "--precision ane within the Neural Engine's limits"
)


def _programs(path: Path, size: tuple[int, int] | None, only: Sequence[str]) -> dict[str, tuple[Path, str]]:
    """Return the package and function of each network by name: of a model folder, or of a single package."""
    if path.suffix == ".mlpackage":
        if size is not None or only:
            raise AnemoneError(f"{path.name} is a single package; --size and --only need a model folder")
        return {path.name: (path, default_function(path))}
    folder = ModelFolder.open(path)
    networks = folder.manifest.networks
    if unknown := [name for name in only if name not in networks]:
        raise AnemoneError(f"{path} has no network {unknown[0]}; accepted: {', '.join(networks)}")
    programs = {}
    for network in only or networks:
        package = folder.packages(network, *(size or folder.manifest.sizes[0] if kind_of(network).per_size else ()))[0]
        programs[network] = (path / package.path, package.function)
    return programs


def _figure(psnr_db: float | None) -> str:
    if psnr_db is None:
        return "-"
    return f"{psnr_db:.1f}" if np.isfinite(psnr_db) else "not finite"


def report(name: str, comparison: DeviceComparison) -> str:
    """Return a comparison as text: a line for each block, then the block at which each compute unit deviates."""
    runs = [EXPECTED, *UNITS]
    width = max([len(row.block) for row in comparison.rows] + [len("block")])
    lines = [f"{name}, dB against the same program in fp32", f"{'block':{width}}" + "".join(f"{r:>13}" for r in runs)]
    for row in comparison.rows:
        lines.append(f"{row.block:{width}}" + "".join(f"{_figure(row.psnr_db.get(run)):>13}" for run in runs))
    for units in UNITS:
        if units in comparison.failed:
            lines.append(f"{units} does not run it: {comparison.failed[units]}")
        elif (apart := comparison.first_loss(units)) is not None:
            actual, expected = _figure(apart.psnr_db[units]), _figure(apart.psnr_db[EXPECTED])
            lines.append(f"{units} deviates at {apart.block}: {actual} dB; fp16 arithmetic gives {expected} dB")
        else:
            lines.append(f"{units} deviates nowhere: no block loses {LOSS_DB:.0f} dB more than those before it")
    return "\n".join(lines)


def _is_sound(comparison: DeviceComparison) -> bool:
    """Return whether every compute unit ran, with finite results wherever fp16 arithmetic has them."""
    return not comparison.failed and all(
        np.isfinite(row.psnr_db[units]) or not np.isfinite(row.psnr_db[EXPECTED])
        for row in comparison.rows
        for units in UNITS
    )


def verify_devices(
    path: Path, size: tuple[int, int] | None = None, only: Sequence[str] = (), run: Run = run_in_child
) -> int:
    """Compare every network of a model, or those in ``only``, on each compute unit, and return the exit status.

    The status is 1 if a compute unit does not run a network or its results are not finite. A device's distance never
    fails: 35 dB is the limit for a program, not for a device. Raises AnemoneError if this is not a Mac.
    """
    if sys.platform != "darwin":
        raise AnemoneError(_NO_MAC.format(path=path))
    programs, bar, status = _programs(path, size, only), Bar(), 0
    for number, (name, (package, function)) in enumerate(programs.items()):
        bar.show(f"comparing {name}", number, len(programs))
        try:
            comparison = compare_devices(package, function, UNITS, run)
        finally:
            bar.close()
        print(f"{report(name, comparison)}\n", flush=True)
        status |= not _is_sound(comparison)
    return int(status)
