"""The header that tells a job's notes."""

from __future__ import annotations

from server.api.answers import notes_headers


def test_notes_are_one_line_of_ascii_without_spaces_around_it() -> None:
    assert notes_headers([" a – b", "c "]) == {"X-Anemone-Notes": "a \\u2013 b; c"}
    assert notes_headers([]) == {}
