"""Checkpoint tensors as memory-mapped arrays: a safetensors file (or its shards) read through the page cache.

The safetensors library copies each tensor and has no NumPy bfloat16; the format itself is a JSON header and bytes
(https://huggingface.co/docs/safetensors), so the tensors are mapped in the file.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converter.errors import CheckpointError, quoted

_TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "F8_E4M3": np.dtype(np.uint8),
    "F8_E5M2": np.dtype(np.uint8),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}
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
_BITS = {kind: 8 * dtype.itemsize for kind, dtype in _TYPES.items()} | _UNREAD
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
#: The least value that rounds to infinity in fp16.
_INFINITE_IN_FP16 = 65520.0
_BEYOND_FP16 = "has values beyond 65504, the largest of fp16, in which models are stored"
#: The least bit pattern, without the sign, of an infinity or NaN in each type, and of a value that is infinite in fp16.
_NOT_FINITE = {
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F32": 0x7F800000,
    "F64": 0x7FF0000000000000,
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
}
_TOO_LARGE = {"BF16": 0x4780, "F32": 0x477FF000, "F64": 0x40EFFE0000000000}
#: Elements checked together: few enough to stay in a core's cache.
_CHUNK = 1 << 18
#: Suffixes of a weight's factor in ComfyUI's files of scaled fp8 weights, in either naming.
_SCALES = (".weight_scale", ".scale_weight")
#: Suffixes of the tensors for products in fp8, which are not used here: the activations' scale, and the layer's format.
_SCALE_COMPANIONS = (".input_scale", ".scale_input", ".comfy_quant")
_SCALED_MARK = "scaled_fp8"


def _fp8_values(exponent_bits: int) -> NDArray[np.float32]:
    """Return the 256 values of an 8-bit float (Micikevicius et al. 2022, "FP8 Formats for Deep Learning")."""
    codes = np.arange(256, dtype=np.uint32)
    if exponent_bits == 5:
        return (codes << 8).astype(np.uint16).view(np.float16).astype(np.float32)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent.astype(np.float64) - 10))
    size[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes & 0x80, -size, size).astype(np.float32)


_FP8 = {"F8_E4M3": _fp8_values(4), "F8_E5M2": _fp8_values(5)}


@dataclass(frozen=True)
class _Entry:
    """Bytes ``begin`` to ``end`` of the file at ``path``; ``shape`` is the resulting one, after transposing if ``transposed``.

    scale: factors of the values: one, or one for each row of the first axis as stored.
    """

    path: Path
    file: NDArray[np.uint8]
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int
    transposed: bool = False
    scale: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Part:
    """The origin of a renamed tensor: all of tensor ``source``, or the ``index``-th of ``count`` equal runs of its rows.

    form: ``matrix`` drops the kernel of a 1x1 convolution ([out, in, 1, 1] becomes [out, in]; a matrix stays one);
    ``transposed`` swaps a matrix's axes.
    """

    source: str
    index: int = 0
    count: int = 1
    form: Literal["stored", "matrix", "transposed"] = "stored"


def _entry_of_part(entry: _Entry, part: Part) -> _Entry:
    shape, size = entry.shape, (entry.end - entry.begin) // part.count
    if not shape or shape[0] % part.count:
        raise CheckpointError(
            f"{part.source} is {list(shape)} and cannot be cut into {part.count} along its first axis"
        )
    shape = (shape[0] // part.count, *shape[1:])
    if part.form == "matrix":
        if len(shape) < 2 or any(n != 1 for n in shape[2:]):
            raise CheckpointError(f"{part.source} is {list(shape)}, not a 1x1 convolution")
        shape = shape[:2]
    if part.form == "transposed":
        if len(shape) != 2:
            raise CheckpointError(f"{part.source} is {list(shape)}, not a matrix")
        shape = shape[::-1]
    begin, scale = entry.begin + part.index * size, entry.scale
    if scale is not None and scale.size > 1:
        scale = np.split(scale, part.count)[part.index]
    return _Entry(entry.path, entry.file, entry.kind, shape, begin, begin + size, part.form == "transposed", scale)


def _stored(entry: _Entry) -> NDArray[Any]:
    return entry.file[entry.begin : entry.end].view(_TYPES[entry.kind])


def _values(entry: _Entry) -> NDArray[Any]:
    """Return the values as one row, unscaled: as stored, or in fp32 if NumPy lacks the type."""
    raw = _stored(entry)
    if entry.kind == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return _FP8[entry.kind][raw] if entry.kind in _FP8 else raw


def _greatest_bits(parts: Iterable[NDArray[Any]]) -> int:
    """Return the greatest bit pattern of floats, without their signs; its order is that of the values."""
    most = 0
    for part in parts:
        raw = part.view(f"u{part.dtype.itemsize}")
        sign = raw.dtype.type(~(1 << (8 * raw.dtype.itemsize - 1)) & ((1 << 8 * raw.dtype.itemsize) - 1))
        most = max(most, int((raw & sign).max()))
    return most


def _mapped_parts(entry: _Entry) -> Iterator[NDArray[Any]]:
    raw = _stored(entry)
    yield from (raw[i : i + _CHUNK] for i in range(0, raw.size, _CHUNK))


def _read_parts(entry: _Entry) -> Iterator[NDArray[Any]]:
    """Yield the stored values by reading the file: a process that looks at mapped bytes of a file that is cut meanwhile dies."""
    dtype = _TYPES[entry.kind]
    with open(entry.path, "rb") as file:
        file.seek(entry.begin)
        for begin in range(entry.begin, entry.end, _CHUNK * dtype.itemsize):
            size = min(_CHUNK * dtype.itemsize, entry.end - begin)
            data = file.read(size)
            if len(data) < size:
                raise CheckpointError(f"{entry.path} was cut while it was read")
            yield np.frombuffer(data, dtype)


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


def _overlapping(entries: dict[str, _Entry]) -> tuple[str, str] | None:
    """Return two tensors that share some of their bytes; sharing all is one tensor with two names (tied weights)."""
    ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
    ordered = [(name, entry) for name, entry in ordered if entry.end > entry.begin]
    for (first, a), (second, b) in itertools.pairwise(ordered):
        if b.begin < a.end and (a.begin, a.end) != (b.begin, b.end):
            return first, second
    return None


def _scaled(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Return the entries with scaled 8-bit weights joined to their factors, and without tensors for fp8 products only."""
    joined = dict(entries)
    for name, entry in entries.items():
        if entry.kind not in _FP8 or not name.endswith(".weight"):
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


