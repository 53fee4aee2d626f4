"""Composed prompts, and what hostile ones cost."""

from __future__ import annotations

import random
import time

import pytest

from server.pipeline.prompts.composition import Part, parts_of
from server.pipeline.prompts.editing import Walk
from server.pipeline.prompts.emphasis import sections_of
from server.pipeline.prompts.reading import read_prompt


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [Part("a cat")]),
        ("a cat AND a dog", [Part("a cat"), Part("a dog")]),
        # A1111's wiki, composable diffusion
        ("a cat :1.2 AND a dog AND a penguin :2.2", [Part("a cat", 1.2), Part("a dog"), Part("a penguin", 2.2)]),
        ("a AND b:-1", [Part("a"), Part("b", -1.0)]),
        ("a AND (b:1.3)", [Part("a"), Part("(b:1.3)")]),
        ("sAND and ANDY", [Part("sAND and ANDY")]),
        ("AND", [Part(""), Part("")]),
        ("a screen of 16:9", [Part("a screen of 16:9")]),
    ],
)
def test_and_joins_prompts_with_their_weights(prompt, expected):
    assert list(parts_of(prompt)) == expected


def test_a_negative_prompt_has_edits_but_and_is_text():
    read = read_prompt("[a:b:1] AND c :2", with_syntax=True, is_negative=True)
    assert (read.texts(Walk(2)), read.weights) == ([("a AND c :2",), ("b AND c :2",)], (1.0,))


def test_plain_prompts_are_text():
    read = read_prompt("[a:b:1] AND (c:2)", with_syntax=False)
    assert read.texts(Walk(2)) == [("[a:b:1] AND (c:2)",)] * 2


@pytest.mark.parametrize(
    ("prompt", "accepted"),
    [
        ("a AND " * 8, "at most 8 prompts joined by AND"),
        ("[a|b]" * 101, "at most 100 edits and alternations"),
        ("".join(f"[{i}:{i / 50}]" for i in range(40)), "at most 32 different texts"),
        ("[a|b|c][d|e|f|g|h][i|j|k|l|m|n|o]", "at most 32 different texts"),
        ("a AND " * 7, None),
        ("[a|b]" * 100, None),
    ],
)
def test_a_prompt_that_would_cost_too_much_says_what_is_accepted(prompt, accepted):
    excess = read_prompt(prompt, with_syntax=True).excess(Walk(50))
    assert excess is None if accepted is None else accepted in excess


HOSTILE = [
    "(" * 10_000,
    "[" * 10_000,
    "()" * 5_000,
    "[]" * 5_000,
    "(" * 5_000 + ")" * 5_000,
    "[" * 5_000 + "]" * 5_000,
    "[a:" * 3_333,
    "([)]" * 2_500,
    "(a" * 5_000,
    "[a|b]" * 2_000,
    "[" * 2_600 + "a" + ":1]" * 2_460,
    "(" * 4_990 + "[a|b]" + ")" * 4_990,
    "\\" * 10_000,
    ":" * 10_000,
    "[" + "|" * 9_998 + "]",
    " BREAK" * 1_666,
    " AND" * 2_500,
    " " * 10_000,
    "(a:" + " " * 9_997,
    "(a:" + "1" * 9_997,
]


@pytest.mark.parametrize("prompt", HOSTILE, ids=lambda prompt: prompt[:8])
def test_ten_thousand_brackets_take_no_more_time_than_words_do(prompt):
    def read():
        began = time.process_time()
        sections_of(prompt)
        read_prompt(prompt, with_syntax=True).excess(Walk(150))
        return time.process_time() - began

    # 15 to 35 ms here; what grows with the square of the length takes seconds.
    assert min(read() for _ in range(5)) < 0.5


@pytest.mark.parametrize("seed", range(20))
def test_any_text_is_a_prompt(seed):
    rng = random.Random(seed)
    signs = ["(", ")", "[", "]", ":", "|", "\\", "AND", "BREAK", " ", "1", ".5", "a", "\n", "é", "🎈", ",", "-", "e9"]
    for _ in range(200):
        prompt = "".join(rng.choice(signs) for _ in range(rng.randint(0, 40)))
        read = read_prompt(prompt, with_syntax=True)
        for texts in read.texts(Walk(5)):
            assert len(texts) == len(read.weights)
            for text in texts:
                assert sections_of(text)
