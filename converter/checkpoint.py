"""Where weights come from: a diffusers folder on disk. Nothing is unpickled, ever."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError
from converter.tensors import Tensors

COMPONENTS = ("text_encoder", "unet", "vae")
_STEMS = ("diffusion_pytorch_model", "model")
_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError names the file that is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; a diffusers checkpoint has model_index.json and a folder per network"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not an object")
    return found


def _weight_files(folder: Path) -> list[Path]:
    for stem in _STEMS:
        for variant in ("", ".fp16"):
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                names = sorted(set(read_json(index).get("weight_map", {}).values()))
                if any(Path(n).name != n or not (folder / n).is_file() for n in names):
                    raise CheckpointError(f"{index} names files that are not beside it: {', '.join(names)}")
                return [folder / n for n in names]
            whole = folder / f"{stem}{variant}.safetensors"
            if whole.is_file():
                return [whole]
    pickles = [p.name for p in folder.glob("*") if p.suffix in _PICKLES] if folder.is_dir() else []
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights only as {', '.join(sorted(pickles))}: pickle files can run any code when read, so "
            "they are refused. Get the safetensors version, or save one with diffusers' save_pretrained."
        )
    raise CheckpointError(f"{folder} has no safetensors weights ({' or '.join(s + '.safetensors' for s in _STEMS)})")


@dataclass(frozen=True)
class Checkpoint:
    """A Stable Diffusion checkpoint in the diffusers layout."""

    folder: Path

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """The checkpoint at ``path``; raises CheckpointError where there is none that can be read safely."""
        if path.is_file() and path.suffix in _PICKLES:
            raise CheckpointError(
                f"{path} is a pickle file, which can run any code when read; give a safetensors checkpoint"
            )
        if not path.is_dir():
            raise CheckpointError(f"{path} is not a folder; give a diffusers checkpoint folder (with model_index.json)")
        read_json(path / "model_index.json")
        return Checkpoint(path)

    def config(self, component: str) -> dict[str, Any]:
        """A network's config.json, or the scheduler's scheduler_config.json."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_json(self.folder / component / name)

    def tensors(self, component: str) -> Tensors:
        """A network's weights, mapped."""
        return Tensors(_weight_files(self.folder / component))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Steps and guidance scale its makers recommend, where they say (``anemone-defaults.json``)."""
        path = self.folder / "anemone-defaults.json"
        return read_json(path) if path.is_file() else {}

    def tokenizer_files(self) -> dict[str, bytes]:
        """CLIP's tokenizer as vocab.json and merges.txt, with tokenizer_config.json where there is one.

        transformers 5 saves a tokenizer.json alone; the two are taken out of it.
        """
        folder = self.folder / "tokenizer"
        found = {n: (folder / n).read_bytes() for n in _TOKENIZER if (folder / n).is_file()}
        if "vocab.json" in found and "merges.txt" in found:
            return found
        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"{folder} has neither vocab.json with merges.txt nor tokenizer.json")
        model = read_json(folder / "tokenizer.json").get("model", {})
        if model.get("type") != "BPE":
            raise CheckpointError(f"{folder / 'tokenizer.json'} is a {model.get('type')!r} tokenizer; CLIP's is BPE")
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        found["vocab.json"] = json.dumps(model["vocab"], ensure_ascii=False).encode()
        found["merges.txt"] = ("#version: 0.2\n" + "".join(f"{m}\n" for m in merges)).encode()
        return found

    @cached_property
    def sha256(self) -> str:
        """One hash over every file the conversion reads: configs, vocabulary and weights, with their names."""
        paths = [self.folder / "model_index.json", self.folder / "scheduler" / "scheduler_config.json"]
        for component in COMPONENTS:
            paths += [self.folder / component / "config.json", *_weight_files(self.folder / component)]
        defaults = self.folder / "anemone-defaults.json"
        paths += [defaults] if defaults.is_file() else []
        whole = hashlib.sha256()
        for path in paths:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{path.relative_to(self.folder).as_posix()} {digest}\n".encode())
        for name, content in sorted(self.tokenizer_files().items()):
            whole.update(f"tokenizer/{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        return whole.hexdigest()
