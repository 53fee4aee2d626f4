"""Folders of Apple's converter as models, against our own folders of the same checkpoints."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from converter.apple import ACCEPTED, AppleSettings, AppleSettingsError, adopt, is_apple, option, recognize_apple
from converter.apple.model import attention_implementation
from converter.apple.settings import settle
from converter.conversion.convert import convert
from converter.errors import CheckpointError
from converter.folder import ModelFolder
from converter.lint.packages import packages_in
from converter.mil.mlproto import ml
from converter.options import ConvertOptions
from converter.runtime import Feature, PackageError, load
from converter.runtime.program import read_model
from converter.runtime.summary import Operation, ProgramSummary
from converter.sources.clip_vocabulary import tokenizer_files
from server.cli.main import main
from server.models.library import ready_model
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.apple_chunks import cut_in_two
from tests.support.checkpoints import (
    SIDE,
    TEXT_WIDTH,
    tiny_unet,
    tiny_vae,
    write_checkpoint,
    write_tokenizer,
    write_xl_checkpoint,
)
from tests.support.mil_packages import psnr
from tests.support.mil_text import compiled

pytestmark = pytest.mark.slow

#: Stable Diffusion 1's width of the prompt's states, in an otherwise tiny model.
PUBLISHED = {"unet": {"cross_attention_dim": 768}, "text": {"hidden_size": 768}}
SWIFT = {
    "text_encoder": "TextEncoder",
    "text_encoder_2": "TextEncoder2",
    "unet": "Unet",
    "vae_decoder": "VAEDecoder",
    "vae_encoder": "VAEEncoder",
    "unet_chunk1": "UnetChunk1",
    "unet_chunk2": "UnetChunk2",
}


def changed(package, change):
    """Change a package's model message where it lies."""
    model = read_model(package)
    change(model)
    (package / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())


def as_apple_writes_it(ours, out, version):
    """Our packages with Apple's metadata in the place of ours; the first program of each network, as Apple has one."""
    out.mkdir(parents=True)
    for network, (package, *_) in ours.manifest.networks.items():
        path = out / f"Stable_Diffusion_version_{version.replace('/', '_')}_{network}.mlpackage"
        shutil.copytree(ours.path / package.path, path)

        def change(model, network=network):
            about = model.description.metadata
            about.userDefined.clear()
            about.userDefined["com.github.apple.coremltools.version"] = "8.1"
            if network == "unet":
                about.userDefined["com.github.apple.ml-stable-diffusion.version"] = "1.1.0"
            about.versionString = version
            # ct.convert need not declare the shapes of outputs.
            for output in model.description.output:
                del output.type.multiArrayType.shape[:]

        changed(path, change)
    return out


def pair(folder, source, version="someone/tiny-model", **options):
    """Our folder of a checkpoint and Apple's."""
    ours = convert(source, folder / "ours", ConvertOptions(name=version, verify=False, **options))
    return ours, as_apple_writes_it(ours, folder / "apple", version)


def tiny(folder, *, unet=None, text=None, vae=None, **settings):
    return write_checkpoint(
        folder / "source", unet=tiny_unet(**(unet or {})), vae=tiny_vae(**(vae or {})), text=text, **settings
    )


def image_of(folder, **fields):
    model = StableDiffusion(folder, {})
    given = {"prompt": "red", "negative_prompt": "blue", "steps": 3, "guidance_scale": 5, "seed": 4} | fields
    events = model.generate(bind(model.manifest, **given), {})
    return next(e for e in events if isinstance(e, GeneratedImage)).pixels


@pytest.fixture(scope="module")
def custom(tmp_path_factory):
    """A model of no published width: our folder, Apple's (not to be changed), and the checkpoint."""
    folder = tmp_path_factory.mktemp("custom")
    source = tiny(folder, prediction_type="v_prediction", vae={"scaling_factor": 0.5})
    return *pair(folder, source), source


def copied(folder, out):
    return shutil.copytree(folder, out / "apple", symlinks=True)


@pytest.fixture
def apple(custom, tmp_path):
    return copied(custom[1], tmp_path)


def settings_of(source, **changes):
    said = {"prediction_type": "v_prediction", "vae_scaling_factor": 0.5, "tokenizer": source / "tokenizer"}
    return AppleSettings(**(said | changes))


def test_apples_packages_agree_with_the_checkpoint_though_they_declare_no_shapes(custom, apple, capsys):
    source = custom[2]
    adopt(apple, settings_of(source))
    assert main(["verify", str(apple), "--against", str(source), "--steps", "0"]) == 0
    assert "unet" in capsys.readouterr().out


