"""Recipes of mixed palettes: which files are read, and what is refused in which words."""

from __future__ import annotations

import json
import re

import pytest

from converter.errors import CheckpointError
from converter.weights.recipe import Recipe, require_layers

#: A part of what Apple's pre-analysis writes.
APPLES = {
    "model_version": "stabilityai/stable-diffusion-xl-base-1.0",
    "single_layer": {"1": {"metadata": {"nbits": 1}, "conv_in": [30.1, 29.0]}},
    "cumulative": {},
    "baselines": {"original": 82.2, "linear_8bit": 66.0, "recipe_4.50_bit_mixedpalette": 75.9},
    "recipes": {
        "recipe_4.50_bit_mixedpalette": {"down_blocks.1.attentions.0.proj_in": 4, "mid_block.resnets.0.conv1": 16},
        "recipe_2.71_bit_mixedpalette": {"down_blocks.1.attentions.0.proj_in": 1},
    },
}


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "recipes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_a_recipe_of_apples_converter_is_chosen_by_name(written):
    recipe = Recipe.read(f"{written(APPLES)}#recipe_4.50_bit_mixedpalette")
    assert recipe.bits == {"down_blocks.1.attentions.0.proj_in": 4, "mid_block.resnets.0.conv1": 16}
    shapes = {"down_blocks.1.attentions.0.proj_in": (100, 100), "mid_block.resnets.0.conv1": (50, 100), "x": (50, 100)}
    assert recipe.average(shapes) == pytest.approx((4 * 10000 + 16 * 5000 + 16 * 5000) / 20000)


def test_the_only_recipe_of_a_file_needs_no_name(written):
    assert Recipe.read(written({"recipes": {"mine": {"conv_in": 6}}})).name == "mine"


def test_recipes_are_told_apart_by_what_they_say_and_not_by_their_file(written):
    first, again, other = (
        Recipe.read(written({"recipes": r})) for r in ({"a": {"x": 6}}, {"b": {"x": 6}}, {"a": {"x": 4}})
    )
    assert first.sha256 == again.sha256 != other.sha256


@pytest.mark.parametrize(
    ("content", "name", "why"),
    [
        (APPLES, "", r"has several recipes; give one as .*#NAME: recipe_4.50_bit_mixedpalette, recipe_2.71"),
        (APPLES, "#x", r"has no recipe 'x'; it has recipe_4.50"),
        ("{", "", "is not JSON"),
        ("[" * 100_000, "", "is no recipe: it is nested too deeply"),
        ({"recipes": {f"r{n}": {"conv_in": 4} for n in range(30)}}, "", "r0, r1, .*, r19 and 10 more$"),
        ({"recipes": {"a\nb": {"conv_in": 4}, "c": {"conv_in": 4}}}, "#b", r"it has 'a\\nb', c$"),
        ([], "", "is no recipe; accepted"),
        ({"recipes": {}}, "", "is no recipe; accepted"),
        ({"recipes": {"a": []}}, "", "is no recipe; accepted"),
        ({"recipes": {"a": {"conv_in": 5}}}, "", r"has 5 bits for 'conv_in'; accepted: 1, 2, 3, 4, 6, 8, 16"),
        ({"recipes": {"a": {"conv_in": "6"}}}, "", r"has '6' bits"),
        ({"recipes": {"a": {"conv_in": True}}}, "", r"bits for 'conv_in'; accepted"),
    ],
)
def test_what_is_no_recipe_is_refused_with_what_is_one(written, content, name, why):
    with pytest.raises(CheckpointError, match=why):
        Recipe.read(f"{written(content)}{name}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.json cannot be read: No such file"):
        Recipe.read(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/zero", "more than 16 MB"), ("", "has no name"), ("#a", "has no name")]
)
def test_what_is_no_file_is_refused(path, why):
    with pytest.raises(CheckpointError, match=why):
        Recipe.read(path)


def test_a_recipe_for_another_model_is_refused(written):
    file = written({"recipes": {"a": {"conv_in": 6, "mid_block.a": 4, "mid_block.b": 4}}})
    bits = Recipe.read(file).bits
    require_layers(file, bits, ["conv_in", "mid_block.a", "mid_block.b"])
    why = rf"{re.escape(file)} is for another model: the UNet has no layer 'mid_block\.a', nor 1 more of the 3"
    with pytest.raises(CheckpointError, match=why):
        require_layers(file, bits, ["conv_in"])
