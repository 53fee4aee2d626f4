"""Which media type an Accept header chooses."""

from __future__ import annotations

import pytest

from server.api.accept import preferred

OFFERED = ("image/png", "image/webp", "image/jpeg")
CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
FIREFOX = "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "image/png"),
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("IMAGE/JPEG", "image/jpeg"),
        ("image/jpeg, image/webp", "image/webp"),
        ("image/jpeg;q=0.9, image/webp;q=0.8", "image/jpeg"),
        ("image/jpeg ; q=0.9 , */*;q=0.1", "image/jpeg"),
        ("image/png;q=0.1, image/*", "image/webp"),
        ("image/png;q=0, */*;q=0.2", "image/webp"),
        ("text/html, */*;q=0.1", "image/png"),
        ("image/webp;q=rubbish", "image/webp"),
        ("image/webp;q=7, image/jpeg", "image/webp"),
        ("image/jpeg;q=0.2, image/jpeg;q=0.9, image/png;q=0.5", "image/jpeg"),
        (CHROME, "image/png"),
        (FIREFOX, "image/png"),
        ("text/html", None),
        ("image/avif", None),
        ("*/*;q=0", None),
        ("image/png;q=0", None),
        (",,;q=1,", "image/png"),
    ],
)
def test_the_type_that_a_client_takes_most_gladly_is_chosen(accept, chosen):
    assert preferred(accept, OFFERED) == chosen


def test_a_header_of_a_million_ranges_is_read_in_part():
    assert preferred("a/b," * 1_000_000 + "image/jpeg", OFFERED) is None
