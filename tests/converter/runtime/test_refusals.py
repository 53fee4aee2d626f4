"""What stays out of the runtime: refused when it is loaded, naming what was met, whoever built the package."""

from __future__ import annotations

import re
import shutil
import warnings

import numpy as np
import pytest

from converter.errors import AnemoneError
from converter.lint import lint, lint_package
from converter.lint.listing import read_listing
from converter.lint.stored import Blobs
from converter.mil.mlproto import ml
from converter.runtime import InputError, PackageError, UnsupportedOperator, functions, load
from converter.runtime.program import declared_features
from tests.support.fp16_programs import ct, mb, types
from tests.support.mil_text import compiled, read_spec
from tests.support.raw_programs import Operation, program_of, write_model

ONE = np.ones((1, 3), np.float32)


def built(path, specs, body, **settings):
    """The package of a program written with coremltools' builder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(body)
        ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            **settings,
        ).save(str(path))
    return path


def x_of(*shape):
    return [mb.TensorSpec(shape, dtype=types.fp32)]


def weights(*shape):
    return np.full(shape, 0.1, np.float32)


def lstm(x):
    return mb.lstm(x=x, initial_h=weights(1, 2), initial_c=weights(1, 2), weight_ih=weights(8, 3),
                   weight_hh=weights(8, 2), name="remembered")[0]  # fmt: skip


def gru(x):
    return mb.gru(x=x, initial_h=weights(1, 2), weight_ih=weights(6, 3), weight_hh=weights(6, 2), name="remembered")[0]


def rnn(x):
    return mb.rnn(x=x, initial_h=weights(1, 2), weight_ih=weights(2, 3), weight_hh=weights(2, 2), name="remembered")[0]


@pytest.mark.parametrize("precision", ["fast", "fp32"])
@pytest.mark.parametrize("kind", [lstm, gru, rnn])
def test_recurrence_is_refused_by_operator_and_name(tmp_path, kind, precision):
    path = built(tmp_path / "m.mlpackage", x_of(4, 1, 3), kind)
    with pytest.raises(UnsupportedOperator, match=rf"does not have: {kind.__name__} \(1 times, first at remembered"):
        load(path, precision=precision)


def cond(x):
    large = mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False), y=np.float32(0))
    return mb.cond(pred=large, _true_fn=lambda: mb.mul(x=x, y=x), _false_fn=lambda: mb.exp(x=x), name="chosen")


def while_loop(x):
    return mb.while_loop(_cond=lambda a: mb.less(x=mb.reduce_max(x=a, axes=[0, 1], keep_dims=False), y=np.float32(9)),
                         _body=lambda a: mb.add(x=a, y=np.float32(1)), loop_vars=(x,), name="looped")  # fmt: skip


def lists(x):
    listed = mb.make_list(init_length=2, elem_shape=(1, 3), dtype="fp32", name="listed")
    return mb.list_read(ls=mb.list_write(ls=listed, index=0, value=x), index=0)


@pytest.mark.parametrize("precision", ["fast", "fp32"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (cond, r"chosen \(cond\) has nested blocks, which are not supported"),
        (while_loop, r"looped\w* \(while_loop\) has nested blocks, which are not supported"),
        (lists, r"listed \(make_list\) is a listType, which is not supported; tensors are"),
    ],
)
def test_control_flow_and_lists_are_refused_by_operator_and_name(tmp_path, body, words, precision):
    path = built(tmp_path / "m.mlpackage", x_of(1, 3), body)
    with pytest.raises(PackageError, match=r"m\.mlpackage: " + words):
        load(path, precision=precision)


def test_an_image_is_refused_by_its_name_and_type(tmp_path):
    inputs = [ct.ImageType("photo", (1, 3, 4, 4))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        @mb.program(input_specs=x_of(1, 3, 4, 4), opset_version=ct.target.iOS16)
        def program(photo):
            return mb.relu(x=photo, name="y")

        ct.convert(
            program, inputs=inputs, minimum_deployment_target=ct.target.iOS16, skip_model_load=True
        ).save(str(tmp_path / "m.mlpackage"))  # fmt: skip
    with pytest.raises(PackageError, match=r"m\.mlpackage: photo is of imageType; only multi-arrays are supported"):
        load(tmp_path / "m.mlpackage")


def test_a_classifiers_dictionary_is_refused_by_its_name_and_type(tmp_path):
    def body(x):
        return mb.softmax(x=x, axis=-1, name="chances")

    labels = ct.ClassifierConfig(["cat", "dog", "fox"])
    path = built(tmp_path / "m.mlpackage", x_of(1, 3), body, classifier_config=labels)
    with pytest.raises(
        PackageError, match=r"m\.mlpackage: classLabel\w* is of (dictionaryType|stringType); only multi-arrays"
    ):
        load(path)


@pytest.mark.parametrize("kind", ["imageType", "dictionaryType", "sequenceType", "stringType", "int64Type"])
@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("precision", ["fast", "fp32"])
def test_a_feature_that_is_not_an_array_is_refused_by_its_name_and_type(tmp_path, side, kind, precision):
    model, _ = program_of([Operation("relu", {"x": ONE}, [ONE], frozenset("x"))])
    feature = getattr(model.description, side)[0]
    feature.type.Clear()
    getattr(feature.type, kind).SetInParent()
    path = write_model(tmp_path / "m.mlpackage", model)
    with pytest.raises(
        PackageError, match=rf"m\.mlpackage: {feature.name} is of {kind}; only multi-arrays are supported"
    ):
        load(path, precision=precision)


def neural_network():
    """A model of the format before ML programs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = mb.program(input_specs=x_of(1, 3))(lambda x: mb.relu(x=x, name="y"))
        return ct.convert(program, convert_to="neuralnetwork", skip_model_load=True).get_spec()


