"""Apple's Resources folders, written from models of ours and read again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from converter.apple import AppleSettings, adopt
from converter.apple.resources import write_resources
from converter.apple.swift import SwiftError, require_readable, require_unet, select
from converter.conversion.convert import convert
from converter.conversion.planning import make_plan
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.manifest import Defaults, Merged, MergedEmbedding, Package
from converter.options import ConvertOptions
from converter.runtime.program import own_features
from converter.runtime.summary import read_summary
from converter.sources.source import open_source
from server.cli.main import main
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import tiny_unet, write_checkpoint, write_xl_checkpoint
from tests.support.controlnets import write_controlnet
from tests.support.image_files import encoded_pixels
from tests.support.mil_text import compiled
from tests.support.safety_checkers import write_checker

pytestmark = pytest.mark.slow

SIZE = (64, 64)
MAP = encoded_pixels(np.random.default_rng(7).integers(0, 256, (64, 64, 3), np.uint8))
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
#: What the pipelines of swift/StableDiffusion give to and take from the models they find by these names. The text encoder's
#: and the autoencoder's one input, and the UNet's and the autoencoder's one output, they take by whatever name it has.
SWIFT = {
    "TextEncoder": ({"input_ids"}, {"last_hidden_state"}),
    "Unet": ({"sample", "timestep", "encoder_hidden_states"}, {"noise_pred"}),
    "ControlledUnet": ({"sample", "timestep", "encoder_hidden_states"}, {"noise_pred"}),
    "VAEDecoder": ({"z"}, {"image"}),
    "VAEEncoder": ({"x"}, {"latent"}),
    "SafetyChecker": ({"clip_input", "images", "adjustment"}, {"has_nsfw_concepts"}),
    "controlnet/ScribbleV2": ({"sample", "timestep", "encoder_hidden_states", "controlnet_cond"}, set()),
}
XL = {
    "TextEncoder": ({"input_ids"}, {"hidden_embeds", "pooled_outputs"}),
    "TextEncoder2": ({"input_ids"}, {"hidden_embeds", "pooled_outputs"}),
    "Unet": ({"sample", "timestep", "encoder_hidden_states", "time_ids", "text_embeds"}, {"noise_pred"}),
    "UnetRefiner": ({"sample", "timestep", "encoder_hidden_states", "time_ids", "text_embeds"}, {"noise_pred"}),
    "VAEDecoder": ({"z"}, {"image"}),
    "VAEEncoder": ({"x"}, {"latent"}),
}


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    """A model of two sizes with a ControlNet and a safety checker; not to be changed."""
    folder = tmp_path_factory.mktemp("sd")
    source = write_checkpoint(folder / "source")
    options = ConvertOptions(
        verify=False,
        sizes=(SIZE, (512, 512)),
        batches=(1, 2),
        tokens=(154, 77),
        controlnets=(str(write_controlnet(source, folder / "scribble_v2")),),
        safety_checker=write_checker(folder / "checker", 0.5),
    )
    return convert(source, folder / "model", options)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """SDXL's model and its refiner."""
    folder = tmp_path_factory.mktemp("xl")
    models = []
    for name in ("base", "refiner"):
        source = write_xl_checkpoint(folder / f"{name}-source", refiner=name == "refiner")
        models.append(convert(source, folder / name, ConvertOptions(verify=False, batches=(1, 2))))
    return models


@pytest.fixture
def model(sd, tmp_path):
    """A copy of the model by hard links."""
    shutil.copytree(sd.path, tmp_path / "model", copy_function=shutil.os.link)
    return ModelFolder.open(tmp_path / "model")


@pytest.fixture
def no_xcode(monkeypatch, tmp_path):
    """A machine without xcrun."""
    monkeypatch.setenv("PATH", str(tmp_path))


def xcrun(folder, monkeypatch, script):
    """Put a double of Xcode's xcrun on the path; arguments are `compile PACKAGE FOLDER` from the second on."""
    (folder / "xcrun").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "xcrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def image_of(folder, *controls):
    model = StableDiffusion(folder, {})
    named = [{"net": name, "image": "map"} for name in controls]
    fields = {"prompt": "red", "negative_prompt": "blue", "steps": 2, "guidance_scale": 5, "seed": 4}
    request = bind(model.manifest, **fields, **({"controls": named} if named else {}))
    return next(e for e in model.generate(request, {"map": MAP}) if isinstance(e, GeneratedImage)).pixels


