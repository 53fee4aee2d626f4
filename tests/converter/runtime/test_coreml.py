"""The Core ML backend against a double of coremltools that is as strict as the real one on a Mac."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from converter.runtime import InputError, load
from converter.runtime.coreml import CoreMLNetwork, _Buffers, compiled
from converter.runtime.mil import MILNetwork
from tests.support.apple_chunks import cut_in_two
from tests.support.mac_double.core_ml import Mac, ReshapeFrequency, SpecializationStrategy


@pytest.fixture(params=["13.6", "15.1"])
def mac(request, monkeypatch):
    mac = Mac(request.param)
    mac.install(monkeypatch)
    return mac


@pytest.fixture
def unet(model_folder, tmp_path):
    path = tmp_path / "unet.mlpackage"
    shutil.copytree(model_folder.package("unet", 64, 64), path)
    return path


def example_inputs():
    rng = np.random.default_rng(0)
    shapes = {"sample": (2, 4, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 32, 1, 77)}
    return {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def test_a_prediction_has_the_declared_outputs(mac, unet):
    network = CoreMLNetwork(unet, "main", "CPU_AND_NE")
    outputs = network.predict(example_inputs())
    assert list(outputs) == ["noise_pred"]
    assert outputs["noise_pred"].dtype == np.float32
    np.testing.assert_array_equal(outputs["noise_pred"], MILNetwork(unet).predict(example_inputs())["noise_pred"])


def test_the_compute_units_asked_for_are_used(mac, unet):
    CoreMLNetwork(unet, "main", "CPU_AND_GPU")
    assert mac.loads[0][1] == "CPU_AND_GPU"


def test_hints_are_given_from_macos_15_on_and_not_before(mac, unet):
    CoreMLNetwork(unet, "main", "CPU_AND_NE")
    hints = mac.loads[0][2]
    if mac.version.startswith("13"):
        assert hints == {}
    else:
        assert hints == {
            "reshapeFrequency": ReshapeFrequency.Infrequent,
            "specializationStrategy": SpecializationStrategy.FastPrediction,
        }


def test_a_model_is_compiled_once_and_always_loaded_from_the_same_path(mac, unet):
    for _ in range(2):
        CoreMLNetwork(unet, "main", "CPU_AND_NE")
    assert len(mac.compilations) == 1
    assert {path for path, _, _ in mac.loads} == {str(unet.with_suffix(".mlmodelc"))}


def test_a_package_that_was_replaced_is_compiled_again(mac, unet):
    compiled(unet)
    weights = unet / "Data/com.apple.CoreML/weights/weight.bin"
    os.utime(weights, (1, 1))
    compiled(unet)
    assert len(mac.compilations) == 2


def test_a_compilation_that_fails_leaves_nothing_behind(mac, unet, monkeypatch):
    def failing(model, destination_path=None):
        os.mkdir(destination_path)
        raise RuntimeError("Error compiling model")

    monkeypatch.setattr(sys.modules["coremltools.models.utils"], "compile_model", failing)
    with pytest.raises(RuntimeError, match="Error compiling"):
        compiled(unet)
    assert [p.name for p in unet.parent.iterdir()] == ["unet.mlpackage"]


def test_a_wrong_input_is_refused_before_core_ml_sees_it(mac, unet):
    network = CoreMLNetwork(unet, "main", "CPU_AND_NE")
    with pytest.raises(InputError, match="sample has shape"):
        network.predict({**example_inputs(), "sample": np.zeros((1, 4, 8, 8), np.float16)})


def test_a_model_that_comes_compiled_is_loaded_as_it_is(mac, unet):
    path = unet.with_name("Unet.mlmodelc")
    shutil.copytree(unet, path / "source.mlpackage")
    (path / "model.mil").write_text("program(1.0)\n")
    shapes = {name: array.shape for name, array in example_inputs().items()}
    schema = [{"name": n, "dataType": "Float16", "shape": str(list(shape))} for n, shape in shapes.items()]
    about = {"inputSchema": schema, "outputSchema": [{"name": "noise_pred", "dataType": "Float32", "shape": "[]"}]}
    (path / "metadata.json").write_text(json.dumps([about]))
    outputs = CoreMLNetwork(path, "main", "CPU_AND_NE").predict(example_inputs())
    assert mac.compilations == []
    assert mac.loads[0][0] == str(path)
    np.testing.assert_array_equal(outputs["noise_pred"], MILNetwork(unet).predict(example_inputs())["noise_pred"])


@pytest.fixture(scope="module")
def chunks(model_folder, tmp_path_factory):
    return cut_in_two(model_folder.package("unet", 64, 64), tmp_path_factory.mktemp("chunks"))


def test_chunks_are_models_of_their_own_to_core_ml(chunks, mac, unet, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    network = load(chunks[0])
    assert [path for path, _, _ in mac.loads] == [str(path.with_suffix(".mlmodelc")) for path in chunks]
    assert list(network.inputs) == list(example_inputs())
    outputs = network.predict(example_inputs())
    assert list(outputs) == ["noise_pred"]
    np.testing.assert_array_equal(outputs["noise_pred"], MILNetwork(unet).predict(example_inputs())["noise_pred"])


def died_after(mac, predict):
    """Return the inputs without an owner when Core ML releases them, after ``predict``."""
    dead = []
    mac.release_seconds, mac.dead = 0.05, dead.append
    predict()
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("MLE5"):
            thread.join()
    return dead


def test_the_double_crashes_on_inputs_without_an_owner(mac, unet):
    model = sys.modules["coremltools"].models.CompiledMLModel(str(compiled(unet)))
    arrays = {name: array.astype(np.float32) for name, array in example_inputs().items()}
    assert died_after(mac, lambda: model.predict(arrays)) == []
    assert sorted(died_after(mac, lambda: model.predict({n: a.copy() for n, a in arrays.items()}))) == sorted(arrays)


def test_inputs_have_an_owner_when_core_ml_releases_them(mac, unet):
    network = CoreMLNetwork(unet, "main", "CPU_AND_NE")
    assert died_after(mac, lambda: network.predict(example_inputs())) == []


def test_inputs_have_an_owner_after_the_network_is_deleted(mac, unet):
    def predict():
        CoreMLNetwork(unet, "main", "CPU_AND_NE").predict(example_inputs())

    assert died_after(mac, predict) == []


def test_a_buffer_is_never_released():
    kept = weakref.ref(_Buffers().filled("x", np.zeros(3, np.float32)))
    gc.collect()
    assert kept() is not None


def test_buffers_are_taken_again_by_the_same_network_alone(mac, unet, monkeypatch):
    seen = []
    predict = sys.modules["coremltools"].models.CompiledMLModel.predict
    monkeypatch.setattr(
        sys.modules["coremltools"].models.CompiledMLModel,
        "predict",
        lambda self, data: seen.append(dict(data)) or predict(self, data),
    )
    other = unet.with_name("other.mlpackage")
    shutil.copytree(unet, other)
    for path in (unet, unet, other):
        network = CoreMLNetwork(path, "main", "CPU_AND_NE")
        for _ in range(2):
            network.predict(example_inputs())
    addresses = [{id(array) for array in data.values()} for data in seen]
    assert addresses[0] == addresses[1] == addresses[2] == addresses[3]
    assert addresses[4] == addresses[5]
    assert not addresses[0] & addresses[4]
    np.testing.assert_array_equal(seen[0]["sample"], example_inputs()["sample"].astype(np.float32))


def test_outputs_with_padded_rows_are_copied_by_their_strides_and_stay(mac, unet):
    network = CoreMLNetwork(unet, "main", "CPU_AND_NE")
    first = network.predict(example_inputs())["noise_pred"]
    assert first.flags.c_contiguous
    assert first.flags.owndata
    before = first.copy()
    second = network.predict({**example_inputs(), "sample": -example_inputs()["sample"]})["noise_pred"]
    np.testing.assert_array_equal(first, before)
    assert not np.array_equal(first, second)


def test_threads_predict_one_after_the_other_on_a_network(mac, unet):
    network = CoreMLNetwork(unet, "main", "CPU_AND_NE")
    inputs = [{**example_inputs(), "sample": example_inputs()["sample"] * np.float16(n)} for n in range(4)]
    expected = [network.predict(one)["noise_pred"] for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda one: network.predict(one)["noise_pred"], inputs * 3))
    for n, answer in enumerate(outputs):
        np.testing.assert_array_equal(answer, expected[n % 4])


def test_every_shape_of_a_flexible_input_has_a_buffer():
    buffers = _Buffers()
    small, large = np.ones((1, 3), np.int32), np.full((1, 5), 2, np.int32)
    kept = [buffers.filled("x", array) for array in (small, large)]
    np.testing.assert_array_equal(kept[0], small)
    np.testing.assert_array_equal(kept[1], large)
    assert buffers.filled("x", np.full((1, 3), 7, np.int32)) is kept[0]
