"""Examines the machine: versions, chip, system, kernels, disk and memory."""

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

#: Libraries that affect how a model converts and runs.
_LIBRARIES = ("coremltools", "torch", "numpy", "diffusers", "transformers", "tokenizers", "protobuf", "fastapi")
#: Bytes of free disk that a server needs: for the queue's database, images, and a partly written model.
LEAST_DISK = 10**9


@dataclass(frozen=True)
class Problem:
    """A problem, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Kernels:
    """The compiled kernels of precision "fast".

    built: the library exists. usable: it runs here, with correct results. why: the reason if it is not usable.
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
    """The folder that the server writes to; sizes in bytes."""

    data_dir: str
    exists: bool
    writable: bool
    free: int


def versions() -> dict[str, str | None]:
    """Return the versions of Anemone, Python and the libraries; None for a library that is not installed."""
    by_name: dict[str, str | None] = {"anemone": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            by_name[name] = version(name)
        except PackageNotFoundError:
            by_name[name] = None
    return by_name


def _kernels_compute() -> bool:
    """Run one kernel and return whether its result matches PyTorch's."""
    import torch

    from converter.runtime.fast.kernels import kernels

    library = kernels()
    if library is None:
        return False
    torch.manual_seed(0)
    x, gamma, beta = torch.randn(6, 64), torch.randn(64), torch.randn(64)
    actual = library.channel_norm(x, 1e-5, gamma, beta)
    expected = torch.nn.functional.layer_norm(x, (64,), gamma, beta, 1e-5)
    return isinstance(actual, torch.Tensor) and torch.allclose(actual, expected, atol=1e-4)


def _cpu_class() -> str:
    if sys.platform != "linux":
        return platform.machine()
    if lacking := sorted(NEEDED - cpu_flags()):
        return f"{platform.machine()} without {', '.join(lacking)}"
    return f"{platform.machine()} with AVX-512 VNNI"


def kernel_state() -> Kernels:
    """Run one kernel in a child process, and return whether the kernels are built and usable."""
    built = built_library() is not None
    cpu = _cpu_class()
    if sys.platform == "darwin":
        return Kernels(cpu, built, False, "on a Mac, Core ML runs networks without them")
    if not built:
        return Kernels(cpu, False, False, "they were not built; install a C compiler, then install Anemone again")
    if kernel_library() is None:
        return Kernels(
            cpu, True, False, f"this CPU lacks the features that they are compiled for: {', '.join(sorted(NEEDED))}"
        )
    try:
        is_right = in_child(_kernels_compute)
    except (ChildDied, WorkFailed) as error:
        return Kernels(cpu, True, False, f"they do not run: {error}")
    return Kernels(
        cpu, True, is_right, None if is_right else "they do not load with this PyTorch, or give wrong results"
    )


def _devices() -> tuple[str, ...]:
    from converter.runtime.compute_plan import machine_devices

    return machine_devices()


def machine() -> tuple[Machine, list[Problem]]:
    """Return the machine and its problems."""
    devices: tuple[str, ...] = ("CPU",)
    problems: list[Problem] = []
    if sys.platform == "darwin":
        try:
            devices = in_child(_devices)
        except (ChildDied, WorkFailed) as error:
            problems.append(Problem(f"Core ML does not list its devices: {error}", "update macOS to 14.4 or later"))
    memory = psutil.virtual_memory()
    examined = Machine(
        this_machine(), platform.machine(), os.cpu_count() or 1, int(memory.total), int(memory.available), devices
    )
    return examined, problems


def storage(data_dir: Path) -> tuple[Storage, list[Problem]]:
    """Return the storage of ``data_dir``, which may not exist yet, and its problems."""
    folder = data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    writable = folder.is_dir() and os.access(folder, os.W_OK)
    examined = Storage(str(data_dir), data_dir.is_dir(), writable, shutil.disk_usage(folder).free)
    problems = []
    if not writable:
        problems.append(
            Problem(
                f"{folder} is not writable", "choose another data folder with --data-dir, or change its permissions"
            )
        )
    if examined.free < LEAST_DISK:
        problems.append(
            Problem(
                f"{examined.free / 1e9:.2f} GB are free on the disk of {data_dir}, under {LEAST_DISK / 1e9:.0f} GB",
                "free disk space, or choose a data folder on another disk with --data-dir",
            )
        )
    return examined, problems
