"""The safety checker's scores and decisions against diffusers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance
from transformers import CLIPConfig

from converter.errors import CheckpointError
from converter.networks.layers import ATTENTIONS
from converter.networks.safety_checker import safety_checker
from converter.runtime.program import read_program
from tests.support.mil_packages import as_written, halved, package_of

HEIGHT, WIDTH = 12, 16


def cosines(module, clip_input):
    with torch.no_grad():
        embedding = module.visual_projection(module.vision_model(torch.from_numpy(clip_input).float())[1])
        concepts = cosine_distance(embedding, module.concept_embeds)
        return concepts[0], cosine_distance(embedding, module.special_care_embeds)[0]


def clip_input():
    return np.random.default_rng(0).standard_normal((1, 3, 28, 28)).astype(np.float16)


def checker(concept=-0.1, care=-0.1, **vision):
    """A checker whose sixth concept and second care are that far above their thresholds, the others 0.1 below."""
    torch.manual_seed(7)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    }
    module = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=24, vision_config=settings | vision))
    for embeds in (module.concept_embeds, module.special_care_embeds):
        torch.nn.init.normal_(embeds, std=3)
    halved(module)
    for above, place, actual, thresholds in (
        (concept, 5, cosines(module, clip_input())[0], module.concept_embeds_weights),
        (care, 1, cosines(module, clip_input())[1], module.special_care_embeds_weights),
    ):
        with torch.no_grad():
            thresholds.copy_(actual + 0.1)
            thresholds[place] = actual[place] - above
    return halved(module)


def package(module, folder, attention="split_einsum"):
    config = module.config.to_dict()
    return package_of(
        module, folder, lambda layers: safety_checker(layers, config, height=HEIGHT, width=WIDTH), attention
    )


def inputs(adjustment=0.0):
    images = np.random.default_rng(1).uniform(0.1, 1, (1, HEIGHT, WIDTH, 3)).astype(np.float16)
    return {"clip_input": clip_input(), "images": images, "adjustment": np.array([adjustment], np.float16)}


def scores(module, cared):
    actual = cosines(module, clip_input())[0] - module.concept_embeds_weights + 0.01 * cared
    return actual.numpy()[None]


@pytest.mark.parametrize(
    ("concept", "care", "unsafe"),
    [
        (-0.1, -0.1, False),
        (0.05, -0.1, True),
        (-0.005, -0.1, False),
        (-0.005, 0.02, True),
        (-0.02, 0.02, False),
        (0.0003, -0.1, False),
        (0.0008, -0.1, True),
        (-0.005, 0.0003, False),
        (-0.005, 0.0008, True),
    ],
    ids=[
        "nothing",
        "a concept",
        "nearly a concept",
        "nearly, with care",
        "far, with care",
        "above, but not to three decimals",
        "above to three decimals",
        "care, but not to three decimals",
        "care to three decimals",
    ],
)
def test_an_image_is_judged_as_diffusers_judges_it(tmp_path, concept, care, unsafe):
    module = checker(concept, care)
    given = inputs()
    expected, judged = module(torch.from_numpy(given["clip_input"]).float(), given["images"].copy())
    assert judged == [unsafe]
    outputs = as_written(package(module, tmp_path)).predict(given)
    assert outputs["has_nsfw_concepts"].tolist() == [[[[float(unsafe)]]]]
    np.testing.assert_array_equal(outputs["filtered_images"], expected.astype(np.float32))
    assert expected.any() != unsafe
    np.testing.assert_allclose(outputs["concept_scores"], scores(module, care > 0.0005), atol=1e-5)
    assert {name: array.dtype for name, array in outputs.items()} == dict.fromkeys(outputs, np.dtype(np.float32))


def test_adjustment_finds_more_that_needs_care(tmp_path):
    module = checker(-0.005, -0.03)
    ours = as_written(package(module, tmp_path))
    for adjustment, unsafe in ((0.0, False), (0.02, False), (0.04, True)):
        outputs = ours.predict(inputs(adjustment))
        assert outputs["has_nsfw_concepts"].item() == unsafe
        np.testing.assert_allclose(outputs["concept_scores"], scores(module, unsafe), atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_every_implementation_of_attention_gives_the_same_scores(tmp_path, attention, activation):
    module = checker(hidden_act=activation, layer_norm_eps=1e-3)
    actual = as_written(package(module, tmp_path, attention)).predict(inputs())["concept_scores"]
    np.testing.assert_allclose(actual, scores(module, False), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("vision_config"), "no vision_config"),
        (
            lambda c: c["vision_config"].update(hidden_act="relu"),
            "hidden_act = 'relu'; accepted: 'quick_gelu'",
        ),
        (lambda c: c["vision_config"].update(num_channels=4), "num_channels = 4; accepted: 3"),
        (
            lambda c: c["vision_config"].update(image_size=35),
            "position_embedding.weight is 17x32, but by its network's configuration it should be 26x32",
        ),
    ],
)
def test_a_checker_of_another_kind_is_refused_by_name(tmp_path, change, words):
    module = checker()
    config = module.config.to_dict()
    change(config)
    with pytest.raises(CheckpointError, match=words):
        package_of(module, tmp_path, lambda layers: safety_checker(layers, config, height=HEIGHT, width=WIDTH))


def test_the_checker_has_apples_inputs_and_outputs_and_no_dynamic_operations(tmp_path):
    path = package(checker(), tmp_path)
    program = read_program(path)
    assert {name: (f.shape, f.dtype) for name, f in program.inputs.items()} == {
        "clip_input": ((1, 3, 28, 28), np.dtype(np.float16)),
        "images": ((1, HEIGHT, WIDTH, 3), np.dtype(np.float16)),
        "adjustment": ((1,), np.dtype(np.float16)),
    }
    shapes = {name: f.shape for name, f in program.outputs.items()}
    assert shapes == {
        "filtered_images": (1, HEIGHT, WIDTH, 3),
        "has_nsfw_concepts": (1, 1, 1, 1),
        "concept_scores": (1, 17),
    }
    assert not {op.kind for op in program.operations} & {"non_zero", "scatter_nd", "shape", "tile", "select", "gather"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load as load_program

        spec = ct.utils.load_spec(str(path))
        loaded = load_program(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    assert {v.name: tuple(v.shape) for v in loaded.functions["main"].outputs} == shapes
