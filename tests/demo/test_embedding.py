"""The bundled embedding: the captions that it learns from, how it is read, and that its file fits the bundled model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from demo.check_embedding import prompt_of, scenes
from demo.networks import TEXT_WIDTH
from demo.train import HERE
from demo.train_embedding import NAME, PHRASE, PLACEHOLDERS, Embedding, suns
from demo.train_text import load_tokenizer


def test_every_sun_is_told_in_words_and_by_the_placeholders():
    rng, words = np.random.default_rng(4), Counter[str]()
    for _ in range(60):
        told, asked = suns(rng)
        assert PHRASE.sub("sun moon", told) == asked
        assert asked.count("sun moon") == 1
        words.update(PHRASE.findall(told))
    assert len(words) == 4


def test_prompts_say_where_the_sun_is_and_never_what_it_is():
    chosen = scenes(12, seed=1)
    for scene in chosen:
        words = prompt_of(scene)
        assert scene.things[0].place in words
        assert f"{scene.ground} background" in words
        assert not any(word in words for word in ("yellow", "circle", "shaded", "large"))
    assert len({scene.things[0].place for scene in chosen}) > 4


def test_a_text_encoder_reads_the_vectors_for_the_placeholders():
    tokenizer = load_tokenizer(HERE / "model" / "tokenizer")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **sizes))
    table = encoder.get_input_embeddings()
    ids = tokenizer("a red sun moon", add_special_tokens=False, return_tensors="pt").input_ids
    plain = table(ids)
    embedding = Embedding(encoder, tokenizer)
    assert torch.equal(table(ids), plain)
    embedding.vectors.data = torch.tensor([[3.0], [4.0]]).expand(2, 8)
    assert torch.equal(table(ids)[0, :2], plain[0, :2])
    assert table(ids)[0, 2:].mean(1).tolist() == [3, 4]


def test_the_shipped_vectors_say_after_the_prompt_what_the_words_say():
    tokenizer = load_tokenizer(HERE / "model" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(HERE / "model" / "text_encoder", dtype=torch.float32).eval()
    vectors = load_file(HERE / "embeddings" / f"{NAME}.safetensors")["emb_params"]
    assert vectors.shape == (len(PLACEHOLDERS), TEXT_WIDTH)
    prompts = [f"a {words} at the top on a pink background" for words in ("large shaded yellow circle", "sun moon")]
    told, asked = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids

    def states(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return encoder(ids[None]).last_hidden_state[0, told == tokenizer.eos_token_id]

    wanted, before = states(told), states(asked)
    Embedding(encoder, tokenizer).vectors.data = torch.from_numpy(vectors).float()
    # Without the embedding the difference is as large as the states' own spread.
    assert (states(asked) - wanted).square().mean() < 0.1 * (before - wanted).square().mean()
