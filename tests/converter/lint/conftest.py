"""Programs written by coremltools operation by operation, none of its passes applied, and what the lint says of them."""

from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from converter.lint import lint_package
from converter.mil import Graph, Weights
from converter.mil.package import write_package
from converter.runtime.program import read_model
from converter.weights.blob import BlobWriter


@pytest.fixture(scope="session")
def mil():
    """coremltools' builder of programs: ``mb`` and its ``types``, ``ct`` itself."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import get_new_symbol, types

    return SimpleNamespace(ct=ct, mb=mb, types=types, symbol=get_new_symbol)


@pytest.fixture
def package(mil, tmp_path):
    """Writes a program as a package: ``build`` takes ``inputs``, each a shape (fp16) or a shape and a type's name."""

    def write(build, *inputs, target="iOS16"):
        specs = []
        for given in inputs:
            shape, kind = given if isinstance(given[0], tuple) else (given, "fp16")
            specs.append(mil.mb.TensorSpec(shape=shape, dtype=getattr(mil.types, kind)))
        version = getattr(mil.ct.target, target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = mil.mb.program(input_specs=specs, opset_version=version)(build)
            model = mil.ct.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=version,
                pass_pipeline=mil.ct.PassPipeline.EMPTY,
                skip_model_load=True,
            )
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.mlpackage"
            model.save(str(path))
        return path

    return write


@pytest.fixture
def linted(package):
    """The findings for a program; see `package`."""

    def lint(build, *inputs, chip="M1", target="iOS16"):
        return lint_package(package(build, *inputs, target=target), chip)

    return lint


@pytest.fixture
def own_package(tmp_path):
    """Writes a graph of ours as a package; ``build`` takes the graph."""

    def write(build):
        with BlobWriter(tmp_path / "weights") as writer:
            graph = Graph(Weights(writer, lambda size: None))
            build(graph)
        path = tmp_path / "own.mlpackage"
        metadata = {"com.github.apple.coremltools.version": "9.0"}
        write_package(path, graph, tmp_path / "weights", about="test", describe=str, metadata=metadata)
        return path

    return write


@pytest.fixture
def edited():
    """Changes a package's model message in place."""

    def edit(path, change):
        model = read_model(path)
        change(model)
        (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())
        return path

    return edit


@pytest.fixture
def conv(mil):
    """A convolution with random fp16 weights, others each time."""
    rng = np.random.default_rng(0)

    def apply(x, out, kernel=1, groups=1, **parameters):
        shape = (out, x.shape[1] // groups, kernel, kernel)
        weight = (rng.standard_normal(shape) * 0.1).astype(np.float16)
        return mil.mb.conv(x=x, weight=weight, groups=groups, **parameters)

    return apply


@pytest.fixture
def serious():
    """Rules broken, notes aside."""

    def rules(findings):
        return {f.rule for f in findings if f.level != "note"}

    return rules


@pytest.fixture
def noted():
    """Rules there is a note of."""

    def rules(findings):
        return {f.rule for f in findings if f.level == "note"}

    return rules