def _factors(name: str, entry: _Entry, key: str, scale: _Entry) -> NDArray[np.float32]:
    single = math.prod(scale.shape) == 1
    per_row = scale.shape == (*entry.shape[:1], *[1] * (len(scale.shape) - 1))
    if scale.kind not in ("F32", "F16", "BF16") or not (single or per_row):
        raise CheckpointError(
            f"{name} is scaled by {key} ({scale.kind} {list(scale.shape)}); accepted: one factor for a weight, or one for "
            "each of its rows, as F32, F16 or BF16"
        )
    return _values(scale).astype(np.float32)


class Tensors:
    """The named tensors of one network, from one or several safetensors files.

    metadata: the files' ``__metadata__``, written by trainers and merging programs.
    """

    def __init__(self, files: list[Path], *, mapped: bool = True) -> None:
        """``mapped``: whether the files are mapped, or small ones that are read as a whole."""
        self.metadata: dict[str, str] = {}
        self._entries: dict[str, _Entry] = {}
        for path in files:
            self._read_header(path, mapped)

    def _read_header(self, path: Path, mapped: bool) -> None:
        is_mapped = mapped and path.stat().st_size > 0
        data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r") if is_mapped else np.fromfile(path, np.uint8)
        with path.open("rb") as file:
            length = struct.unpack("<Q", begin)[0] if len(begin := file.read(8)) == 8 else -1
            if not 0 < length <= min(_LONGEST_HEADER, data.size - 8):
                what = next(
                    (f"; it is {words}" for start, words in _OTHER_FILES.items() if begin.startswith(start)), ""
                )
                raise CheckpointError(f"{path} is not a whole safetensors file ({data.size} bytes){what}")
            text = file.read(length)
        try:
            header = json.loads(text, object_pairs_hook=_unique)
            entries = self._entries_of(path, data, 8 + length, header)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} has an unreadable safetensors header: {error}") from error
        if duplicates := sorted(set(entries) & set(self._entries)):
            raise CheckpointError(f"{path} has {duplicates[0]}, which another of the network's files has too")
        self._entries |= _scaled(entries)

    def _entries_of(self, path: Path, data: NDArray[np.uint8], start: int, header: Any) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        if not isinstance(header, dict):
            raise CheckpointError(f"its header is {quoted(header, 60)}, not a JSON object")
        if len(header) > _MOST_TENSORS:
            raise CheckpointError(f"it has {len(header)} tensors; at most {_MOST_TENSORS} are read")
        for name, about in header.items():
            if about is not None and not isinstance(about, dict):
                raise CheckpointError(f"its header has {quoted(about, 60)} for {name}, not a JSON object")
            if name == "__metadata__":
                self.metadata |= {str(key): str(value) for key, value in (about or {}).items()}
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
            entries[name] = _Entry(path, data, kind, shape, start + offsets[0], start + offsets[1])
        if shared := _overlapping(entries):
            raise CheckpointError(f"{shared[0]} and {shared[1]} overlap")
        return entries

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}")
        entry = self._entries[name]
        if entry.kind not in _TYPES:
            raise CheckpointError(f"{name} is stored as {entry.kind}; accepted: {', '.join(_TYPES)}")
        return entry

    def renamed(self, parts: Mapping[str, Part]) -> Tensors:
        """Return views of these files' tensors, or of parts of them, under other names; reads no values.

        Raises CheckpointError if a part's source is missing, of an unsupported type or of another shape.
        """
        return self._view({name: _entry_of_part(self._entry(part.source), part) for name, part in parts.items()})

    def under(self, names: Mapping[str, str]) -> Tensors:
        """Return views of these files' tensors, of any type, under other names (new name -> present name)."""
        return self._view({to: self._entries[name] for to, name in names.items()})

    def _view(self, entries: dict[str, _Entry]) -> Tensors:
        view = Tensors([])
        view.metadata, view._entries = self.metadata, entries
        return view

    def noting(self, names: set[str]) -> Tensors:
        """Return a view that adds the name of each tensor whose shape or values are read to ``names``."""
        view = _Noting([])
        view.metadata, view._entries, view.names = self.metadata, self._entries, names
        return view

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape without reading its values."""
        return self._entry(name).shape

    def size(self, name: str, axis: int) -> int:
        """Return the tensor's size along one axis, from 0. Raises CheckpointError if it has no such axis."""
        shape = self.shape(name)
        if axis >= len(shape):
            raise CheckpointError(f"{name} is {list(shape)}; more than {axis} axes were expected")
        return shape[axis]

    def stored_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of any type, supported or not."""
        return self._entries[name].shape

    def array(self, name: str) -> NDArray[Any]:
        """Return the tensor's values: a view of the file, or fp32 for bfloat16 and 8-bit floats."""
        entry = self._entry(name)
        raw = _values(entry).reshape(entry.shape[::-1] if entry.transposed else entry.shape)
        if entry.scale is not None:
            raw = raw * entry.scale.reshape(-1, *[1] * (raw.ndim - 1))
        return raw.T if entry.transposed else raw

    def path(self, name: str) -> Path:
        """Return the file that a tensor is in."""
        return self._entry(name).path

    def require_fp16(self, name: str) -> None:
        """Raise CheckpointError if the tensor has an infinity or NaN, or a value that is infinite in fp16.

        Compares bit patterns, whose order is that of the values, so no array of the tensor's size is made.
        """
        entry = self._entry(name)
        if entry.kind not in _NOT_FINITE:
            if np.abs(_stored(entry).astype(np.float64)).max(initial=0) >= _INFINITE_IN_FP16:
                raise CheckpointError(f"{name} {_BEYOND_FP16}")
            return
        most = _greatest_bits(_mapped_parts(entry))
        if most >= _NOT_FINITE[entry.kind]:
            raise CheckpointError(f"{name} has infinite values or NaNs; the file is damaged")
        # `not ... <` also catches a factor that is NaN.
        scaled = entry.scale is not None and not np.abs(self.array(name)).max(initial=0) < _INFINITE_IN_FP16
        if scaled or most >= _TOO_LARGE.get(entry.kind, _NOT_FINITE[entry.kind]):
            raise CheckpointError(f"{name} {_BEYOND_FP16}")

    def is_finite(self, name: str) -> bool:
        """Return whether the tensor, as stored, has no infinity or NaN; reads the file, which may be cut meanwhile."""
        entry = self._entry(name)
        return entry.kind not in _NOT_FINITE or _greatest_bits(_read_parts(entry)) < _NOT_FINITE[entry.kind]

    def number(self, name: str) -> float:
        """Return the value of a tensor of one; reads the file, which may be cut meanwhile."""
        entry = self._entry(name)
        if math.prod(entry.shape) != 1:
            raise CheckpointError(f"{name} is {list(entry.shape)}; one number is accepted")
        data = np.concatenate([*_read_parts(entry)]).view(np.uint8)
        return float(_values(replace(entry, file=data, begin=0, end=data.size)).reshape(()))

    def fp16_bytes(self, names: Iterable[str]) -> int:
        """Return the bytes of these tensors in fp16."""
        return sum(2 * math.prod(self.shape(name)) for name in names)


def _sizes(shape: tuple[int, ...]) -> str:
    """Return a shape for messages, without trailing 1s, by which a linear layer and a 1x1 convolution differ."""
    sizes = "x".join(map(str, shape)).removesuffix("x1").removesuffix("x1")
    return sizes or "one number"


def expect_shape(tensors: Tensors, name: str, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError if there is no tensor ``name``, or it has another shape.

    Sizes of 1 are ignored: a linear layer may be stored as a 1x1 convolution.
    """
    stored = tensors.shape(name)
    if [n for n in stored if n != 1] != [n for n in shape if n != 1]:
        raise CheckpointError(
            f"{name} is {_sizes(stored)}, but by its network's configuration it should be {_sizes(shape)}"
        )


class _Noting(Tensors):
    names: set[str]

    def _entry(self, name: str) -> _Entry:
        entry = super()._entry(name)
        self.names.add(name)
        return entry
