"""The layout of the parameters text, held against the expression that A1111 reads it with."""

from __future__ import annotations

import random
import re
import time

import pytest

from server.pipeline.infotext.parameters import read_infotext, read_settings

#: re_param of A1111's modules/infotext_utils.py.
A1111 = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
PIECES = (*("ab", "C d", ": ", ", ") * 3, "-/", ":", ",", ", ", '"', '\\"', "\\", " ", "  ", "(", "1x2", "é", "x")


def test_settings_are_found_where_a1111_finds_them():
    draw = random.Random(1)
    several = 0
    for _ in range(5000):
        line = "".join(draw.choices(PIECES, k=draw.randrange(40)))
        theirs = A1111.findall(line)
        ours = list(read_settings(line))
        assert [key for key, _ in ours] == [key for key, _ in theirs], line
        # What is quoted is unquoted only as JSON, and both leave the rest as it is.
        assert all(own == their.strip() for (_, own), (_, their) in zip(ours, theirs, strict=True) if '"' not in their)
        several += len(theirs) > 1
    assert several > 1000


@pytest.mark.parametrize(
    "line",
    [
        "word " * 60_000,
        "ab: " * 60_000,
        'ab:"\\"' * 30_000,
        'ab: "' * 60_000,
        "ab: [1," * 30_000,
        "ab: " + "[" * 200_000,
        "ab:" + " " * 200_000 + "x",
    ],
    ids=range(7),
)
def test_a_long_line_is_read_in_time_that_grows_with_its_length(line):
    began = time.perf_counter()
    read_infotext(line)
    assert time.perf_counter() - began < 2  # at most 0.1 s; A1111's expression takes 18 s for a fifth of the first


def test_lists_of_civitai_are_one_value():
    resources = '[{"type":"checkpoint","modelVersionId":1,"modelName":"Pony: v6, XL"},{"weight":0.7}]'
    line = f"Steps: 25, Sampler: Euler a, Created Date: 2024-10-16T19:06:01.8Z, Civitai resources: {resources}, Civitai metadata: {{}}"
    assert read_infotext(f"cat\n{line}").settings == {
        "Steps": "25",
        "Sampler": "Euler a",
        "Created Date": "2024-10-16T19:06:01.8Z",
        "Civitai resources": resources,
        "Civitai metadata": "{}",
    }


def test_a_negative_prompt_needs_no_space():
    assert read_infotext("cat\nNegative prompt:dog\nSteps: 1, Seed: 2, Size: 1x1").negative_prompt == "dog"


@pytest.mark.parametrize(
    ("text", "prompt", "negative"),
    [
        ("a cat. Negative prompt: a dog Steps: 20, Sampler: Euler, CFG scale: 7", "a cat.", "a dog"),
        ("a (cat:1.2).Steps: 20, Sampler: Euler, CFG scale: 7", "a (cat:1.2).", ""),
        ("Steps: 20, Sampler: Euler, CFG scale: 7", "", ""),
        ("CFG scale: 7, Seed: 1, Steps: 20, Sampler: Euler, Size: 8x8", "", ""),
    ],
)
def test_prompts_are_found_where_line_breaks_were_lost(text, prompt, negative):
    parameters = read_infotext(text)
    assert (parameters.prompt, parameters.negative_prompt) == (prompt, negative)
    assert (parameters.settings["Steps"], parameters.settings["CFG scale"]) == ("20", "7")


def test_half_of_a_surrogate_pair_stays_as_it_is_written():
    settings = read_infotext('cat\nSteps: 1, Seed: 2, Style: "a, \\ud83d"').settings
    assert settings["Style"] == "a, \\ud83d"
    settings["Style"].encode()
