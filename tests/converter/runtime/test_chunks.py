"""Networks in a row: pipelines and chunks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from converter.runtime import Chunked, Feature, InputError, PackageError, functions, load
from converter.runtime.program import declared_features, read_model, stages
from tests.support.mil_text import compiled


class First(nn.Module):
    """What a network's first chunk gives: the result and a skip connection."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, sample, timestep):
        h = self.conv(sample) + timestep[:, None, None, None]
        return h, torch.sigmoid(h)


class Second(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, hidden, skip, timestep):
        return self.conv(hidden * skip) - timestep[:, None, None, None]


SHAPES = {"sample": (2, 4, 8, 8), "timestep": (2,), "hidden": (2, 6, 8, 8), "skip": (2, 6, 8, 8)}


def converted(ct, module, inputs, outputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ct.convert(
            torch.jit.trace(module, [torch.zeros(SHAPES[name]) for name in inputs]),
            inputs=[ct.TensorType(name, SHAPES[name], dtype=np.float32) for name in inputs],
            outputs=[ct.TensorType(name, dtype=np.float32) for name in outputs],
            minimum_deployment_target=ct.target.macOS13,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )


@pytest.fixture(scope="module")
def chunks(ct, tmp_path_factory):
    """Two packages, the pipeline of both, and the inputs and results of PyTorch."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("chunks")
    first, second = First().eval(), Second().eval()
    models = [
        converted(ct, first, ["sample", "timestep"], ["hidden", "skip"]),
        converted(ct, second, ["hidden", "skip", "timestep"], ["noise_pred"]),
    ]
    for number, model in enumerate(models, 1):
        model.save(str(folder / f"{number}.mlpackage"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.utils.make_pipeline(*models).save(str(folder / "pipeline.mlpackage"))
    inputs = {"sample": torch.randn(SHAPES["sample"]), "timestep": torch.tensor([3.0, 4.0])}
    with torch.no_grad():
        expected = second(*first(*inputs.values()), inputs["timestep"]).numpy()
    return folder, {name: tensor.numpy() for name, tensor in inputs.items()}, expected


def test_two_chunks_run_as_the_network_they_were_cut_from(chunks):
    folder, inputs, expected = chunks
    network = Chunked([load(folder / f"{n}.mlpackage", precision="fp32") for n in (1, 2)])
    assert {name: f.shape for name, f in network.inputs.items()} == {"sample": (2, 4, 8, 8), "timestep": (2,)}
    assert list(network.outputs) == ["noise_pred"]
    np.testing.assert_allclose(network.predict(inputs)["noise_pred"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["package", "compiled"])
def test_a_pipeline_runs_as_its_models_in_a_row(chunks, tmp_path, form):
    folder, inputs, expected = chunks
    path = folder / "pipeline.mlpackage"
    if form == "compiled":
        path = compiled(path, tmp_path / "pipeline.mlmodelc")
    assert [p.name for p in stages(path)] == ["model0", "model1"]
    assert functions(path) == ("main",)
    assert [list(declared_features(p)[1]) for p in stages(path)] == [["hidden", "skip"], ["noise_pred"]]
    network = load(path, precision="fp32")
    assert list(network.inputs) == list(declared_features(path)[0]) == ["sample", "timestep"]
    assert list(network.outputs) == ["noise_pred"]
    np.testing.assert_allclose(network.predict(inputs)["noise_pred"], expected, rtol=1e-4, atol=1e-5)


def test_the_models_of_a_pipeline_are_ml_programs_of_their_own(chunks):
    folder, _, _ = chunks
    path = folder / "pipeline.mlpackage"
    assert read_model(path / "model1").mlProgram.functions == read_model(stages(path)[1]).mlProgram.functions
    assert stages(path / "model0") == stages(folder / "1.mlpackage") == ()
    with pytest.raises(PackageError, match="is of the kind pipeline, not an ML program"):
        read_model(path)
    with pytest.raises(PackageError, match="has 2 models, so model2 does not exist"):
        read_model(path / "model2")


def test_inputs_are_checked_before_the_first_chunk_runs(chunks):
    folder, inputs, _ = chunks
    network = load(folder / "pipeline.mlpackage", precision="fp32")
    with pytest.raises(InputError, match="missing: timestep"):
        network.predict({"sample": inputs["sample"]})
    with pytest.raises(InputError, match=r"timestep has shape \[3\]; \[2\] is accepted"):
        network.predict(inputs | {"timestep": np.zeros(3, np.float32)})


class Fake:
    """A network with inputs and outputs only."""

    def __init__(self, inputs, outputs):
        self.inputs = {f.name: f for f in inputs}
        self.outputs = {f.name: f for f in outputs}

    def predict(self, inputs):
        return {name: np.zeros(f.shape, f.dtype) for name, f in self.outputs.items()}


def feature(name, *shape, dtype=np.float32):
    return Feature(name, shape, np.dtype(dtype))


@pytest.mark.parametrize(
    ("output", "entry", "words"),
    [
        (feature("h", 2, 3), feature("h", 2, 4), r"h has shape \[2, 3\], but a later network accepts \[2, 4\]"),
        (feature("h", 2, dtype=np.int32), feature("h", 2), "h is int32, but a later network accepts float32"),
    ],
)
def test_chunks_that_do_not_fit_together_are_refused(output, entry, words):
    first, second = Fake([feature("x", 1)], [output]), Fake([entry], [feature("y", 1)])
    with pytest.raises(PackageError, match=words):
        Chunked([first, second])


def test_chunks_that_take_the_same_input_differently_are_refused():
    first, second = Fake([feature("x", 1)], [feature("h", 1)]), Fake([feature("x", 2), feature("h", 1)], [])
    with pytest.raises(PackageError, match=r"x has shape \[1\], but a later network accepts \[2\]"):
        Chunked([first, second])


def test_outputs_asked_for_must_be_given_by_some_chunk():
    first, second = Fake([feature("x", 1)], [feature("h", 1)]), Fake([feature("h", 1)], [feature("y", 1)])
    assert list(Chunked([first, second], ["h", "y"]).predict({"x": np.zeros(1, np.float32)})) == ["h", "y"]
    with pytest.raises(PackageError, match="no network gives z; they give h, y"):
        Chunked([first, second], ["z"])
