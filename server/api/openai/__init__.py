"""OpenAI's Images API under /v1: generations, edits, variations and models."""

#: The prefix of all its paths.
PREFIX = "/v1"
