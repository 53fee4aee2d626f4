"""Chooses the media type of an answer by the request's Accept header (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

#: Parts of a header that are read: browsers send ten.
_MOST_RANGES = 100


def _quality(parameters: list[str]) -> float:
    """Return the weight among a range's parameters, 0 to 1; 1 without one that can be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 1.0
    return 1.0


def _ranges(accept: str) -> dict[str, float]:
    """Return the weight of each media range, without its other parameters; of one named twice the greater."""
    weights: dict[str, float] = {}
    for part in accept.split(",", _MOST_RANGES)[:_MOST_RANGES]:
        media_range, *parameters = part.split(";")
        name = media_range.strip().lower()
        if name:
            weights[name] = max(weights.get(name, 0.0), _quality(parameters))
    return weights


def preferred(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the offered media type that the client prefers; None if it accepts no offered one.

    Of equally preferred ones it is the first. Without a header, or with an empty one, a client accepts everything. The most
    exact range counts: ``image/png;q=0.1, image/*`` prefers every other image to PNG.
    """
    weights = _ranges(accept or "") or {"*/*": 1.0}

    def weight(media_type: str) -> float:
        names = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
        return next((weights[name] for name in names if name in weights), 0.0)

    best = max(offered, key=weight)
    return best if weight(best) > 0 else None
