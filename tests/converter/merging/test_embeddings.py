"""Textual inversions as tokens of a merged model, and LoRAs of SDXL, beside transformers' and diffusers' own modules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from converter.checksums import checksum
from converter.conversion.convert import convert
from converter.loras import EmbeddingFile
from converter.manifest import MergedEmbedding
from converter.merging import MergeError, merge
from converter.options import ConvertOptions
from tests.support.checkpoints import TEXT_WIDTH, write_xl_checkpoint, xl_parts
from tests.support.lora_files import write
from tests.support.merging import fuse, lora_of
from tests.support.mil_packages import as_written, psnr

ENCODERS = ("text_encoder", "text_encoder_2")


NAMES = dict(zip(ENCODERS, ("clip_l", "clip_g"), strict=True))


def embedding(folder, name, vectors, *, width=TEXT_WIDTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {part: 0.1 * torch.randn(vectors, width, generator=generator) for part in NAMES.values()}
    return EmbeddingFile.open(write(folder / f"{name}.safetensors", tensors))


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    return [embedding(folder, "cat", 2), embedding(folder, "dog", 1, seed=1)]


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    """An SDXL checkpoint; its second text encoder says the end of a prompt as those of before 2023 do: with the id 2."""
    folder = write_xl_checkpoint(tmp_path_factory.mktemp("xl") / "tiny-xl")
    config = folder / "text_encoder_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 2}))
    return folder


@pytest.fixture(scope="module")
def base(xl, tmp_path_factory):
    return convert(
        xl, tmp_path_factory.mktemp("base") / "xl", ConvertOptions(attention="split_einsum_v2", verify=False)
    )


@pytest.fixture(scope="module")
def parts(xl):
    return xl_parts(xl)


@pytest.fixture(scope="module")
def lora(parts, tmp_path_factory):
    file = tmp_path_factory.mktemp("lora") / "style.safetensors"
    return lora_of({name: parts[name] for name in ("unet", *ENCODERS)}, file)


@pytest.fixture(scope="module")
def merged(base, lora, embeddings, tmp_path_factory):
    return merge(base, [(lora, 0.8)], embeddings, tmp_path_factory.mktemp("merged") / "xl")


@pytest.fixture(scope="module")
def fused(xl, lora, embeddings):
    """diffusers' SDXL pipeline with the LoRA fused and the embeddings loaded into both text encoders."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    pipeline = fuse(StableDiffusionXLPipeline(**xl_parts(xl), scheduler=EulerDiscreteScheduler()), lora, 0.8)
    for encoder, tokenizer in zip(ENCODERS, ("tokenizer", "tokenizer_2"), strict=True):
        for each in embeddings:
            pipeline.load_textual_inversion(
                load_file(each.path)[NAMES[encoder]],
                token=f"<{each.name}>",
                text_encoder=getattr(pipeline, encoder),
                tokenizer=getattr(pipeline, tokenizer),
            )
    return pipeline


def test_the_manifest_says_which_tokens_call_an_embedding(merged, fused, embeddings):
    first = dict.fromkeys(ENCODERS, fused.tokenizer.convert_tokens_to_ids("<cat>"))
    cat, dog = (checksum(each.path).sha256 for each in embeddings)
    assert merged.manifest.merged.embeddings == (
        MergedEmbedding("cat", cat, 2, first),
        MergedEmbedding("dog", dog, 1, {encoder: start + 2 for encoder, start in first.items()}),
    )
    assert fused.tokenizer.convert_tokens_to_ids("<dog>") == first["text_encoder"] + 2


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_text_encoder_reads_embeddings_and_pools_at_the_prompts_end(base, merged, fused, encoder):
    tokens = fused.tokenizer.convert_tokens_to_ids(["<cat>", "<cat>_1", "<dog>"])
    end = tokens[0] - 1
    ids = np.full((1, 77), end)
    ids[0, :9] = [end - 1, 5, *tokens[:2], 6, tokens[2], 7, 8, end]
    module = getattr(fused, encoder)
    module.config.eos_token_id = (
        end  # transformers itself takes the greatest id for the end, which is an embedding here
    )
    module.eos_token_id = getattr(module, "text_model", module).eos_token_id = end
    with torch.no_grad():
        expected = module(torch.from_numpy(ids), output_hidden_states=True)
    package = merged.package(encoder)
    ours = as_written(package).predict({"input_ids": ids.astype(np.float32)})
    assert psnr(ours["hidden_embeds"], expected.hidden_states[-2].numpy()) > 60
    pooled = expected.text_embeds if encoder == "text_encoder_2" else expected.pooler_output
    assert psnr(ours["pooled_outputs"], pooled.numpy()) > 60
    other = ids.copy()
    other[0, [2, 3]] = other[0, [3, 2]]
    assert (
        psnr(
            as_written(package).predict({"input_ids": other.astype(np.float32)})["hidden_embeds"], ours["hidden_embeds"]
        )
        < 40
    )
    plain = np.where(ids > end, 9, ids).astype(np.float32)
    unmerged, same = (as_written(folder.package(encoder)).predict({"input_ids": plain}) for folder in (base, merged))
    assert psnr(same["pooled_outputs"], unmerged["pooled_outputs"]) < 40  # the LoRA


def test_sdxls_unet_computes_what_diffusers_with_the_fused_lora_does(merged, fused):
    network, rng = as_written(merged.package("unet", 64, 64)), np.random.default_rng(0)
    inputs = {name: rng.standard_normal(f.shape).astype(f.dtype) for name, f in network.inputs.items()}
    inputs["timestep"][:], inputs["time_ids"][:] = 801, 64
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in inputs.items()}
    with torch.no_grad():
        expected = fused.unet(
            tensors["sample"],
            tensors["timestep"],
            tensors["encoder_hidden_states"].squeeze(2).transpose(1, 2),
            added_cond_kwargs={"time_ids": tensors["time_ids"], "text_embeds": tensors["text_embeds"]},
        ).sample.numpy()
    assert psnr(network.predict(inputs)["noise_pred"], expected) > 60


def test_an_embedding_that_does_not_fit_is_refused(base, tmp_path, embeddings):
    wide = embedding(tmp_path, "wide", 2, width=768)
    one = EmbeddingFile.open(write(tmp_path / "one.safetensors", {"emb_params": torch.zeros(1, 768)}))
    for wrong, words in (
        (one, "one is for sd1, and the model is sdxl"),
        (wide, "wide has vectors of 768 numbers; the model's tokens have 32"),
    ):
        with pytest.raises(MergeError, match=words):
            merge(base, [], [embeddings[0], wrong], tmp_path / "out")
    with pytest.raises(MergeError, match=f"{embeddings[0].name} is the name of several embeddings"):
        merge(base, [], [embeddings[0], embeddings[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()
