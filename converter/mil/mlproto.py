"""Load coremltools' generated protobuf classes without importing coremltools itself.

``import coremltools`` takes 2.3 s on two cores (it loads every frontend); the message classes alone take 0.1 s,
and reading or writing a package needs nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

_PRIVATE_PACKAGE = "_anemone_coreml_proto"


@cache
def _module(name: str) -> Any:
    package = "coremltools.proto"
    if "coremltools" not in sys.modules:
        package = _PRIVATE_PACKAGE
        if package not in sys.modules:
            spec = importlib.util.find_spec("coremltools")
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError("coremltools is not installed; run 'make setup'", name="coremltools")
            # The folder gets a name of our own, so that a later 'import coremltools' works as usual.
            proto = types.ModuleType(package)
            proto.__path__ = [str(Path(spec.origin).parent / "proto")]
            sys.modules[package] = proto
    return importlib.import_module(f"{package}.{name}")


def ml() -> Any:
    """Return the module of CoreML.Specification messages: ``ml().Model()`` is an .mlmodel file (Model.proto)."""
    return _module("Model_pb2")


def mil() -> Any:
    """Return the module of ML program messages: ``mil().Program``, ``mil().Operation``, the DataType numbers (MIL.proto)."""
    return _module("MIL_pb2")
