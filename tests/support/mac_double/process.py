"""The double in a process of its own, and in all that this process starts."""

from __future__ import annotations

import importlib.machinery
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_HERE = Path(__file__).resolve().parent


def environment(log: Path, **mac: Any) -> dict[str, str]:
    """Variables that make a Python process a Mac's (see `core_ml.Mac`); its loads and predictions are lines of ``log``."""
    return {"PYTHONPATH": str(_HERE), "MAC_DOUBLE": json.dumps({"log": str(log), "version": "26.1", **mac})}


class _Finder:
    """Finds coremltools where it is, and the double in it when it is imported: its protobuf classes are read unimported."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "coremltools":
            return None
        real = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert real is not None
        spec = importlib.machinery.ModuleSpec(name, self, origin=real.origin, is_package=True)  # type: ignore[arg-type]
        spec.submodule_search_locations = real.submodule_search_locations
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from tests.support.mac_double.core_ml import Mac

        told = dict(self._told)
        log = told.pop("log")

        def said(line: str) -> None:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {line}\n")

        modules = Mac(**told, said=said).modules()
        module.__dict__.update({k: v for k, v in vars(modules.pop("coremltools")).items() if not k.startswith("__")})
        sys.modules.update(modules)


class _Apple:
    """The sys module of a Mac, for those of our modules that ask what machine this is.

    Not for all: half of Python and of its packages chooses native modules by sys.platform, and only Linux's are here.
    """

    platform = "darwin"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


class _OurFinder:
    """Finds the modules of ours that run Core ML where they are, and gives them that sys module."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in ("converter.runtime", "converter.devices.trials"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def as_apples(module: ModuleType) -> None:
            execute(module)
            module.__dict__["sys"] = _Apple()

        spec.loader.exec_module = as_apples  # type: ignore[method-assign]
        return spec


def become(told: str) -> None:
    """Make this process a Mac's, before anything of the project's is imported."""
    mac = json.loads(told)
    sys.meta_path[:0] = [_Finder(mac), _OurFinder()]
    platform.__dict__["mac_ver"] = lambda *_: (mac["version"], ("", "", ""), "arm64")
    run = subprocess.run

    def with_sysctl(command: Any, *args: Any, **kwargs: Any) -> Any:
        if command[0] != "/usr/sbin/sysctl":
            return run(command, *args, **kwargs)
        assert command[1:] == ["-n", "machdep.cpu.brand_string", "kern.osversion"]
        found = f"{mac.get('chip', 'Apple M2 Pro')}\n{mac.get('build', '25B78')}\n"
        return subprocess.CompletedProcess(command, 0, found, "")

    subprocess.__dict__["run"] = with_sysctl