def names_in(folder):
    return {str(p.relative_to(folder).with_suffix("")) for p in folder.glob("**/*.ml*") if p.is_dir()}


def inode(path):
    return path.stat().st_ino


def with_manifest(model, **changes):
    return ModelFolder(model.path, replace(model.manifest, **changes))


def with_packages(model, network, *packages):
    return with_manifest(model, networks=model.manifest.networks | {network: packages})


def without(model, network):
    return with_manifest(model, networks={n: p for n, p in model.manifest.networks.items() if n != network})


def only(model, network, **fields):
    """The model with those packages of a network that have these fields."""
    packages = model.manifest.networks[network]
    return with_packages(
        model, network, *(p for p in packages if all(getattr(p, name) == value for name, value in fields.items()))
    )


def check(folder, expected):
    """Check that the models in the folder take and give what the Swift package gives and takes."""
    assert names_in(folder) == set(expected)
    for name, (inputs, outputs) in expected.items():
        found = read_summary(folder / f"{name}.mlpackage")
        residuals = {i for i in found.inputs if i.startswith("additional_residual_")}
        assert set(found.inputs) - residuals == inputs, name
        assert bool(residuals) == (name == "ControlledUnet")
        assert outputs <= set(found.outputs), name
        if name.startswith(("Unet", "Controlled", "controlnet")):
            assert found.inputs["sample"].shape[:2] == (2, 4)
            assert found.inputs["encoder_hidden_states"].shape[2:] == (1, 77)


def test_a_folder_has_the_models_that_the_swift_package_finds(model, no_xcode):
    written = write_resources(model, size=(512, 512))
    assert (written.path, written.size, written.compiled) == (model.path / "Resources", (512, 512), False)
    check(written.path, SWIFT)
    residuals = set(read_summary(written.path / "controlnet/ScribbleV2.mlpackage").outputs)
    assert residuals < set(read_summary(written.path / "ControlledUnet.mlpackage").inputs)
    assert {p.name for p in written.path.iterdir() if p.suffix != ".mlpackage"} == {
        "vocab.json",
        "merges.txt",
        "controlnet",
    }
    assert written.notes == ("left out: 64x64; such a folder has one size (512x512)",)


def test_weights_are_shared_with_the_model(model, no_xcode):
    written = write_resources(model).path
    unet = model.path / model.best("unet", *SIZE, batch=2, tokens=77).path
    assert inode(written / "Unet.mlpackage" / WEIGHTS) == inode(unet / WEIGHTS)
    # coremltools writes a package's Manifest.json anew whenever it opens it.
    assert inode(written / "Unet.mlpackage/Manifest.json") != inode(unet / "Manifest.json")


def test_an_image_from_the_folder_is_the_models_own(model, no_xcode):
    written = write_resources(model)
    again = adopt(written.path, AppleSettings())
    np.testing.assert_array_equal(image_of(again), image_of(model))
    # What adopting has written there does not keep it from being replaced.
    assert write_resources(model).path == written.path


def test_a_folders_controlnets_and_safety_checker_are_used(model, tmp_path, no_xcode):
    written = write_resources(model).path
    again = adopt(written, AppleSettings())
    assert [p.control for p in again.manifest.networks["unet"]] == [False, True]
    expected = image_of(model, "scribble_v2")
    np.testing.assert_array_equal(image_of(again, "ScribbleV2"), expected)
    assert np.any(expected != image_of(model))
    large = adopt(write_resources(model, tmp_path / "large", (512, 512)).path, AppleSettings())
    assert large.manifest.networks["safety_checker"] == (Package("SafetyChecker.mlpackage", 512, 512, 1),)
    assert large.manifest.left_out == ()


def test_controlnets_that_do_not_fit_are_left_out_with_the_reason(model, tmp_path, no_xcode):
    written, large = write_resources(model).path, write_resources(model, tmp_path / "large", (512, 512)).path
    # Apps keep ControlNets of several models in one folder.
    shutil.copytree(large / "controlnet/ScribbleV2.mlpackage", written / "controlnet/Large.mlpackage")
    (written / "controlnet/Broken.mlpackage").mkdir()
    broken, other = adopt(written, AppleSettings()).manifest.left_out
    assert broken.startswith("controlnet/Broken.mlpackage: ")
    assert other == "controlnet/Large.mlpackage: it is not for 2 rows of 64x64, as the UNet is"
    twin = written / "ControlledUnet.mlpackage"
    shutil.rmtree(twin)
    without = adopt(written, AppleSettings()).manifest
    shutil.copytree(large / twin.name, twin)
    mismatched = adopt(written, AppleSettings()).manifest
    assert f"{twin.name}: its inputs are not the UNet's" in mismatched.left_out
    for manifest, why in (
        (without, "there is no UNet that takes its outputs"),
        (mismatched, f"{twin.name} cannot take its outputs"),
    ):
        assert f"controlnet/ScribbleV2.mlpackage: {why}" in manifest.left_out
        assert list(manifest.networks) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]


