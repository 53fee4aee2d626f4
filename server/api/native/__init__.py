"""Anemone's own API under /api/v1."""

#: The prefix of all its paths.
PREFIX = "/api/v1"
