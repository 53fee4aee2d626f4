"""Prompts that change from step to step: the examples that AUTOMATIC1111 documents (prompt_parser.py, its wiki)."""

from __future__ import annotations

import pytest

from server.pipeline.prompts.editing import Walk, read_schedule


def schedule(prompt, walk):
    """The last step of each text, and the text, as A1111 lists them."""
    texts = read_schedule(prompt).texts(walk)
    ends = [i + 1 for i, text in enumerate(texts) if i + 1 == len(texts) or texts[i + 1] != text]
    return [(end, texts[end - 1]) for end in ends]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(5, "a  c"), (10, "a {b|d{ c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(step, ("(b:1.1)", "a")[step % 2]) for step in range(1, 11)]),
        ("[fe|]male", [(step, ("male", "female")[step % 2]) for step in range(1, 11)]),
        ("[fe|||]male", [(1, "female"), (4, "male"), (5, "female"), (8, "male"), (9, "female"), (10, "male")]),
    ],
)
def test_the_documented_examples_change_at_the_documented_steps(prompt, expected):
    assert schedule(prompt, Walk(10)) == expected


def test_the_documented_landscape():
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[: in background:0.25] [shoddy:masterful:0.5]"
    )
    assert schedule(prompt, Walk(100)) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [b:.5] c", [(10, "a b c")]),
        ("a [b:1.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a[b:12]", [(2, "a"), (10, "ab")]),
    ],
)
def test_a_second_pass_counts_on_from_the_first(prompt, expected):
    assert schedule(prompt, Walk(10, earlier=10)) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[a:b:0]", [(4, "b")]),
        ("[a:b:-1]", [(4, "b")]),
        ("[a:b:9]", [(4, "a")]),
        ("[a:b:1.0]", [(4, "a")]),
        ("[a:b:1e999]", [(4, "a")]),
        ("[a:b:c:2]", [(4, "[a:b:c:2]")]),  # too many parts
        ("[a:b]", [(4, "[a:b]")]),
        ("[[a:b]:c:2]", [(4, "[[a:b]:c:2]")]),  # what is in it is not well formed
        ("[a)b:c:2]", [(4, "[a)b:c:2]")]),
        ("[(a:b:c):2]", [(4, "[(a:b:c):2]")]),
        (r"\[a:b:2\]", [(4, r"\[a:b:2\]")]),
        (r"[a\::b:2]", [(2, r"a\:"), (4, "b")]),
        ("a | [b:c:2]", [(2, "a | b"), (4, "a | c")]),
        ("[a|b] [c|d|e]", [(1, "a c"), (2, "b d"), (3, "a e"), (4, "b c")]),
        ("[a[b:c:2]|d]", [(1, "ab"), (2, "d"), (3, "ac"), (4, "d")]),
    ],
)
def test_what_is_not_well_formed_is_text(prompt, expected):
    assert schedule(prompt, Walk(4)) == expected
