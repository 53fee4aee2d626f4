"""Merged model folders, beside the same LoRAs fused by diffusers."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from converter.checksums import checksum
from converter.conversion.convert import convert
from converter.errors import AnemoneError, SpaceError
from converter.folder import ModelFolder
from converter.loras import FewStep, LoraFile
from converter.manifest import Defaults, Manifest, MergedLora
from converter.merging import MergeError, merge, merge_key
from converter.networks.features import random_inputs
from converter.options import ConvertOptions
from converter.progress import Progress
from converter.runtime import load, weight_bytes
from converter.runtime.chunks import chunk_paths
from converter.runtime.compressed import Compressed
from converter.runtime.program import read_model, read_program
from tests.support.checkpoints import diffusers_pipeline, save_published
from tests.support.controlnets import write_controlnet
from tests.support.lora_files import write
from tests.support.merging import fuse, lora_of
from tests.support.mil_packages import as_written, psnr

DATA = "Data/com.apple.CoreML"
WEIGHT = 0.8
#: Every form that a UNet's packages have beside the usual one.
FORMS = ConvertOptions(
    attention="original", prompt_once=True, target="macOS15", functions=True, sizes=((64, 64), (96, 64)), verify=False
)


@pytest.fixture(scope="module")
def modules(checkpoint):
    pipeline = diffusers_pipeline(checkpoint)
    return {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}


@pytest.fixture(scope="module")
def lora(modules, tmp_path_factory):
    return lora_of(modules, tmp_path_factory.mktemp("lora") / "style.safetensors")


@pytest.fixture(scope="module")
def fused(checkpoint, lora):
    """diffusers' pipeline with the LoRA in its weights."""
    return fuse(diffusers_pipeline(checkpoint), lora, WEIGHT)


