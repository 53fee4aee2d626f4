"""Read a file of a textual inversion: vectors that take the place of tokens (Gal et al. 2022).

Programs write three forms: diffusers' {token: vectors}, kohya's and AUTOMATIC1111's emb_params, and clip_l with clip_g for the
two text encoders of SDXL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.checksums import checksum
from converter.errors import CheckpointError, shown
from converter.loras.errors import LoraError
from converter.loras.names import TEXT_ENCODER, TEXT_ENCODER_2
from converter.sources.tensors import Tensors

_SUFFIX = ".safetensors"
#: Suffixes of files that PyTorch pickled, which run programs when they are read.
_PICKLED = (".pt", ".bin", ".ckpt", ".pth")
_CONVERT = (
    'a .safetensors file is accepted; to convert one you trust: python -c "import torch, safetensors.torch as s; '
    "d = torch.load('{name}', weights_only=True); d = d.get('string_to_param', d); "
    "s.save_file({{'emb_params': next(iter(d.values())).detach().contiguous()}}, '{stem}.safetensors')\""
)
_ACCEPTED = "accepted: one token's vectors under its name, emb_params, or clip_l and clip_g for SDXL"
_WHOLE = "emb_params"
_SDXL = {"clip_l": TEXT_ENCODER, "clip_g": TEXT_ENCODER_2}
#: Width -> families with one text encoder of it. A width that no published model has fits any of them, if its model does.
_FAMILIES = {768: ("sd1",), 1024: ("sd2",)}
_ONE_ENCODER = ("sd1", "sd2")
_CLIP_G_WIDTH = 1280
#: A prompt's chunk has 75 tokens; an embedding has to fit into one.
_MOST_VECTORS = 75
#: Bytes of a file: 75 vectors for two text encoders have 0.6 MB in fp32.
_LARGEST = 16 * 2**20


@dataclass(frozen=True)
class EmbeddingFile:
    """An embedding's file.

    token: the word that stands for it in the file's own form; None if the file has none.
    families: the names of the model families that it fits.
    vectors: [count, width] by text encoder.
    """

    path: Path
    token: str | None
    families: tuple[str, ...]
    vectors: Mapping[str, NDArray[Any]]

    @property
    def name(self) -> str:
        """The file's name without .safetensors, which stands for it in prompts."""
        return self.path.stem

    @property
    def count(self) -> int:
        """How many tokens it takes."""
        return min(len(each) for each in self.vectors.values())

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return checksum(self.path).sha256

    @classmethod
    def open(cls, path: Path) -> EmbeddingFile:
        """Read a file. Raises LoraError."""
        if not path.is_file():
            raise LoraError(f"{path} is not a file that exists")
        if path.suffix in _PICKLED:
            how = _CONVERT.format(name=path.name, stem=path.stem)
            raise LoraError(f"{path.name} is a pickle, which can hold programs and is not read; {how}")
        if path.suffix != _SUFFIX:
            raise LoraError(f"{path.name} is no embedding; a {_SUFFIX} file is accepted")
        try:
            return _open(path)
        except (LoraError, CheckpointError) as error:
            raise LoraError(f"{path.name} is not usable as an embedding: {error}") from error


def _open(path: Path) -> EmbeddingFile:
    if (size := path.stat().st_size) > _LARGEST:
        raise LoraError(
            f"it has {size} bytes; at most {_LARGEST} are accepted, which {_MOST_VECTORS} vectors never need"
        )
    tensors = Tensors([path], mapped=False)
    names = list(tensors)
    if set(names) == _SDXL.keys():
        vectors = {encoder: _vectors(tensors, name) for name, encoder in _SDXL.items()}
        counts = {name: len(vectors[encoder]) for name, encoder in _SDXL.items()}
        if len(set(counts.values())) > 1:
            raise LoraError(
                f"it has {counts['clip_l']} vectors in clip_l and {counts['clip_g']} in clip_g; as many in both is accepted"
            )
        return EmbeddingFile(path, None, ("sdxl",), vectors)
    if len(names) != 1 or names[0] in _SDXL:
        raise LoraError(f"it has {shown(names) or 'no tensors'}; {_ACCEPTED}")
    vectors = {TEXT_ENCODER: _vectors(tensors, names[0])}
    width = vectors[TEXT_ENCODER].shape[1]
    if width == _CLIP_G_WIDTH:
        raise LoraError(
            f"it has vectors of {width}, those of SDXL's second text encoder alone; clip_l and clip_g are accepted"
        )
    return EmbeddingFile(path, None if names[0] == _WHOLE else names[0], _FAMILIES.get(width, _ONE_ENCODER), vectors)


def _vectors(tensors: Tensors, name: str) -> NDArray[Any]:
    """Return one text encoder's vectors, [count, width]; diffusers writes one alone as [width]."""
    shape = tensors.shape(name)
    if len(shape) not in (1, 2) or 0 in shape or (len(shape) == 2 and shape[0] > _MOST_VECTORS):
        raise LoraError(f"{name} is {list(shape)}; up to {_MOST_VECTORS} vectors, [count, width], are accepted")
    tensors.require_fp16(name)
    return tensors.array(name).reshape(-1, shape[-1])