def test_an_image_from_apples_packages_is_the_one_from_our_own(custom, apple):
    ours, _, source = custom
    before = {p: p.read_bytes() for p in apple.rglob("*") if p.is_file()}
    actual = adopt(apple, settings_of(source))
    np.testing.assert_array_equal(image_of(actual), image_of(ours))
    assert {p: p.read_bytes() for p in before} == before
    assert sorted(p.name for p in apple.iterdir() if p.suffix != ".mlpackage") == ["anemone.json", "tokenizer"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sd1", {}),
        ("sd1", {"batches": (1,), "sizes": ((96, 64),)}),
        ("sd1", {"attention": "original"}),
        ("sd1", {"attention": "split_einsum_v2", "sizes": ((384, 256),)}),
        ("sd2", {}),
        ("inpainting", {}),
        ("lcm", {}),
        ("sdxl", {}),
        ("sdxl_refiner", {}),
    ],
)
def test_what_packages_show_is_read_off_them(tmp_path, kind, options):
    if kind.startswith("sdxl"):
        source = write_xl_checkpoint(tmp_path / "source", refiner=kind == "sdxl_refiner")
    else:
        unet = {"inpainting": {"in_channels": 9}, "lcm": {"time_cond_proj_dim": 16}}.get(kind, {})
        source = tiny(tmp_path, unet=unet, text={"hidden_act": "gelu"} if kind == "sd2" else None)
    ours, folder = pair(tmp_path, source, **options)
    scale = ours.manifest.vae_scaling_factor
    tokenizer = next(source / t for t in ("tokenizer", "tokenizer_2") if (source / t).is_dir())
    manifest = adopt(folder, AppleSettings(None, "epsilon", scale, None, tokenizer)).manifest
    expected = asdict(ours.manifest)
    if options.get("batches") == (1,):
        # Apple's --unet-batch-one is for guidance in two calls as well; ours is for models without any.
        expected["defaults"] = {"steps": 20, "guidance_scale": 7.5, "scheduler": "euler"}
    for field in ("name", "family", "attention", "precision", "sizes", "tokens", "conditions", "scheduler", "defaults"):
        assert asdict(manifest)[field] == expected[field], field
    for field in ("latent_channels", "vae_scale_factor", "vae_scaling_factor"):
        assert asdict(manifest)[field] == expected[field], field
    assert {n: replace(p[0], path="") for n, p in manifest.networks.items()} == {
        n: replace(p[0], path="") for n, p in ours.manifest.networks.items()
    }
    assert (manifest.source.kind, manifest.converter.coremltools) == ("apple", "8.1")


@pytest.mark.parametrize(
    ("maps", "queries", "expected"),
    [
        ((4096, 1024, 256, 64), (4096, 1024, 256, 64), "split_einsum"),
        ((4096, 1024, 256, 64), (512, 256, 64), "split_einsum_v2"),
        ((2048, 512, 128), (512, 128), "split_einsum_v2"),
        ((2048, 512, 128), (2048, 512, 128), "split_einsum"),
        ((64, 16), (64, 16), "split_einsum"),
        ((64, 16), (), "unknown"),
    ],
)
def test_attention_is_told_by_how_long_its_rows_of_queries_are(maps, queries, expected):
    made = [Operation("conv", f"to_q_{n}", (2, 8, 1, n), "h") for n in (*maps, 77)]
    asked = [Operation("einsum", f"logits_{n}", (2, 77, 1, n), None) for n in queries]
    states = Feature("encoder_hidden_states", (2, 768, 1, 77), np.dtype(np.float16))
    unet = ProgramSummary(Path("unet.mlpackage"), {states.name: states}, {}, (*made, *asked), "", {})
    assert attention_implementation(unet) == expected


def test_all_that_is_missing_is_asked_for_at_once_by_name(apple):
    with pytest.raises(AppleSettingsError) as caught:
        adopt(apple, AppleSettings())
    for field in ("prediction_type", "vae_scaling_factor", "tokenizer"):
        assert f"{option(field)} is missing; accepted: {ACCEPTED[field]}" in caught.value.problems
    assert len(caught.value.problems) == 3
    assert "packages lack settings that a model needs. Give these once" in str(caught.value)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    assert not (apple / "anemone.json").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", " "),
        ("prediction_type", "noise"),
        ("vae_scaling_factor", 0.0),
        ("vae_scaling_factor", float("nan")),
        ("steps", 0),
        ("guidance_scale", -1.0),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_accepted(custom, apple, field, value):
    with pytest.raises(AppleSettingsError) as caught:
        adopt(apple, settings_of(custom[2], **{field: value}))
    assert caught.value.problems == (f"{option(field)} is {value!r}; accepted: {ACCEPTED[field]}",)
    assert "it is not used with these settings:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"beta_schedule": "cosine"}', "squaredcos_cap_v2"),
        ('{"timestep_spacing": "even"}', "trailing"),
        ('{"beta_end": "much"}', "much"),
        ('{"beta_end": null}', "None"),
        ("no json", "is not JSON"),
        (None, "it does not exist"),
    ],
)
def test_a_scheduler_config_that_is_none_is_refused(custom, apple, tmp_path, text, why):
    file = tmp_path / "scheduler_config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(AppleSettingsError, match="--scheduler-config") as caught:
        adopt(apple, settings_of(custom[2], scheduler_config=file))
    assert len(caught.value.problems) == 1
    assert why in caught.value.problems[0]