@pytest.fixture(scope="module")
def fused_checkpoint(fused, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused") / "tiny"
    folder.mkdir()
    for entry in checkpoint.iterdir():
        (folder / entry.name).symlink_to(entry)
    for name in ("unet", "text_encoder"):
        (folder / name).unlink()
        save_published(getattr(fused, name), folder / name, torch.float32)
    return folder


@pytest.fixture(scope="module")
def merged(model_folder, lora, tmp_path_factory):
    return merge(model_folder, [(lora, WEIGHT)], [], tmp_path_factory.mktemp("merged") / "styled")


def noise(unet, inputs):
    states = torch.from_numpy(inputs["encoder_hidden_states"].astype(np.float32)).squeeze(2).transpose(1, 2)
    with torch.no_grad():
        sample = torch.from_numpy(inputs["sample"].astype(np.float32))
        return unet(sample, torch.from_numpy(inputs["timestep"].astype(np.float32)), states).sample.numpy()


def test_a_merged_unet_and_text_encoder_compute_what_diffusers_with_the_fused_lora_does(model_folder, merged, fused):
    rng = np.random.default_rng(0)
    networks = [as_written(made.package("unet", 64, 64)) for made in (merged, model_folder)]
    inputs = {name: rng.standard_normal(f.shape).astype(f.dtype) for name, f in networks[0].inputs.items()}
    inputs["timestep"][:] = 801
    ours, plain = (network.predict(inputs)["noise_pred"] for network in networks)
    expected = noise(fused.unet, inputs)
    assert psnr(ours, expected) > 60
    assert psnr(plain, expected) < 25
    assert psnr(load(merged.package("unet", 64, 64)).predict(inputs)["noise_pred"], expected) > 25
    ids = rng.permutation(250)[None, :77].astype(np.float32)
    ours, plain = (
        as_written(made.package("text_encoder")).predict({"input_ids": ids}) for made in (merged, model_folder)
    )
    with torch.no_grad():
        states = fused.text_encoder(torch.from_numpy(ids).long()).last_hidden_state.numpy()
    assert psnr(ours["last_hidden_state"], states) > 60
    assert psnr(plain["last_hidden_state"], states) < 25


def weights(folder):
    """(network, place of the package, function, output) -> the constants of an operation of a model's UNets and text encoder."""
    found = {}
    for network in ("unet", "unet_prompt", "text_encoder"):
        for place, package in enumerate(folder.manifest.networks.get(network, ())):
            for op in read_program(folder.path / package.path, package.function).operations:
                for name, values in op.constants.items():
                    found[network, place, op.outputs[0], name] = values
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    changed = 0
    for place, values in ours.items():
        for a, b in zip(values, theirs[place], strict=True):
            if isinstance(a, str) or a.dtype.kind != "f":
                assert np.array_equal(a, b)
                continue
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            if re.search(r"to_q$|q_proj$", place[2]):
                # A query weight was rounded when it was multiplied by the scale, and is again.
                np.testing.assert_allclose(a, b, rtol=0, atol=2**-10 * np.abs(b).max())
            else:
                np.testing.assert_array_max_ulp(a, b, 1)
            changed += a.size
    assert changed > 100_000


def test_every_form_has_the_weights_that_converting_the_fused_checkpoint_gives(
    checkpoint, model_folder, merged, fused_checkpoint, lora, tmp_path
):
    assert_same(weights(merged), weights(convert(fused_checkpoint, tmp_path / "usual", model_folder.manifest.options)))
    control = str(write_controlnet(checkpoint, tmp_path / "canny"))
    options = replace(FORMS, controlnets=(control,))
    base = convert(checkpoint, tmp_path / "base", options)
    made = merge(base, [(lora, WEIGHT)], [], tmp_path / "made")
    assert_same(weights(made), weights(convert(fused_checkpoint, tmp_path / "fused", options)))
    assert {package.function for package in made.manifest.networks["unet"]} > {"main", "at_96x64_batch2_tokens77"}
    assert read_model(made.package("unet", 64, 64)).description.functions
    net = "ControlNet_canny.mlpackage"
    assert all(
        os.path.samefile(file, made.path / file.relative_to(base.path)) for file in (base.path / net).rglob("*.*ml*")
    )


def test_chunks_are_merged_each_with_its_own_changed_weights(checkpoint, merged, lora, tmp_path):
    base = convert(checkpoint, tmp_path / "base", ConvertOptions(chunks=3, verify=False))
    made = merge(base, [(lora, WEIGHT)], [], tmp_path / "made")
    first = made.package("unet", 64, 64)
    inputs = random_inputs(as_written(first).inputs, {})
    expected = as_written(merged.package("unet", 64, 64)).predict(inputs)["noise_pred"]
    np.testing.assert_array_equal(as_written(first).predict(inputs)["noise_pred"], expected)
    files = [chunk / DATA / "weights/merged.bin" for chunk in chunk_paths(first)]
    assert len({file.read_bytes() for file in files}) == 3
    made.compare(again=True)
    # A chunk without a changed layer stays as it is.
    one = replace(lora, layers={"unet": {QUERY: lora.layers["unet"][QUERY]}})
    made = merge(base, [(one, WEIGHT)], [], tmp_path / "one")
    chunks = chunk_paths(made.package("unet", 64, 64))
    assert [(chunk / DATA / "weights/merged.bin").exists() for chunk in chunks] == [True, False, False]
    assert made.files(*(chunk.name for chunk in chunks[1:])) == base.files(*(chunk.name for chunk in chunks[1:]))


def test_what_a_lora_leaves_alone_is_linked_to_the_base_and_every_size_shares_the_changed_weights(model_folder, merged):
    base, changed = model_folder.path, {"text_encoder", "unet"}
    for network, packages in model_folder.manifest.networks.items():
        for file in ("model.mlmodel", "weights/weight.bin"):
            for package in packages:
                name = f"{package.path}/{DATA}/{file}"
                is_shared = file != "model.mlmodel" or network not in changed
                assert os.path.samefile(base / name, merged.path / name) is is_shared
    assert os.path.samefile(base / "tokenizer/vocab.json", merged.path / "tokenizer/vocab.json")
    files = [merged.path / p.path / DATA / "weights/merged.bin" for p in merged.manifest.networks["unet"]]
    assert len(files) == 2
    assert os.path.samefile(*files)
    own = {file.stat().st_ino: file.stat().st_size for file in merged.path.rglob("*") if file.stat().st_nlink == 1}
    assert len(list(merged.path.rglob("merged.bin"))) == 3
    assert sum(own.values()) < 2_000_000


def test_coremltools_loads_a_merged_package(ct, merged):
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    path = merged.package("unet", 64, 64)
    spec = ct.utils.load_spec(str(path))
    program = load_program(spec, spec.specificationVersion, str(path / DATA / "weights"))
    ours = {op.outputs[0]: op.constants for op in read_program(path).operations if op.kind == "conv"}
    convs = [op for op in program.functions["main"].operations if op.op_type == "conv"]
    assert len(convs) == len(ours)
    for op in convs:
        np.testing.assert_array_equal(op.weight.val, ours[op.outputs[0].name]["weight"][0])


def test_the_manifest_says_what_was_merged_and_has_every_checksum(model_folder, merged, lora):
    manifest = Manifest.read(merged.path)
    assert manifest.merged.loras == (MergedLora("style", checksum(lora.path).sha256, WEIGHT),)
    assert manifest.merged.base == model_folder.manifest.plan
    assert manifest.plan == merge_key(model_folder.manifest.plan, [(lora, WEIGHT)], []) != model_folder.manifest.plan
    kept = {*merged.path.rglob("*"), *()} - {merged.path / "anemone.json", merged.path / ".anemone-checked.json"}
    assert {file.relative_to(merged.path).as_posix() for file in kept if file.is_file()} == manifest.files.keys()
    for name, expected in manifest.files.items():
        assert checksum(merged.path / name, expected.begin) == expected
    merged.compare(again=True)


def test_keys_differ_by_file_weight_order_and_base(modules, lora, tmp_path):
    other = lora_of({"unet": modules["unet"]}, tmp_path / "other.safetensors")
    keys = {
        merge_key(base, loras, [])
        for base, loras in (
            ("a", [(lora, 0.5)]),
            ("b", [(lora, 0.5)]),
            ("a", [(lora, 0.6)]),
            ("a", [(other, 0.5)]),
            ("a", [(lora, 0.5), (other, 1.0)]),
            ("a", [(other, 1.0), (lora, 0.5)]),
            ("a", [(replace(lora, layers={"unet": lora.layers["unet"]}), 0.5)]),
            ("a", []),
        )
    }
    assert len(keys) == 8
    renamed = LoraFile.open(shutil.copy(lora.path, tmp_path / "renamed.safetensors"))
    assert merge_key("a", [(renamed, 0.5)], []) == merge_key("a", [(lora, 0.5)], [])


def test_several_loras_add_up_and_a_weight_of_0_changes_nothing(model_folder, modules, merged, lora, tmp_path):
    other = lora_of({"unet": modules["unet"]}, tmp_path / "other.safetensors", seed=1)
    made = merge(model_folder, [(lora, WEIGHT / 2), (other, 0), (lora, WEIGHT / 2)], [], tmp_path / "made")
    expected = weights(merged)
    for place, values in weights(made).items():
        for a, b in zip(values, expected[place], strict=True):
            if not isinstance(a, str) and a.dtype.kind == "f":
                np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=2e-3, atol=1e-6)
    nothing = merge(model_folder, [(lora, 0)], [], tmp_path / "nothing")
    assert not list(nothing.path.rglob("merged.bin"))
    assert [each.weight for each in nothing.manifest.merged.loras] == [0]
    assert nothing.manifest.files == model_folder.manifest.files


