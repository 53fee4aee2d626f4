"""LoRAs and embeddings for tests: their facts, and small files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import save, save_file

_MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@dataclass(frozen=True)
class FakeFewStep:
    steps: int = 4
    guidance_scale: float = 1.0
    scheduler: str = "lcm"


@dataclass(frozen=True)
class FakeLora:
    name: str
    sha256: str = "a" * 64
    tensors_sha256: str = "b" * 64
    families: tuple[str, ...] = ("sd1",)
    few_step: FakeFewStep | None = None
    text_width: int | None = None


@dataclass(frozen=True)
class FakeEmbedding:
    name: str
    words: tuple[str, ...]
    vectors: int = 1
    sha256: str = "e" * 64
    families: tuple[str, ...] = ("sd1",)
    text_width: int | None = None


def write_lora(path: Path, module: str, rows: int, columns: int, size: float = 1.0, width: int | None = None) -> Path:
    """Write a LoRA of rank 1 on one linear layer of the UNet, in kohya's naming, and with ``width`` one of a model's family."""
    rng = np.random.default_rng(0)
    shapes = {f"lora_unet_{module}": (rows, columns)}
    if width is not None:
        shapes[_MODULE] = (8, width)
    tensors = {}
    for name, (out, into) in shapes.items():
        tensors[f"{name}.lora_up.weight"] = (size * rng.standard_normal((out, 1))).astype(np.float32)
        tensors[f"{name}.lora_down.weight"] = rng.standard_normal((1, into)).astype(np.float32)
        tensors[f"{name}.alpha"] = np.ones((), np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def lora_bytes(width: int = 768, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a LoRA for the models whose text encoders have this width: Stable Diffusion 1's."""
    up, down = np.ones((8, 1), np.float32), np.ones((1, width), np.float32)
    return save({f"{_MODULE}.lora_up.weight": up, f"{_MODULE}.lora_down.weight": down}, dict(metadata or {}))


@contextmanager
def uploaded(client: httpx.Client, kind: str, name: str, content: bytes) -> Iterator[None]:
    """Keep a LoRA or an embedding (``kind`` is its path) on the server."""
    headers = {"Content-Type": "application/octet-stream"}
    answer = client.post(f"/api/v1/{kind}?name={name}", content=content, headers=headers)
    assert answer.status_code == 201, answer.text
    yield
    assert client.delete(f"/api/v1/{kind}/{name}").status_code == 204