def test_the_noise_schedule_and_what_is_predicted_come_from_a_scheduler_config(custom, apple, tmp_path):
    file = tmp_path / "scheduler_config.json"
    file.write_text(
        '{"_class_name": "DDIMScheduler", "beta_end": 0.03, "timestep_spacing": "trailing", "prediction_type": "sample"}'
    )
    manifest = adopt(apple, settings_of(custom[2], prediction_type=None, scheduler_config=file)).manifest
    assert (manifest.scheduler.beta_end, manifest.scheduler.timestep_spacing) == (0.03, "trailing")
    assert (manifest.prediction_type, manifest.scheduler.beta_start) == ("sample", 0.0001)
    manifest = adopt(apple, settings_of(custom[2], scheduler_config=file)).manifest
    assert manifest.prediction_type == "v_prediction"
    file.write_text('{"prediction_type": "flow"}')
    with pytest.raises(AppleSettingsError, match="flow"):
        adopt(apple, settings_of(custom[2], prediction_type=None, scheduler_config=file))


def test_a_second_opening_needs_no_settings(custom, apple, tmp_path):
    ours, _, source = custom
    with pytest.raises(AppleSettingsError, match="--prediction-type"):
        ready_model(apple, tmp_path / "data")
    adopt(apple, settings_of(source))
    actual = ready_model(apple, tmp_path / "data")
    assert actual.path == apple
    np.testing.assert_array_equal(image_of(actual, steps=1), image_of(ours, steps=1))
    assert not (tmp_path / "data").exists()


