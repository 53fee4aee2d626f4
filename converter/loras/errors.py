"""The error of files of LoRAs and embeddings."""

from __future__ import annotations

from converter.errors import AnemoneError


class LoraError(AnemoneError):
    """A file is no LoRA or embedding, is damaged, or is of a kind or for a model that is not supported."""