def test_what_our_packages_say_need_not_be_asked_for(model, no_xcode):
    manifest = adopt(write_resources(model).path, AppleSettings()).manifest
    assert (manifest.name, manifest.prediction_type) == (model.manifest.name, "epsilon")
    assert manifest.vae_scaling_factor == model.manifest.vae_scaling_factor


def test_a_noise_schedule_and_defaults_of_its_own_are_kept(tmp_path, no_xcode):
    source = write_checkpoint(tmp_path / "source", prediction_type="v_prediction")
    file = source / "scheduler" / "scheduler_config.json"
    own = {"beta_end": 0.02, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    recommended = {"steps": 9, "guidance_scale": 2.5, "scheduler": "ddim"}
    (source / "anemone-defaults.json").write_text(json.dumps(recommended))
    model = convert(source, tmp_path / "model", ConvertOptions(name="own", verify=False, chunks=2))
    adopted = adopt(write_resources(model).path, AppleSettings())
    assert model.manifest.scheduler.beta_end == 0.02
    assert adopted.manifest.scheduler == model.manifest.scheduler
    assert adopted.manifest.defaults == model.manifest.defaults == Defaults(9, 2.5, "ddim")
    np.testing.assert_array_equal(image_of(adopted), image_of(model))


def test_xcodes_compiler_compiles_them_and_weights_stay_shared(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    packages = write_resources(model, tmp_path / "packages").path
    double = tmp_path / "compiled"
    for package in packages.glob("**/*.mlpackage"):
        (double / package.relative_to(packages)).parent.mkdir(parents=True, exist_ok=True)
        compiled(package, double / package.relative_to(packages).with_suffix(".mlmodelc"))
    xcrun(
        tmp_path,
        monkeypatch,
        f'test "$1" = --find || cp -R "$(find {double} -name "$(basename "$3" .mlpackage).mlmodelc")" "$4"',
    )
    reported = []
    written = write_resources(model, report=reported.append)
    assert written.compiled
    assert sorted(reported) == sorted(names_in(packages))
    assert names_in(written.path) == names_in(packages)
    assert not list(written.path.glob("**/*.mlpackage"))
    unet = model.path / model.best("unet", *SIZE, batch=2, tokens=77).path
    assert inode(written.path / "Unet.mlmodelc/weights/weight.bin") == inode(unet / WEIGHTS)
    np.testing.assert_array_equal(image_of(adopt(written.path, AppleSettings())), image_of(model))


def test_what_the_compiler_says_is_passed_on_and_nothing_is_left(model, tmp_path, monkeypatch):
    before = sorted(model.path.iterdir())
    xcrun(tmp_path, monkeypatch, 'test "$1" = --find || { echo "error: no such weights" >&2; exit 1; }')
    with pytest.raises(AnemoneError, match=r"coremlcompiler could not compile TextEncoder\.mlpackage: error: no such"):
        write_resources(model)
    assert sorted(model.path.iterdir()) == before


def test_without_xcode_itself_they_stay_packages(model, tmp_path, monkeypatch, capsys):
    xcrun(tmp_path, monkeypatch, "exit 72")
    assert main(["resources", str(model.path), "--size", "64x64", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "left out: safety_checker, which takes images [1, 64, 64, 3]" in said
    assert "xcrun coremlcompiler compile" in said
    assert f"{tmp_path / 'out'}: for Apple's Swift package, 64x64" in said
    assert "SafetyChecker" not in names_in(tmp_path / "out")


def test_a_unet_in_two_chunks_is_found_by_the_names_of_both(checkpoint, model_folder, tmp_path, no_xcode):
    made = convert(checkpoint, tmp_path / "model", ConvertOptions(chunks=2, verify=False))
    written = write_resources(made).path
    assert names_in(written) == {"TextEncoder", "UnetChunk1", "UnetChunk2", "VAEDecoder", "VAEEncoder"}
    # Swift's Unet takes the latents' shape from the first chunk's description, and the only output of the last.
    first, last = (own_features(written / f"UnetChunk{n}.mlpackage") for n in (1, 2))
    assert "sample" in first[0]
    assert list(last[1]) == ["noise_pred"]
    # It gives a chunk the network's inputs and what the chunk before it hands over.
    assert set(last[0]) <= {"timestep", "encoder_hidden_states", *first[1]}
    again = adopt(written, AppleSettings())
    np.testing.assert_array_equal(image_of(again), image_of(model_folder))


def test_a_unet_in_more_than_two_chunks_is_refused(model):
    unet = model.path / model.best("unet", *SIZE, batch=2, tokens=77).path
    for n in (1, 2, 3):
        shutil.copytree(unet, unet.with_name(f"unet_chunk{n}.mlpackage"))
    package = replace(model.manifest.networks["unet"][0], path="unet_chunk1.mlpackage", tokens=77, batch=2)
    with pytest.raises(
        SwiftError, match=r"Unet: it is in 3 chunks; of a UNet two are found \(--chunks 2\), of other networks one"
    ):
        select(with_packages(model, "unet", package))


def test_a_text_encoder_in_two_chunks_is_refused(model):
    text = model.path / model.manifest.networks["text_encoder"][0].path
    for n in (1, 2):
        shutil.copytree(text, text.with_name(f"text_chunk{n}.mlpackage"))
    cut = with_packages(model, "text_encoder", Package("text_chunk1.mlpackage", None, None, 1))
    with pytest.raises(
        SwiftError,
        match=r"TextEncoder: it is in 2 chunks; of a UNet two are found \(--chunks 2\), of other networks one",
    ):
        select(cut)


def test_an_xl_folder_has_a_refiner_too(xl, tmp_path, no_xcode):
    base, refiner = xl
    written = write_resources(base, tmp_path / "out", refiner=refiner)
    check(written.path, XL)
    assert read_summary(written.path / "UnetRefiner.mlpackage").inputs["time_ids"].shape == (2, 5)
    assert written.notes == (
        "the app must set encoderScaleFactor and decoderScaleFactor to 0.13025, which StableDiffusionSample --xl does",
    )
    assert main(["resources", str(base.path), "-o", str(tmp_path / "out"), "--refiner", str(refiner.path)]) == 0


def test_a_refiner_alone_is_the_folders_unet(xl, tmp_path, no_xcode):
    assert names_in(write_resources(xl[1], tmp_path / "out").path) == {
        "TextEncoder2",
        "Unet",
        "VAEDecoder",
        "VAEEncoder",
    }


def test_a_refiner_for_another_model_is_refused(sd, xl):
    with pytest.raises(SwiftError, match="sdxl and sdxl, not sdxl and sdxl_refiner"):
        select(xl[0], refiner=xl[0])
    with pytest.raises(SwiftError, match="sd1 and sdxl_refiner"):
        select(sd, refiner=xl[1])


def test_what_the_pipelines_cannot_read_is_refused_with_what_to_convert(sd, xl):
    functions = [replace(p, path="one.mlpackage", function=f"f{n}") for n, p in enumerate(sd.manifest.networks["unet"])]
    conditions = replace(sd.manifest.conditions, guidance_width=16)
    refused = {
        "accepted: 64x64, 512x512": lambda: select(sd, (64, 128)),
        "without --prompt-once": lambda: select(
            with_packages(sd, "unet_prompt", *sd.manifest.networks["text_encoder"])
        ),
        "without --functions": lambda: select(with_packages(sd, "unet", *functions)),
        "convert with --tokens 77 too": lambda: select(only(sd, "unet", tokens=154)),
        r"the guidance scale as an input \(LCM\)": lambda: select(with_manifest(sd, conditions=conditions)),
        "a ControlNet it gives 2 rows": lambda: select(only(sd, "unet", batch=1)),
        "XL it gives 2 rows at once; convert with --batch 2": lambda: select(only(xl[0], "unet", batch=1)),
    }
    for words, call in refused.items():
        with pytest.raises(SwiftError, match=words):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_once": True}, "without --prompt-once"),
        ({"functions": True, "target": "macOS15"}, "without --functions"),
        ({"tokens": (154,)}, "--tokens 77"),
        ({"chunks": 3}, "3 chunks; 2 are found; convert with --chunks 2"),
    ],
)
def test_options_that_cannot_be_read_are_refused_before_a_conversion(options, words):
    require_readable(ConvertOptions(tokens=(77, 154), chunks=2))
    with pytest.raises(SwiftError, match=words):
        require_readable(ConvertOptions(**options))


def test_a_place_where_no_folder_can_be_made_is_refused_by_its_name(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["resources", str(tmp_path), "-o", str(tmp_path / "file" / "out")]) == 1
    assert "file/out cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unet", "options", "words"),
    [
        ({"in_channels": 9}, {}, r"9 channels \(inpainting\); 4 are given"),
        ({"time_cond_proj_dim": 16}, {}, r"the guidance scale as an input \(LCM\)"),
        (
            {},
            {"batches": (1,), "controlnets": True},
            "a ControlNet it gives 2 rows at once; convert with --batch 2 too",
        ),
    ],
)
def test_models_that_cannot_be_read_are_refused_before_a_conversion(tmp_path, unet, options, words):
    source = write_checkpoint(tmp_path / "source", unet=tiny_unet(**unet))
    if "controlnets" in options:
        options = options | {"controlnets": (str(write_controlnet(source, tmp_path / "canny")),)}
    plan = make_plan(open_source(source), ConvertOptions(**options))
    conditions, channels = plan.family.conditions(plan.checkpoint.index), plan.config("unet")["in_channels"]
    with pytest.raises(SwiftError, match=words):
        require_unet(conditions, channels, plan.batches, control=plan.controlled)


