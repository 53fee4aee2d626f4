"""Conversion as a whole: what is written, when, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from checkpoints import tiny_unet, write_checkpoint

from converter.convert import ConvertOptions, convert
from converter.errors import CheckpointError, ManifestError, SpaceError
from converter.folder import NETWORKS, Manifest, ModelFolder


def quietly(progress):
    pass


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_manifest_says_what_a_server_needs(model_folder):
    manifest = Manifest.read(model_folder.path)
    assert manifest.family == "sd1"
    assert manifest.prediction_type == "epsilon"
    assert manifest.sizes == ((64, 64), (96, 64))
    assert (manifest.vae_scale_factor, manifest.vae_scaling_factor) == (8, 0.18215)
    assert (manifest.attention, manifest.precision, manifest.tokens) == ("split_einsum", "float16", 77)
    assert manifest.scheduler.beta_end == 0.012
    assert len(manifest.source.sha256) == 64
    assert manifest.converter.coremltools == "9.0"


def test_converting_twice_gives_the_same_bytes(checkpoint, tmp_path):
    first = convert(checkpoint, tmp_path / "a", ConvertOptions(name="m"), quietly)
    second = convert(checkpoint, tmp_path / "b", ConvertOptions(name="m"), quietly)
    assert digests(first.path) == digests(second.path)


def test_a_second_size_shares_the_weights_of_the_first(model_folder):
    for network in ("unet", "vae_decoder", "vae_encoder"):
        weights = [
            model_folder.package(network, width, 64) / "Data/com.apple.CoreML/weights/weight.bin" for width in (64, 96)
        ]
        assert os.path.samefile(*weights)


def test_progress_ends_at_the_total_and_never_goes_back(checkpoint, tmp_path):
    seen = []
    convert(checkpoint, tmp_path / "out", ConvertOptions(), seen.append)
    assert [p.done_bytes for p in seen] == sorted(p.done_bytes for p in seen)
    assert seen[-1].done_bytes == seen[-1].total_bytes
    assert list(dict.fromkeys(p.network for p in seen)) == list(NETWORKS)


def test_a_conversion_that_is_cut_off_leaves_the_old_model_and_no_half_one(checkpoint, tmp_path):
    out = tmp_path / "out"
    convert(checkpoint, out, ConvertOptions(), quietly)
    before = digests(out)

    def cut_off(progress):
        if progress.network == "unet":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, ConvertOptions(), cut_off)
    assert digests(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_tokenizer_of_a_checkpoint_saved_by_transformers_5_is_taken_apart(checkpoint, tmp_path):
    from transformers import CLIPTokenizer

    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    shutil.rmtree(source / "tokenizer")
    CLIPTokenizer.from_pretrained(checkpoint / "tokenizer").save_pretrained(source / "tokenizer")
    (source / "tokenizer" / "vocab.json").unlink(missing_ok=True)
    (source / "tokenizer" / "merges.txt").unlink(missing_ok=True)
    found = convert(source, tmp_path / "out", ConvertOptions(), quietly)
    whole = json.loads((checkpoint / "tokenizer" / "vocab.json").read_text())
    assert json.loads((found.tokenizer / "vocab.json").read_text()) == whole


def test_sharded_weights_are_read_as_one(tmp_path):
    whole = write_checkpoint(tmp_path / "whole")
    sharded = tmp_path / "sharded"
    shutil.copytree(whole, sharded)
    shutil.rmtree(sharded / "unet")
    tiny_unet().half().save_pretrained(sharded / "unet", safe_serialization=True, max_shard_size="100KB")
    assert (sharded / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    a = convert(whole, tmp_path / "a", ConvertOptions(name="m"), quietly)
    b = convert(sharded, tmp_path / "b", ConvertOptions(name="m"), quietly)
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (a.package("unet", 64, 64) / weights).read_bytes() == (b.package("unet", 64, 64) / weights).read_bytes()


def test_full_precision_weights_become_halves(tmp_path, checkpoint):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    tiny_unet().float().save_pretrained(source / "unet", safe_serialization=True)
    a = convert(checkpoint, tmp_path / "a", ConvertOptions(name="m"), quietly)
    b = convert(source, tmp_path / "b", ConvertOptions(name="m"), quietly)
    sizes = [(f.package("unet", 64, 64) / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for f in (a, b)]
    assert sizes[0] == sizes[1]


def altered(checkpoint, folder, component, **changes):
    shutil.copytree(checkpoint, folder)
    path = folder / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("component", "changes", "words"),
    [
        ("unet", {"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
        ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type = 'text_time'"),
        ("unet", {"in_channels": 9}, "in_channels = 9"),
        ("unet", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "AttnDownBlock2D"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ("text_encoder", {"hidden_size": 64}, "hidden_size = 64"),
        ("scheduler", {"prediction_type": "flow"}, "prediction_type = 'flow'"),
    ],
)
def test_an_architecture_we_do_not_convert_is_refused_by_name(checkpoint, tmp_path, component, changes, words):
    source = altered(checkpoint, tmp_path / "source", component, **changes)
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "out", ConvertOptions(), quietly)
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_refused_with_the_reason(checkpoint, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    (source / "unet" / "diffusion_pytorch_model.safetensors").rename(source / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin.*can run any code"):
        convert(source, tmp_path / "out", ConvertOptions(), quietly)


def test_a_file_that_is_cut_short_is_refused_by_name(checkpoint, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    weights = source / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        convert(source, tmp_path / "out", ConvertOptions(), quietly)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 8, b"\xff" * 64, b"\x10\x00\x00\x00\x00\x00\x00\x00{bad json xxxxxx"]
)
def test_rubbish_in_place_of_weights_is_refused_by_name(checkpoint, tmp_path, content):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    (source / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors"):
        convert(source, tmp_path / "out", ConvertOptions(), quietly)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"model_index\.json is missing"):
        convert(tmp_path, tmp_path / "out", ConvertOptions(), quietly)


def test_a_size_the_network_cannot_halve_is_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="multiples of 16"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(sizes=((64, 72),)), quietly)


def test_a_full_disk_is_noticed_before_anything_is_written(checkpoint, tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))(total=10**9, used=10**9, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SpaceError, match="MB are free"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(), quietly)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_stored_as_they_are_in_the_checkpoint(checkpoint, model_folder):
    from safetensors.numpy import load_file

    tensor = load_file(checkpoint / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    blob = (model_folder.package("unet", 64, 64) / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    assert np.ascontiguousarray(tensor).tobytes() in blob


def test_a_manifest_of_another_format_or_with_a_hole_is_refused_by_field(model_folder, tmp_path):
    shutil.copytree(model_folder.path, tmp_path / "m")
    path = tmp_path / "m" / "anemone.json"
    whole = json.loads(path.read_text())
    for changed, words in (
        (whole | {"format": 99}, "format 99"),
        ({k: v for k, v in whole.items() if k != "tokens"}, "'tokens'"),
        (whole | {"scheduler": {}}, "'scheduler'"),
        (whole | {"sizes": [3]}, "'sizes'"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ManifestError, match=words):
            Manifest.read(tmp_path / "m")
    path.write_text(json.dumps(whole))
    shutil.rmtree(
        model_folder.package("unet", 64, 64).name and tmp_path / "m" / model_folder.package("unet", 64, 64).name
    )
    with pytest.raises(ManifestError, match="lacks the package"):
        ModelFolder.open(tmp_path / "m")
