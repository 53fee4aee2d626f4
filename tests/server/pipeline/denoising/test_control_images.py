"""Images with ControlNets against diffusers' ControlNet pipelines on the same random checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from server.pipeline.canvas.masks import filled
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import (
    diffusers_pipeline,
    image_of_diffusers,
    tiny_unet,
    write_checkpoint,
    write_xl_checkpoint,
    xl_parts,
)
from tests.support.comparison import psnr
from tests.support.controlnets import write_controlnet
from tests.support.image_files import encoded_pixels

pytestmark = pytest.mark.slow

MAPS = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in (7, 8)]
#: Its edges lie between latents, so that the mask of the latents is that of the pixels.
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 8:40] = 255
FIELDS = {"prompt": "red", "negative_prompt": "blue", "steps": 5, "seed": 11, "scheduler": "euler"}


def image_of(model: StableDiffusion, *controls: dict, source: np.ndarray = MAPS[1], **fields) -> np.ndarray:
    named = [{**control, "image": f"control_{i}_image"} for i, control in enumerate(controls)]
    attachments = {f"control_{i}_image": encoded_pixels(MAPS[i]) for i in range(len(controls))}
    attachments |= {"image": encoded_pixels(source), "mask": encoded_pixels(MASK)}
    size = source.shape[1::-1] if "image" in fields else None
    request = bind(model.manifest, image_size=size, **{**FIELDS, "guidance_scale": 5, **fields}, controls=named)
    return next(e for e in model.generate(request, attachments) if isinstance(e, GeneratedImage)).pixels


class Pair:
    """A converted checkpoint with two ControlNets, and the same in diffusers."""

    def __init__(self, folder, source, **options):
        paths = [write_controlnet(source, folder / name, seed) for seed, name in enumerate(("canny", "tile"))]
        made = convert(source, folder / "out", ConvertOptions(controlnets=tuple(map(str, paths)), **options))
        self.ours = StableDiffusion(made, {})
        self.source = source
        self.nets = [ControlNetModel.from_pretrained(path, torch_dtype=torch.float32) for path in paths]

    def parts(self):
        return {**diffusers_pipeline(self.source).components, "requires_safety_checker": False}

    def expected(self, kind, parts, nets=1, guidance_scale=5, **call):
        pipeline = kind(**parts, controlnet=self.nets[0] if nets == 1 else self.nets[:nets])
        pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
        return image_of_diffusers(pipeline, FIELDS, guidance_scale, **call)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    return Pair(folder, write_checkpoint(folder / "source"), batches=(1, 2))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same with packages of one row only, and with the prompt projected once."""
    folder = tmp_path_factory.mktemp("single")
    return Pair(folder, write_checkpoint(folder / "source"), batches=(1,), prompt_once=True)


def images(*which):
    return [Image.fromarray(MAPS[i]) for i in which]


@pytest.mark.parametrize("scale", [5, 1], ids=["guided", "not guided"])
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_an_image_with_a_controlnet_is_the_one_diffusers_makes(pair, weight, scale):
    actual = image_of(pair.ours, {"net": "canny", "weight": weight}, guidance_scale=scale)
    expected = pair.expected(
        StableDiffusionControlNetPipeline,
        pair.parts(),
        image=images(0)[0],
        controlnet_conditioning_scale=weight,
        guidance_scale=scale,
    )
    assert psnr(actual, expected) > 40
    assert psnr(image_of(pair.ours, guidance_scale=scale), expected) < 36


def test_two_controlnets_add_up(pair):
    actual = image_of(pair.ours, {"net": "canny", "weight": 0.7}, {"net": "tile", "weight": 1.3})
    weights = [0.7, 1.3]
    expected = pair.expected(
        StableDiffusionControlNetPipeline, pair.parts(), 2, image=images(0, 1), controlnet_conditioning_scale=weights
    )
    assert psnr(actual, expected) > 40


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.4, 1.0), (0.2, 0.8)])
def test_a_controlnet_is_called_between_start_and_end(pair, start, end):
    actual = image_of(pair.ours, {"net": "canny", "start": start, "end": end})
    span = {"control_guidance_start": start, "control_guidance_end": end}
    expected = pair.expected(StableDiffusionControlNetPipeline, pair.parts(), image=images(0)[0], **span)
    assert psnr(actual, expected) > 40


def test_two_controlnets_have_spans_of_their_own(pair):
    actual = image_of(pair.ours, {"net": "canny", "end": 0.5}, {"net": "tile", "start": 0.5})
    span = {"control_guidance_start": [0.0, 0.5], "control_guidance_end": [0.5, 1.0]}
    expected = pair.expected(StableDiffusionControlNetPipeline, pair.parts(), 2, image=images(0, 1), **span)
    assert psnr(actual, expected) > 40


def test_packages_of_one_row_and_a_prompt_projected_once_make_the_same_image(single):
    actual = image_of(single.ours, {"net": "canny"})
    expected = single.expected(StableDiffusionControlNetPipeline, single.parts(), image=images(0)[0])
    assert psnr(actual, expected) > 40


