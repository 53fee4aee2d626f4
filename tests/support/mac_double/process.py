"""Installs the double in a separate process and in that process's children."""

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
    """Return variables that give a Python process the double (see `core_ml.Mac`); it logs loads and predictions to ``log``."""
    return {"PYTHONPATH": str(_HERE), "MAC_DOUBLE": json.dumps({"log": str(log), "version": "26.1", **mac})}


class _Finder:
    """Finds the real coremltools, for its protobuf files, but executes the double when it is imported."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

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

        settings = dict(self._settings)
        log = settings.pop("log")

        def said(line: str) -> None:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {line}\n")

        modules = Mac(**settings, said=said).modules()
        module.__dict__.update({k: v for k, v in vars(modules.pop("coremltools")).items() if not k.startswith("__")})
        sys.modules.update(modules)


class _Apple:
    """The sys module of a Mac, for our modules that check the machine.

    Other modules keep the real one: much of Python chooses native modules by sys.platform, and only Linux's exist here.
    """

    platform = "darwin"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


class _OurFinder:
    """Finds our modules that run Core ML, and gives them that sys module."""

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


def become(settings: str) -> None:
    """Make this process a Mac's, before any import of the project's modules."""
    mac = json.loads(settings)
    sys.meta_path[:0] = [_Finder(mac), _OurFinder()]
    platform.__dict__["mac_ver"] = lambda *_: (mac["version"], ("", "", ""), "arm64")
    run = subprocess.run

    def with_sysctl(command: Any, *args: Any, **kwargs: Any) -> Any:
        if command[0] != "/usr/sbin/sysctl":
            return run(command, *args, **kwargs)
        assert command[1:] == ["-n", "machdep.cpu.brand_string", "kern.osversion"]
        output = f"{mac.get('chip', 'Apple M2 Pro')}\n{mac.get('build', '25B78')}\n"
        return subprocess.CompletedProcess(command, 0, output, "")

    subprocess.__dict__["run"] = with_sysctl
