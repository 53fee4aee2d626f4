"""States of prompts of SDXL's two text encoders against transformers', with AUTOMATIC1111's weights computed beside."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from converter.runtime import load
from converter.verification.verify import psnr
from server.pipeline.prompts.encoder import PromptEncoder
from server.pipeline.prompts.tokenizer import prompt_tokenizers
from tests.support.checkpoints import write_xl_checkpoint

KINDS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_xl_checkpoint(tmp_path_factory.mktemp("prompts") / "xl")


@pytest.fixture(scope="module")
def encoder(source, tmp_path_factory):
    folder = convert(source, tmp_path_factory.mktemp("prompts") / "out", ConvertOptions(verify=False))
    return PromptEncoder(prompt_tokenizers(folder), lambda name: load(folder.package(name)))


@pytest.fixture(scope="module")
def theirs(source):
    """Words with their weights, for each chunk -> A1111's states of both encoders, and what the second makes of the first chunk."""

    @torch.no_grad()
    def of_encoder(name, chunks):
        tokenizer = CLIPTokenizer.from_pretrained(source / name.replace("text_encoder", "tokenizer"))
        encoder = KINDS[name].from_pretrained(source / name, dtype=torch.float32).eval()
        states, pooled = [], None
        for words in chunks:
            ids, weights = [tokenizer.bos_token_id], [1.0]
            for text, weight in words:
                own = tokenizer(text, add_special_tokens=False).input_ids
                ids, weights = ids + own, weights + [weight] * len(own)
            rest = 77 - len(ids)
            pad = tokenizer.pad_token_id
            ids, weights = [*ids, tokenizer.eos_token_id, *[pad] * (rest - 1)], weights + [1.0] * rest
            outputs = encoder(torch.tensor([ids]), output_hidden_states=True)
            z = outputs.hidden_states[-2]
            before = z.mean()
            z = z * torch.tensor(weights)[None, :, None]
            states.append(z * (before / z.mean()))
            pooled = outputs.text_embeds if pooled is None and "text_embeds" in outputs else pooled
        return torch.cat(states, 1), pooled

    def both(*chunks):
        (first, _), (second, pooled) = (of_encoder(name, chunks) for name in KINDS)
        return torch.cat([first, second], -1).numpy(), pooled.numpy()

    return both


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("a (red:1.4) [blue]", [[("a ", 1.0), ("red", 1.4), (" ", 1.0), ("blue", 1 / 1.1)]]),
        ("(red:1.3) BREAK a (blue:0.6)", [[("red", 1.3)], [("a ", 1.0), ("blue", 0.6)]]),
        ("red " * 80 + "(blue:1.2)", [[("red " * 75, 1.0)], [("red " * 5, 1.0), ("blue", 1.2)]]),
    ],
    ids=["weights", "BREAK", "more than 75 tokens"],
)
def test_each_encoder_has_a1111s_weights_and_its_chunks_stand_side_by_side(encoder, theirs, prompt, chunks):
    states, pooled = theirs(*chunks)
    actual = encoder.encode(encoder.chunks(prompt), len(chunks))
    assert actual.states.shape == (1, 77 * len(chunks), states.shape[-1])
    assert psnr(actual.states, states) > 50
    assert psnr(actual.pooled, pooled) > 50
    unweighted, _ = theirs(*([(text, 1.0) for text, _ in words] for words in chunks))
    assert psnr(actual.states, unweighted) < 45
