"""CLIP's tokenizer for checkpoints without one; all of Stable Diffusion's text encoders share it.

The merges are OpenAI's (data/bpe_simple_vocab_16e6.txt.gz, from https://github.com/openai/CLIP); the numbering is that of
its clip/simple_tokenizer.py, which Radford et al. 2021 trained with.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.resources import files

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
#: Tokens in the vocabulary, and rows of every CLIP text encoder's embedding.
SIZE = 49408
_WORD_END = "</w>"
#: Of the list, CLIP uses as many merges as its vocabulary has tokens besides the bytes (twice) and two special ones.
_MERGES = SIZE - 2 * 256 - 2
_PRINTED = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))


def _byte_characters() -> list[str]:
    """Return the characters that represent the 256 bytes, in the vocabulary's order.

    Bytes with a printable Latin-1 character are that character and come first; the others are U+0100 and up (GPT-2).
    """
    printed = [chr(byte) for characters in _PRINTED for byte in characters]
    return printed + [chr(256 + n) for n in range(256 - len(printed))]


@cache
def merges() -> tuple[tuple[str, str], ...]:
    """Return CLIP's 48894 merges in the order in which they are applied."""
    packed = files("converter").joinpath("data", "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    pairs = [line.partition(" ") for line in lines[1 : _MERGES + 1]]
    return tuple((first, second) for first, _, second in pairs)


def vocabulary() -> dict[str, int]:
    """Return CLIP's 49408 tokens, each with its id."""
    bytes_ = _byte_characters()
    joined = [first + second for first, second in merges()]
    tokens = [*bytes_, *(byte + _WORD_END for byte in bytes_), *joined, BEGIN, END]
    return {token: index for index, token in enumerate(tokens)}


def tokenizer_files(pad_token: str) -> dict[str, bytes]:
    """Return the tokenizer as transformers' CLIPTokenizer saves it: file name -> content.

    ``pad_token`` fills a prompt up to its length: END after OpenAI's text encoder, "!" (id 0) after OpenCLIP's.
    """
    lines = "".join(f"{first} {second}\n" for first, second in merges())
    config = {
        "add_prefix_space": False,
        "bos_token": BEGIN,
        "do_lower_case": True,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    }
    return {
        "vocab.json": json.dumps(vocabulary(), ensure_ascii=False).encode(),
        "merges.txt": f"#version: 0.2\n{lines}".encode(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
    }