def test_progress_counts_bytes_and_the_same_merge_again_does_nothing(model_folder, lora, tmp_path):
    seen: list[Progress] = []
    made = merge(model_folder, [(lora, WEIGHT)], [], tmp_path / "out", seen.append)
    steps = [p for p in seen if p.item != "checksums"]
    assert {(p.stage, p.item) for p in steps} == {("merging", "text_encoder"), ("merging", "unet")}
    assert [p.done for p in steps] == sorted(p.done for p in steps)
    assert steps[-1].done == steps[-1].total > 400_000
    before = (made.path / "anemone.json").stat().st_mtime_ns
    merge(model_folder, [(lora, WEIGHT)], [], tmp_path / "out", seen.clear)
    assert (made.path / "anemone.json").stat().st_mtime_ns == before
    file = next(made.path.rglob("merged.bin"))
    file.unlink()
    merge(model_folder, [(lora, WEIGHT)], [], tmp_path / "out")
    assert file.is_file()


class Cancelled(Exception):
    pass


def test_a_merge_that_ends_early_leaves_nothing(model_folder, lora, tmp_path, monkeypatch):
    def cancel(progress):
        if progress.item == "unet" and progress.done > 0.6 * progress.total:
            raise Cancelled

    with pytest.raises(Cancelled):
        merge(model_folder, [(lora, WEIGHT)], [], tmp_path / "out", cancel)
    assert [entry.name for entry in tmp_path.iterdir()] == [".out.lock"]
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(SpaceError, match="MB are free"):
        merge(model_folder, [(lora, WEIGHT)], [], tmp_path / "out")


