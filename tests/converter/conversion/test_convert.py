"""Conversion as a whole: what is written, when, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
from diffusers import DiffusionPipeline

from converter.conversion.convert import convert
from converter.conversion.partial import conversion_lock
from converter.errors import CheckpointError, ManifestError, MemoryShortage, SpaceError
from converter.folder import ModelFolder
from converter.manifest import Manifest
from converter.networks.layers import ATTENTIONS
from converter.options import ConvertOptions
from converter.runtime.program import read_model, read_program
from tests.support.checkpoints import tiny_unet, write_checkpoint

#: diffusers reads the scheduler alone.
WITHOUT_NETWORKS = {"unet": None, "vae": None, "text_encoder": None, "tokenizer": None, "feature_extractor": None}


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
    first = convert(checkpoint, tmp_path / "a", ConvertOptions(name="m"))
    second = convert(checkpoint, tmp_path / "b", ConvertOptions(name="m"))
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
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total
    assert list(dict.fromkeys(p.item for p in seen)) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]


def cut_off_at(network):
    def progress(p):
        if p.item == network:
            raise KeyboardInterrupt

    return progress


def test_a_conversion_that_is_cut_off_leaves_the_old_model_as_it_was(checkpoint, tmp_path):
    out = tmp_path / "out"
    convert(checkpoint, out, ConvertOptions())
    before = digests(out)
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, ConvertOptions(), cut_off_at("unet"))
    assert digests(out) == before


@pytest.mark.slow
def test_a_conversion_that_was_cut_off_keeps_the_networks_it_had_finished(checkpoint, tmp_path):
    whole = convert(checkpoint, tmp_path / "whole", ConvertOptions(name="m"))
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, ConvertOptions(name="m"), cut_off_at("vae_decoder"))
    assert not out.exists()
    tensors = []
    made = convert(checkpoint, out, ConvertOptions(name="m"), tensors.append)
    assert [p.item for p in tensors].count("unet") == 1  # only the word that it is done
    assert digests(made.path) == digests(whole.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


KILLED = """
import os, signal, sys
from pathlib import Path
from converter.conversion.convert import convert
from converter.options import ConvertOptions

def progress(p):
    if p.item == "vae_decoder" and p.stage == "converting":
        os.kill(os.getpid(), signal.SIGKILL)

