"""``anemone verify --device``: each network of a model on this Mac's CPU, GPU and Neural Engine, block by block."""

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

#: Each leaves Core ML one processor beside the CPU, or none.
UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")
_NO_MAC = (
    "--device compares Core ML's answers on a Mac's CPU, GPU and Neural Engine, and this is no Mac; here `anemone verify "
    "{path} --against SOURCE` compares the model with its source in fp32 and in fp16, and with --precision ane within "
    "the Neural Engine's limits"
)


def _programs(path: Path, size: tuple[int, int] | None, only: Sequence[str]) -> dict[str, tuple[Path, str]]:
    """The networks of a model folder, or a package alone: by name, with their functions."""
    if path.suffix == ".mlpackage":
        if size is not None or only:
            raise AnemoneError(f"{path.name} is one package; --size and --only choose among those of a model folder")
        return {path.name: (path, default_function(path))}
    folder = ModelFolder.open(path)
    networks = folder.manifest.networks
    if unknown := [name for name in only if name not in networks]:
        raise AnemoneError(f"{path} has no {unknown[0]}; it has {', '.join(networks)}")
    found = {}
    for network in only or networks:
        package = folder.packages(network, *(size or folder.manifest.sizes[0] if kind_of(network).per_size else ()))[0]
        found[network] = (path / package.path, package.function)
    return found


def _figure(psnr_db: float | None) -> str:
    if psnr_db is None:
        return "-"
    return f"{psnr_db:.1f}" if np.isfinite(psnr_db) else "not finite"


def report(name: str, found: DeviceComparison) -> str:
    """A comparison in words: a line for each block, then where each compute unit parts."""
    runs = [EXPECTED, *UNITS]
    width = max([len(row.block) for row in found.rows] + [len("block")])
    lines = [f"{name}, dB against the same program in fp32", f"{'block':{width}}" + "".join(f"{r:>13}" for r in runs)]
    for row in found.rows:
        lines.append(f"{row.block:{width}}" + "".join(f"{_figure(row.psnr_db.get(run)):>13}" for run in runs))
    for units in UNITS:
        if units in found.failed:
            lines.append(f"{units} does not run it: {found.failed[units]}")
        elif (apart := found.apart(units)) is not None:
            there, expected = _figure(apart.psnr_db[units]), _figure(apart.psnr_db[EXPECTED])
            lines.append(f"{units} parts at {apart.block}: {there} dB, where fp16 arithmetic gives {expected} dB")
        else:
            lines.append(f"{units} parts nowhere: no block loses {LOSS_DB:.0f} dB more than those before it")
    return "\n".join(lines)


def _sound(found: DeviceComparison) -> bool:
    """Whether every compute unit ran and gave finite numbers where fp16 arithmetic does."""
    return not found.failed and all(
        np.isfinite(row.psnr_db[units]) or not np.isfinite(row.psnr_db[EXPECTED])
        for row in found.rows
        for units in UNITS
    )


def verify_devices(
    path: Path, size: tuple[int, int] | None = None, only: Sequence[str] = (), run: Run = run_in_child
) -> int:
    """Compare every network of a model, or those in ``only``, on each compute unit; returns the exit status.

    That is 1 where a compute unit does not run a network or gives numbers that are not finite. How near a device comes
    is no failure: 35 dB is the gate for a program, not for a device's answer. Raises AnemoneError off a Mac.
    """
    if sys.platform != "darwin":
        raise AnemoneError(_NO_MAC.format(path=path))
    programs, bar, status = _programs(path, size, only), Bar(), 0
    for number, (name, (package, function)) in enumerate(programs.items()):
        bar.show(f"comparing {name}", number, len(programs))
        try:
            found = compare_devices(package, function, UNITS, run)
        finally:
            bar.close()
        print(f"{report(name, found)}\n", flush=True)
        status |= not _sound(found)
    return int(status)