def program():
    return program_of([Operation("relu", {"x": ONE}, [ONE], frozenset("x"))])[0]


KINDS = ["neuralNetwork", "neuralNetworkClassifier", "glmClassifier", "pipelineClassifier", "treeEnsembleRegressor"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_of_another_kind_is_refused_by_its_kind(tmp_path, kind):
    model = neural_network() if kind == "neuralNetwork" else ml().Model()
    getattr(model, kind).SetInParent()
    path = write_model(tmp_path / "m.mlpackage", ml().Model.FromString(model.SerializeToString()))
    for attempt in (load, functions, lint_package, declared_features):
        with pytest.raises(PackageError, match=rf"^\S+m\.mlpackage is of the kind {kind}, not an ML program"):
            attempt(path)


@pytest.mark.parametrize("kind", ["neuralNetwork", "glmClassifier", "pipeline", "scaler"])
def test_a_pipelines_stage_of_another_kind_is_refused_by_place_and_kind(tmp_path, kind):
    whole = ml().Model(specificationVersion=8)
    whole.pipeline.models.add().CopyFrom(program())
    getattr(whole.pipeline.models.add(), kind).SetInParent()
    path = write_model(tmp_path / "m.mlpackage", whole)
    for attempt in (load, lint):
        with pytest.raises(
            PackageError, match=rf"m\.mlpackage: model 2 of its 2 is of the kind {kind}; only pipelines of ML"
        ):
            attempt(path)


def test_a_pipeline_of_programs_is_linted_model_by_model(tmp_path):
    whole = ml().Model(specificationVersion=8)
    for _ in range(2):
        whole.pipeline.models.add().CopyFrom(program())
    text, _ = lint(write_model(tmp_path / "m.mlpackage", whole))
    assert "m.mlpackage/model0 on" in text
    assert "m.mlpackage/model1 on" in text


def test_a_single_model_file_is_refused_by_what_it_holds(tmp_path):
    network, bare, torn = (tmp_path / f"{name}.mlmodel" for name in ("network", "bare", "torn"))
    network.write_bytes(neural_network().SerializeToString())
    bare.write_bytes(program().SerializeToString())
    torn.write_bytes(network.read_bytes()[:-3])
    for attempt in (load, lint, functions):
        with pytest.raises(
            AnemoneError, match=r"network\.mlmodel is a model file of the kind neuralNetwork, not an ML"
        ):
            attempt(network)
        with pytest.raises(AnemoneError, match=r"bare\.mlmodel is a model file without a package; save it as"):
            attempt(bare)
        with pytest.raises(AnemoneError, match=r"torn\.mlmodel: its model is damaged"):
            attempt(torn)


@pytest.mark.parametrize("precision", ["fast", "fp32"])
def test_other_paths_are_refused_by_what_they_are(tmp_path, precision):
    (tmp_path / "empty.mlpackage").mkdir()
    (tmp_path / "empty.mlmodelc").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme").write_text("")
    (tmp_path / "file.mlpackage").write_text("")
    words = {
        "gone.mlpackage": "does not exist",
        "gone.mlmodelc": "does not exist",
        "empty.mlpackage": r"is an empty folder; an \.mlpackage or \.mlmodelc with an ML program is accepted",
        "empty.mlmodelc": "is not a compiled Core ML model",
        "other": r"is a folder without a Manifest\.json",
        "file.mlpackage": "is a file",
    }
    for name, expected in words.items():
        with pytest.raises(PackageError, match=rf"{name} {expected}"):
            load(tmp_path / name, precision=precision)
        with pytest.raises(PackageError, match=rf"{name} {expected}"):
            load(str(tmp_path / name), precision=precision)
        if name != "other":
            with pytest.raises(AnemoneError, match=rf"{name} {expected}"):
                lint(tmp_path / name)
    with pytest.raises(AnemoneError, match="other has no packages; accepted"):
        lint(tmp_path / "other")
    with pytest.raises(AnemoneError, match="gone does not exist; accepted"):
        lint(tmp_path / "gone")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"5",
        b"\xff",
        b'{"rootModelIdentifier": 5, "itemInfoEntries": []}',
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": []}}',
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": 7}}}',
        b'{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "gone"}}}',
    ],
)
def test_a_package_with_a_wrong_manifest_is_refused_and_linted_among_others(tmp_path, model_folder, manifest):
    bad = tmp_path / "bad.mlpackage"
    bad.mkdir()
    (bad / "Manifest.json").write_bytes(manifest)
    for attempt in (load, functions, lint):
        with pytest.raises(PackageError, match=r"bad\.mlpackage is not a Core ML package"):
            attempt(bad)
    shutil.copytree(model_folder.package("vae_decoder", 64, 64), tmp_path / "good.mlpackage")
    text, status = lint(tmp_path)
    assert status == 1
    assert re.search(r"^bad\.mlpackage\ncannot be read: .*not a Core ML package", text, re.M)
    assert re.search(r"^good\.mlpackage on ", text, re.M)