def test_an_inpainting_model_is_refused(tmp_path):
    source = write_checkpoint(tmp_path / "source", unet=tiny_unet(in_channels=9))
    with pytest.raises(SwiftError, match=r"9 channels \(inpainting\); 4 are given"):
        select(convert(source, tmp_path / "model", ConvertOptions(verify=False)))


def test_what_an_app_must_bring_itself_is_said(sd):
    manifest = sd.manifest
    changed = with_manifest(
        sd,
        prediction_type="v_prediction",
        vae_scaling_factor=0.5,
        scheduler=replace(manifest.scheduler, rescale_betas_zero_snr=True),
        merged=Merged("base", (), (MergedEmbedding("cat-toy", "0" * 64, 2, {"text_encoder": 1000}),)),
    )
    changed = with_packages(without(changed, "vae_encoder"), "preview_decoder", *manifest.networks["vae_decoder"])
    said = "\n".join(select(changed).notes)
    for words in (
        "left out: preview_decoder",
        "predicts v_prediction",
        "the words of the embeddings cat-toy; apps read them as text",
        "the noise schedule",
        "decoderScaleFactor to 0.5",
        "no image to image",
    ):
        assert words in said


def test_a_folder_with_something_else_in_it_stays(model, no_xcode):
    (model.path / "Resources").mkdir()
    (model.path / "Resources/mine.txt").write_text("mine")
    with pytest.raises(SwiftError, match=r"holds mine\.txt, which is not replaced; .*--out"):
        write_resources(model)
    assert [p.name for p in (model.path / "Resources").iterdir()] == ["mine.txt"]