convert(Path(sys.argv[1]), Path(sys.argv[2]), ConvertOptions(name="m", verify=False), progress)
"""


@pytest.mark.slow
def test_a_conversion_that_was_killed_keeps_the_networks_it_had_finished(checkpoint, tmp_path):
    out = tmp_path / "out"
    died = subprocess.run([sys.executable, "-c", KILLED, str(checkpoint), str(out)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert not out.exists()
    seen = []
    made = convert(checkpoint, out, ConvertOptions(name="m"), seen.append)
    assert {p.item for p in seen if p.stage == "verifying"} == {"vae_decoder", "vae_encoder"}
    whole = convert(checkpoint, tmp_path / "whole", ConvertOptions(name="m"))
    assert digests(made.path) == digests(whole.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.slow
def test_one_network_is_converted_again_and_the_others_are_kept(checkpoint, tmp_path):
    out = tmp_path / "out"
    made = convert(checkpoint, out, ConvertOptions(name="m"))
    decoder = made.package("vae_decoder", 64, 64) / "Manifest.json"
    before = decoder.stat().st_ino
    damaged = made.package("unet", 64, 64) / "Data/com.apple.CoreML/model.mlmodel"
    whole = digests(out)
    damaged.write_bytes(b"")
    seen = []
    convert(checkpoint, out, ConvertOptions(name="m"), seen.append, only=("unet",))
    assert digests(out) == whole
    assert decoder.stat().st_ino == before
    assert {p.item for p in seen if p.stage == "verifying"} == {"unet"}


def test_one_network_cannot_be_made_into_a_model_of_another_kind(checkpoint, tmp_path):
    out = tmp_path / "out"
    convert(checkpoint, out, ConvertOptions(name="m"))
    with pytest.raises(CheckpointError, match="convert all its networks"):
        convert(checkpoint, out, ConvertOptions(name="m", attention="original"), only=("unet",))
    with pytest.raises(CheckpointError, match="no network x; accepted: text_encoder, unet"):
        convert(checkpoint, out, ConvertOptions(name="m"), only=("x",))
    with pytest.raises(ManifestError, match="none does not exist"):
        convert(checkpoint, tmp_path / "none", ConvertOptions(name="m"), only=("unet",))


def test_networks_finished_with_other_options_are_converted_again(checkpoint, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, ConvertOptions(name="m"), cut_off_at("vae_decoder"))
    made = convert(checkpoint, out, ConvertOptions(name="m", attention="original"))
    kinds = {op.kind for op in read_program(made.package("unet", 64, 64)).operations}
    assert "matmul" in kinds
    assert "einsum" not in kinds


def test_two_conversions_into_one_folder_take_turns(tmp_path):
    out, order = tmp_path / "out", []

    def second():
        with conversion_lock(out):
            order.append("second")

    with conversion_lock(out):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


@pytest.mark.slow
def test_every_attention_and_batch_shares_the_same_weights(checkpoint, tmp_path):
    weights = set()
    for attention in ATTENTIONS:
        made = convert(checkpoint, tmp_path / attention, ConvertOptions(attention=attention, batches=(2, 1)))
        for package in made.packages("unet", 64, 64):
            file = made.path / package.path / "Data/com.apple.CoreML/weights/weight.bin"
            weights.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(weights) == 1


def test_the_tokenizer_of_a_checkpoint_saved_by_transformers_5_is_taken_apart(checkpoint, tmp_path):
    from transformers import CLIPTokenizer

    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    shutil.rmtree(source / "tokenizer")
    CLIPTokenizer.from_pretrained(checkpoint / "tokenizer").save_pretrained(source / "tokenizer")
    (source / "tokenizer" / "vocab.json").unlink(missing_ok=True)
    (source / "tokenizer" / "merges.txt").unlink(missing_ok=True)
    model = convert(source, tmp_path / "out", ConvertOptions())
    vocabulary = json.loads((checkpoint / "tokenizer" / "vocab.json").read_text())
    assert json.loads((model.tokenizer("tokenizer") / "vocab.json").read_text()) == vocabulary


@pytest.mark.slow
def test_sharded_weights_are_read_as_one(tmp_path):
    whole = write_checkpoint(tmp_path / "whole")
    sharded = tmp_path / "sharded"
    shutil.copytree(whole, sharded)
    shutil.rmtree(sharded / "unet")
    tiny_unet().half().save_pretrained(sharded / "unet", safe_serialization=True, max_shard_size="100KB")
    assert (sharded / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    a = convert(whole, tmp_path / "a", ConvertOptions(name="m"))
    b = convert(sharded, tmp_path / "b", ConvertOptions(name="m"))
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (a.package("unet", 64, 64) / weights).read_bytes() == (b.package("unet", 64, 64) / weights).read_bytes()


@pytest.mark.slow
def test_full_precision_weights_become_fp16(tmp_path, checkpoint):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    tiny_unet().float().save_pretrained(source / "unet", safe_serialization=True)
    a = convert(checkpoint, tmp_path / "a", ConvertOptions(name="m"))
    b = convert(source, tmp_path / "b", ConvertOptions(name="m"))
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
        ("unet", {"addition_embed_type": "image"}, "addition_embed_type = 'image'"),
        ("unet", {"in_channels": 8}, "in_channels = 8"),
        ("unet", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "AttnDownBlock2D"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        ("text_encoder", {"hidden_size": 64}, "states of text_encoder are 64 wide"),
        ("scheduler", {"prediction_type": "flow"}, "prediction_type = 'flow'"),
    ],
)
def test_an_architecture_we_do_not_convert_is_refused_by_name(checkpoint, tmp_path, component, changes, words):
    source = altered(checkpoint, tmp_path / "source", component, **changes)
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "out", ConvertOptions())
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_refused_with_the_reason(checkpoint, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    (source / "unet" / "diffusion_pytorch_model.safetensors").rename(source / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin.*can run any code"):
        convert(source, tmp_path / "out", ConvertOptions())


def test_a_file_that_is_cut_short_is_refused_by_name(checkpoint, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    weights = source / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        convert(source, tmp_path / "out", ConvertOptions())


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 8, b"\xff" * 64, b"\x10\x00\x00\x00\x00\x00\x00\x00{bad json xxxxxx"]
)
def test_rubbish_in_place_of_weights_is_refused_by_name(checkpoint, tmp_path, content):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    (source / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors"):
        convert(source, tmp_path / "out", ConvertOptions())


def test_a_folder_that_is_not_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"model_index\.json is missing"):
        convert(tmp_path, tmp_path / "out", ConvertOptions())


def test_a_size_the_network_cannot_halve_is_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="multiples of 8"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(sizes=((64, 76),)))


def test_a_model_distilled_without_guidance_gets_a_unet_of_one_row_and_few_steps(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "tiny-turbo")
    made = convert(tmp_path / "tiny-turbo", tmp_path / "out", ConvertOptions())
    assert [p.batch for p in made.packages("unet", 64, 64)] == [1]
    assert (made.manifest.defaults.guidance_scale, made.manifest.defaults.steps) == (1.0, 4)


@pytest.mark.parametrize("tokens", [(76,), (77, 308)])
def test_a_prompt_length_that_is_not_a_multiple_of_the_text_encoders_is_refused(checkpoint, tmp_path, tokens):
    with pytest.raises(CheckpointError, match="accepted: 77, 154, 231"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(tokens=tokens))


def test_too_little_memory_is_noticed_before_anything_is_written(checkpoint, tmp_path, monkeypatch):
    available = psutil.virtual_memory()._replace(available=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    with pytest.raises(MemoryShortage, match="1 MB are available"):
        convert(checkpoint, tmp_path / "out", ConvertOptions())
    assert list(tmp_path.iterdir()) == []


def test_progress_has_the_seconds_left(checkpoint, tmp_path):
    seen = []
    convert(checkpoint, tmp_path / "out", ConvertOptions(), seen.append)
    assert seen[0].eta_s > 0
    assert seen[-1].eta_s == 0


def test_a_full_disk_is_noticed_before_anything_is_written(checkpoint, tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))(total=10**9, used=10**9, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SpaceError, match="MB are free"):
        convert(checkpoint, tmp_path / "out", ConvertOptions())
    assert list(tmp_path.iterdir()) == []


def test_weights_are_stored_as_they_are_in_the_checkpoint(checkpoint, model_folder):
    from safetensors.numpy import load_file

    tensor = load_file(checkpoint / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    blob = (model_folder.package("unet", 64, 64) / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    assert np.ascontiguousarray(tensor).tobytes() in blob


@pytest.mark.parametrize(
    ("network", "file", "layers"),
    [
        ("unet", "unet/diffusion_pytorch_model.safetensors", r"(down|mid|up)_block.*_attn[12]_to_q"),
        ("text_encoder", "text_encoder/model.safetensors", r"text_model_encoder_layers_\d_self_attn_q_proj"),
        ("vae_decoder", "vae/diffusion_pytorch_model.safetensors", r".*_to_q"),
    ],
)
def test_a_package_states_by_which_factors_its_weights_are_multiplied(checkpoint, model_folder, network, file, layers):
    from safetensors.numpy import load_file

    path = model_folder.package(network, *(() if network == "text_encoder" else (64, 64)))
    scales = json.loads(read_model(path).description.metadata.userDefined["app.anemone.scales"])
    published = {name.replace(".", "_"): array for name, array in load_file(checkpoint / file).items()}
    stored = {
        name: array
        for op in read_program(path).operations
        for array in op.constants.get("weight", [])
        for name in op.outputs
    }
    scaled = {layer for layer in stored if re.fullmatch(layers, layer)}
    assert scaled == scales.keys()
    assert scaled or network == "vae_decoder"
    for layer in scales:
        expected = (published[f"{layer}_weight"] * np.float32(scales[layer])).astype(np.float16)
        np.testing.assert_array_equal(stored[layer].squeeze(), expected)
        assert scales[layer] < 1


def test_a_manifest_of_another_format_or_with_a_hole_is_refused_by_field(model_folder, tmp_path):
    shutil.copytree(model_folder.path, tmp_path / "m")
    path = tmp_path / "m" / "anemone.json"
    whole = json.loads(path.read_text())
    for changed, words in (
        (whole | {"format": 99}, "format 99"),
        ({k: v for k, v in whole.items() if k != "tokens"}, "tokens: Field required"),
        (whole | {"scheduler": {}}, "scheduler.num_train_timesteps: Field required"),
        (whole | {"sizes": [3]}, "sizes.0: .*array"),
        (whole | {"sizes": []}, "sizes: .*at least 1"),
        (whole | {"networks": []}, "networks: .*object"),
        (whole | {"networks": {"unet": []}}, "networks.unet: .*at least 1"),
        (whole | {"networks": {"unet": [{"path": "x"}]}}, "networks.unet.0.width: Field required"),
        *(
            (
                whole | {"networks": {"unet": [whole["networks"]["unet"][0] | {"path": there}]}},
                f"networks.unet.0.path: {words}",
            )
            for there, words in {
                "../x": ".*inside the model",
                "/etc": ".*inside",
                "": ".*inside",
                5: ".*string",
            }.items()
        ),
        (whole | {"latent_channels": None}, r"latent_channels: .*integer \(it is None\)"),
        (whole | {"latent_channels": -1}, "latent_channels: .*greater than or equal to 1"),
        (whole | {"vae_scaling_factor": float("nan")}, "vae_scaling_factor: "),
        (whole | {"vae_scaling_factor": 0}, "vae_scaling_factor: .*greater than 0"),
        (whole | {"left_out": 5}, "left_out: .*array"),
        (whole | {"name": ["x" * 10**6]}, r"name: .*\.\.\. \(1000004 characters\)"),
        (whole | {"scheduler": whole["scheduler"] | {"num_train_timesteps": 10**400}}, "num_train_timesteps: "),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ManifestError, match=words):
            Manifest.read(tmp_path / "m")
    path.write_text("[" * 100_000)
    with pytest.raises(ManifestError, match="is not JSON"):
        Manifest.read(tmp_path / "m")
    path.write_text(json.dumps(whole))
    shutil.rmtree(
        model_folder.package("unet", 64, 64).name and tmp_path / "m" / model_folder.package("unet", 64, 64).name
    )
    with pytest.raises(ManifestError, match=r"unet\.mlpackage is missing; convert tiny again"):
        ModelFolder.open(tmp_path / "m")


def test_a_manifest_of_an_earlier_version_lacks_fields_that_have_defaults(model_folder, tmp_path):
    written = json.loads((model_folder.path / "anemone.json").read_text())
    del written["scheduler"]["trained_betas"], written["scheduler"]["rescale_betas_zero_snr"]
    written["of_a_later_version"] = written["scheduler"]["of_a_later_version"] = 1
    (tmp_path / "anemone.json").write_text(json.dumps(written))
    assert Manifest.read(tmp_path) == model_folder.manifest


def test_a_manifest_without_a_required_field_is_refused_by_the_field(model_folder, tmp_path):
    written = json.loads((model_folder.path / "anemone.json").read_text())
    del written["scheduler"]["beta_start"]
    (tmp_path / "anemone.json").write_text(json.dumps(written))
    with pytest.raises(ManifestError, match=r"scheduler\.beta_start: Field required"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("there", ["photographs", "source", "a file", "a link"])
def test_a_path_that_is_not_a_model_stays_as_it_is(there, checkpoint, tmp_path):
    out = tmp_path / "out"
    if there == "photographs":
        out.mkdir()
        (out / "my-photos.txt").write_text("dear")
    elif there == "source":
        shutil.copytree(checkpoint, out)
    elif there == "a file":
        out.write_text("dear")
    else:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"out (exists and is not a converted model|is a link)"):
        convert(out if there == "source" else checkpoint, out, ConvertOptions())
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_a_path_without_a_folder_name_is_refused(name, checkpoint):
    with pytest.raises(CheckpointError, match="is not the name of a new folder"):
        convert(checkpoint, type(checkpoint)(name), ConvertOptions())


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"7",
        b'{"fingerprint": "x"}',
        b'{"fingerprint": "x", "networks": {"unet": [{"a": 1}]}}',
    ],
)
def test_a_damaged_partial_folder_is_converted_again(checkpoint, tmp_path, state):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "conversion.json").write_bytes(state)
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(verify=False))
    assert made.manifest.family == "sd1"
    assert not partial.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ConvertOptions(name="x" * 100_000),
            r"cannot be called 'x+\.\.\. \(100002 characters\); give a name of 1 to 100 bytes",
        ),
        (ConvertOptions(name=""), "cannot be called ''"),
        (ConvertOptions(name="a\x1b[2Jb"), r"cannot be called 'a\\x1b\[2Jb'"),
        (ConvertOptions(name="\udcff"), "cannot be called"),
        (
            ConvertOptions(sizes=((1_000_000, 1_000_000),)),
            "1000000x1000000 is not accepted; a side may have 64 to 4096",
        ),
        (ConvertOptions(sizes=((64, 56),)), "size 64x56 is not accepted; a side may have 64 to 4096 pixels"),
    ],
)
def test_a_name_or_size_that_no_model_has_is_refused(checkpoint, tmp_path, options, words):
    with pytest.raises(CheckpointError, match=words):
        convert(checkpoint, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "StableDiffusion3Pipeline"}, "StableDiffusion3Pipeline.*not supported"),
        ({"_class_name": "StableDiffusionInstructPix2PixPipeline"}, "InstructPix2Pix"),
        ({"_class_name": "AltDiffusionPipeline"}, "AltDiffusionPipeline"),
        ({"_class_name": ["x" * 10**6]}, r"model_index\.json names the pipeline \['x+\.\.\. \(1000004 characters\)"),
        ({"text_encoder": ["transformers", "T5EncoderModel"]}, "'T5EncoderModel' for text_encoder; .* CLIPTextModel"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "'AutoencoderTiny' for vae"),
        (
            {"scheduler": ["diffusers", "EDMEulerScheduler"]},
            "'EDMEulerScheduler'.*sampled in a way that is not supported",
        ),
    ],
)
def test_a_pipeline_of_other_classes_is_refused_by_name(checkpoint, tmp_path, changes, words):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    file = source / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "out", ConvertOptions())


def test_the_scheduler_is_of_the_class_that_model_index_names(checkpoint, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    file, settings = source / "model_index.json", source / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scheduler": ["diffusers", "HeunDiscreteScheduler"]}))
    said = json.loads(settings.read_text())
    settings.write_text(json.dumps({k: v for k, v in said.items() if k != "beta_start"}))
    # HeunDiscreteScheduler's default is 0.00085, and that of DDIMScheduler, which the settings name, is 0.0001.
    made = convert(source, tmp_path / "out", ConvertOptions(verify=False))
    assert made.manifest.scheduler.beta_start == 0.00085
    expected = DiffusionPipeline.from_pretrained(source, safety_checker=None, **WITHOUT_NETWORKS).scheduler
    assert expected.config.beta_start == 0.00085
