from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from converter.loras import EmbeddingFile, LoraError
from tests.support import lora_files

_TWO = lora_files.random(2, 768)


@pytest.mark.parametrize(
    ("tensors", "token", "families", "count"),
    [
        ({"emb_params": _TWO}, None, ("sd1",), 2),
        ({"<cat>": _TWO[0]}, "<cat>", ("sd1",), 1),
        ({"emb_params": lora_files.random(3, 1024).half()}, None, ("sd2",), 3),
        ({"emb_params": lora_files.random(3, 32).bfloat16()}, None, ("sd1", "sd2"), 3),
        ({"clip_l": _TWO, "clip_g": lora_files.random(2, 1280)}, None, ("sdxl",), 2),
    ],
)
def test_an_embedding_is_read(
    tmp_path: Path, tensors: lora_files.Tensors, token: str | None, families: tuple[str, ...], count: int
) -> None:
    file = EmbeddingFile.open(lora_files.write(tmp_path / "bad-hands.v3.safetensors", tensors))
    assert (file.name, file.token, file.families, file.count) == ("bad-hands.v3", token, families, count)
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    for vectors, tensor in zip(file.vectors.values(), tensors.values(), strict=True):
        np.testing.assert_array_equal(vectors, tensor.reshape(count, -1).float().numpy())


def test_sdxls_vectors_are_for_its_two_encoders(tmp_path: Path) -> None:
    tensors = {"clip_g": lora_files.random(2, 1280), "clip_l": _TWO}
    vectors = EmbeddingFile.open(lora_files.write(tmp_path / "x.safetensors", tensors)).vectors
    assert {encoder: each.shape for encoder, each in vectors.items()} == {
        "text_encoder": (2, 768),
        "text_encoder_2": (2, 1280),
    }


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"clip_l": _TWO}, "it has clip_l; accepted: one token's vectors"),
        ({"clip_l": _TWO, "clip_g": lora_files.random(3, 1280)}, "it has 2 vectors in clip_l and 3 in clip_g"),
        ({"emb_params": lora_files.random(2, 1280)}, "those of SDXL's second text encoder alone"),
        ({"<a>": _TWO[0], "<b>": _TWO[1]}, "it has <a>, <b>; accepted: one token's vectors"),
        ({"emb_params": torch.zeros(76, 8)}, "emb_params is [76, 8]; up to 75 vectors"),
        ({"emb_params": torch.zeros(2, 3, 8)}, "emb_params is [2, 3, 8]; up to 75 vectors"),
        ({"emb_params": torch.zeros(0, 8)}, "emb_params is [0, 8]; up to 75 vectors"),
        ({"emb_params": torch.full((2, 8), torch.nan)}, "emb_params has infinite values or NaNs"),
        ({"emb_params": torch.full((2, 8), 1e5)}, "emb_params has values beyond 65504"),
        ({}, "it has no tensors; accepted"),
    ],
)
def test_what_is_no_embedding_is_refused(tmp_path: Path, tensors: lora_files.Tensors, words: str) -> None:
    with pytest.raises(LoraError) as refused:
        EmbeddingFile.open(lora_files.write(tmp_path / "x.safetensors", tensors))
    assert words in str(refused.value)


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What AUTOMATIC1111 writes.
    saved = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(_TWO)},
        "name": "cat",
        "step": 9,
    }
    torch.save(saved, tmp_path / "cat.pt")
    with pytest.raises(LoraError, match=r"cat\.pt is a pickle, which can hold programs and is not read") as refused:
        EmbeddingFile.open(tmp_path / "cat.pt")
    command = str(refused.value).partition('python -c "')[2].rstrip('"')
    monkeypatch.chdir(tmp_path)
    exec(command)
    np.testing.assert_array_equal(
        EmbeddingFile.open(tmp_path / "cat.safetensors").vectors["text_encoder"], _TWO.numpy()
    )
    (tmp_path / "x.png").touch()
    with pytest.raises(LoraError, match=r"x\.png is no embedding"):
        EmbeddingFile.open(tmp_path / "x.png")


def test_a_file_that_is_too_large_for_an_embedding_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(LoraError, match="it has 17825792 bytes; at most 16777216 are accepted"):
        EmbeddingFile.open(tmp_path / "a.safetensors")
