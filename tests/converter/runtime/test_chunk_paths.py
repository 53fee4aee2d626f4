"""Networks in chunks give what the whole network gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from converter.runtime import PackageError, functions, load
from converter.runtime.chunks import chunk_paths, chunk_pattern
from converter.runtime.program import declared_features, own_features, read_program
from converter.runtime.summary import read_summary
from tests.support.apple_chunks import cut_in_two
from tests.support.fp16_programs import fp16, mb, package_of_program
from tests.support.mil_text import compiled


@pytest.fixture(scope="module")
def unet(model_folder):
    return model_folder.package("unet", 64, 64)


@pytest.fixture(scope="module")
def chunks(unet, tmp_path_factory):
    """Both chunks of a UNet, in one folder."""
    return cut_in_two(unet, tmp_path_factory.mktemp("chunks"))


@pytest.fixture
def copies(chunks, tmp_path):
    """Copies of the chunks, to damage."""
    return tuple(Path(shutil.copytree(path, tmp_path / path.name)) for path in chunks)


def example_inputs(path):
    rng = np.random.default_rng(0)
    return {n: rng.standard_normal(f.shape).astype(f.dtype) for n, f in declared_features(path)[0].items()}


@pytest.mark.parametrize("name", ["Stable_Diffusion_version_v_unet_chunk{}.mlpackage", "UnetRefinerChunk{}.mlmodelc"])
def test_the_other_chunks_are_beside_the_first_by_their_names(tmp_path, name):
    names = [name.format(number) for number in range(1, 12)]
    with pytest.raises(
        PackageError, match=f"{names[1]}, chunk 2 of the network that begins with {names[0]}, is missing"
    ):
        chunk_paths(tmp_path / names[0])
    (tmp_path / names[1]).mkdir()
    assert chunk_paths(tmp_path / names[0]) == (tmp_path / names[0], tmp_path / names[1])
    # Other networks, other forms of this one, and what is no number of a chunk.
    for other in ("other_unet_chunk3.mlpackage", names[2].replace("ml", "m"), name.format("03"), name.format("3_4")):
        (tmp_path / other).mkdir()
    assert len(chunk_paths(tmp_path / names[0])) == 2
    for each in names[2:9] + names[10:]:
        (tmp_path / each).mkdir()
    with pytest.raises(
        PackageError, match=f"{names[9]}, chunk 10 of the network that begins with {names[0]}, is missing"
    ):
        chunk_paths(tmp_path / names[0])
    (tmp_path / names[9]).mkdir()
    assert chunk_paths(tmp_path / names[0]) == tuple(tmp_path / each for each in names)
    assert chunk_paths(tmp_path / names[1]) == (tmp_path / names[1],)


@pytest.mark.parametrize("name", ["unet.mlpackage", "unet_chunk2.mlpackage", "unet_chunk1", "unet_chunk11.mlpackage"])
def test_other_packages_are_whole(name):
    assert chunk_paths(Path(name)) == (Path(name),)


@pytest.mark.parametrize("precision", ["fast", "fp32", "fp16", "ane"])
def test_chunks_give_the_results_of_the_whole_network(unet, chunks, precision):
    network, expected = load(chunks[0], precision=precision), load(unet, precision=precision)
    assert (network.inputs, network.outputs) == (expected.inputs, expected.outputs)
    result = network.predict(example_inputs(unet))["noise_pred"]
    np.testing.assert_array_equal(result, expected.predict(example_inputs(unet))["noise_pred"])


def test_tensors_between_the_chunks_are_not_inputs_or_outputs(unet, chunks):
    between = set(own_features(chunks[0])[1])
    assert len(between) > 1
    assert between < set(own_features(chunks[1])[0])
    assert declared_features(chunks[0]) == declared_features(unet)
    assert (read_summary(chunks[0]).inputs, read_summary(chunks[0]).outputs) == declared_features(unet)
    assert functions(chunks[0]) == ("main",)


def test_a_summary_shows_the_operations_of_both_chunks(chunks, tmp_path):
    alone = [read_summary(Path(shutil.copytree(path, tmp_path / f"{n}.mlpackage"))) for n, path in enumerate(chunks)]
    assert read_summary(chunks[0]).operations == alone[0].operations + alone[1].operations


def test_compiled_chunks_are_read_as_the_packages(chunks, tmp_path):
    paths = [compiled(path, tmp_path / f"UnetChunk{n}.mlmodelc") for n, path in enumerate(chunks, 1)]
    expected = load(chunks[0], precision="fp32").predict(example_inputs(chunks[0]))
    result = load(paths[0], precision="fp32").predict(example_inputs(paths[0]))
    np.testing.assert_array_equal(result["noise_pred"], expected["noise_pred"])


def small(folder, inputs, body, name):
    return package_of_program(folder, inputs, body).rename(folder / name)


@pytest.mark.parametrize("precision", ["fast", "fp32"])
def test_values_of_one_name_in_both_chunks_are_kept_apart(tmp_path, precision):
    def first(x):
        inner = mb.add(x=x, y=np.float16(1), name="inner")
        # The second chunk gives an output of this name.
        early = mb.sin(x=inner, name="z")
        return mb.mul(x=inner, y=np.float16(3), name="h"), mb.exp(x=early, name="g")

    def second(h, g, x):
        inner = mb.cast(x=h, dtype="fp32", name="inner")
        late = mb.cast(x=mb.mul(x=inner, y=np.float32(2), name="doubled"), dtype="fp16", name="late")
        return mb.add(x=mb.add(x=late, y=x, name="sum"), y=g, name="z")

    path = small(tmp_path, [fp16(2)], first, "n_chunk1.mlpackage")
    small(tmp_path, [fp16(2), fp16(2), fp16(2)], second, "n_chunk2.mlpackage")
    x = np.array([0.5, 2], np.float16)
    result = load(path, precision=precision).predict({"x": x})
    assert list(result) == ["z"]
    np.testing.assert_allclose(result["z"], (x + 1) * 6 + x + np.exp(np.sin(x.astype(np.float32) + 1)), rtol=2e-3)


def test_a_missing_chunk_is_named(copies):
    shutil.rmtree(copies[1])
    for read in (load, declared_features, read_summary, read_program):
        with pytest.raises(
            PackageError, match=rf"{copies[1].name}, chunk 2 of the network.*{copies[0].name}, is missing"
        ):
            read(copies[0])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("file", ["Manifest.json", "Data/com.apple.CoreML/weights/weight.bin"])
def test_a_damaged_chunk_is_named(copies, which, file):
    damaged = copies[which] / file
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(PackageError, match=copies[which].name):
        load(copies[0])


def test_chunks_of_different_networks_are_refused(tmp_path):
    path = small(tmp_path, [fp16(2)], lambda x: mb.relu(x=x, name="h"), "n_chunk1.mlpackage")
    small(tmp_path, [fp16(3)], lambda h: mb.relu(x=h, name="y"), "n_chunk2.mlpackage")
    for read in (load, declared_features, read_summary):
        with pytest.raises(
            PackageError, match=r"n_chunk1.*not fit together: h has shape \[2\], but a later network accepts \[3\]"
        ):
            read(path)


@pytest.mark.parametrize(
    "name",
    [
        "ControlNet_canny_chunk1.mlpackage",
        "ControlNet_my_unet_chunk1.mlpackage",
        "IPAdapter_plus_chunk1.mlpackage",
        "controlnet/CannyChunk1.mlmodelc",
    ],
)
def test_a_network_that_is_called_like_a_chunk_is_whole(tmp_path, name):
    assert chunk_paths(tmp_path / name) == (tmp_path / name,)
    assert chunk_pattern(name).match(f"{name}/Manifest.json")
    assert not chunk_pattern(name).match(f"{name.replace('1.', '2.')}/Manifest.json")


def test_the_files_of_all_chunks_are_found_in_their_folder():
    pattern = chunk_pattern("a.b/x_unet_chunk1.mlpackage")
    assert pattern.match("a.b/x_unet_chunk12.mlpackage/Manifest.json")
    assert not pattern.match("x_unet_chunk2.mlpackage/Manifest.json")
    assert not pattern.match("aXb/x_unet_chunk2.mlpackage/Manifest.json")
