"""Read a CLIP tokenizer's folder, saved by any version of transformers, into one form.

A model folder keeps vocab.json, merges.txt and tokenizer_config.json. Its ``added_tokens_decoder``, in the
form of transformers 4.34 and later, has every token that is matched before a prompt is split into words: those that
begin, end and pad a prompt, and those added to the vocabulary (a pipeline saved after textual inversion).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, quoted
from converter.sources.clip_vocabulary import BEGIN, END
from converter.sources.config_tables import TOKENIZER
from converter.sources.configs import parse_json, read_config, read_json

_MOST_MERGES = 1_000_000
_SPLIT = ("vocab.json", "merges.txt")
_WHOLE = "tokenizer.json"
_CONFIG, _SPECIAL, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
#: CLIPTokenizer's default tokens.
_NAMED = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
_EXTRA = ("extra_special_tokens", "additional_special_tokens")

Token = dict[str, Any]


def tokenizer_names(where: str, names: Collection[str]) -> list[str]:
    """Return the files to read among a tokenizer folder's ``names``; raises CheckpointError if they are not a tokenizer."""
    if _WHOLE not in names and not all(name in names for name in _SPLIT):
        raise CheckpointError(f"{where} has neither vocab.json with merges.txt nor tokenizer.json")
    # transformers 5 prefers tokenizer.json if both are there.
    wanted = (_WHOLE,) if _WHOLE in names else _SPLIT
    return [*wanted, *(name for name in (_CONFIG, _SPECIAL, _ADDED) if name in names)]


def is_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a tokenizer's files."""
    return (folder / _WHOLE).is_file() or all((folder / name).is_file() for name in _SPLIT)


def _split_whole(path: Path) -> tuple[dict[str, bytes], list[Token]]:
    """Return the files and added tokens of a tokenizer.json."""
    content = read_json(path)
    model, added = content.get("model"), content.get("added_tokens") or []
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise CheckpointError(f"{path} is not a BPE tokenizer; CLIP's is accepted")
    if not isinstance(model.get("merges"), list) or not isinstance(added, list):
        raise CheckpointError(f"{path} must have lists under model.merges and added_tokens")
    merges = [m if isinstance(m, str) else " ".join(map(str, m)) for m in model["merges"]]
    files = {
        "vocab.json": json.dumps(model.get("vocab"), ensure_ascii=False).encode(),
        "merges.txt": ("#version: 0.2\n" + "".join(f"{m}\n" for m in merges)).encode(),
    }
    return files, added


def _vocabulary(where: str, content: bytes) -> dict[str, int]:
    vocabulary = parse_json(where, content)
    if not isinstance(vocabulary, dict) or not all(type(n) is int and n >= 0 for n in vocabulary.values()):
        raise CheckpointError(f"{where} must be an object of tokens and their numbers, from 0")
    return vocabulary


def _check_merges(where: str, content: bytes, vocabulary: dict[str, int]) -> None:
    """Raise CheckpointError for a merge that tokenizers' BPE would refuse when an image is made."""
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        words = line.rstrip("\r").split(" ")
        if not words[0] or (number == 1 and line.startswith("#version")):
            continue
        if len(words) != 2 or any(word not in vocabulary for word in (*words, "".join(words))):
            raise CheckpointError(
                f"{where} has {quoted(line, 80)} in line {number}; two tokens are accepted that the vocabulary has, as it has "
                "what they make"
            )


def _token(where: str, value: Any, *, special: bool = False) -> Token:
    """Return a token with all its flags; missing ones have the defaults of tokenizers' AddedToken."""
    fields = value if isinstance(value, dict) else {"content": value}
    text = fields.get("content")
    if not isinstance(text, str) or not text or not all(isinstance(fields.get(flag, False), bool) for flag in _FLAGS):
        raise CheckpointError(f"{where} has {value!r} for a token; a text, or an object with its content, is accepted")
    special = special or fields.get("special", False)
    usual = {"normalized": not special}
    flags = {flag: fields.get(flag, usual.get(flag, False)) for flag in _FLAGS}
    return {"content": text} | flags | {"special": special}


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _numbered(file: Path, tokens: Iterable[tuple[Any, Any]]) -> dict[int, Token]:
    numbered: dict[int, Token] = {}
    for stated, token in ((number, _token(str(file), value)) for number, value in tokens):
        if type(stated) not in (int, str) or not (str(stated).isascii() and str(stated).isdecimal()):
            raise CheckpointError(
                f"{file} has the token {token['content']!r} as number {stated!r}; a whole number from 0 is accepted"
            )
        number = int(stated)
        if number in numbered:
            raise CheckpointError(
                f"{file} gives {numbered[number]['content']!r} and {token['content']!r} the number {number}"
            )
        numbered[number] = token
    return numbered


def _expect_type(file: Path, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"{file} has a {type(value).__name__} where a {kind.__name__} of tokens is accepted")
    return value


def _named(config: dict[str, Any], file: Path, special: dict[str, Any], map_file: Path) -> dict[str, Any]:
    """Return a folder's tokens by their role (bos_token and so on): texts, or tokens with flags.

    The special tokens' map takes precedence over the config.
    """
    # Keys such as add_bos_token have the same suffix but no token.
    stated = {k: v for k, v in config.items() if k.endswith("_token") and isinstance(v, str | dict)}
    tokens: dict[str, Any] = {
        key: _token(str(file), value) if isinstance(value, dict) else value for key, value in (_NAMED | stated).items()
    }
    for key, value in special.items():
        if key not in _EXTRA and value is not None:
            token = _token(str(map_file), value, special=True)
            tokens[key] = token if isinstance(value, dict) else value
    return tokens


