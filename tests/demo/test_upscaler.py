"""The shipped upscaler is nearer to the drawn truth than Lanczos."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from converter.verification.verify import psnr
from demo.scenes import draw, held_out, random_scene
from server.jobs.local_worker import upscaler_opener
from server.models.upscalers import BUNDLED, InstalledUpscalers
from server.pipeline.upscaling.enlarge import enlarged

pytestmark = pytest.mark.slow


def test_a_scene_has_the_same_things_at_every_size():
    scene = random_scene(np.random.default_rng(3))
    small, large = (draw(scene, np.random.default_rng(1), side=side) for side in (256, 512))
    reduced = np.asarray(Image.fromarray(large).resize((256, 256), Image.Resampling.BOX)).astype(int)
    assert np.abs(reduced - small).mean() < 1


@pytest.mark.parametrize("side", [128, 256])
@pytest.mark.parametrize("precision", ["fast", "fp32"])
def test_held_out_scenes_are_nearer_to_the_truth_than_with_lanczos(tmp_path, precision, side):
    network = upscaler_opener(InstalledUpscalers(tmp_path), {}, precision)(BUNDLED)
    rng, gains = np.random.default_rng(2026), []
    while len(gains) < 6:
        scene = random_scene(rng)
        if not held_out(scene):
            continue
        number = int(rng.integers(2**31))
        small, truth = (draw(scene, np.random.default_rng(number), side=each) for each in (side, 2 * side))
        *_, ours = enlarged(small, 2 * side, 2 * side, network)
        *_, lanczos = enlarged(small, 2 * side, 2 * side, "lanczos")
        gains.append(psnr(ours, truth) - psnr(lanczos, truth))
    assert np.mean(gains) >= 8
    assert min(gains) >= 4
