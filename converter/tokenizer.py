"""CLIP's tokenizer as a folder has it, whichever version of transformers saved it: its files in one form.

A model folder keeps vocab.json, merges.txt and tokenizer_config.json, whose ``added_tokens_decoder`` has every token that
was added to the vocabulary (a pipeline saved after textual inversion), as transformers 4.34 and later write it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from converter.config_tables import TOKENIZER
from converter.configs import read_config, read_json
from converter.errors import CheckpointError

_SPLIT = ("vocab.json", "merges.txt")
_WHOLE = "tokenizer.json"
_CONFIG, _SPECIAL, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True, "special": False}

Token = dict[str, Any]


def tokenizer_names(where: str, names: Collection[str]) -> list[str]:
    """The files among a tokenizer folder's ``names`` to read; raises CheckpointError where they are no CLIP tokenizer."""
    split = all(name in names for name in _SPLIT)
    if not split and _WHOLE not in names:
        raise CheckpointError(f"{where} has neither vocab.json with merges.txt nor tokenizer.json")
    wanted = _SPLIT if split else (_WHOLE,)
    return [*wanted, *(name for name in (_CONFIG, _SPECIAL, _ADDED) if name in names)]


def _taken_apart(path: Path) -> tuple[dict[str, bytes], list[Token]]:
    """The files and added tokens of a tokenizer.json."""
    whole = read_json(path)
    model, added = whole.get("model"), whole.get("added_tokens") or []
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise CheckpointError(f"{path} is no BPE tokenizer, which CLIP's is")
    if not isinstance(model.get("merges"), list) or not isinstance(added, list):
        raise CheckpointError(f"{path} has no list of merges, or of added_tokens")
    merges = [m if isinstance(m, str) else " ".join(map(str, m)) for m in model["merges"]]
    files = {
        "vocab.json": json.dumps(model.get("vocab"), ensure_ascii=False).encode(),
        "merges.txt": ("#version: 0.2\n" + "".join(f"{m}\n" for m in merges)).encode(),
    }
    return files, added


def _vocabulary(where: str, content: bytes) -> dict[str, int]:
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON: {error}") from error
    if not isinstance(found, dict) or not all(type(n) is int and n >= 0 for n in found.values()):
        raise CheckpointError(f"{where} must be an object of tokens and their numbers, from 0 on")
    return found


def _token(where: str, number: Any, given: Any) -> tuple[int, Token]:
    """An added token's number, and it with all its flags."""
    token = {"content": given} if isinstance(given, str) else given
    text = token.get("content") if isinstance(token, dict) else None
    if (
        not isinstance(number, int | str)
        or isinstance(number, bool)
        or not str(number).isdecimal()
        or not isinstance(text, str)
        or not text
    ):
        raise CheckpointError(
            f"{where} has the token {given!r} as number {number!r}; a text and a whole number are accepted"
        )
    return int(number), {"content": text} | {flag: bool(token.get(flag, usual)) for flag, usual in _FLAGS.items()}


def _added(folder: Path, names: Collection[str], config: dict[str, Any], whole: list[Token]) -> dict[int, Token]:
    """The added tokens by number: those of tokenizer_config.json where it lists them, else of the older files."""
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, dict) and listed:
        return _numbered(folder / _CONFIG, listed.items())
    if whole:
        tokens = [token if isinstance(token, dict) else {} for token in whole]
        return _numbered(folder / _WHOLE, ((token.get("id"), token) for token in tokens))
    if _ADDED in names:
        return _numbered(folder / _ADDED, ((number, text) for text, number in read_json(folder / _ADDED).items()))
    return {}


def _numbered(file: Path, tokens: Iterable[tuple[Any, Any]]) -> dict[int, Token]:
    found: dict[int, Token] = {}
    for number, token in (_token(str(file), *pair) for pair in tokens):
        if number in found:
            raise CheckpointError(
                f"{file} gives {found[number]['content']!r} and {token['content']!r} the number {number}"
            )
        found[number] = token
    return found


def _special_words(folder: Path, special: dict[str, Any]) -> set[str]:
    words: list[Any] = []
    for value in special.values():
        words += value if isinstance(value, list) else [value]
    texts = [word.get("content") if isinstance(word, dict) else word for word in words]
    found = {text for text in texts if isinstance(text, str)}
    if len(texts) != sum(isinstance(text, str) for text in texts):
        raise CheckpointError(f"{folder / _SPECIAL} has something that is no token")
    return found


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files in the form a model folder keeps: file name -> content.

    Before 4.34 transformers kept the token to pad with in special_tokens_map.json, which Stable Diffusion 2's folders still
    have: what that says goes into the config. Raises CheckpointError where it is damaged or no CLIP tokenizer.
    """
    present = {path.name for path in folder.iterdir() if path.is_file()}
    names = tokenizer_names(str(folder), present)
    files, whole = (
        _taken_apart(folder / _WHOLE) if _WHOLE in names else ({n: (folder / n).read_bytes() for n in _SPLIT}, [])
    )
    config = read_json(folder / _CONFIG) if _CONFIG in names else {}
    read_config(str(folder / _CONFIG), config, TOKENIZER)
    added = _added(folder, names, config, whole)
    if _SPECIAL in names and "added_tokens_decoder" not in config:
        # The rule of transformers' from_pretrained: newer configs list their tokens, and are all there is to go by.
        special = read_json(folder / _SPECIAL)
        config |= {"pad_token": special["pad_token"]} if special.get("pad_token") is not None else {}
        words = _special_words(folder, special)
        for token in added.values():
            if token["content"] in words:
                token |= {"special": True, "normalized": False}
        known = {token["content"] for token in added.values()} | set(_vocabulary(str(folder), files["vocab.json"]))
        if unknown := sorted(words - known):
            raise CheckpointError(f"{folder / _SPECIAL} names the token {unknown[0]!r}, which has no number")
    _check_numbers(folder, _vocabulary(str(folder / "vocab.json"), files["vocab.json"]), added)
    if added:
        config["added_tokens_decoder"] = {str(number): token for number, token in sorted(added.items())}
    return files | ({_CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()} if config else {})


def _check_numbers(folder: Path, vocabulary: dict[str, int], added: dict[int, Token]) -> None:
    words = {number: word for word, number in vocabulary.items()}
    for number, token in added.items():
        text = token["content"]
        if words.get(number, text) != text or vocabulary.get(text, number) != number:
            raise CheckpointError(
                f"{folder} gives the added token {text!r} number {number}, which is {words.get(number)!r} in its vocabulary"
            )
    if len({token["content"] for token in added.values()}) != len(added):
        raise CheckpointError(f"{folder} has an added token with two numbers")


def greatest_token(files: dict[str, bytes]) -> int:
    """The greatest number of a token in a tokenizer's files, as `read_tokenizer` gives them."""
    config = json.loads(files[_CONFIG]) if _CONFIG in files else {}
    numbers = [int(number) for number in config.get("added_tokens_decoder") or {}]
    return max([*_vocabulary("vocab.json", files["vocab.json"]).values(), *numbers], default=0)
