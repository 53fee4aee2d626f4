"""Previews: small, of the right colors, and of the image that is to come."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from converter.runtime import Feature, weight_bytes
from server.pipeline import preview
from server.pipeline.denoising.denoiser import GeneratedImage, Step
from server.pipeline.preview import Previewer, fitted_factors
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion


class LinearDecoder:
    """A decoder that is linear in the latents, as a fit assumes."""

    def __init__(self, height=16, width=24, channels=4, scaling_factor=0.5):
        self.inputs = {"z": Feature("z", (1, channels, height, width), np.dtype(np.float16))}
        self.factors = np.random.default_rng(1).standard_normal((channels + 1, 3)).astype(np.float32) / 4
        self._scaling_factor, self.calls = scaling_factor, 0

    def predict(self, inputs):
        self.calls += 1
        latents = inputs["z"].astype(np.float32) * self._scaling_factor
        colors = np.einsum("bchw,cr->brhw", latents, self.factors[:-1]) + self.factors[-1][:, None, None]
        return {"image": colors.repeat(8, 2).repeat(8, 3)}


@pytest.mark.parametrize("size", [(16, 24), (17, 9), (4, 4)])
def test_a_fit_finds_the_factors_of_a_decoder_that_is_linear(size):
    decoder = LinearDecoder(*size)
    np.testing.assert_allclose(fitted_factors(decoder, 0.5), decoder.factors, atol=3e-3)


@pytest.mark.parametrize("factor", [0.18215, 0.13025], ids=["Stable Diffusion 1 and 2", "XL"])
def test_the_latents_of_published_autoencoders_need_no_decoder(model_folder, factor):
    def absent(*args, **kwargs):
        raise AssertionError("no network is needed")

    manifest = replace(model_folder.manifest, vae_scaling_factor=factor)
    previewer = Previewer(manifest, absent)
    assert previewer.needs(64, 64) is None
    shades = []
    for level in (-1, 1):
        # The first channel of both is lightness.
        denoised = np.zeros((1, 4, 8, 8), np.float32)
        denoised[:, 0] = level
        shades.append(np.asarray(Image.open(io.BytesIO(previewer.jpeg(denoised, 64, 64)))).mean((0, 1)))
    assert (shades[1] > shades[0] + 30).all()


def test_other_decoders_are_fitted_once(model_folder):
    decoder = LinearDecoder()
    manifest = replace(model_folder.manifest, vae_scaling_factor=0.5)
    previewer = Previewer(manifest, lambda *args: decoder)
    assert previewer.needs(192, 128) == "vae_decoder"
    denoised = np.random.default_rng(2).standard_normal((1, 4, 16, 24)).astype(np.float32)
    for _ in range(3):
        previewer.jpeg(denoised, 192, 128)
    assert decoder.calls == 1
    assert previewer.needs(192, 128) is None


@pytest.mark.parametrize(("size", "shown"), [((64, 64), (64, 64)), ((512, 512), (256, 256)), ((768, 512), (256, 171))])
def test_a_preview_is_small_and_keeps_its_shape(model_folder, size, shown):
    width, height = size
    denoised = np.zeros((1, 4, height // 8, width // 8), np.float32)
    jpeg = Previewer(model_folder.manifest, lambda *args: None).jpeg(denoised, width, height)
    image = Image.open(io.BytesIO(jpeg))
    assert (image.format, image.size) == ("JPEG", shown)
    assert len(jpeg) < 20_000


def test_a_tiny_autoencoder_makes_the_previews_of_a_model_that_has_one(checkpoint, tmp_path, monkeypatch):
    torch.manual_seed(6)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).eval()
    # Random weights make fine noise on nearly uniform gray, of which JPEG keeps little.
    tiny.decoder.layers[-1].weight.data *= 20
    monkeypatch.setattr(preview, "_JPEG_QUALITY", 100)
    tiny.half().save_pretrained(tmp_path / "taesd", safe_serialization=True)
    tiny.float()
    options = ConvertOptions(preview=str(tmp_path / "taesd"), verify=False)
    model = StableDiffusion(convert(checkpoint, tmp_path / "out", options), {})
    request = bind(model.manifest, prompt="red", steps=3, seed=1)
    step = next(e for e in model.generate(request, {}) if isinstance(e, Step))
    actual = Image.open(io.BytesIO(model.preview(step, request)))
    with torch.inference_mode():
        expected = tiny.decode(torch.from_numpy(step.denoised)).sample[0].permute(1, 2, 0).numpy()
    expected = Image.fromarray((np.clip(expected / 2 + 0.5, 0, 1) * 255).astype(np.uint8))
    # JPEG keeps brightness at full size, and colors at half the size.
    brightness = [np.asarray(image.convert("L")).ravel() for image in (actual, expected)]
    assert np.corrcoef(*brightness)[0, 1] > 0.95


def test_the_last_step_has_no_noise_left_to_see(model_folder):
    model = StableDiffusion(model_folder, {})
    for scheduler in ("euler", "ddim", "dpm++_2m_karras"):
        request = bind(model.manifest, prompt="red", steps=4, seed=1, scheduler=scheduler)
        steps = [e for e in model.generate(request, {}) if isinstance(e, Step)]
        np.testing.assert_allclose(steps[-1].denoised, steps[-1].latents, atol=0.1 * np.abs(steps[-1].latents).max())


def test_previews_that_would_need_memory_beside_the_unet_are_left_out(model_folder):
    unknown = replace(model_folder, manifest=replace(model_folder.manifest, vae_scaling_factor=0.5))
    for budget, shown in ((weight_bytes(model_folder.package("unet", 64, 64)), False), (None, True)):
        model = StableDiffusion(unknown, {}, memory_budget=budget)
        request = bind(model.manifest, prompt="red", steps=1, seed=1)
        *_, step, image = model.generate(request, {})
        assert isinstance(step, Step)
        assert isinstance(image, GeneratedImage)
        assert (model.preview(step, request) is not None) == shown
