from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converter.devices.blocks import blocks, in_rounds, with_block_outputs
from converter.devices.comparison import likely_inputs
from converter.runtime.feature import PackageError
from converter.runtime.mil import MILNetwork
from converter.runtime.program import own_features
from tests.support.fp16_programs import fp16, mb, package_of_program

NETWORKS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


def package(model_folder, network):
    return model_folder.path / model_folder.manifest.networks[network][0].path


def recorded(path: Path, inputs):
    """Every value that the interpreter computes in fp32, taken from its own steps."""
    network, actual = MILNetwork(path), {}

    def recording(step):
        def run(**given):
            result = step.run(**given)
            for name, value in zip(step.outputs, result if isinstance(result, list) else [result], strict=True):
                actual[name] = value.numpy().copy()
            return result

        return replace(step, run=run)

    network._steps = [recording(step) for step in network._steps]
    network.predict(inputs)
    return actual


@pytest.mark.parametrize("network", NETWORKS)
def test_a_rewritten_package_gives_what_the_interpreter_computes_at_every_block(model_folder, tmp_path, network):
    path = package(model_folder, network)
    actual = blocks(path)
    assert actual
    out, inputs = tmp_path / "blocks.mlpackage", likely_inputs(path)
    with_block_outputs(path, out, actual)
    given, values = MILNetwork(out).predict(inputs), recorded(path, inputs)
    for block in actual:
        assert given[block.output].shape == block.shape
        np.testing.assert_array_equal(given[block.output], values[block.value].astype(np.float32))
    for name, array in MILNetwork(path).predict(inputs).items():
        np.testing.assert_array_equal(given[name], array)


def test_blocks_are_the_modules_of_the_network_in_order(model_folder):
    unet = [block.name for block in blocks(package(model_folder, "unet"))]
    assert unet[:4] == ["time_embedding_linear_1", "time_embedding_linear_2", "conv_in", "down_blocks_0_resnets_0"]
    inner = "down_blocks_0_attentions_0"
    assert unet[4:7] == [f"{inner}_transformer_blocks_0", inner, "down_blocks_0_downsamplers_0"]
    assert [n for n in unet if n.startswith("mid_block")] == [
        "mid_block_resnets_0",
        "mid_block_attentions_0_transformer_blocks_0",
        "mid_block_attentions_0",
        "mid_block_resnets_1",
    ]
    assert [b.name for b in blocks(package(model_folder, "text_encoder"))] == [
        "text_model_encoder_layers_0",
        "text_model_encoder_layers_1",
    ]


def test_a_block_hands_on_its_sum_and_not_something_within(model_folder):
    values = {block.name: block.value for block in blocks(package(model_folder, "unet"))}
    assert values["down_blocks_0_resnets_0"] == "down_blocks_0_resnets_0_sum"
    assert values["down_blocks_0_attentions_0"] == "down_blocks_0_attentions_0_sum"


def test_the_rewritten_package_is_one_to_coremltools(model_folder, tmp_path):
    """coremltools' own reader rebuilds the program operation by operation and checks types and names."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    path = package(model_folder, "unet")
    out = tmp_path / "blocks.mlpackage"
    actual = blocks(path)
    with_block_outputs(path, out, actual)
    model = ct.models.MLModel(str(out), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    outputs = [v.name for v in program.functions["main"].outputs]
    assert outputs == [*own_features(path)[1], *(block.output for block in actual)]


def test_weights_are_links_and_the_package_itself_stays_as_it_was(model_folder, tmp_path):
    path = package(model_folder, "vae_decoder")
    before = {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    out = tmp_path / "blocks.mlpackage"
    with_block_outputs(path, out, blocks(path))
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    if (tmp_path.stat().st_dev) == path.stat().st_dev:
        assert os.path.samefile(path / weights, out / weights)
    assert {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()} == before


def test_programs_without_module_names_are_looked_at_in_even_steps(tmp_path):
    def body(x):
        for _ in range(40):
            x = mb.relu(x=mb.add(x=x, y=np.float16(0.5)))
        return x

    path = package_of_program(tmp_path, [fp16(1, 4)], body)
    actual = blocks(path)
    # 80 operations, every third one, less the one that gives the output.
    assert len(actual) == 26
    out = tmp_path / "blocks.mlpackage"
    with_block_outputs(path, out, actual)
    given = MILNetwork(out).predict({"x": np.zeros((1, 4), np.float16)})
    sums = [given[block.output][0, 0] for block in actual]
    assert sums == sorted(sums)
    assert sums[0] == 1.0  # after three operations: add, relu, add


def test_results_of_fp32_are_handed_on_as_they_are(tmp_path):
    def body(x):
        wide = mb.cast(x=x, dtype="fp32")
        for _ in range(4):
            wide = mb.add(x=wide, y=np.float32(1e-4))
        return mb.cast(x=wide, dtype="fp16")

    path = package_of_program(tmp_path, [fp16(1, 4)], body)
    out, actual = tmp_path / "blocks.mlpackage", blocks(path)
    assert {block.dtype.name for block in actual} == {"float32"}
    with_block_outputs(path, out, actual)
    given = MILNetwork(out).predict({"x": np.ones((1, 4), np.float16)})
    np.testing.assert_allclose(given[actual[-1].output], 1 + 4e-4, rtol=1e-7)


def test_integers_and_the_like_end_no_block(tmp_path):
    def body(x):
        whole = mb.cast(x=x, dtype="int32")
        for _ in range(6):
            whole = mb.add(x=whole, y=np.int32(1))
        return mb.cast(x=whole, dtype="fp16")

    path = package_of_program(tmp_path, [fp16(1, 4)], body)
    assert blocks(path) == ()


def test_results_are_taken_in_rounds_of_bounded_size(model_folder):
    actual = blocks(package(model_folder, "vae_decoder"))
    assert list(in_rounds(actual)) == [actual]
    largest = max(block.nbytes for block in actual)
    rounds = list(in_rounds(actual, largest))
    assert tuple(block for group in rounds for block in group) == actual
    assert len(rounds) > 1
    assert all(sum(block.nbytes for block in group) <= largest for group in rounds)
    assert [len(group) for group in in_rounds(actual, 1)] == [1] * len(actual)


def test_a_compiled_model_is_refused(model_folder, tmp_path):
    with pytest.raises(PackageError, match=r"unet\.mlmodelc is compiled; an \.mlpackage is needed"):
        with_block_outputs(Path("unet.mlmodelc"), tmp_path / "out.mlpackage", ())
