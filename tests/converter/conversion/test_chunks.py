"""UNets cut into chunks: the same network, in packages with about equal weights."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from converter.conversion.agreement import OptionError
from converter.conversion.convert import convert
from converter.conversion.planning import make_plan
from converter.conversion.programs import write_network
from converter.errors import CheckpointError, DamagedModel
from converter.folder import ModelFolder, package_files
from converter.mil.chunks import Place, choose_ends
from converter.mil.package import SCALES
from converter.networks.features import HANDED_OVER, random_inputs
from converter.options import ConvertOptions
from converter.runtime import load, weight_bytes
from converter.runtime.chunks import chunk_paths
from converter.runtime.program import declared_features, own_features, read_model
from converter.sources.source import open_source
from server.doctor.networks import predicted
from server.models.memory import memory_need
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import write_xl_checkpoint
from tests.support.controlnets import write_controlnet

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
LINEAR = {"bits": 4, "quantization": "linear", "target": "macOS15"}


def unet_of(source, folder, **options):
    """Write the UNet alone, unverified; return its packages (the first chunks), each with its function."""
    folder.mkdir()
    plan = make_plan(source, ConvertOptions(name="m", verify=False, **options))
    return [(folder / p.path, p.function) for p in write_network("unet", plan, folder).packages]


def result(path, function="main", precision="fp32"):
    network = load(path, function=function, precision=precision)
    return network.predict(random_inputs(network.inputs, {}))["noise_pred"]


@pytest.fixture(scope="module")
def source(checkpoint):
    return open_source(checkpoint)


@pytest.fixture(scope="module")
def cut(source, tmp_path_factory):
    """The chunks of a UNet cut into three."""
    ((path, _),) = unet_of(source, tmp_path_factory.mktemp("cut") / "unet", chunks=3)
    return chunk_paths(path)


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (5, {"attention": "original", "prompt_once": True}),
        (4, {"attention": "split_einsum_v2", "sizes": ((192, 192),)}),
        (2, {"bits": 4}),
        (3, LINEAR),
    ],
    ids=str,
)
def test_chunks_give_to_the_bit_what_the_whole_gives(source, tmp_path, count, options):
    ((path, _),) = unet_of(source, tmp_path / "whole", **options)
    ((first, _),) = unet_of(source, tmp_path / "chunked", chunks=count, **options)
    chunks = chunk_paths(first)
    assert len(chunks) == count
    assert declared_features(first) == declared_features(path)
    np.testing.assert_array_equal(result(first), result(path))
    # An even chunk, and at most the largest weight or a tenth more.
    sizes = [chunk.joinpath(WEIGHTS).stat().st_size for chunk in chunks]
    assert weight_bytes(path) <= weight_bytes(first) < weight_bytes(path) * 1.02
    assert max(sizes) < weight_bytes(path) / count * 1.25


def test_chunks_run_as_one_for_serving(source, cut, tmp_path):
    ((whole, _),) = unet_of(source, tmp_path / "whole")
    np.testing.assert_array_equal(result(cut[0], precision="fast"), result(whole, precision="fast"))


def test_chunks_that_take_a_controlnets_residuals_share_the_others_weights(checkpoint, source, tmp_path):
    options = {"controlnets": (str(write_controlnet(checkpoint, tmp_path / "canny")),)}
    whole = unet_of(source, tmp_path / "whole", **options)
    chunked = unet_of(source, tmp_path / "chunked", chunks=4, **options)
    (plain, _), (controlled, _) = chunked
    assert controlled.name == "Stable_Diffusion_version_m_control-unet_chunk1.mlpackage"
    for path, other in zip(chunk_paths(plain), chunk_paths(controlled), strict=True):
        assert os.path.samefile(path / WEIGHTS, other / WEIGHTS)
    np.testing.assert_array_equal(result(controlled), result(whole[1][0]))


def test_a_unet_of_sdxl_is_cut_with_its_conditions(tmp_path):
    source = open_source(write_xl_checkpoint(tmp_path / "source"))
    ((whole, _),) = unet_of(source, tmp_path / "whole")
    ((first, _),) = unet_of(source, tmp_path / "chunked", chunks=2)
    assert declared_features(first)[0].keys() > {"time_ids", "text_embeds"}
    np.testing.assert_array_equal(result(first), result(whole))


def test_functions_are_cut_alike(source, tmp_path):
    options = {"batches": (1, 2), "target": "macOS15", "functions": True}
    whole = unet_of(source, tmp_path / "whole", **options)
    chunked = unet_of(source, tmp_path / "chunked", chunks=2, **options)
    assert len(list((tmp_path / "chunked").iterdir())) == 2
    np.testing.assert_array_equal(result(*chunked[1]), result(*whole[1]))


def test_what_is_handed_over_is_named_by_its_value_in_the_order_of_the_program(source, cut, tmp_path):
    made = []
    for number, chunk in enumerate(cut, 1):
        inputs, outputs = own_features(chunk)
        handed = [name for name in inputs if name in made]
        assert handed == [name for name in made if name in inputs]
        assert all(inputs[name].dtype == np.float16 for name in handed)
        model = read_model(chunk)
        about = {feature.name: feature.shortDescription for feature in model.description.input}
        assert {about[name] for name in handed} == ({HANDED_OVER} if number > 1 else set())
        assert model.description.metadata.userDefined["app.anemone.chunk"] == f"{number} of 3"
        assert '"down_blocks_0_attentions_0' in model.description.metadata.userDefined[SCALES]
        made += outputs
    # Apple's Swift package takes the latents' shape from the first, and the last chunk's only output.
    assert own_features(cut[0])[0].keys() >= {"sample", "timestep"}
    assert list(own_features(cut[-1])[1]) == ["noise_pred"]
    ((again, _),) = unet_of(source, tmp_path / "again", chunks=3)
    for chunk, other in zip(cut, chunk_paths(again), strict=True):
        for file in ("Data/com.apple.CoreML/model.mlmodel", WEIGHTS, "Manifest.json"):
            assert (chunk / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize("options", [{}, LINEAR], ids=str)
def test_coremltools_loads_each_chunk(ct, source, cut, tmp_path, options):
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    chunks = chunk_paths(unet_of(source, tmp_path / "unet", chunks=3, **options)[0][0]) if options else cut
    for chunk in chunks:
        spec = ct.utils.load_spec(str(chunk))
        program = load_program(spec, spec.specificationVersion, str((chunk / WEIGHTS).parent))
        inputs, outputs = own_features(chunk)
        function = program.functions["main"]
        assert list(function.inputs) == list(inputs)
        assert {o.name: tuple(o.shape) for o in function.outputs} == {name: f.shape for name, f in outputs.items()}


def test_the_cheapest_place_near_the_even_one_is_taken():
    places = {
        "a": Place(30, 1),
        "b": Place(46, 9),
        "c": Place(50, 10),
        "d": Place(54, 7),
        "e": Place(60, 1),
        "f": Place(100, 0),
    }
    assert choose_ends(places, places, 2) == ["d"]
    assert choose_ends(places, "bcef", 2) == ["b"]
    assert choose_ends(places, "ae", 2) == ["e"]
    # Each chunk has weights.
    assert choose_ends({"a": Place(1, 1), "b": Place(2, 1), "c": Place(90, 1), "d": Place(100, 1)}, "abcd", 4) == [
        "a",
        "b",
        "c",
    ]
    with pytest.raises(ValueError, match="cannot be divided into 7 chunks"):
        choose_ends(places, places, 7)


def test_a_number_of_chunks_beyond_the_limits_is_refused(source, tmp_path):
    for count in (1, 9):
        with pytest.raises(OptionError, match=f"{count} chunks are not accepted; accepted: 2 to 8"):
            make_plan(source, ConvertOptions(chunks=count))


@pytest.fixture(scope="module")
def chunked(checkpoint, tmp_path_factory):
    agreed = {}
    out = tmp_path_factory.mktemp("chunked") / "m"
    folder = convert(checkpoint, out, ConvertOptions(chunks=3), verified=agreed.__setitem__)
    return folder, agreed


def image_of(folder):
    model = StableDiffusion(folder, {})
    request = bind(model.manifest, prompt="red", steps=2, seed=4)
    return next(event for event in model.generate(request, {}) if isinstance(event, GeneratedImage)).pixels


def test_a_model_in_chunks_is_verified_and_makes_the_images_of_the_whole(chunked, model_folder):
    folder, agreed = chunked
    assert agreed["unet"] > 60
    unet = folder.manifest.networks["unet"]
    assert [package.path for package in unet] == ["Stable_Diffusion_version_tiny_unet_chunk1.mlpackage"]
    names = {name.partition("/")[0] for name in package_files(folder.manifest.files, unet)}
    assert names == {f"Stable_Diffusion_version_tiny_unet_chunk{n}.mlpackage" for n in (1, 2, 3)}
    assert names < {name.partition("/")[0] for name in folder.manifest.files}
    assert 1 <= memory_need(folder).networks["unet"] / memory_need(model_folder).networks["unet"] < 1.02
    first, whole = folder.path / unet[0].path, model_folder.package("unet", 64, 64)
    shares = ({s.device: s.operations for s in predicted(path, "main", "M1")} for path in (first, whole))
    assert next(shares) == next(shares)
    np.testing.assert_array_equal(image_of(folder), image_of(model_folder))


def test_one_network_is_converted_again_beside_chunks_that_stay(chunked, checkpoint, tmp_path):
    folder = ModelFolder.open(shutil.copytree(chunked[0].path, tmp_path / "m"))
    kept = folder.path / "Stable_Diffusion_version_tiny_unet_chunk2.mlpackage" / WEIGHTS
    inode = kept.stat().st_ino
    made = convert(checkpoint, folder.path, ConvertOptions(chunks=3), only=("vae_decoder",))
    assert kept.stat().st_ino == inode
    assert made.manifest.files == folder.manifest.files
    with pytest.raises(CheckpointError, match="with other options"):
        convert(checkpoint, folder.path, ConvertOptions(chunks=2), only=("vae_decoder",))


@pytest.mark.parametrize("number", [2, 3])
def test_a_chunk_that_is_missing_or_damaged_is_named(chunked, tmp_path, number):
    path = shutil.copytree(chunked[0].path, tmp_path / "m")
    name = f"Stable_Diffusion_version_tiny_unet_chunk{number}.mlpackage"
    with (path / name / WEIGHTS).open("r+b") as file:
        file.seek(200)
        file.write(b"other")
    with pytest.raises(DamagedModel, match=f"{name}/.*other content"):
        ModelFolder.open(path).compare()
    shutil.rmtree(path / name)
    with pytest.raises(DamagedModel, match=f"{name}/.*is missing"):
        ModelFolder.open(path)
