"""The header of a safetensors file: which tensors it has, where they lie, and whether that can be.

The format is a JSON header and bytes (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CheckpointError, quoted
from converter.sources.entry import FP8, TYPES, Entry

#: Bits of types whose values are not read. A file may have such tensors if no network takes one.
_UNREAD = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "C64": 64,
    "BOOL": 8,
    "I8": 8,
    "U8": 8,
    "I16": 16,
    "U16": 16,
    "U32": 32,
    "U64": 64,
}
_BITS = {kind: 8 * dtype.itemsize for kind, dtype in TYPES.items()} | _UNREAD
_LONGEST_HEADER = 100_000_000
#: What files are that are often found under a wrong name, by their first bytes.
_OTHER_FILES = {
    b"version ": "a Git LFS pointer, which stands for the file: download that",
    b"<": "a web page",
    b"PK": "a zip archive or what PyTorch writes as .pt and .ckpt",
    b"\x80": "a pickle",
}
#: NumPy's own limit, and more tensors than any checkpoint has: SDXL's files with averaged copies have 5,000.
_MOST_AXES, _MOST_TENSORS = 32, 200_000
#: Suffixes of a weight's factor in ComfyUI's files of scaled fp8 weights, in either naming.
_SCALES = (".weight_scale", ".scale_weight")
#: Suffixes of the tensors for products in fp8, which are not used here: the activations' scale, and the layer's format.
_SCALE_COMPANIONS = (".input_scale", ".scale_input", ".comfy_quant")
_SCALED_MARK = "scaled_fp8"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    header = dict(pairs)
    if len(header) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise CheckpointError(f"its header names {twice!r} twice")
    return header


def _numbers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in value):
        raise CheckpointError(
            f"it has {what} {quoted(value)}; a list of at most {_MOST_AXES} whole numbers from 0 is accepted"
        )
    return tuple(value)


def _overlapping(entries: dict[str, Entry]) -> tuple[str, str] | None:
    """Return two tensors that share some of their bytes; sharing all is one tensor with two names (tied weights)."""
    ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
    ordered = [(name, entry) for name, entry in ordered if entry.end > entry.begin]
    for (first, a), (second, b) in itertools.pairwise(ordered):
        if b.begin < a.end and (a.begin, a.end) != (b.begin, b.end):
            return first, second
    return None


def _scaled(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Return the entries with scaled 8-bit weights joined to their factors, and without tensors for fp8 products only."""
    joined = dict(entries)
    for name, entry in entries.items():
        if entry.kind not in FP8 or not name.endswith(".weight"):
            continue
        layer = name.removesuffix(".weight")
        scales = [f"{layer}{ending}" for ending in _SCALES if f"{layer}{ending}" in joined]
        if len(scales) > 1:
            raise CheckpointError(f"{name} is scaled by both {' and '.join(scales)}; one of them is accepted")
        for key in scales:
            joined[name] = replace(entry, scale=_factors(name, entry, key, joined.pop(key)))
        for ending in _SCALE_COMPANIONS:
            joined.pop(f"{layer}{ending}", None)
    return {name: entry for name, entry in joined.items() if name.rpartition(".")[2] != _SCALED_MARK}


def _factors(name: str, entry: Entry, key: str, scale: Entry) -> NDArray[np.float32]:
    single = math.prod(scale.shape) == 1
    per_row = scale.shape == (*entry.shape[:1], *[1] * (len(scale.shape) - 1))
    if scale.kind not in ("F32", "F16", "BF16") or not (single or per_row):
        raise CheckpointError(
            f"{name} is scaled by {key} ({scale.kind} {list(scale.shape)}); accepted: one factor for a weight, or one for "
            "each of its rows, as F32, F16 or BF16"
        )
    return scale.row().astype(np.float32)


def read_header(path: Path, mapped: bool) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the tensors of a file by name, and its ``__metadata__``. Raises CheckpointError.

    ``mapped``: whether the file is mapped, or a small one that is read as a whole.
    """
    is_mapped = mapped and path.stat().st_size > 0
    data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r") if is_mapped else np.fromfile(path, np.uint8)
    if data.size == 0:
        raise CheckpointError(f"{path} is empty; a safetensors file is expected")
    with path.open("rb") as file:
        length = struct.unpack("<Q", begin)[0] if len(begin := file.read(8)) == 8 else -1
        if not 0 < length <= min(_LONGEST_HEADER, data.size - 8):
            what = next((f"; it is {words}" for start, words in _OTHER_FILES.items() if begin.startswith(start)), "")
            raise CheckpointError(f"{path} is not a whole safetensors file ({data.size} bytes){what}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
        entries, metadata = _entries_of(path, data, 8 + length, header)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has an unreadable safetensors header: {error}") from error
    return _scaled(entries), metadata


def _entries_of(
    path: Path, data: NDArray[np.uint8], start: int, header: Any
) -> tuple[dict[str, Entry], dict[str, str]]:
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    if not isinstance(header, dict):
        raise CheckpointError(f"its header is {quoted(header, 60)}, not a JSON object")
    if len(header) > _MOST_TENSORS:
        raise CheckpointError(f"it has {len(header)} tensors; at most {_MOST_TENSORS} are read")
    for name, about in header.items():
        if about is not None and not isinstance(about, dict):
            raise CheckpointError(f"its header has {quoted(about, 60)} for {name}, not a JSON object")
        if name == "__metadata__":
            metadata = {str(key): str(value) for key, value in (about or {}).items()}
            continue
        if about is None or not (isinstance(about.get("dtype"), str) and about.keys() >= {"shape", "data_offsets"}):
            raise CheckpointError(f"its header lacks the dtype, shape or data_offsets of {name}")
        kind, shape = about["dtype"], _numbers(about["shape"], f"for {name} the shape")
        offsets = _numbers(about["data_offsets"], f"for {name} the offsets")
        if len(offsets) != 2 or offsets[0] > offsets[1] or start + offsets[1] > data.size:
            raise CheckpointError(f"{name} lies at {list(offsets)} of {data.size - start} bytes; it is cut short")
        # A file with an unknown (newer) type is accepted if its networks do not take that tensor.
        if kind in _BITS and -(-math.prod(shape) * _BITS[kind] // 8) != offsets[1] - offsets[0]:
            raise CheckpointError(f"{name} ({kind} {list(shape)}) does not take {offsets[1] - offsets[0]} bytes")
        entries[name] = Entry(path, data, kind, shape, start + offsets[0], start + offsets[1])
    if shared := _overlapping(entries):
        raise CheckpointError(f"{shared[0]} and {shared[1]} overlap")
    return entries, metadata
