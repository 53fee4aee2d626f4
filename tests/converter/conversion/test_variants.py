"""What a conversion makes beside a checkpoint's own networks: longer prompts, ControlNets, another VAE, previews."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, ControlNetModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig

from converter.conversion.agreement import OptionError
from converter.conversion.convert import convert
from converter.conversion.planning import make_plan
from converter.errors import CheckpointError
from converter.networks.features import random_inputs
from converter.options import ConvertOptions
from converter.sources.component import Component
from converter.sources.source import open_source
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import diffusers_pipeline, tiny_unet, tiny_vae, write_checkpoint
from tests.support.mil_packages import as_written

pytestmark = pytest.mark.slow

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def exactly(path, function, compute_units):
    return as_written(path, function=function)


def saved(module, folder):
    module.half().save_pretrained(folder, safe_serialization=True)
    return folder


def guide(**changes):
    torch.manual_seed(4)
    settings = {"conditioning_embedding_out_channels": (8, 8, 16, 16), "load_weights_from_unet": False}
    controlnet = ControlNetModel.from_unet(tiny_unet(**changes), **settings)
    for weight in controlnet.parameters():
        if not weight.any():  # zero convolutions would hide whatever feeds them
            torch.nn.init.normal_(weight, std=0.1)
    return controlnet


def test_a_controlnet_brings_a_package_of_its_own_and_a_unet_that_takes_its_residuals(checkpoint, tmp_path):
    net, agreed = str(saved(guide(), tmp_path / "canny")), {}
    options = ConvertOptions(name="m", controlnets=(net,))
    made = convert(checkpoint, tmp_path / "out", options, verified=agreed.__setitem__)
    assert min(agreed[network] for network in ("unet", "controlnet/canny")) > 60
    plain, controlled = (made.best("unet", 64, 64, batch=2, control=control) for control in (False, True))
    assert controlled.path == "Stable_Diffusion_version_m_control-unet.mlpackage"
    assert os.path.samefile(made.path / plain.path / WEIGHTS, made.path / controlled.path / WEIGHTS)
    canny = made.best("controlnet/canny", 64, 64, batch=2)
    assert canny.path == "ControlNet_canny.mlpackage"
    residuals = as_written(made.path / canny.path).outputs
    taken = as_written(made.path / controlled.path).inputs
    assert {name: f.shape for name, f in residuals.items()} == {
        name: f.shape for name, f in taken.items() if name.startswith("additional_residual_")
    }


def test_a_controlnet_for_another_unet_is_refused(checkpoint, tmp_path):
    net = str(saved(guide(cross_attention_dim=16), tmp_path / "canny"))
    with pytest.raises(CheckpointError, match="cross_attention_dim = 16, but the UNet has 32"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(controlnets=(net,)))
    options = ConvertOptions(controlnets=(str(checkpoint / "unet"),))
    with pytest.raises(CheckpointError, match="ControlNetModel"):
        convert(checkpoint, tmp_path / "out", options)
    with pytest.raises(CheckpointError, match=r"is not a network; accepted: a folder with config\.json"):
        Component.open(tmp_path)


def test_functions_of_one_package_are_what_packages_would_be(checkpoint, tmp_path):
    sizes = ((64, 64), (96, 64))
    packages = convert(checkpoint, tmp_path / "packages", ConvertOptions(sizes=sizes, batches=(1, 2)))
    options = ConvertOptions(sizes=sizes, batches=(1, 2), target="macOS15", functions=True)
    functions = convert(checkpoint, tmp_path / "functions", options)
    assert len(list(functions.path.glob("*.mlpackage"))) == len(functions.manifest.networks)
    for width in (64, 96):
        two = [folder.best("unet", width, 64, batch=2) for folder in (packages, functions)]
        ours = [
            as_written(f.path / p.path, function=p.function) for f, p in zip((packages, functions), two, strict=True)
        ]
        inputs = random_inputs(ours[0].inputs, {})
        results = [network.predict(inputs)["noise_pred"] for network in ours]
        np.testing.assert_array_equal(*results)
    with pytest.raises(OptionError, match="macOS 15"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(functions=True))


@pytest.mark.parametrize("target", ["macOS14", "macOS15"])
def test_a_later_target_changes_the_programs_and_not_the_weights(checkpoint, model_folder, tmp_path, target):
    agreed = {}
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(target=target), verified=agreed.__setitem__)
    assert min(agreed.values()) > 60
    for network in ("unet", "vae_decoder"):
        files = [(f.package(network, 64, 64) / WEIGHTS).read_bytes() for f in (made, model_folder)]
        assert files[0] == files[1]
    with pytest.raises(OptionError, match="accepted: macOS13, macOS14, macOS15"):
        convert(checkpoint, tmp_path / "none", ConvertOptions(target="macOS12"))


def test_a_safety_checker_is_converted_with_the_checkpoint(checkpoint, tmp_path):
    torch.manual_seed(7)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    module = StableDiffusionSafetyChecker(
        CLIPConfig(projection_dim=24, vision_config=vision | {"image_size": 28, "patch_size": 7})
    )
    for embeds in (module.concept_embeds, module.special_care_embeds):
        torch.nn.init.normal_(embeds)
    checker, agreed = str(saved(module, tmp_path / "checker")), {}
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(safety_checker=checker), verified=agreed.__setitem__)
    assert agreed["safety_checker"] > 60
    assert as_written(made.package("safety_checker", 64, 64)).outputs["filtered_images"].shape == (1, 64, 64, 3)


def test_another_autoencoder_takes_the_place_of_the_checkpoints(checkpoint, tmp_path):
    torch.manual_seed(9)
    other = tiny_vae(scaling_factor=0.5)
    torch.nn.init.normal_(other.decoder.conv_out.bias)
    vae, agreed = str(saved(other, tmp_path / "vae")), {}
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(vae=vae), verified=agreed.__setitem__)
    assert made.manifest.vae_scaling_factor == 0.5
    assert min(agreed.values()) > 60
    z = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
    with torch.no_grad():
        expected = other.float().decode(torch.from_numpy(z).float()).sample.numpy()
    np.testing.assert_allclose(
        as_written(made.package("vae_decoder", 64, 64)).predict({"z": z})["image"], expected, atol=1e-3
    )


def test_an_autoencoder_that_does_not_fit_the_unet_is_refused(checkpoint, tmp_path):
    vae = str(saved(tiny_vae(latent_channels=8), tmp_path / "vae"))
    with pytest.raises(CheckpointError, match="in_channels = 4"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(vae=vae))


def test_a_tiny_autoencoder_becomes_the_decoder_of_previews(checkpoint, tmp_path):
    torch.manual_seed(6)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    preview, agreed = str(saved(tiny, tmp_path / "taesd")), {}
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(preview=preview), verified=agreed.__setitem__)
    assert agreed["preview_decoder"] > 60
    assert as_written(made.package("preview_decoder", 64, 64)).outputs["image"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("attention", ["split_einsum", "original"])
def test_a_unet_that_is_given_keys_and_values_makes_the_same_image_without_their_weights(
    checkpoint, tmp_path, attention
):
    agreed, options = {}, {"attention": attention, "tokens": (77, 154)}
    usual = convert(checkpoint, tmp_path / "usual", ConvertOptions(**options))
    once = convert(
        checkpoint, tmp_path / "once", ConvertOptions(**options, prompt_once=True), verified=agreed.__setitem__
    )
    assert min(agreed[network] for network in ("unet", "unet_prompt")) > 60
    assert "encoder_hidden_states" not in as_written(once.package("unet", 64, 64)).inputs
    unets = [(model.package("unet", 64, 64) / WEIGHTS).stat().st_size for model in (usual, once)]
    assert unets[1] + (once.package("unet_prompt") / WEIGHTS).stat().st_size == pytest.approx(unets[0], rel=0.05)
    assert unets[1] < unets[0]
    for prompt in ("red", "red " * 80):
        fields = {"prompt": prompt, "steps": 2, "guidance_scale": 4.0, "seed": 3}
        images = [
            next(
                e
                for e in StableDiffusion(model, {}, exactly).generate(bind(model.manifest, **fields), {})
                if isinstance(e, GeneratedImage)
            ).pixels
            for model in (usual, once)
        ]
        np.testing.assert_allclose(images[0].astype(int), images[1].astype(int), atol=1)


def test_a_prompt_longer_than_the_text_encoder_steers_the_image_to_its_end(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    made = convert(source, tmp_path / "out", ConvertOptions(tokens=(77, 154)))
    long = made.best("unet", 64, 64, batch=2, tokens=154)
    assert os.path.samefile(made.path / long.path / WEIGHTS, made.package("unet", 64, 64) / WEIGHTS)
    ours, theirs = StableDiffusion(made, {}), diffusers_pipeline(source)
    first, second = "red " * 75, "blue blue"
    request = bind(made.manifest, prompt=first + second, steps=3, guidance_scale=5, seed=5, scheduler="ddim")
    pixels = next(e for e in ours.generate(request, {}) if isinstance(e, GeneratedImage)).pixels

    def states(*pieces):
        return torch.cat([theirs.encode_prompt(piece, "cpu", 1, False)[0] for piece in pieces], 1)

    expected = theirs(
        prompt_embeds=states(first, second),
        negative_prompt_embeds=states("", ""),
        num_inference_steps=3,
        guidance_scale=5,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="np",
    ).images[0]
    error = np.sqrt(np.mean((pixels / 255 - expected) ** 2))
    assert 20 * np.log10(1 / error) > 40
    assert ours.network("unet", 64, 64, batch=2, tokens=154).inputs["encoder_hidden_states"].shape[3] == 154


def test_a_checkpoint_s_own_controlnets_are_converted_with_it_and_an_option_replaces_one(checkpoint, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    before = open_source(source).sha256
    saved(guide(), source / "controlnet" / "canny")
    assert open_source(source).sha256 != before
    own = make_plan(open_source(source), ConvertOptions())
    assert "controlnet/canny" in own.networks
    assert any(variant.control for variant in own.variants("unet"))
    other = saved(guide(), tmp_path / "canny")
    assert make_plan(open_source(source), ConvertOptions(controlnets=(str(other),))).extras[
        "controlnet/canny"
    ].folder == Path(other)
