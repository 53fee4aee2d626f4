"""Small fp16 programs, with or without states, written as packages with coremltools' builder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

from tests.support.mil_programs import save_unoptimized

__all__ = ["fp16", "mb", "package_of_program", "state", "types"]


def fp16(*shape: int) -> Any:
    """Return the spec of an fp16 input."""
    return mb.TensorSpec(shape, dtype=types.fp16)


def state(*shape: int) -> Any:
    """Return the spec of an fp16 state."""
    return mb.StateTensorSpec(shape, dtype=types.fp16)


def package_of_program(folder: Path, inputs: list[Any], body: Callable[..., Any]) -> Path:
    """Write the package of a program with exactly the operations of ``body``: no coremltools pass changes them."""
    opset = ct.target.iOS18
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = mb.program(input_specs=inputs, opset_version=opset)(body)
        return save_unoptimized(program, folder, opset)