def test_lines_of_merges_end_as_the_swift_package_reads_them(model, tmp_path, no_xcode):
    merges = model.tokenizer("tokenizer") / "merges.txt"
    lines = merges.read_bytes()
    merges.unlink()
    merges.write_bytes(lines.rstrip(b"\n").replace(b"\n", b"\r\n"))
    written = (write_resources(model, tmp_path / "out").path / "merges.txt").read_bytes()
    assert written == lines.rstrip(b"\n") + b"\n"


def test_a_conversion_lays_the_folder_out_and_a_later_one_removes_it(tmp_path, no_xcode, capsys):
    source, out = write_checkpoint(tmp_path / "source"), tmp_path / "model"
    convert_it = ["convert", str(source), "-o", str(out), "--no-verify"]
    assert main([*convert_it, "--resources"]) == 0
    assert f"{out / 'Resources'}: for Apple's Swift package, 64x64" in capsys.readouterr().out
    assert names_in(out / "Resources") == {"TextEncoder", "Unet", "VAEDecoder", "VAEEncoder"}
    assert ModelFolder.open(out).manifest.sizes == (SIZE,)
    # They would be of the model before.
    assert main(convert_it) == 0
    assert not (out / "Resources").exists()
    assert main([*convert_it, "--resources", "--prompt-once"]) == 1
