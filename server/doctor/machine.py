"""The machine and what is installed on it: versions, chip, system, kernels, disk and memory."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from converter import __version__
from converter.devices.child import ChildDied, WorkFailed, in_child
from converter.devices.trials import this_machine
from converter.runtime.fast.library import NEEDED, built_library, cpu_flags, kernel_library

#: What decides how a model converts and runs.
_LIBRARIES = ("coremltools", "torch", "numpy", "diffusers", "transformers", "tokenizers", "protobuf", "fastapi")
#: Less free disk than this is too little to go on with: a queue's database, images, and a half-written model.
LEAST_DISK = 10**9


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Kernels:
    """The compiled kernels of precision "fast".

    built: whether the library is there. usable: whether it runs and computes rightly here. why: why not, or None.
    """

    cpu_class: str
    built: bool
    usable: bool
    why: str | None


@dataclass(frozen=True)
class Machine:
    """The machine; sizes in bytes. system: the chip and the OS with its build."""

    system: str
    architecture: str
    cores: int
    memory: int
    memory_available: int
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Storage:
    """Where the server writes; sizes in bytes."""

    data_dir: str
    exists: bool
    writable: bool
    free: int


def versions() -> dict[str, str | None]:
    """Versions of Anemone, Python and the libraries below; None of one that is not installed."""
    found: dict[str, str | None] = {"anemone": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _kernels_compute() -> bool:
    """Run one kernel and compare it with PyTorch's own."""
    import torch

    from converter.runtime.fast.kernels import kernels

    found = kernels()
    if found is None:
        return False
    torch.manual_seed(0)
    x, gamma, beta = torch.randn(6, 64), torch.randn(64), torch.randn(64)
    made = found.channel_norm(x, 1e-5, gamma, beta)
    expected = torch.nn.functional.layer_norm(x, (64,), gamma, beta, 1e-5)
    return isinstance(made, torch.Tensor) and torch.allclose(made, expected, atol=1e-4)


def _cpu_class() -> str:
    if sys.platform != "linux":
        return platform.machine()
    if lacking := sorted(NEEDED - cpu_flags()):
        return f"{platform.machine()} without {', '.join(lacking)}"
    return f"{platform.machine()} with AVX-512 VNNI"


def kernel_state() -> Kernels:
    """Whether the kernels are built and usable, found out by running one in a process of its own."""
    built = built_library() is not None
    kind = _cpu_class()
    if sys.platform == "darwin":
        return Kernels(kind, built, False, "Core ML runs networks on a Mac, and needs none")
    if not built:
        return Kernels(kind, False, False, "they were not built; install again where there is a C compiler")
    if kernel_library() is None:
        return Kernels(kind, True, False, f"this CPU lacks what they are compiled for: {', '.join(sorted(NEEDED))}")
    try:
        right = in_child(_kernels_compute)
    except (ChildDied, WorkFailed) as error:
        return Kernels(kind, True, False, f"they do not run: {error}")
    return Kernels(kind, True, right, None if right else "they do not load beside this PyTorch, or compute wrongly")


def _devices() -> tuple[str, ...]:
    from converter.runtime.compute_plan import machine_devices

    return machine_devices()


def machine() -> tuple[Machine, list[Problem]]:
    """The machine, and what is wrong with it."""
    devices: tuple[str, ...] = ("CPU",)
    problems: list[Problem] = []
    if sys.platform == "darwin":
        try:
            devices = in_child(_devices)
        except (ChildDied, WorkFailed) as error:
            problems.append(Problem(f"Core ML does not tell its devices: {error}", "update macOS; 14.4 or later tells"))
    memory = psutil.virtual_memory()
    found = Machine(
        this_machine(), platform.machine(), os.cpu_count() or 1, int(memory.total), int(memory.available), devices
    )
    return found, problems


def storage(data_dir: Path) -> tuple[Storage, list[Problem]]:
    """The disk that ``data_dir`` is, or will be, on, and what is wrong with it."""
    there = data_dir.absolute()
    while not there.exists():
        there = there.parent
    writable = there.is_dir() and os.access(there, os.W_OK)
    found = Storage(str(data_dir), data_dir.is_dir(), writable, shutil.disk_usage(there).free)
    problems = []
    if not writable:
        problems.append(
            Problem(f"{there} cannot be written to", "give the data folder another place with --data-dir, or rights")
        )
    if found.free < LEAST_DISK:
        problems.append(
            Problem(
                f"{found.free / 1e9:.2f} GB are free on the disk of {data_dir}, under {LEAST_DISK / 1e9:.0f} GB",
                "free some, or give the data folder another disk with --data-dir",
            )
        )
    return found, problems
