"""The examples that the bundled model's ControlNet learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from demo.captions import caption
from demo.scenes import PLACES, SHAPES, Scene, Thing, draw, random_scene
from demo.train import HERE
from demo.train_controlnet import CONDITION_WIDTHS, Batches, Example, control_map, make_controlnet, moved, unplaced
from demo.train_unet import SIDE, THINGS

BLANK = np.zeros((256, 32), np.uint8)
SCENE = Scene((Thing("square", "yellow", "top left"),), "orange", "striped")


def center_of(marked: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(marked)
    return np.array([(xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2])


@pytest.mark.parametrize("window", [(0, 0), (12, -7)])
def test_a_map_of_things_alone_has_them_where_the_scene_is_drawn(window):
    edges = control_map(SCENE, 5, window, alone=True)[..., 0] > 0
    pixels = draw(SCENE, np.random.default_rng(5), window=moved(window)).astype(int)
    yellow = np.abs(pixels - (250, 214, 50)).sum(-1) < 40
    assert np.abs(center_of(edges) - center_of(yellow)).max() < 2


def test_a_map_of_things_alone_has_nothing_of_the_ground():
    assert control_map(SCENE, 5, (0, 0), alone=True)[:, 160:].max() == 0


def test_captions_leave_places_to_the_map_and_sometimes_say_another_shape():
    rng = np.random.default_rng(2)
    texts = [unplaced(SCENE, rng) for _ in range(300)]
    assert not any(word in text for text in texts for word in (" left", " top", " upper", "center"))
    assert 60 < texts.count("") < 120
    assert 60 < sum("square" in text for text in texts) < 130
    assert any("circle" in text for text in texts)
    assert any("shape" in text for text in texts)


def test_captions_with_places_are_as_before():
    assert "left" in caption(Scene((Thing("ring", "red", "left"),), "white"), np.random.default_rng(1))[0]
    scene = random_scene(np.random.default_rng(4), two=1.0)
    assert all(place not in caption(scene, np.random.default_rng(1), places=False)[0] for place in PLACES)
    assert {thing.shape for thing in scene.things} <= set(SHAPES)


def test_small_things_are_seen_more_often_and_count_more():
    small, large = (Example(Scene((Thing("star", "red", "top", size),), "white"), BLANK) for size in ("small", "large"))
    latents = torch.arange(2.0)[:, None, None, None].expand(2, 4, SIDE, SIDE)
    x, _, maps, weight = next(Batches(latents, [small, large], 400).draw(np.random.default_rng(3)))
    is_small = x[:, 0, 0, 0] == 0
    assert maps.shape == (400, 3, 256, 256)
    assert 0.7 < is_small.float().mean() < 0.8
    assert weight[is_small].amax() > 10
    assert weight[~is_small].amax() == THINGS
    around = (weight[is_small] * (weight[is_small] > 1)).sum((1, 2, 3))
    torch.testing.assert_close(around, torch.full_like(around, float(SIDE**2)))


@pytest.mark.slow
def test_the_controlnet_is_one_that_a_conversion_accepts_and_changes_nothing_at_first():
    unet = UNet2DConditionModel.from_pretrained(HERE / "model" / "unet")
    net = make_controlnet(unet)
    assert tuple(net.config.conditioning_embedding_out_channels) == CONDITION_WIDTHS
    assert not any(conv.weight.any() for conv in (*net.controlnet_down_blocks, net.controlnet_mid_block))
