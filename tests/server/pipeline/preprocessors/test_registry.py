"""Names of preprocessors, and what is said of those that need weights."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from server.pipeline.preprocessors.registry import LEARNED, PREPROCESSORS, accepted_preprocessors, find_preprocessor

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_every_preprocessor_makes_an_rgb_map_of_the_image_s_size(name):
    made = PREPROCESSORS[name].run(IMAGE)
    assert made.dtype == np.uint8
    assert made.shape == IMAGE.shape


def test_none_leaves_a_map_as_it_is():
    assert np.array_equal(PREPROCESSORS["none"].run(IMAGE), IMAGE)


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_preprocessor_is_refused_with_the_reason(name):
    assert name not in PREPROCESSORS
    accepted = accepted_preprocessors(name)
    assert "weights" in accepted
    assert all(known in accepted for known in PREPROCESSORS)


def test_a_mistyped_preprocessor_is_told_those_that_there_are():
    assert accepted_preprocessors("cany") == ", ".join(PREPROCESSORS)


def test_opencv_is_not_imported_before_a_map_is_made():
    code = (
        "import sys, server.pipeline.preprocessors.registry, server.pipeline.request; assert 'cv2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("title", "name"), [
    ("canny", "canny"),
    ("Lineart_Standard (from white bg & black line)", "lines"),
    ("invert (from white bg & black line)", "invert"),
    ("soft_edge", "soft_edge"),
    ("None", "none"),
])  # fmt: skip
def test_preprocessors_are_found_by_the_extensions_names(title: str, name: str) -> None:
    found = find_preprocessor(title)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("title", ["", "depth_midas", "(canny)", "(" * 60_000])
def test_other_names_are_not_found(title: str) -> None:
    assert find_preprocessor(title) is None
