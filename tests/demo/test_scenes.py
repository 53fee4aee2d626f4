"""The bundled model's recipe: images match their captions, and the judge recognizes them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from demo.captions import caption
from demo.check import judge, prompts
from demo.pixels import look
from demo.scenes import COLORS, PLACES, SHAPES, Scene, Thing, draw, held_out, random_scene


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", ["flat", "outlined", "shaded"])
def test_the_judge_sees_the_shape_that_was_drawn(shape, style):
    scene = Scene((Thing(shape, "red", "top right", "large", style),), "cyan")
    ground, seen = look(draw(scene, np.random.default_rng(0)))
    assert ground == "cyan"
    assert [(s.shape, s.color, s.place) for s in seen] == [(shape, "red", "top right")]


@pytest.mark.slow
def test_the_judge_is_right_on_drawn_scenes_of_every_kind():
    rng = np.random.default_rng(5)
    right, asked = Counter(), Counter()
    for _ in range(120):
        scene = random_scene(rng)
        marks = judge(scene, draw(scene, rng))
        asked.update(marks.keys())
        right.update(name for name, good in marks.items() if good)
    for name, count in asked.items():
        assert right[name] / count > 0.95, name


def test_an_image_of_something_else_is_judged_wrong():
    asked = Scene((Thing("circle", "red", "left"),), "blue")
    shown = Scene((Thing("star", "yellow", "right"),), "green")
    assert not any(judge(asked, draw(shown, np.random.default_rng(0))).values())


def test_an_empty_image_is_judged_wrong():
    two = Scene((Thing("circle", "red", "left"), Thing("star", "pink", "right")), "white")
    assert judge(two, np.full((256, 256, 3), 250, np.uint8)) == {"ground": True, "both": False, "both, in place": False}


def test_captions_name_everything_that_is_not_the_default():
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = random_scene(rng)
        text, captioned = caption(scene, rng)
        assert sorted(map(repr, captioned.things)) == sorted(map(repr, scene.things))
        assert all(t.color in text for t in scene.things)
        assert scene.ground in text or scene.ground == "white"
        for thing in scene.things:
            assert thing.style in text or thing.style == "flat" or (thing.style == "shaded" and "glossy" in text)


def test_prompts_of_the_check_are_held_out_from_training():
    actual = prompts(40, 1)
    assert len(actual) == 40
    assert all(held_out(scene) for _, scene in actual)
    assert Counter(len(scene.things) for _, scene in actual) == {1: 20, 2: 20}


def test_about_one_scene_in_eight_is_held_out():
    rng = np.random.default_rng(0)
    share = np.mean([held_out(random_scene(rng, two=0)) for _ in range(1000)])
    assert 0.08 < share < 0.18


def test_a_window_is_a_part_of_the_whole_image():
    scene = Scene((Thing("heart", "pink", "left"),), "black", "striped")
    whole = draw(scene, np.random.default_rng(3))
    part = draw(scene, np.random.default_rng(3), window=(64, 32, 192, 128))
    np.testing.assert_array_equal(part, whole[32:128, 64:192])


def test_names_are_distinct_and_places_lie_inside():
    assert len(COLORS) == 10
    assert all(0 < x < 1 and 0 < y < 1 for x, y in PLACES.values())
