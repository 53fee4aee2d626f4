"""Checksums of a folder's files: made while the files are written, compared before they are used."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

#: Bytes that are hashed beside the caller's own work rather than before it. A thread costs some 50 microseconds.
_LARGE = 1 << 18
_CHUNK = 1 << 22
#: The record of what `wrong_content` has compared, in the folder. A folder that cannot be written is compared every time.
_RECORD = ".anemone-checked.json"


@dataclass(frozen=True)
class FileSum:
    """A file's size in bytes, and the SHA-256 of its bytes from ``begin`` on, followed by those before ``begin``.

    begin: 0, and SHA-256 is that of other tools; 64 for weights files that were hashed while they were written, since their
        header is written last.
    """

    bytes: Annotated[int, Field(ge=0)]
    sha256: str
    begin: Annotated[int, Field(ge=0)] = 0


class StreamedSum:
    """The checksum of a file that is being written from ``begin`` on, hashed by a thread while the caller writes."""

    def __init__(self, begin: int) -> None:
        self._begin, self._size, self._digest = begin, begin, hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "checksum")

    def add(self, data: memoryview | bytes, write: Callable[[], object]) -> None:
        """Hash ``data`` while ``write`` writes it."""
        self._size += len(data)
        if len(data) < _LARGE:
            write()
            self._digest.update(data)
            return
        hashed = self._thread.submit(self._digest.update, data)
        write()
        hashed.result()

    def end(self, first: bytes) -> FileSum:
        """Return the checksum of the file, which begins with ``first``: its bytes before ``begin``."""
        self._digest.update(first)
        return FileSum(self._size, self._digest.hexdigest(), self._begin)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def checksum(path: Path, begin: int = 0, on_read: Callable[[int], None] = lambda size: None) -> FileSum:
    """Return a file's checksum; ``on_read`` is called with the size of each piece read. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        first = file.read(begin)
        buffer = memoryview(bytearray(_CHUNK))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
            on_read(count)
    digest.update(first)
    return FileSum(size + len(first), digest.hexdigest(), begin)


def error_words(error: OSError) -> str:
    """Return the reason of an OSError for a sentence about its file."""
    if error.errno == errno.ENOENT:
        return "is missing"
    if error.errno == errno.ELOOP:
        return "is a link that leads to itself"
    return f"cannot be read ({(error.strerror or str(error)).lower()})"


def wrong_size(folder: Path, sums: Mapping[str, FileSum]) -> str | None:
    """Say of the first file that is missing, unreadable or of another size what is wrong; None if no file is.

    Reads no content: 30 files take a millisecond.
    """
    for name, expected in sums.items():
        try:
            found = os.stat(folder / name)
        except OSError as error:
            return f"{name} {error_words(error)}"
        if not stat.S_ISREG(found.st_mode):
            return f"{name} is not a file"
        if found.st_size != expected.bytes:
            return f"{name} has {found.st_size} bytes; {expected.bytes} were written"
        if not os.access(folder / name, os.R_OK):
            return f"{name} cannot be read (permission denied)"
    return None


@dataclass(frozen=True)
class _Compared:
    """The state of a file whose content was compared with ``sum``, and is right."""

    mtime_ns: int
    inode: int
    sum: FileSum


_RECORDS = TypeAdapter(dict[str, _Compared])


def _state(path: Path, expected: FileSum) -> _Compared:
    found = path.stat()
    return _Compared(found.st_mtime_ns, found.st_ino, expected)


def _read_record(folder: Path) -> dict[str, _Compared]:
    try:
        return _RECORDS.validate_json((folder / _RECORD).read_bytes(), strict=True)
    except (OSError, ValidationError):
        return {}


def _write_record(folder: Path, record: dict[str, _Compared]) -> None:
    partial = folder / f"{_RECORD}.{os.getpid()}"
    try:
        partial.write_bytes(_RECORDS.dump_json(record))
        partial.replace(folder / _RECORD)
    except OSError:
        # A folder that cannot be written is compared again at the next load, which takes half a second per GB.
        with contextlib.suppress(OSError):
            partial.unlink()


def note_right(folder: Path, sums: Mapping[str, FileSum]) -> None:
    """Note that these files were compared, or just written, and are right, so that `wrong_content` need not read them."""
    _write_record(folder, {name: _state(folder / name, expected) for name, expected in sums.items()})


def wrong_content(
    folder: Path,
    sums: Mapping[str, FileSum],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    again: bool = False,
) -> str | None:
    """Say of the first file that differs from its checksum what is wrong; None if no file differs.

    Files whose size, time and inode are those of an earlier comparison are not read, unless ``again``; the folder keeps a
    record of these. ``progress`` is called with the bytes read and their total.
    """
    if (wrong := wrong_size(folder, sums)) is not None:
        return wrong
    known = {} if again else _read_record(folder)
    try:
        now = {name: _state(folder / name, expected) for name, expected in sums.items()}
        # Packages of one network share a weights file by hard links.
        unknown = {(now[name].inode, sums[name]): name for name in sums if known.get(name) != now[name]}
        total, done = sum(sums[name].bytes for name in unknown.values()), 0

        def on_read(size: int) -> None:
            nonlocal done
            done += size
            progress(done, total)

        for name in unknown.values():
            if checksum(folder / name, sums[name].begin, on_read) != sums[name]:
                return f"{name} has other content than was written"
    except OSError as error:
        return f"{Path(error.filename or folder).name} {error_words(error)}"
    if unknown and not again:
        _write_record(folder, now)
    return None


def checksums(folder: Path, parts: Iterable[str], known: Mapping[str, FileSum]) -> dict[str, FileSum]:
    """Return the checksums of all files in ``parts``, subfolders of ``folder``, by their paths in it; ``known`` ones are not read."""
    files = sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: known.get(name) or checksum(path) for name, path in names.items()}
