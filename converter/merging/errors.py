"""The error of merging."""

from __future__ import annotations

from converter.errors import AnemoneError


class MergeError(AnemoneError):
    """These LoRAs and embeddings cannot be merged into this model."""
