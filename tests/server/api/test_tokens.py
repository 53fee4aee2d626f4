"""Token counts of the bundled model, beside transformers' tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from transformers import CLIPTokenizer

from converter.loras import EmbeddingFile
from converter.merging import merge
from server.models.loras import BUNDLED
from server.settings import BUNDLED_MODEL
from tests.support.live_server import live

SUN = BUNDLED / "anemone-embeddings" / "shapes-sun.safetensors"


@pytest.fixture(scope="module")
def count(bundled_folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., httpx.Response]]:
    data = tmp_path_factory.mktemp("tokens")
    (data / "models").mkdir()
    (data / "models" / "bundled").symlink_to(bundled_folder.path)
    (data / "embeddings").mkdir()
    shutil.copy(SUN, data / "embeddings")
    merge(bundled_folder, [], [EmbeddingFile.open(SUN)], data / "models" / "sun")
    with live(data) as client:
        yield lambda prompt, **fields: client.post(
            "/api/v1/tokens", json={"prompt": prompt, "model": "bundled"} | fields
        )


@pytest.mark.parametrize("prompt", ["", "a red circle", "a red circle, a 12th star's Ünïcode — 🦑", "red " * 100])
def test_tokens_are_those_of_transformers(count: Callable[..., httpx.Response], prompt: str) -> None:
    theirs = CLIPTokenizer.from_pretrained(Path(BUNDLED_MODEL) / "tokenizer")(prompt, add_special_tokens=False)
    number = len(theirs.input_ids)
    chunks = max(1, -(-number // 75))
    assert count(prompt).json() == {"tokens": number, "limit": 75, "chunks": chunks}


def test_syntax_is_not_counted_unless_it_is_text(count: Callable[..., httpx.Response]) -> None:
    words = count("red circle").json()["tokens"]
    assert count("(red:1.3) [circle]").json()["tokens"] == words
    assert count("(red:1.3) [circle]", prompt_syntax="plain").json()["tokens"] > words
    assert count("red BREAK circle").json() == {"tokens": words, "limit": 75, "chunks": 2}


def test_the_longest_text_of_a_prompt_that_changes_counts(count: Callable[..., httpx.Response]) -> None:
    longest = count("a large red circle").json()["tokens"]
    assert count("a [star:large red circle:0.5]").json()["tokens"] == longest
    assert count("a star AND a large red circle").json()["tokens"] == longest


def test_an_embedding_counts_its_vectors_whether_it_is_merged_by_the_request_or_in_the_model(
    count: Callable[..., httpx.Response],
) -> None:
    others = count("on a blue background").json()["tokens"]
    ours = [count("shapes-sun on a blue background", model=name).json()["tokens"] for name in ("bundled", "sun")]
    assert ours == [others + EmbeddingFile.open(SUN).count] * 2


def test_what_cannot_be_counted_is_refused_by_its_field(count: Callable[..., httpx.Response]) -> None:
    for field, fields in (
        ("prompt", {"prompt": "x" * 10_001}),
        ("prompt", {"prompt": "[a|b|c]" * 200}),
        ("model", {"model": "none"}),
        ("prompt_syntax", {"prompt_syntax": "comfy"}),
        ("steps", {"steps": 3}),
    ):
        answer = count(**{"prompt": "a circle", **fields})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_a_model_without_a_network_says_that_it_is_damaged(count: Callable[..., httpx.Response]) -> None:
    answer = count("a circle", model="fake")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_damaged")
    assert "fake has no unet; convert the model again" in answer.json()["error"]["message"]
    assert "/" not in answer.json()["error"]["message"]