def test_inputs_that_are_not_arrays_by_name_are_refused(model_folder):
    network = load(model_folder.package("vae_decoder", 64, 64))
    for given, words in ((None, "NoneType"), ([1], "list"), (5, "int")):
        with pytest.raises(InputError, match=f"inputs are a {words}; a dict of NumPy arrays by name is accepted"):
            network.predict(given)
    with pytest.raises(InputError, match="unknown: 5, x; missing: z"):
        network.predict({5: 1, "x": 2})


def test_a_path_may_be_a_string(model_folder):
    assert functions(str(model_folder.package("vae_decoder", 64, 64))) == ("main",)


def test_a_compiled_neural_network_is_refused_by_its_kind(tmp_path):
    folder = tmp_path / "m.mlmodelc"
    folder.mkdir()
    (folder / "model.espresso.net").write_text("{}")
    for attempt in (load, lint):
        with pytest.raises(PackageError, match=r"m\.mlmodelc is a compiled neural network"):
            attempt(folder)


def test_a_compiled_pipelines_stage_that_is_not_a_program_is_refused(tmp_path):
    whole = ml().Model(specificationVersion=8)
    for _ in range(3):
        whole.pipeline.models.add().CopyFrom(program())
    folder = compiled(write_model(tmp_path / "m.mlpackage", whole), tmp_path / "m.mlmodelc")
    (folder / "model1" / "model.mil").rename(folder / "model1" / "model.espresso.net")
    with pytest.raises(PackageError, match=r"model1 is a compiled neural network"):
        load(folder)


def test_a_compiled_model_is_linted_as_its_package(model_folder, tmp_path):
    package = shutil.copytree(model_folder.package("unet", 64, 64), tmp_path / "own" / "unet.mlpackage")
    folder = compiled(package, tmp_path / "unet.mlmodelc")
    assert read_spec(package).specificationVersion == 7

    def said(path):
        return [(f.rule, f.severity, len(f.places)) for f in lint_package(path)]

    assert said(folder) == said(package)
    assert "unet.mlmodelc on" in lint(folder)[0]
    assert "unet.mlmodelc on" in lint(tmp_path)[0]


@pytest.mark.parametrize("body", [lstm, gru, rnn, lists])
def test_the_lint_reads_what_the_runtime_does_not_run(tmp_path, body):
    path = built(tmp_path / "m.mlpackage", x_of(1, 3) if body is lists else x_of(4, 1, 3), body)
    places = [place for finding in lint_package(path) for place in finding.places]
    kind = "make_list" if body is lists else body.__name__
    assert kind in {place.operation for place in places}


@pytest.mark.parametrize("kind", ["imageType", "dictionaryType"])
def test_the_lint_reads_packages_with_features_that_are_not_arrays(tmp_path, kind):
    model = program()
    for side in (model.description.input, model.description.output):
        side[0].type.Clear()
        getattr(side[0].type, kind).SetInParent()
    assert {finding.rule for finding in lint_package(write_model(tmp_path / "m.mlpackage", model))} <= {"E1"}


@pytest.mark.parametrize("body", [cond, while_loop])
def test_the_lint_looks_into_nested_blocks(tmp_path, body):
    path = built(tmp_path / "m.mlpackage", x_of(1, 3), body)
    (function,) = read_listing(path, Blobs()).functions
    kinds = [op.kind for op in function.operations]
    inner = {"cond": ["mul", "exp"], "while_loop": ["reduce_max", "less", "add"]}[body.__name__]
    assert kinds[-1 - len(inner) : -1] == inner
    assert kinds[-1] == body.__name__
    assert [op.index for op in function.operations] == list(range(len(kinds)))
    last = function.operations[-1]
    assert {name for n in range(2) for name in last.inputs[f"block{n}"]} <= set(function.producers)
    actual = {finding.rule: finding for finding in lint_package(path)}
    assert any(body.__name__ == place.operation for finding in actual.values() for place in finding.places)
