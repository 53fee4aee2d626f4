"""Programs written with coremltools' builder, run by our runtime through a package on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from converter.runtime.mil import MILNetwork


def save_unoptimized(program: Any, folder: Path, target: Any) -> Path:
    """Write the package of a coremltools program with exactly its operations: no pass of coremltools changes them."""
    import coremltools as ct

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    path = folder / "program.mlpackage"
    model.save(str(path))
    return path


def package_program(folder: Path, opset: str, inputs: dict[str, np.ndarray], build: Callable[..., Any]) -> Path:
    """Write a package of ``build(mb, **inputs)``; results are called result_0, ...; types that models cannot return are int32.

    The program is written for an opset such as "iOS16" and is in fp32; nothing is optimized before, so that
    coremltools computes nothing itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, Program, types

        placeholders = {
            name: mb.placeholder(shape=array.shape, dtype=types.numpy_type_to_builtin_type(array.dtype.type))
            for name, array in inputs.items()
        }
        with Function(placeholders, opset_version=ct.target[opset]) as function:
            results = [
                v if v.dtype in (types.fp32, types.int32) else mb.cast(x=v, dtype="int32")
                for v in build(mb, **function.inputs)
            ]
            function.set_outputs([mb.identity(x=v, name=f"result_{i}") for i, v in enumerate(results)])
        program = Program()
        program.add_function("main", function)
        return save_unoptimized(program, folder, ct.target[opset])


def run_program(folder: Path, opset: str, inputs: dict[str, np.ndarray], build: Callable[..., Any]) -> list[np.ndarray]:
    """Run `package_program`'s program and return its results, in order."""
    outputs = MILNetwork(package_program(folder, opset, inputs, build)).predict(inputs)
    return [outputs[f"result_{i}"] for i in range(len(outputs))]


def assert_same(actual: list[np.ndarray], expected: Iterable[Any], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Assert that the results have the shapes and values of ``expected``, arrays or tensors."""
    for place, (ours, theirs) in enumerate(zip(actual, map(np.asarray, expected), strict=True)):
        assert ours.shape == theirs.shape, f"result {place}"
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=f"result {place}")
