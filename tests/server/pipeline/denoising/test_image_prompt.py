"""An image beside the prompt: against diffusers' IP-Adapters on the same files, and refused where a model has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from converter.conversion.convert import convert
from converter.manifest import Package
from converter.options import ConvertOptions
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import RequestError, bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import (
    diffusers_pipeline,
    image_of_diffusers,
    write_checkpoint,
    write_xl_checkpoint,
    xl_parts,
)
from tests.support.controlnets import write_controlnet
from tests.support.fake_pipeline import MANIFEST
from tests.support.image_files import encoded_pixels
from tests.support.ip_adapters import write_ip_adapter
from tests.support.mil_packages import psnr

REFERENCE = np.asarray(
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)).resize((84, 60), 3)
)
FIELDS = {"prompt": "red", "negative_prompt": "blue", "steps": 4, "seed": 11, "scheduler": "euler"}


class Pair:
    """A converted checkpoint with two IP-Adapters, and the same in diffusers."""

    def __init__(self, folder, *, xl):
        source = (write_xl_checkpoint if xl else write_checkpoint)(folder / "source")
        unet = UNet2DConditionModel.from_pretrained(source / "unet")
        self.adapters = folder / "adapters"
        files = [
            str(write_ip_adapter(self.adapters, unet, plus=plus, name=name))
            for name, plus in (("linear", False), ("plus", True))
        ]
        self.controlnet = None if xl else write_controlnet(source, folder / "canny", 0)
        controlnets = () if xl else (str(self.controlnet),)
        options = ConvertOptions(ip_adapters=tuple(files), controlnets=controlnets)
        self.ours = StableDiffusion(convert(source, folder / "out", options), {})
        self.source, self.xl = source, xl

    def image(self, *, image=True, **fields):
        if image:
            fields["adapter_image"] = "adapter_image"
        request = bind(self.ours.manifest, **{**FIELDS, "guidance_scale": 5, **fields})
        attachments = {"adapter_image": encoded_pixels(REFERENCE), "map": encoded_pixels(REFERENCE)}
        return next(e for e in self.ours.generate(request, attachments) if isinstance(e, GeneratedImage)).pixels

    def expected(self, adapter, scale, guidance_scale, controlnet=None, **call):
        if self.xl:
            scheduler = EulerDiscreteScheduler.from_pretrained(self.source / "scheduler")
            theirs = StableDiffusionXLPipeline(**xl_parts(self.source), scheduler=scheduler, add_watermarker=False)
        else:
            theirs = diffusers_pipeline(self.source)
            if controlnet is not None:
                parts = {**theirs.components, "requires_safety_checker": False}
                theirs = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet)
            theirs.scheduler = EulerDiscreteScheduler.from_config(theirs.scheduler.config)
        theirs.register_modules(feature_extractor=CLIPImageProcessorPil(size=28, crop_size=28))
        theirs.load_ip_adapter(
            str(self.adapters), subfolder="", weight_name=f"{adapter}.safetensors", low_cpu_mem_usage=False
        )
        theirs.set_ip_adapter_scale(scale)
        call["ip_adapter_image"] = Image.fromarray(REFERENCE)
        return image_of_diffusers(theirs, FIELDS, guidance_scale, **call)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return Pair(tmp_path_factory.mktemp("sd"), xl=False)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return Pair(tmp_path_factory.mktemp("xl"), xl=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.parametrize(
    ("adapter", "scale", "guidance"), [("linear", 1.0, 5.0), ("linear", 0.5, 1.0), ("plus", 1.5, 5.0)]
)
def test_an_image_with_an_adapter_is_the_one_diffusers_makes(family, adapter, scale, guidance, request):
    pair = request.getfixturevalue(family)
    actual = pair.image(adapter=adapter, adapter_scale=scale, guidance_scale=guidance)
    assert psnr(actual, pair.expected(adapter, scale, guidance)) > 40
    # Without the image the result is another one.
    assert psnr(actual, pair.image(image=False, guidance_scale=guidance).astype(np.float64)) < 35


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_a_scale_of_zero_is_no_adapter(family, request):
    pair = request.getfixturevalue(family)
    assert np.array_equal(pair.image(adapter_scale=0), pair.image(image=False))


@pytest.mark.slow
def test_an_adapter_and_a_controlnet_guide_together_as_in_diffusers(sd):
    actual = sd.image(adapter="linear", controls=[{"image": "map"}])
    net = ControlNetModel.from_pretrained(sd.controlnet, torch_dtype=torch.float32)
    control_map = ImageOps.fit(Image.fromarray(REFERENCE), (64, 64), Image.Resampling.LANCZOS)
    assert psnr(actual, sd.expected("linear", 1.0, 5.0, net, image=control_map)) > 40


def refused(model, **fields):
    with pytest.raises(RequestError) as caught:
        bind(model, prompt="red", adapter_image="adapter_image", **fields)
    return caught.value.field, caught.value.value, caught.value.accepted


def test_a_model_without_adapters_says_which_conversion_brings_one():
    field, _, accepted = refused(MANIFEST)
    assert field == "adapter_image"
    assert "this model has no IP-Adapter" in accepted
    assert "--ip-adapter ADAPTER" in accepted


def test_an_unknown_adapter_is_refused_with_those_that_there_are():
    package = (Package("a.mlpackage", None, None, 1),)
    model = replace(MANIFEST, networks={**MANIFEST.networks, "ip_adapter/linear": package, "ip_adapter/plus": package})
    assert refused(model, adapter="face") == ("adapter", "face", "linear, plus")
    bound = bind(model, prompt="red", adapter_image="adapter_image").adapter
    assert bound is not None
    assert bound.network(model) == "ip_adapter/linear"


def test_an_adapter_s_fields_without_its_image_are_refused():
    with pytest.raises(RequestError, match="adapter_scale"):
        bind(MANIFEST, prompt="red", adapter_scale=0.5)
