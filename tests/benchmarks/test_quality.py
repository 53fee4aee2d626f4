"""The comparison of the bundled model's compressed forms: what it measures, on forms made by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from benchmarks.quality import FORMS, Form, Row, plot
from demo.scenes import COLORS, SHAPES, Scene, Thing, held_out
from server.settings import BUNDLED_MODEL


def form(error: float, nbytes: int) -> Form:
    """A form whose prediction for the prompt, of peak 1, is off by ``error``; that for the negative prompt is exact."""
    rows = np.stack([np.full((4, 8, 8), 0.5, np.float32), np.full((4, 8, 8), 1 + error, np.float32)])
    images = [np.full((8, 8, 3), 100 + level, np.uint8) for level in (0, round(1000 * error), 99 * (error > 0))]
    return Form(nbytes, [rows], 3.0, images, 3, 4)


def test_a_row_has_what_differs_from_fp16():
    row = Row.of("a form", form(0.001, 300), form(0.0, 1000))
    assert row.share == 0.3
    assert row.seen == 0.75
    assert row.prediction_db == pytest.approx(10 * np.log10(1 / (0.001**2 / 2)), abs=0.01)  # half of it is exact
    assert row.guided_db == pytest.approx(20 * np.log10(2 / 0.003), abs=0.01)  # 0.5 + 3 x (1 - 0.5) = 2, off by 0.003
    assert row.images_db == pytest.approx(20 * np.log10(255), abs=0.01)  # of 0, 1 and 99 levels, the median


def test_the_plot_has_every_kind_of_form(tmp_path):
    names = [*list(FORMS)[1:], "mixed palettes, 4.5 bits", "mixed palettes of 32 channels, 4.5 bits"]
    plot([Row(name, 100, 0.5, 50.0, 50.0, 50.0, 1.0) for name in names], tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for kind in ("palettes", "palettes of 32 channels", "integers", "mixed palettes", "mixed palettes of 32 channels"):
        assert f"<!-- {kind} -->" in drawn


def test_the_analysis_sees_no_scene_that_forms_are_compared_by():
    prompts = json.loads((BUNDLED_MODEL / "anemone-defaults.json").read_text())["prompts"]
    for prompt in prompts:
        words = prompt.replace("donut", "ring")
        things = re.findall(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", words)
        (ground,) = re.findall(rf"({'|'.join(COLORS)}) background", words)
        assert things
        assert not held_out(Scene(tuple(Thing(shape, color, "center") for color, shape in things), ground))
