"""Our own API under /api/v1."""

#: The path that all its routes begin with.
PREFIX = "/api/v1"
