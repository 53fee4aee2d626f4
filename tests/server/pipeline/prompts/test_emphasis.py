"""Weights of words, as AUTOMATIC1111 documents them (prompt_parser.py) and computes them."""

from __future__ import annotations

import pytest

from server.pipeline.prompts.emphasis import Piece, sections_of


def weights(prompt):
    (section,) = sections_of(prompt)
    return [(piece.text, piece.weight) for piece in section]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
    ],
)
def test_the_documented_examples_have_the_documented_weights(prompt, expected):
    assert weights(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        ("[a]", [("a", 1 / 1.1)]),
        ("[a", [("a", 1 / 1.1)]),
        ("((a))", [("a", 1.1 * 1.1)]),
        ("([a])", [("a", 1.0)]),
        ("([a)]", [("a", 1.0)]),  # each kind of bracket closes its own
        ("(a: 1.5 )", [("a", 1.5)]),
        ("(a:-1)", [("a", -1.0)]),
        ("(a:.5)", [("a", 0.5)]),
        ("a:1.3)", [("a:1.3)", 1.0)]),  # nothing is open
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),  # no number
        ("(a:b)", [("a:b", 1.1)]),
        ("a) b] c", [("a) b] c", 1.0)]),
        (r"\\ \( \) \[ \]", [("\\ ( ) [ ]", 1.0)]),
        ("a\\b\\", [("ab", 1.0)]),
    ],
)
def test_what_is_not_closed_or_not_opened_is_text(prompt, expected):
    assert weights(prompt) == expected


def test_break_begins_a_section_wherever_it_stands_as_a_word():
    assert sections_of("a BREAK b") == ((Piece("a "),), (Piece(" b"),))
    assert sections_of("(a BREAK b:2)BREAK") == ((Piece("a ", 2.0),), (Piece(" b", 2.0), Piece("")), (Piece(""),))
    assert sections_of("BREAKFAST break") == ((Piece("BREAKFAST break"),),)


@pytest.mark.parametrize("prompt", ["(" * 10_000, "[" * 10_000, "(" * 5_000 + "a" + ":9)" * 1_600])
def test_weights_beyond_any_number_are_no_error(prompt):
    for piece in sections_of(prompt)[0]:
        assert isinstance(piece.weight, float)
