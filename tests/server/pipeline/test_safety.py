"""The safety checker: what it is shown, what it finds, and what becomes of the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from converter.sources.source import open_source
from server.pipeline.clip_image import clip_input
from server.pipeline.denoising.denoiser import GeneratedImage, Step
from server.pipeline.request import bind
from server.pipeline.safety import SafetyChecker, UnsafeImage, blurred
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.safety_checkers import ALWAYS, NEVER, SIDE, tiny_checker, write_checker


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth patches of random colors."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def shown(pixels: np.ndarray, side: int) -> torch.Tensor:
    """What diffusers' pipelines show to their checker."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return torch.as_tensor(np.asarray(processor([Image.fromarray(pixels)], return_tensors="np")["pixel_values"]))


@pytest.mark.parametrize("size", [(64, 64), (512, 768), (300, 211), (1000, 513), (28, 29)])
@pytest.mark.parametrize("side", [224, SIDE])
def test_an_image_is_prepared_as_clips_processor_prepares_it(size, side):
    pixels = scene(*size)
    ours = clip_input(pixels, side)
    assert ours.shape == (1, 3, side, side)
    np.testing.assert_allclose(ours.astype(np.float32), shown(pixels, side).numpy(), atol=2e-3)  # fp16's steps


def test_nothing_is_recognized_in_a_blurred_image():
    checks = (np.indices((512, 512)).sum(0) // 32 % 2 * 255).astype(np.uint8)
    image = blurred(np.repeat(checks[..., None], 3, 2))
    assert image.shape == (512, 512, 3)
    assert int(image[64:-64, 64:-64].max()) - int(image[64:-64, 64:-64].min()) < 10


@pytest.fixture(scope="module")
def middle():
    """A threshold that half of ten scenes are above."""
    module = tiny_checker(NEVER)
    with torch.no_grad():
        states = [module.visual_projection(module.vision_model(shown(scene(64, 64, s), SIDE))[1]) for s in range(10)]
    cosines = [torch.nn.functional.cosine_similarity(state, module.concept_embeds[:1]).item() for state in states]
    return float(np.median(cosines))


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory, middle):
    """Models with checkers of three thresholds."""
    root = tmp_path_factory.mktemp("safety")
    thresholds = {"always": ALWAYS, "never": NEVER, "half": middle}
    return {
        name: convert(
            open_source(str(checkpoint)),
            root / name,
            ConvertOptions(safety_checker=write_checker(root / f"{name} checker", threshold), verify=False),
        )
        for name, threshold in thresholds.items()
    }


def images_of(folder, safety, **fields):
    model = StableDiffusion(folder, {}, safety=safety)
    request = bind(model.manifest, prompt="red", steps=1, seed=3, **fields)
    return [event for event in model.generate(request, {}) if isinstance(event, GeneratedImage)]


def test_the_decision_is_diffusers_own(folders, middle):
    model = StableDiffusion(folders["half"], {})
    checker = SafetyChecker(folders["half"], model.network, "blur")
    reference = tiny_checker(middle)
    found = []
    for seed in range(10):
        pixels = scene(64, 64, seed)
        with torch.no_grad():
            _, (unsafe,) = reference(shown(pixels, SIDE), np.zeros((1, 64, 64, 3)))
        assert checker.finds(pixels) == unsafe
        found.append(unsafe)
    assert 0 < sum(found) < 10


def test_what_is_found_is_blurred_or_refused_and_the_rest_left_alone(folders):
    (plain,) = images_of(folders["always"], "off")
    assert not plain.flagged
    (hidden,) = images_of(folders["always"], "blur")
    assert hidden.flagged
    np.testing.assert_array_equal(hidden.pixels, blurred(plain.pixels))
    with pytest.raises(UnsafeImage, match="not delivered"):
        images_of(folders["always"], "refuse")
    for safety in ("blur", "refuse"):
        (passed,) = images_of(folders["never"], safety)
        assert not passed.flagged
        np.testing.assert_array_equal(passed.pixels, plain.pixels)


@pytest.mark.parametrize(("safety", "shown"), [("off", True), ("blur", False), ("refuse", False)])
def test_an_active_checker_turns_previews_off(folders, safety, shown):
    model = StableDiffusion(folders["never"], {}, safety=safety)
    request = bind(model.manifest, prompt="red", steps=1, seed=3)
    step = next(event for event in model.generate(request, {}) if isinstance(event, Step))
    assert (model.preview(step, request) is not None) == shown


def test_a_model_without_a_checker_makes_its_images_and_previews(folders):
    folder = folders["always"]
    networks = {name: packages for name, packages in folder.manifest.networks.items() if name != "safety_checker"}
    bare = replace(folder, manifest=replace(folder.manifest, networks=networks))
    (image,) = images_of(bare, "refuse")
    assert not image.flagged
    model = StableDiffusion(bare, {}, safety="refuse")
    request = bind(model.manifest, prompt="red", steps=1, seed=3)
    step = next(event for event in model.generate(request, {}) if isinstance(event, Step))
    assert model.preview(step, request)


def test_an_active_checker_is_loaded_with_the_model(folders):
    def loaded(safety):
        seen = []
        StableDiffusion(folders["never"], {}, safety=safety).load(lambda progress: seen.append(progress.item))
        return set(seen)

    assert loaded("blur") - loaded("off") == {"safety_checker"}