def test_what_a_killed_merge_left_is_written_anew(model_folder, merged, lora, tmp_path):
    left = tmp_path / ".out.partial"
    (left / "tokenizer").mkdir(parents=True)
    text_encoder = merged.manifest.networks["text_encoder"][0].path
    shutil.copytree(merged.path / text_encoder, left / text_encoder)
    (left / "conversion.json").write_text(json.dumps({"fingerprint": merged.manifest.plan, "networks": {}}))
    made = merge(model_folder, [(lora, WEIGHT)], [], tmp_path / "out")
    made.compare(again=True)
    assert made.manifest == merged.manifest
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".out.lock", "out"]


def test_memory_counts_the_larger_of_what_was_and_what_is_in_its_place(model_folder, merged, tmp_path):
    unet = merged.package("unet", 64, 64)
    assert weight_bytes(unet) == weight_bytes(model_folder.package("unet", 64, 64)) > 400_000
    for file, size in (("weight.bin", 300), ("merged.bin", 700)):
        (tmp_path / file).write_bytes(bytes(size))
    assert weight_bytes(tmp_path) in (700, 1400)


def test_the_base_is_never_what_is_written(model_folder, lora, tmp_path):
    shutil.copytree(model_folder.path, tmp_path / "outer" / "base")
    shutil.copy(model_folder.path / "anemone.json", tmp_path / "outer")
    base = ModelFolder.open(tmp_path / "outer" / "base")
    (tmp_path / "link").symlink_to(base.path)
    before = (base.path / "anemone.json").read_bytes()
    for out in ("outer/base", "outer/base/new", "outer", "link/new"):
        with pytest.raises(MergeError, match="the base stays as it is; give a new folder"):
            merge(base, [(lora, WEIGHT)], [], tmp_path / out)
    assert (base.path / "anemone.json").read_bytes() == before
    assert not (base.path / "new").exists()


