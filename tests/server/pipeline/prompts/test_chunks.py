"""Chunks of tokens, as AUTOMATIC1111 fills them (sd_hijack_clip.py)."""

from __future__ import annotations

from server.pipeline.prompts.chunks import WeightedToken, divide

COMMA = 0


def numbers(*sections, size=75, comma=COMMA):
    tokens = [[WeightedToken(number) for number in section] for section in sections]
    return [[token.number for token in chunk] for chunk in divide(tokens, size, comma)]


def test_a_prompt_fills_one_chunk_after_the_other():
    assert numbers([1] * 75) == [[1] * 75]
    assert numbers([1] * 160) == [[1] * 75, [1] * 75, [1] * 10]
    assert numbers([]) == [[]]


def test_a_chunk_ends_after_a_comma_among_its_last_tokens():
    phrase = [1] * 60 + [COMMA] + [2] * 14
    assert numbers([*phrase, 2]) == [[1] * 60 + [COMMA], [2] * 15]
    assert numbers(phrase) == [phrase]  # it fits
    early = [1] * 54 + [COMMA] + [2] * 21
    assert numbers(early) == [early[:75], early[75:]]
    latest_that_moves = [1] * 55 + [COMMA] + [2] * 20
    assert numbers(latest_that_moves) == [latest_that_moves[:56], [2] * 20]
    assert numbers([1] * 75 + [COMMA]) == [[1] * 75, [COMMA]]
    assert numbers([*phrase, 2], comma=None) == [phrase, [2]]


def test_sections_begin_chunks():
    assert numbers([1], [2, 3]) == [[1], [2, 3]]
    assert numbers([], [1]) == [[], [1]]
    assert numbers([1], []) == [[1]]


def test_weights_stay_with_their_tokens():
    token = WeightedToken(4, 1.3)
    assert divide([[WeightedToken(1)] * 75 + [token]], 75, None)[1] == (token,)


def test_the_vectors_of_an_embedding_stay_in_one_chunk():
    vectors = [WeightedToken(9, together=4), *[WeightedToken(9, together=0)] * 3]
    (first, second) = divide([[*[WeightedToken(1)] * 72, *vectors]], 75, COMMA)
    assert (len(first), len(second)) == (72, 4)
    assert len(divide([[*[WeightedToken(1)] * 71, *vectors]], 75, COMMA)) == 1
    long = [WeightedToken(9, together=80), *[WeightedToken(9, together=0)] * 79]
    assert [len(chunk) for chunk in divide([[WeightedToken(1), *long]], 75, COMMA)] == [1, 75, 5]