def test_a_model_that_was_converted_here_is_not_adopted_over(model_folder, tmp_path):
    folder = shutil.copytree(model_folder.path, tmp_path / "ours")
    before = (folder / "anemone.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"ours is a model already: .* converted from .*tiny"):
        adopt(folder, AppleSettings())
    assert (folder / "anemone.json").read_bytes() == before


def test_adopting_again_replaces_the_settings(custom, apple, tmp_path):
    adopt(apple, settings_of(custom[2]))
    other = tmp_path / "other"
    write_tokenizer(other)
    (other / "merges.txt").write_text("#version: 0.2\n")
    adopt(apple, settings_of(custom[2], prediction_type="epsilon", tokenizer=other, steps=7))
    actual = ModelFolder.open(apple)
    assert (actual.manifest.prediction_type, actual.manifest.defaults.steps) == ("epsilon", 7)
    assert (actual.tokenizer("tokenizer") / "merges.txt").read_text() == "#version: 0.2\n"


def test_a_model_of_published_widths_needs_its_tokenizer_alone(tmp_path):
    source = tiny(tmp_path, **PUBLISHED)
    ours, folder = pair(tmp_path, source)
    with pytest.raises(AppleSettingsError) as caught:
        adopt(folder, AppleSettings())
    # CLIP's own vocabulary is for its 49408 tokens; this model knows a few hundred.
    (problem,) = caught.value.problems
    assert problem.startswith("--tokenizer")
    assert "49407" in problem
    (folder / "Resources").mkdir()
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(source / "tokenizer" / file, folder / "Resources" / file)
    actual = ready_model(folder, tmp_path / "data")
    np.testing.assert_array_equal(image_of(actual), image_of(ours))


@pytest.mark.parametrize(
    ("family", "version", "expected"),
    [
        ("sd1", "runwayml/stable-diffusion-v1-5", ("epsilon", 0.18215, None, 20)),
        ("sd2", "stabilityai/stable-diffusion-2-1-base", ("epsilon", 0.18215, None, 20)),
        ("sd2", "stabilityai/stable-diffusion-2-1", ("v_prediction", 0.18215, None, 20)),
        ("sd2", "stabilityai_stable-diffusion-2", ("v_prediction", 0.18215, None, 20)),
        ("sd2", "stabilityai/sd-turbo", ("epsilon", 0.18215, "trailing", 4)),
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", ("epsilon", 0.13025, "leading", 20)),
        ("sdxl", "stabilityai/sdxl-turbo", ("epsilon", 0.13025, "trailing", 4)),
        ("sdxl_refiner", "stabilityai/stable-diffusion-xl-refiner-1.0", ("epsilon", 0.13025, "leading", 20)),
    ],
)
def test_published_models_settle_themselves(custom, family, version, expected):
    shown = replace(recognize_apple(custom[1]), family=family, version=version, published=True, vocabulary=49408)
    shown = replace(shown, networks=shown.networks | {"text_encoder_2": custom[1]})
    actual = settle(shown, AppleSettings())
    assert (actual.prediction_type, actual.vae_scaling_factor) == expected[:2]
    assert (actual.schedule.timestep_spacing, actual.defaults.steps) == expected[2:]
    assert actual.zeros_for_no_prompt == (family == "sdxl")
    pads = {"text_encoder": "!" if family == "sd2" else "<|endoftext|>", "text_encoder_2": "!"}
    for network, pad in pads.items():
        files = actual.vocabulary.files(network)
        assert json.loads(files["tokenizer_config.json"])["pad_token"] == pad
        assert files["vocab.json"] == tokenizer_files(pad)["vocab.json"]


def test_what_is_given_counts_before_what_is_known(custom):
    shown = replace(recognize_apple(custom[1]), family="sdxl", published=True, vocabulary=49408)
    given = {"vae_scaling_factor": 0.2, "zeros_for_no_prompt": False, "guidance_scale": 0.0, "name": "mine"}
    actual = settle(shown, AppleSettings(**given))
    assert (actual.vae_scaling_factor, actual.zeros_for_no_prompt, actual.name) == (0.2, False, "mine")
    assert (actual.defaults.guidance_scale, actual.defaults.steps) == (0.0, 20)


def test_compressed_weights_are_named(apple):
    def compress(model):
        body = model.mlProgram.functions["main"]
        next(op for op in body.block_specializations[body.opset].operations).type = "constexpr_lut_to_dense"

    changed(unet_of(apple), compress)
    assert recognize_apple(apple).precision == "compressed"


def test_a_stable_diffusion_2_of_unknown_name_is_asked_what_it_predicts_unless_it_inpaints(custom):
    shown = replace(recognize_apple(custom[1]), family="sd2", version="x/y", published=True, vocabulary=49408)
    with pytest.raises(AppleSettingsError, match="--prediction-type is missing") as caught:
        settle(shown, AppleSettings())
    assert len(caught.value.problems) == 1
    assert settle(replace(shown, inpainting=True), AppleSettings()).prediction_type == "epsilon"


def test_a_tokenizer_says_itself_what_prompts_are_filled_up_with(custom, apple, tmp_path):
    own = tmp_path / "tokenizer"
    write_tokenizer(own)
    (own / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    adopt(apple, settings_of(custom[2], tokenizer=own))
    assert json.loads((apple / "tokenizer" / "tokenizer_config.json").read_text())["pad_token"] == "!"


def test_a_tokenizer_with_added_tokens_is_read_as_a_checkpoints_is_and_fits_the_text_encoder(custom, apple, tmp_path):
    shown = recognize_apple(apple)
    own = tmp_path / "tokenizer"
    size = write_tokenizer(own)
    (own / "added_tokens.json").write_text(json.dumps({"<cat>": size}))
    with pytest.raises(AppleSettingsError, match=rf"--tokenizer.*up to {size}; the text encoder knows {size}"):
        settle(shown, settings_of(custom[2], tokenizer=own))
    roomy = replace(shown, vocabulary=size + 1)
    files = settle(roomy, settings_of(custom[2], tokenizer=own)).vocabulary.files("text_encoder")
    config = json.loads(files["tokenizer_config.json"])
    assert config["added_tokens_decoder"][str(size)]["content"] == "<cat>"


def test_each_text_encoder_has_its_own_tokenizer_where_there_are_two(custom, tmp_path):
    shown = recognize_apple(custom[1])
    shown = replace(shown, vocabulary=None, networks=shown.networks | {"text_encoder_2": custom[1]})
    for name, token in (("tokenizer", "<cat>"), ("tokenizer_2", "<dog>")):
        size = write_tokenizer(tmp_path / name)
        (tmp_path / name / "added_tokens.json").write_text(json.dumps({token: size}))
    for given in (tmp_path, None):
        model = shown if given else replace(shown, folder=tmp_path)
        actual = settle(model, settings_of(custom[2], tokenizer=given)).vocabulary
        for network, token in (("text_encoder", "<cat>"), ("text_encoder_2", "<dog>")):
            config = json.loads(actual.files(network)["tokenizer_config.json"])
            assert config["added_tokens_decoder"][str(size)]["content"] == token


def test_a_tokenizer_json_alone_is_a_tokenizer(custom, apple, tmp_path):
    from transformers import CLIPTokenizer

    CLIPTokenizer.from_pretrained(custom[2] / "tokenizer").save_pretrained(tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer" / "vocab.json").exists()
    actual = adopt(apple, settings_of(custom[2], tokenizer=tmp_path / "tokenizer"))
    np.testing.assert_array_equal(image_of(actual), image_of(custom[0]))


@pytest.mark.parametrize("content", ['["a"]', '{"a": "b"}', "{}", "no json"])
def test_a_vocabulary_that_is_none_is_refused(custom, apple, tmp_path, content):
    own = tmp_path / "tokenizer"
    write_tokenizer(own)
    (own / "vocab.json").write_text(content)
    with pytest.raises(AppleSettingsError, match=r"--tokenizer.*vocab\.json"):
        adopt(apple, settings_of(custom[2], tokenizer=own))


def test_a_tokenizer_folder_without_its_files_is_refused(custom, apple, tmp_path):
    with pytest.raises(AppleSettingsError, match=r"lacks vocab\.json or merges\.txt"):
        adopt(apple, settings_of(custom[2], tokenizer=tmp_path))


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """SDXL: our folder, Apple's (not to be changed) and the settings it lacks."""
    folder = tmp_path_factory.mktemp("xl")
    source = write_xl_checkpoint(folder / "source")
    return *pair(folder, source), AppleSettings(None, "epsilon", 0.13025, None, source / "tokenizer")


def unet_of(folder):
    return next(folder.glob("*_unet.mlpackage"))


def flat_time_ids(model):
    """As packages of 2023 take them: both rows' numbers in one."""
    (feature,) = (f for f in model.description.input if f.name == "time_ids")
    feature.type.multiArrayType.shape[:] = [12]
    (argument,) = (i for i in model.mlProgram.functions["main"].inputs if i.name == "time_ids")
    kind = argument.type.tensorType
    kind.rank = 1
    del kind.dimensions[1]
    kind.dimensions[0].constant.size = 12


def test_an_xl_image_is_the_one_from_our_own_packages(xl, tmp_path):
    ours, apple, settings = xl
    actual = adopt(copied(apple, tmp_path), settings)
    assert sorted(p.name for p in actual.path.glob("tokenizer*")) == ["tokenizer", "tokenizer_2"]
    np.testing.assert_array_equal(image_of(actual), image_of(ours))


def test_flat_time_ids_are_read_as_two_rows(xl, tmp_path):
    ours, apple, settings = xl
    folder = copied(apple, tmp_path)
    changed(unet_of(folder), flat_time_ids)
    shown = recognize_apple(folder)
    assert load(unet_of(folder)).inputs["time_ids"].shape == (12,)
    assert (shown.family, shown.time_ids, shown.batch) == ("sdxl", 6, 2)
    np.testing.assert_array_equal(image_of(adopt(folder, settings)), image_of(ours))


def test_an_autoencoder_in_fp32_that_coremltools_traced_is_taken(custom, apple):
    ours, _, source = custom
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(source / "vae", dtype=torch.float32).eval()

        class Decoder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

            def forward(self, z):
                return self.decoder(self.post_quant_conv(z))

        z = torch.randn(1, 4, SIDE // 8, SIDE // 8)
        model = ct.convert(
            torch.jit.trace(Decoder().eval(), z, check_trace=False),
            inputs=[ct.TensorType("z", z.shape, np.float32)],
            outputs=[ct.TensorType("image", dtype=np.float32)],
            minimum_deployment_target=ct.target.macOS13,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        path = next(apple.glob("*_vae_decoder.mlpackage"))
        shutil.rmtree(path)
        model.save(str(path))
    actual = adopt(apple, settings_of(source))
    assert load(path).inputs["z"].dtype == np.float32
    assert psnr(image_of(actual), image_of(ours).astype(np.float64)) > 45


def named(folder, *networks, version="v"):
    for network in networks:
        (folder / f"Stable_Diffusion_version_{version}_{network}.mlpackage").mkdir()
    return folder


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        (("unet_chunk2", "text_encoder", "refiner"), r"the first \(unet_chunk1\) is missing"),
        (("control-unet", "text_encoder"), r"control-unet.*--unet-support-controlnet"),
        (("control-unet_chunk1", "control-unet_chunk2"), r"control-unet_chunk1.*--unet-support-controlnet"),
        (("mmdit", "vae_decoder"), r"Stable Diffusion 3 \(mmdit\).*1, 2 and XL"),
        (("mmdit_chunk1", "mmdit_chunk2"), r"Stable Diffusion 3 \(mmdit\).*1, 2 and XL"),
        (("text_encoder", "vae_decoder"), r"no unet, only text_encoder, vae_decoder"),
    ],
)
def test_what_does_not_run_here_is_refused_by_name_with_what_to_do(tmp_path, networks, words):
    with pytest.raises(CheckpointError, match=words):
        recognize_apple(named(tmp_path, *networks))


def test_packages_of_several_models_in_one_folder_are_told_apart(tmp_path):
    named(named(tmp_path, "unet", version="a_b"), "unet_chunk1", "text_encoder_2", version="c")
    with pytest.raises(CheckpointError, match=r"several models \(a_b, c\)"):
        recognize_apple(tmp_path)


def test_a_folder_of_something_else_is_not_apples(tmp_path, custom):
    (tmp_path / "Unet.mlpackage").write_text("a file")
    (tmp_path / "Stable_Diffusion_version_v_unet.mlpackage").write_text("a file")
    assert not is_apple(tmp_path)
    assert not is_apple(tmp_path / "none")
    assert not is_apple(custom[2])
    assert is_apple(custom[1])
    with pytest.raises(CheckpointError, match=r"Stable_Diffusion_version_\*_unet\.mlpackage"):
        recognize_apple(tmp_path)


def test_what_lies_beside_the_model_is_left_alone_and_named(custom, apple):
    named(apple, "safety_checker", "refiner", "unet_chunk1", version="someone_tiny-model")
    (apple / "ControlNet_lllyasviel_canny.mlpackage").mkdir()
    shown = recognize_apple(apple)
    assert [line.split(":")[0].split("tiny-model_")[-1] for line in shown.left_out] == [
        "refiner.mlpackage",
        "safety_checker.mlpackage",
        "unet_chunk1.mlpackage",
        "ControlNet_lllyasviel_canny.mlpackage",
    ]
    assert adopt(apple, settings_of(custom[2])).manifest.left_out == shown.left_out
    assert list(shown.networks) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]


def test_a_refiner_alone_is_the_model(tmp_path):
    source = write_xl_checkpoint(tmp_path / "source", refiner=True)
    _, folder = pair(tmp_path, source)
    unet_of(folder).rename(str(unet_of(folder)).replace("_unet.", "_refiner."))
    shown = recognize_apple(folder)
    assert shown.family == "sdxl_refiner"
    assert shown.networks["unet"].name.endswith("_refiner.mlpackage")


def reshaped(name, shape):
    def change(model):
        for feature in model.description.input:
            if feature.name == name:
                feature.type.multiArrayType.shape[:] = shape

    return change


def renamed(old, new):
    def change(model):
        for feature in (*model.description.input, *model.description.output):
            if feature.name == old:
                feature.name = new

    return change


def as_integers(model):
    model.description.input[0].type.multiArrayType.dataType = ml().ArrayFeatureType.INT32


@pytest.mark.parametrize(
    ("network", "change", "words"),
    [
        ("unet", reshaped("sample", [3, 4, 8, 8]), "a batch of 3"),
        ("unet", reshaped("sample", [2, 7, 8, 8]), r"7 channels; 4 .* or 9"),
        ("unet", reshaped("sample", [2, 4, 16, 8]), "latents 8x8, .* gives 8x16"),
        ("unet", reshaped("encoder_hidden_states", [2, 77, TEXT_WIDTH]), r"\[batch, width, 1, tokens\]"),
        ("unet", reshaped("encoder_hidden_states", [2, 48, 1, 77]), "48 wide, .*text_encoder's 32"),
        ("unet", reshaped("encoder_hidden_states", [2, TEXT_WIDTH, 1, 154]), "77 tokens, .* takes 154"),
        ("unet", reshaped("timestep", [1]), "for 2 rows"),
        ("unet", renamed("timestep", "additional_residual_0"), "the inputs additional_residual_0"),
        ("text_encoder", as_integers, "input_ids int32"),
        ("text_encoder", renamed("last_hidden_state", "states"), "last_hidden_state or hidden_embeds"),
        ("vae_decoder", renamed("z", "latents"), "no input z, but latents"),
        ("vae_encoder", reshaped("x", [1, 3, 32, 64]), "images 64x32, .* gives 64x64"),
    ],
)
def test_packages_that_do_not_fit_are_refused_by_name(apple, network, change, words):
    path = next(apple.glob(f"*_{network}.mlpackage"))
    changed(path, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        recognize_apple(apple)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (reshaped("time_ids", [2, 4]), r"time_ids \[2, 4\].*6 numbers a row, 5 for the refiner"),
        (reshaped("text_embeds", [2, 20]), "text_embeds 20 wide, not .*_text_encoder_2.mlpackage's 24"),
        (renamed("text_embeds", "sample_2"), "the inputs sample_2"),
    ],
)
def test_xl_packages_that_do_not_fit_are_refused_by_name(xl, tmp_path, change, words):
    folder = copied(xl[1], tmp_path)
    changed(unet_of(folder), change)
    with pytest.raises(CheckpointError, match=words):
        recognize_apple(folder)


def test_a_network_that_is_missing_is_named(xl, tmp_path):
    folder = copied(xl[1], tmp_path)
    shutil.rmtree(next(folder.glob("*_text_encoder_2.mlpackage")))
    with pytest.raises(CheckpointError, match="lacks text_encoder_2, which sdxl needs"):
        recognize_apple(folder)


def test_a_model_without_an_encoder_makes_images_from_prompts(custom, apple):
    ours, _, source = custom
    shutil.rmtree(next(apple.glob("*_vae_encoder.mlpackage")))
    actual = adopt(apple, settings_of(source))
    assert "vae_encoder" not in actual.manifest.networks
    np.testing.assert_array_equal(image_of(actual, steps=1), image_of(ours, steps=1))


def compiled_folder(apple, out):
    """The Swift layout of Apple's packages, compiled."""
    out.mkdir()
    for network, name in SWIFT.items():
        for package in apple.glob(f"*_{network}.mlpackage"):
            compiled(package, out / f"{name}.mlmodelc")
    return out


@pytest.mark.parametrize("kind", ["custom", "xl"])
def test_compiled_models_show_what_the_packages_show(request, tmp_path, kind):
    packages = request.getfixturevalue(kind)[1]
    folder = compiled_folder(packages, tmp_path / "Resources")
    expected = recognize_apple(packages)
    paths = {network: folder / f"{SWIFT[network]}.mlmodelc" for network in expected.networks}
    assert recognize_apple(folder) == replace(expected, folder=folder, networks=paths)


def test_an_image_from_compiled_models_is_the_one_from_our_own(custom, tmp_path):
    ours, packages, source = custom
    folder = compiled_folder(packages, tmp_path / "Resources")
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(source / "tokenizer" / file, folder)
    actual = adopt(folder, settings_of(source, tokenizer=None))
    assert actual.package("unet", SIDE, SIDE) == folder / "Unet.mlmodelc"
    assert (actual.tokenizer("tokenizer") / "vocab.json").read_bytes() == (folder / "vocab.json").read_bytes()
    np.testing.assert_array_equal(image_of(actual), image_of(ours))


def with_cut_unet(apple, out):
    """Apple's packages as --chunk-unet leaves them."""
    folder = copied(apple, out)
    cut_in_two(unet_of(folder), folder)
    shutil.rmtree(unet_of(folder))
    return folder


@pytest.fixture(scope="module")
def chunked(custom, tmp_path_factory):
    """The custom model with its UNet cut in two; not to be changed."""
    return with_cut_unet(custom[1], tmp_path_factory.mktemp("chunked"))


def test_a_unet_cut_in_two_shows_what_it_showed(custom, chunked):
    expected = recognize_apple(custom[1])
    unet = chunked / unet_of(custom[1]).name.replace("unet", "unet_chunk1")
    networks = {network: chunked / path.name for network, path in expected.networks.items()}
    assert recognize_apple(chunked) == replace(expected, folder=chunked, networks=networks | {"unet": unet})


@pytest.mark.parametrize("form", ["packages", "compiled"])
def test_an_image_from_a_unet_cut_in_two_is_the_one_from_the_whole(custom, chunked, tmp_path, form):
    ours, _, source = custom
    folder = copied(chunked, tmp_path) if form == "packages" else compiled_folder(chunked, tmp_path / "Resources")
    halves = sorted(path.name for path in folder.iterdir() if "chunk" in path.name.lower())
    actual = adopt(folder, settings_of(source))
    assert [package.path for package in actual.manifest.networks["unet"]] == halves[:1]
    np.testing.assert_array_equal(image_of(ready_model(folder, tmp_path / "data")), image_of(ours))


def test_both_halves_count_for_what_a_model_is_and_for_the_lint(custom, chunked, tmp_path):
    folder = copied(chunked, tmp_path)
    first = adopt(folder, settings_of(custom[2])).manifest.source
    assert {f"{unet_of(custom[1]).stem}_chunk{n}.mlpackage" for n in (1, 2)} < set(packages_in(folder))
    weights = next(folder.glob("*_chunk2.mlpackage")) / "Data/com.apple.CoreML/weights/weight.bin"
    with weights.open("ab") as file:
        file.write(b"more")
    second = adopt(folder, settings_of(custom[2])).manifest.source
    assert second.sha256 != first.sha256
    assert second.stamp != first.stamp


@pytest.mark.parametrize("damage", ["gone", "Manifest.json"])
def test_a_second_half_that_is_missing_or_damaged_is_named(custom, chunked, tmp_path, damage):
    folder = copied(chunked, tmp_path)
    second = next(folder.glob("*_chunk2.mlpackage"))
    shutil.rmtree(second) if damage == "gone" else (second / damage).unlink()
    with pytest.raises(PackageError, match=second.name):
        adopt(folder, settings_of(custom[2]))
    assert not (folder / "anemone.json").exists()


def test_packages_in_three_chunks_are_used_without_the_manifest(custom, tmp_path):
    ours, _, source = custom
    folder = convert(source, tmp_path / "m", ConvertOptions(name="tiny", verify=False, chunks=3)).path
    (folder / "anemone.json").unlink()
    shutil.rmtree(folder / "tokenizer")
    adopted = adopt(folder, settings_of(source))
    assert "Stable_Diffusion_version_tiny_unet_chunk3.mlpackage/Manifest.json" in adopted.manifest.files
    np.testing.assert_array_equal(image_of(adopted), image_of(ours))


def test_a_refiner_cut_in_two_alone_is_the_model(tmp_path):
    source = write_xl_checkpoint(tmp_path / "source", refiner=True)
    _, whole = pair(tmp_path, source)
    unet_of(whole).rename(str(unet_of(whole)).replace("_unet.", "_refiner."))
    expected = recognize_apple(whole)
    cut_in_two(expected.networks["unet"], whole)
    shutil.rmtree(expected.networks["unet"])
    shown = recognize_apple(whole)
    assert (shown.family, shown.attention, shown.left_out) == ("sdxl_refiner", expected.attention, ())
    assert shown.networks["unet"].name.endswith("_refiner_chunk1.mlpackage")


@pytest.mark.parametrize("damage", ["metadata.json", "model.mil"])
def test_a_compiled_model_without_its_description_is_refused(custom, tmp_path, damage):
    folder = compiled_folder(custom[1], tmp_path / "Resources")
    (folder / "Unet.mlmodelc" / damage).unlink()
    with pytest.raises(PackageError, match=r"Unet\.mlmodelc is not a compiled Core ML model"):
        recognize_apple(folder)


def test_a_folder_that_cannot_be_written_gets_advice(custom, apple, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(CheckpointError, match=r"Read-only file system.*links to the packages"):
        adopt(apple, settings_of(custom[2]))
    assert not (apple / "anemone.json").exists()


def test_the_advice_for_a_folder_that_cannot_be_written_works(custom, tmp_path):
    ours, apple, source = custom
    mine = tmp_path / "mine"
    mine.mkdir()
    for package in apple.glob("*.mlpackage"):
        (mine / package.name).symlink_to(package)
    actual = adopt(mine, settings_of(source))
    np.testing.assert_array_equal(image_of(actual, steps=1), image_of(ours, steps=1))


def test_a_folder_that_is_not_there_and_a_file_are_named(tmp_path):
    (tmp_path / "file").touch()
    for name, words in (("nothing", "does not exist"), ("file", "is a file")):
        with pytest.raises(CheckpointError, match=f"{name} {words}; a folder of packages"):
            adopt(tmp_path / name, AppleSettings())


def stating(packages, out, unet=(), decoder=()):
    """A compiled folder whose metadata says this of the model, as Guernika's converter writes it."""
    folder = compiled_folder(packages, out)
    for name, said in (("Unet", unet), ("VAEDecoder", decoder)):
        file = folder / f"{name}.mlmodelc/metadata.json"
        (about,) = json.loads(file.read_text())
        file.write_text(json.dumps([about | {"userDefinedMetadata": dict(said)}]))
    return folder


def test_what_metadata_says_of_the_model_need_not_be_asked_for(custom, tmp_path):
    unet = {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "steps_offset": "0",
        "set_alpha_to_one": "true",
    }
    folder = stating(custom[1], tmp_path / "Resources", unet, {"scaling_factor": "0.5"})
    only_tokenizer = AppleSettings(tokenizer=custom[2] / "tokenizer")
    manifest = adopt(folder, only_tokenizer).manifest
    assert (manifest.prediction_type, manifest.vae_scaling_factor) == ("v_prediction", 0.5)
    schedule = manifest.scheduler
    assert (schedule.timestep_spacing, schedule.steps_offset, schedule.set_alpha_to_one) == ("trailing", 0, True)
    assert adopt(folder, replace(only_tokenizer, prediction_type="sample")).manifest.prediction_type == "sample"
    (folder / "guernika.json").write_text('{"identifier": "me/mine", "prediction_type": "epsilon"}')
    assert adopt(folder, only_tokenizer).manifest.prediction_type == "epsilon"
    (folder / "guernika.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"guernika\.json"):
        adopt(folder, only_tokenizer)


@pytest.mark.parametrize(
    ("unet", "decoder", "words"),
    [
        ({"prediction_type": "flow"}, {}, r"--prediction-type is 'flow'.*the UNet's metadata says"),
        ({}, {"scaling_factor": "much"}, r"--vae-scaling-factor is 'much'.*the decoder's metadata says"),
        ({"steps_offset": "one"}, {}, r"--scheduler-config is missing.*steps_offset 'one'"),
        ({"timestep_spacing": "even"}, {}, r"--scheduler-config is missing.*timestep_spacing 'even'"),
        ({"set_alpha_to_one": "2"}, {}, r"--scheduler-config is missing.*set_alpha_to_one '2'"),
        ({"app.anemone.noise_schedule": "[0]"}, {}, r"--scheduler-config is missing.*says '\[0\]'"),
        ({"app.anemone.defaults": "{}"}, {}, r"--steps is missing.*the UNet's metadata says '\{\}'"),
    ],
)
def test_metadata_that_says_what_is_not_accepted_is_refused(custom, tmp_path, unet, decoder, words):
    said = {"prediction_type": "epsilon"} | unet, {"scaling_factor": "0.5"} | decoder
    folder = stating(custom[1], tmp_path / "Resources", *said)
    with pytest.raises(AppleSettingsError, match=words) as caught:
        adopt(folder, AppleSettings(tokenizer=custom[2] / "tokenizer"))
    assert len(caught.value.problems) == 1
    # What is asked for counts before what the packages say.
    given = {"prediction_type": "epsilon", "vae_scaling_factor": 0.5, "steps": 7, "guidance_scale": 3}
    file = custom[2] / "scheduler" / "scheduler_config.json"
    settings = AppleSettings(tokenizer=custom[2] / "tokenizer", scheduler_config=file, **given)
    assert adopt(folder, settings).manifest.defaults.steps == 7


def test_a_folder_given_from_a_level_too_high_is_named(custom, tmp_path):
    # As the hub's repositories have them: original/compiled and split_einsum/compiled.
    for name in ("original", "split_einsum"):
        (tmp_path / name).mkdir()
        compiled_folder(custom[1], tmp_path / name / "compiled")
    with pytest.raises(CheckpointError) as caught:
        adopt(tmp_path, AppleSettings())
    assert str(caught.value).endswith(
        f"; these folders within it do: {tmp_path}/original/compiled, {tmp_path}/split_einsum/compiled"
    )


@pytest.mark.parametrize(
    "name", ["VAEDecoder.mlmodelc/weights/weight.bin", "controlnet/Canny.mlmodelc/weights/weight.bin"]
)
def test_a_git_lfs_pointer_is_called_that(custom, tmp_path, name):
    folder = compiled_folder(custom[1], tmp_path / "Resources")
    pointer = folder / name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 98993280\n")
    with pytest.raises(CheckpointError, match=r"weight\.bin is a Git LFS pointer .*git lfs pull"):
        adopt(folder, settings_of(custom[2]))


def test_a_compiled_model_of_palettes_makes_the_images_of_its_package(custom, tmp_path):
    """As those of Apple's mixed-bit-palettization repositories are."""
    from coremltools.models import MLModel
    from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights

    _, packages, source = custom
    folder = copied(packages, tmp_path)
    package = unet_of(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = OptimizationConfig(OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=2000))
        palettize_weights(MLModel(str(package), skip_model_load=True), config).save(str(tmp_path / "small.mlpackage"))
    shutil.rmtree(package)
    (tmp_path / "small.mlpackage").rename(package)
    actual = adopt(compiled_folder(folder, tmp_path / "Resources"), settings_of(source))
    assert actual.manifest.precision == "compressed"
    np.testing.assert_array_equal(image_of(actual), image_of(adopt(folder, settings_of(source))))