def _extra(config: dict[str, Any], file: Path, special: dict[str, Any], map_file: Path) -> list[Any]:
    """Return the special tokens without a role: texts, or tokens with flags."""
    tokens: list[Any] = []
    for where, content in ((map_file, special), (file, config)):
        value: Any = next((content[key] for key in _EXTRA if content.get(key)), [])
        listed = value.values() if isinstance(value, dict) else _expect_type(where, value, list)
        for token in listed:
            checked = _token(str(where), token, special=True)
            tokens.append(checked if isinstance(token, dict) else token)
    return tokens


def _added(folder: Path, names: Collection[str], listed: list[Token], config: dict[str, Any]) -> dict[int, Token]:
    """Return the tokens with a number: the config's if it lists any, else those of the other files."""
    if "added_tokens_decoder" in config:
        file = folder / _CONFIG
        return _numbered(file, _expect_type(file, config["added_tokens_decoder"], dict).items())
    added: dict[int, Token] = {}
    if _ADDED in names:
        added = _numbered(folder / _ADDED, ((number, text) for text, number in read_json(folder / _ADDED).items()))
    tokens = [_expect_type(folder / _WHOLE, token, dict) for token in listed]
    return added | _numbered(folder / _WHOLE, ((token.get("id"), token) for token in tokens))


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """Return the tokenizer's files in the form of a model folder: file name -> content.

    Reads a folder by the rules of transformers 5 (PreTrainedTokenizerBase._from_pretrained): a config that lists its tokens
    is complete; otherwise special_tokens_map.json, added_tokens.json and tokenizer.json count too. A token without a number
    gets the next. Raises CheckpointError if it is damaged or not a CLIP tokenizer.
    """
    present = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    names = tokenizer_names(str(folder), present)
    files, listed = (
        _split_whole(folder / _WHOLE) if _WHOLE in names else ({n: (folder / n).read_bytes() for n in _SPLIT}, [])
    )
    file, map_file = folder / _CONFIG, folder / _SPECIAL
    config = read_json(file) if _CONFIG in names else {}
    read_config(str(file), config, TOKENIZER)
    special = read_json(map_file) if _SPECIAL in names and "added_tokens_decoder" not in config else {}
    if (merges := files["merges.txt"].count(b"\n")) > _MOST_MERGES:
        raise CheckpointError(f"{folder} has {merges} merges; CLIP's tokenizer has 48,894, and {_MOST_MERGES} are read")
    vocabulary = _vocabulary(str(folder / "vocab.json"), files["vocab.json"])
    _check_merges(str(folder / (_WHOLE if _WHOLE in names else "merges.txt")), files["merges.txt"], vocabulary)
    added, named = _added(folder, names, listed, config), _named(config, file, special, map_file)
    _check_numbers(folder, vocabulary, added)
    _number_the_others(file, vocabulary, added, list(named.values()), _extra(config, file, special, map_file))
    stated = {key: _text(token) for key, token in named.items() if key in config or key in special}
    config = {key: value for key, value in config.items() if key not in _EXTRA} | stated
    config["added_tokens_decoder"] = {str(number): token for number, token in sorted(added.items())}
    return files | {_CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()}


def _number_the_others(
    file: Path, vocabulary: dict[str, int], added: dict[int, Token], named: list[Any], extra: list[Any]
) -> None:
    """Add tokens without a number to ``added``, with the vocabulary's number if it has one, else the next."""
    called = {_text(token) for token in named}
    numbers = vocabulary | {token["content"]: number for number, token in added.items()}
    for token in added.values():
        token["special"] = token["special"] or token["content"] in called
    numbered = {token["content"] for token in added.values()}
    others: list[Any] = []
    for token in [*named, *extra]:
        if _text(token) not in numbered and token not in others:
            others.append(token)
    for token in others:  # the last of several with the same text counts
        number = numbers.setdefault(_text(token), max(numbers.values(), default=-1) + 1)
        added[number] = _token(str(file), token, special=True)


def _check_numbers(folder: Path, vocabulary: dict[str, int], added: dict[int, Token]) -> None:
    words = {number: word for word, number in vocabulary.items()}
    for number, token in added.items():
        text = token["content"]
        if words.get(number, text) != text or vocabulary.get(text, number) != number:
            raise CheckpointError(
                f"{folder} gives the added token {text!r} the number {number}, which is {words.get(number)!r} in its vocabulary"
            )
    if len({token["content"] for token in added.values()}) != len(added):
        raise CheckpointError(f"{folder} has an added token with two numbers")


def greatest_token(files: dict[str, bytes]) -> int:
    """Return the greatest token number in the files that `read_tokenizer` returns."""
    config = json.loads(files[_CONFIG]) if _CONFIG in files else {}
    numbers = [int(number) for number in config.get("added_tokens_decoder") or {}]
    return max([*_vocabulary("vocab.json", files["vocab.json"]).values(), *numbers], default=0)
