"""The maps and prompts by which the bundled model's ControlNet is judged."""

from __future__ import annotations

import numpy as np

from demo.check_controls import prompts, scenes
from demo.scenes import PLACES, SHAPES, held_out


def test_scenes_are_held_out_and_beside_the_center():
    chosen = scenes(12, seed=1)
    assert len(set(chosen)) == 12
    assert all(held_out(scene) and scene.things[0].place != "center" for scene in chosen)


def test_prompts_agree_say_nothing_or_contradict_and_never_say_where():
    rng = np.random.default_rng(0)
    for scene in scenes(12, seed=1):
        texts, shape = dict(prompts(scene, rng)), scene.things[0].shape
        assert shape in texts["agreeing"]
        assert "shape" in texts["neutral"]
        assert shape not in texts["contradicting"]
        assert any(other in texts["contradicting"] for other in SHAPES)
        assert not any(place in text for text in texts.values() for place in PLACES)