def test_a_base_that_changed_since_it_was_written_is_not_merged_into(model_folder, lora, tmp_path):
    shutil.copytree(model_folder.path, tmp_path / "base")
    file = tmp_path / "base" / model_folder.manifest.networks["unet"][0].path / DATA / "weights/weight.bin"
    raw = bytearray(file.read_bytes())
    raw[5000] ^= 1
    file.write_bytes(raw)
    with pytest.raises(Exception, match=r"weight\.bin has other content than was written"):
        merge(ModelFolder.open(tmp_path / "base"), [(lora, WEIGHT)], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


QUERY = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("part", "component", "target", "weight", "words"),
    [
        (
            "layers",
            "unet",
            "nowhere_to_q",
            1,
            "style changes nowhere_to_q_weight of unet, which the model does not have",
        ),
        ("layers", "text_encoder_2", "x", 1, "style changes x_weight of text_encoder_2, which the model does not have"),
        ("biases", "unet", QUERY, 1, f"style changes {QUERY}_bias of unet"),
        ("layers", "text_encoder", "text_model_encoder_layers_3_mlp_fc1", 1, "changes text_model_encoder_layers_3"),
        ("layers", "unet", "conv_in", 1, "conv_in_weight|of the model"),
        ("layers", "unet", QUERY, 1e7, f"{QUERY}_weight with style at 1e\\+07 has values beyond fp16's largest"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_wrong(
    model_folder, lora, tmp_path, part, component, target, weight, words
):
    only = {"layers": {}, "biases": {}} | {part: {component: {target: lora.layers["unet"][QUERY]}}}
    with pytest.raises(AnemoneError, match=words):
        merge(model_folder, [(replace(lora, **only), weight)], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("families", [("sdxl",), ("sd2", "sdxl")])
def test_a_lora_for_other_families_is_refused_with_what_it_is_for(model_folder, lora, tmp_path, families):
    with pytest.raises(MergeError, match=f"style is for {' or '.join(families)}, and the model is sd1"):
        merge(model_folder, [(replace(lora, families=families), 1)], [], tmp_path / "out")


def test_the_layer_after_the_last_that_is_used_is_noted_instead(model_folder, tmp_path, lora):
    layers = {"text_encoder": {"text_model_encoder_layers_2_mlp_fc1": lora.layers["unet"][QUERY]}}
    made = merge(model_folder, [(replace(lora, layers=layers), 1)], [], tmp_path / "out")
    assert made.manifest.left_out[-1] == "style changes the last layer of text_encoder, whose results nothing uses"


def test_a_few_step_lora_brings_its_defaults(model_folder, lora, tmp_path):
    few = replace(lora, few_step=FewStep(8, 1.0, "tcd"))
    made = merge(model_folder, [(few, 1)], [], tmp_path / "out")
    assert made.manifest.defaults == Defaults(steps=8, guidance_scale=1.0, scheduler="tcd")
    assert merge(model_folder, [(few, 0)], [], tmp_path / "off").manifest.defaults == model_folder.manifest.defaults


def test_a_bias_is_merged_in_the_scale_in_which_it_is_stored(model_folder, tmp_path):
    query = "text_model_encoder_layers_0_self_attn_q_proj"
    change = torch.linspace(-1, 1, 32)
    file = write(
        tmp_path / "biased.safetensors",
        {f"lora_te_{query}.diff": torch.ones(32, 32), f"lora_te_{query}.diff_b": change},
    )
    made = merge(model_folder, [(LoraFile.open(file), 0.5)], [], tmp_path / "out")
    before, after = (weights(folder)["text_encoder", 0, query, "bias"][0] for folder in (model_folder, made))
    np.testing.assert_allclose(after, before + 0.5 * change.numpy() / 4, atol=2**-10)  # the heads are 16 wide


def test_a_merged_model_or_one_of_an_earlier_version_is_no_base(model_folder, merged, lora, tmp_path):
    with pytest.raises(MergeError, match="is a merged model; take the one that it was made from"):
        merge(merged, [(lora, 1)], [], tmp_path / "out")
    old = ModelFolder(model_folder.path, replace(model_folder.manifest, files={}))
    with pytest.raises(MergeError, match=r"earlier version; convert the checkpoint again"):
        merge(old, [(lora, 1)], [], tmp_path / "out")
    shutil.copytree(model_folder.path, tmp_path / "unstated")
    unstated = ModelFolder(tmp_path / "unstated", model_folder.manifest)
    model = read_model(unstated.package("unet", 64, 64))
    del model.description.metadata.userDefined["app.anemone.scales"]
    (unstated.path / model_folder.manifest.networks["unet"][0].path / DATA / "model.mlmodel").write_bytes(
        model.SerializeToString()
    )
    with pytest.raises(MergeError, match="does not say how its weights are stored"):
        merge(unstated, [(lora, 1)], [], tmp_path / "out")


def dense_weight(folder, output):
    (op,) = (o for o in read_program(folder.package("unet", 64, 64)).operations if o.outputs == [output])
    return op.constants["weight"][0]


@pytest.mark.parametrize(
    "options",
    [
        ConvertOptions(bits=6),
        ConvertOptions(bits=4, group_size=8, target="macOS15"),
        ConvertOptions(bits=8, quantization="linear"),
    ],
    ids=["palette", "grouped palette", "linear"],
)
def test_a_compressed_weight_is_merged_as_it_was_decoded_and_kept_in_fp16(checkpoint, ct, tmp_path, lora, options):
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    base = convert(checkpoint, tmp_path / "base", replace(options, verify=False))
    layer = "mid_block_resnets_0_conv1"
    one = replace(lora, layers={"unet": {layer: lora.layers["unet"][layer]}})
    made = merge(base, [(one, WEIGHT)], [], tmp_path / "made")
    before, after = (dense_weight(folder, layer) for folder in (base, made))
    assert isinstance(before, Compressed)
    assert isinstance(dense_weight(made, "mid_block_resnets_0_conv2"), Compressed)
    expected = one.layers["unet"][layer].merged(before.dense().astype(np.float32), WEIGHT)
    np.testing.assert_array_equal(after, expected.astype(np.float16))
    path = made.package("unet", 64, 64)
    spec = ct.utils.load_spec(str(path))
    program = load_program(spec, spec.specificationVersion, str(path / DATA / "weights"))
    (conv,) = (op for op in program.functions["main"].operations if op.name == layer)
    np.testing.assert_array_equal(conv.weight.val, after)
