"""Read files of LoRAs and of textual inversion embeddings."""

from __future__ import annotations

from converter.loras.adapter_config import settings_beside
from converter.loras.embedding import EmbeddingFile
from converter.loras.errors import LoraError
from converter.loras.few_step import FewStep
from converter.loras.file import About, LoraFile
from converter.loras.layers import LoraLayer

__all__ = ["About", "EmbeddingFile", "FewStep", "LoraError", "LoraFile", "LoraLayer", "settings_beside"]