def test_an_image_from_an_image_follows_a_control_map_over_its_own_steps(pair):
    fields = {"image": "image", "strength": 0.6}
    actual = image_of(pair.ours, {"net": "canny", "end": 0.7}, **fields)
    expected = pair.expected(
        StableDiffusionControlNetImg2ImgPipeline,
        pair.parts(),
        image=images(1)[0],
        control_image=images(0)[0],
        strength=0.6,
        control_guidance_end=0.7,
        controlnet_conditioning_scale=1.0,
    )
    assert psnr(actual, expected) > 40


def test_a_part_is_painted_as_its_map_says(pair):
    fields = {"image": "image", "mask": "mask", "mask_blur": 0, "keep_unmasked": False}
    expected = pair.expected(
        StableDiffusionControlNetInpaintPipeline,
        pair.parts(),
        image=images(1)[0],
        mask_image=Image.fromarray(MASK),
        control_image=images(0)[0],
        controlnet_conditioning_scale=0.8,
    )
    assert psnr(image_of(pair.ours, {"net": "canny", "weight": 0.8}, **fields), expected) > 40
    assert psnr(image_of(pair.ours, **fields), expected) < 36
    kept = image_of(pair.ours, {"net": "canny", "weight": 0.8}, **fields | {"keep_unmasked": True})
    np.testing.assert_array_equal(kept[MASK == 0], MAPS[1][MASK == 0])


def test_what_extends_an_image_follows_a_map_of_the_extended_image(pair):
    source = np.ascontiguousarray(MAPS[1][:, :48])
    new = np.zeros((64, 64), np.uint8)
    new[:, 48:] = 255
    extended = filled(np.pad(source, ((0, 0), (0, 16), (0, 0)), mode="edge"), new)
    expected = pair.expected(
        StableDiffusionControlNetInpaintPipeline,
        pair.parts(),
        image=Image.fromarray(extended),
        mask_image=Image.fromarray(new),
        control_image=images(0)[0],
        controlnet_conditioning_scale=1.0,
    )
    fields = {"image": "image", "source": source, "extend_right": 16, "feather": 0}
    actual = image_of(pair.ours, {"net": "canny"}, **fields)
    np.testing.assert_array_equal(actual[:, :48], source)
    assert psnr(actual[:, 48:], expected[:, 48:]) > 40
    assert psnr(image_of(pair.ours, **fields)[:, 48:], expected[:, 48:]) < 36


def test_a_weight_of_0_is_no_control(pair):
    assert psnr(image_of(pair.ours, {"net": "canny", "weight": 0}), image_of(pair.ours)) > 50


def test_without_a_name_the_first_controlnet_is_used(pair):
    assert np.array_equal(image_of(pair.ours, {}), image_of(pair.ours, {"net": "canny"}))
    assert not np.array_equal(image_of(pair.ours, {}), image_of(pair.ours, {"net": "tile"}))


def test_a_map_of_another_size_is_fitted_as_a_source_image_is(pair):
    request = bind(pair.ours.manifest, **FIELDS, controls=[{"image": "map"}])
    large = Image.fromarray(MAPS[0]).resize((128, 128), Image.Resampling.NEAREST)
    padded = Image.new("RGB", (192, 128))
    padded.paste(large, (32, 0))
    made = [
        next(e for e in pair.ours.generate(request, {"map": data}) if isinstance(e, GeneratedImage)).pixels
        for data in (encoded_pixels(np.asarray(large)), encoded_pixels(np.asarray(padded)))
    ]
    assert psnr(*made) > 45


def test_an_image_of_a_model_like_stable_diffusion_2_is_the_one_diffusers_makes(tmp_path):
    unet = tiny_unet(cross_attention_dim=48, use_linear_projection=True, attention_head_dim=(2, 4))
    text = {"hidden_size": 48, "hidden_act": "gelu"}
    source = write_checkpoint(tmp_path / "source", prediction_type="v_prediction", unet=unet, text=text)
    second = Pair(tmp_path, source)
    actual = image_of(second.ours, {"net": "canny", "weight": 0.8})
    expected = second.expected(
        StableDiffusionControlNetPipeline, second.parts(), image=images(0)[0], controlnet_conditioning_scale=0.8
    )
    assert psnr(actual, expected) > 40


def test_an_xl_image_with_a_controlnet_is_the_one_diffusers_makes(tmp_path):
    xl = Pair(tmp_path, write_xl_checkpoint(tmp_path / "source"))
    actual = image_of(xl.ours, {"net": "canny", "weight": 0.8})
    parts = xl_parts(xl.source) | {
        "scheduler": EulerDiscreteScheduler.from_pretrained(xl.source / "scheduler"),
        "force_zeros_for_empty_prompt": True,
        "add_watermarker": False,
    }
    expected = xl.expected(
        StableDiffusionXLControlNetPipeline, parts, image=images(0)[0], controlnet_conditioning_scale=0.8
    )
    assert psnr(actual, expected) > 40
