"""What a request fills in, refuses, and tells of its images' seeds."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from server.pipeline.request import TASKS, GenerationRequest, RequestError, bind, read_request
from tests.support.fake_pipeline import MANIFEST


def request(**fields):
    return bind(MANIFEST, prompt="a circle", **fields)


def seeds(**fields):
    return [tuple(pair) for pair in request(**fields).seeds.of_images]


def test_seeds_are_counted_up_from_the_first_and_go_round():
    assert seeds(seed=2**32 - 1, n=3) == [(2**32 - 1, None), (0, None), (1, None)]


def test_each_image_has_the_seed_it_was_given():
    assert seeds(seeds=[5, 9, 5]) == [(5, None), (9, None), (5, None)]
    made = request(seeds=(5, 9))
    assert (made.seeds.n, made.seeds.seed) == (2, 5)


def test_of_variations_the_seed_stays_and_the_variations_is_counted_up():
    assert seeds(seed=1, n=3, variation_seed=2**32 - 1, variation_strength=0.3) == [(1, 2**32 - 1), (1, 0), (1, 1)]
    assert seeds(seeds=[4, 7], variation_seed=1, variation_strength=0.3) == [(4, 1), (7, 2)]


def test_a_variation_of_no_strength_plays_no_part():
    assert seeds(seed=1, n=2, variation_seed=8) == [(1, None), (2, None)]
    assert request(variation_seed=-1, variation_strength=0).seeds.variation_seed is None


@pytest.mark.parametrize("given", [None, -1])
def test_seeds_that_are_left_open_are_drawn_when_the_request_is_made(given):
    made = request(seed=given, variation_seed=given, variation_strength=0.5).seeds
    assert 0 <= made.seed < 2**32
    assert made.variation_seed is not None
    assert 0 <= made.variation_seed < 2**32
    drawn = request(seeds=[-1, 3]).seeds.seeds
    assert drawn is not None
    assert 0 <= drawn[0] < 2**32
    assert drawn[1] == 3


@pytest.mark.parametrize(
    ("fields", "field", "accepted"),
    [
        ({"rng": "gpu"}, "rng", "torch, numpy, cuda"),
        ({"variation_strength": 1.01}, "variation_strength", "0 to 1"),
        ({"variation_strength": float("nan")}, "variation_strength", "0 to 1"),
        (
            {"variation_seed": 2**32, "variation_strength": 0.1},
            "variation_seed",
            "0 to 4294967295, or -1 for a random one",
        ),
        ({"variation_seed": -2}, "variation_seed", "0 to 4294967295, or -1 for a random one"),
        ({"seeds": []}, "seeds", "1 to 10 seeds"),
        ({"seeds": list(range(11))}, "seeds", "1 to 10 seeds"),
        ({"seeds": [1, -2]}, "seeds", "0 to 4294967295, or -1 for a random one"),
        ({"seeds": [1, 2], "n": 3}, "n", "the number of seeds, 2"),
        ({"seeds": [1, 2], "seed": 1}, "seed", "leave it out"),
    ],
)
def test_what_is_refused_is_named_with_what_is_accepted(fields, field, accepted):
    with pytest.raises(RequestError) as refused:
        request(**fields)
    assert refused.value.field == field
    assert accepted in refused.value.accepted


def test_a_request_is_bound_to_a_model_by_the_name_it_is_installed_by():
    assert request().model == "fake"
    assert request(model="fake-2").model == "fake-2"


@pytest.mark.parametrize(
    "stored",
    ['{"source": {"image": "image"}}', '{"source": {}, "prompts": 3}', '{"task": "upscale"}', "[]", "3", "{"],
)
def test_a_damaged_stored_request_is_none(stored):
    assert read_request(stored) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"seeds": [3, 1], "rng": "numpy"},
        {"seed": 2, "variation_seed": 4, "variation_strength": 0.5, "rng": "cuda", "model": "other"},
        {"seed": 2, "image": "image", "strength": 0.4},
    ],
)
def test_a_request_is_read_back_from_json_as_it_was(fields):
    made = request(**fields)
    assert GenerationRequest.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 9999), ("guidance_scale", -1.0), ("scheduler", "of a later version")]
)
def test_a_models_unacceptable_default_is_refused_where_the_request_has_no_value_of_its_own(field, value):
    manifest = replace(MANIFEST, defaults=replace(MANIFEST.defaults, **{field: value}))
    with pytest.raises(RequestError, match=rf"^{field} is .*; accepted: "):
        bind(manifest, prompt="a circle")
    assert bind(manifest, prompt="a circle", **{field: {"steps": 9}.get(field) or getattr(MANIFEST.defaults, field)})


def test_a_strength_too_small_for_a_step_is_told_the_least_that_makes_one():
    for steps in range(1, 151):
        with pytest.raises(RequestError) as caught:
            request(image="image", strength=1e-9, steps=steps)
        least = re.match(f"([0-9.]+)( to 1)? with steps {steps}:", caught.value.accepted)
        assert least, caught.value.accepted
        made = request(image="image", strength=float(least[1]), steps=steps)
        assert made.skipped_steps == steps - 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "a AND " * 8}, "prompt is .* at most 8 prompts joined by AND; or prompt_syntax plain"),
        ({"prompt": "a", "negative_prompt": "[a|b]" * 101}, "negative_prompt is .* at most 100 edits"),
        ({"prompt": "a", "prompt_syntax": "compel"}, "prompt_syntax is 'compel'; accepted: a1111, plain"),
        ({"prompt": "a", "clip_skip": 2}, "clip_skip is 2; accepted: 1 with fake: a conversion with --clip-skip 2"),
        ({"prompt": "a", "clip_skip": 13}, "clip_skip is 13; accepted: 1 to 12"),
    ],
)
def test_prompts_that_cost_too_much_and_layers_that_cannot_be_skipped_are_refused(fields, words):
    with pytest.raises(RequestError, match=words):
        bind(MANIFEST, **fields)


def test_a_plain_prompt_may_have_any_characters():
    request = bind(replace(MANIFEST, clip_skip=2), prompt="a AND " * 8, prompt_syntax="plain", clip_skip=2)
    assert (request.prompts.prompt, request.prompts.clip_skip) == ("a AND " * 8, 2)


def test_an_image_with_an_empty_prompt_is_varied_by_the_tasks_own_strength():
    varied = bind(MANIFEST, prompt="", image="image")
    assert (varied.task, varied.source.strength) == ("variations", TASKS["variations"].defaults["strength"])
    assert bind(MANIFEST, prompt="", image="image", strength=0.9).source.strength == 0.9
    assert bind(MANIFEST, prompt="", image="image", mask="mask").source.strength == 1
    assert bind(MANIFEST, prompt="a star", image="image").source.strength == 0.75
