"""LoRAs and embeddings: the safetensors files of a folder by name, each read once and again when it changes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from converter.errors import AnemoneError, shown
from converter.loras import settings_beside
from server.models.paths import without_paths

log = logging.getLogger("anemone.models")

SUFFIX = ".safetensors"
#: Suffixes of files that other programs take for LoRAs or embeddings. None of them can be used, which is told.
_OTHERS = (SUFFIX, ".pt", ".pth", ".ckpt", ".bin")
#: Characters that end a name in a tag of a prompt, or part folders.
_NOT_IN_A_NAME = frozenset('<>:/\\"')
LONGEST_NAME = 200
#: File systems take 255 bytes.
_MOST_BYTES = 255 - len(SUFFIX)
#: Names in a message.
_MOST_TOLD = 20
#: What the name of a folder with an upload begins with.
_UPLOADED = ".upload-"
#: Raised when what is kept of a file changes.
_INDEX_VERSION = 3

#: The state of a file: modification time (ns), size and inode; those of the settings beside it follow if there are any.
_Stamp = tuple[int, ...]
_T = TypeVar("_T")


class UnknownAddon(AnemoneError):
    """No file has this name."""


class BundledAddon(AnemoneError):
    """A file that comes with Anemone cannot be deleted."""


class NameNotAccepted(AnemoneError):
    """A new file cannot have this name."""


@dataclass(frozen=True)
class _Read(Generic[_T]):
    """What was read of a file with this stamp; ``reason`` says why it cannot be used."""

    stamp: _Stamp
    facts: _T | None = None
    reason: str | None = None


@dataclass
class _Index(Generic[_T]):
    version: int = _INDEX_VERSION
    files: dict[str, _Read[_T]] = field(default_factory=dict)


def _stamp(path: Path) -> _Stamp:
    """Return the state of a file that can be read; raises PermissionError for another, whatever is known of it."""
    stats = [_stat_readable(path)]
    settings = settings_beside(path)
    if settings is not None:
        stats.append(_stat_readable(settings))
    return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size, stat.st_ino))


def _stat_readable(path: Path) -> os.stat_result:
    stat = path.stat()
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return stat


def require_name(name: str) -> None:
    """Raise NameNotAccepted unless a new file may have this name, without the suffix."""
    wrong = not name or len(name) > LONGEST_NAME or name[0] in ". " or name[-1] == " " or not name.isprintable()
    if wrong or _NOT_IN_A_NAME & set(name) or len(name.encode()) > _MOST_BYTES:
        raise NameNotAccepted(
            f"1 to {LONGEST_NAME} printable characters of up to {_MOST_BYTES} bytes in UTF-8, without "
            f"{' '.join(sorted(_NOT_IN_A_NAME))}, that do not begin with a point or a space, or end with a space"
        )


class _Snapshot(Mapping[str, _T]):
    """Files by name, each read when its value is."""

    def __init__(self, paths: Mapping[str, Path], facts: Callable[[str, Path], _T]) -> None:
        self._paths, self._facts = paths, facts

    def __getitem__(self, name: str) -> _T:
        return self._facts(name, self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths


def _files(root: Path) -> Iterator[Path]:
    # Sorted by depth first, so that nobody's file hides one beside it.
    for folder, folders, files in os.walk(root, followlinks=False):
        folders[:] = sorted(each for each in folders if each[0] != ".")
        paths = (Path(folder) / file for file in sorted(files) if file[0] != "." and file.isprintable())
        # Neither links to nothing or to themselves, nor pipes, whose reading would never end.
        yield from (path for path in paths if _may_be_file(path))


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # a link into a private folder; the list tells it
        return True


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        if file.name.endswith(SUFFIX):
            found.setdefault(file.name.removesuffix(SUFFIX), file)
    return found


class AddonFiles(Generic[_T]):
    """The files of a folder and its subfolders by name, which is the file's without its suffix, as A1111 has them.

    Those of the folder ``bundled`` are there too, and stay; a file of the user's with one's name takes its place.
    What was read of each is kept in ``index``, since a hash of a large file takes a second. Safe to use from several threads.
    """

    def __init__(
        self, root: Path, index: Path, facts: type[_T], read: Callable[[str, Path], _T], bundled: Path | None = None
    ) -> None:
        """``read`` returns the facts, of the type ``facts``, of a file by name and path; raises AnemoneError."""
        self.root, self._index_file, self._read, self._bundled = root, index, read, bundled
        self._adapter = TypeAdapter(_Index[facts])  # type: ignore[valid-type]
        self._lock = threading.RLock()
        self._known: dict[str, _Read[_T]] | None = None

    def paths(self) -> dict[str, Path]:
        """Return the files by name, in the order of their names; of two with one name, that in the upper folder."""
        return self._with_bundled(_by_name(_files(self.root)))

    def _with_bundled(self, found: dict[str, Path]) -> dict[str, Path]:
        if self._bundled is not None:
            own = {name.casefold() for name in found}
            bundled = _by_name(_files(self._bundled))
            found = found | {name: path for name, path in bundled.items() if name.casefold() not in own}
        return dict(sorted(found.items(), key=lambda item: item[0].casefold()))

    def get(self, name: str) -> _T:
        """Return the facts of a file; raises UnknownAddon, and AnemoneError for one that cannot be used."""
        return self._facts(name, self.path(name))

    def snapshot(self) -> Mapping[str, _T]:
        """Return the files that there are now; reading a value reads the file, and raises AnemoneError as `get` does."""
        return _Snapshot(self.paths(), self._facts)

    def _facts(self, name: str, path: Path) -> _T:
        try:
            read = self._of(name, path)
        except FileNotFoundError as gone:
            raise UnknownAddon(f"{name} has just been deleted") from gone
        if read.facts is None:
            raise AnemoneError(read.reason or "")
        return read.facts

    def path(self, name: str) -> Path:
        """Return the path of a file; raises UnknownAddon."""
        paths = self.paths()
        if name not in paths:
            raise UnknownAddon(f"there is no {name[:80]!r}; installed: {shown([*paths], _MOST_TOLD) or 'none yet'}")
        return paths[name]

    def path_inside(self, name: str) -> str:
        """Return the path of a file in its folder; raises UnknownAddon."""
        path = self.path(name)
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def all(self) -> tuple[dict[str, _T], dict[str, str]]:
        """Return the facts of all files that can be used, and why the others cannot, by name."""
        usable, damaged = dict[str, _T](), dict[str, str]()
        files = list(_files(self.root))
        own = _by_name(files)
        for name, path in self._with_bundled(own).items():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                read = self._of(name, path)
                if read.facts is None:
                    damaged[name] = read.reason or ""
                else:
                    usable[name] = read.facts
        for path in files:
            if path.name.endswith(SUFFIX):
                used = own[path.name.removesuffix(SUFFIX)]
                if used != path:
                    hidden, of = (each.relative_to(self.root).as_posix() for each in (path, used))
                    damaged[hidden] = f"{hidden} has the name of {of}, which is used; rename it"
            elif path.suffix.lower() in _OTHERS:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    damaged[path.name] = self._of(path.stem, path).reason or ""
        return usable, damaged

    def _of(self, name: str, path: Path) -> _Read[_T]:
        with self._lock:
            known = self._loaded()
            found = known.get(str(path))
            try:
                if found is not None and found.stamp == _stamp(path):
                    return found
                found = known[str(path)] = self._now(name, path)
            except PermissionError as error:  # not kept: a permission that is given leaves the stamp as it is
                return _Read((), reason=f"{Path(error.filename).name} cannot be read: {error.strerror}")
            self._store(known)
            return found

    def _now(self, name: str, path: Path) -> _Read[_T]:
        stamp = _stamp(path)
        try:
            require_name(name)
            return _Read(stamp, self._read(name, path))
        except NameNotAccepted as error:
            return _Read(stamp, reason=f"no tag can name {path.name}; rename it: {error}")
        except AnemoneError as error:
            return _Read(stamp, reason=without_paths(str(error), (path.parent, self.root)))

    def _loaded(self) -> dict[str, _Read[_T]]:
        if self._known is None:
            self._known = {}
            try:
                index = self._adapter.validate_json(self._index_file.read_bytes())
                self._known = index.files if index.version == _INDEX_VERSION else {}
            except FileNotFoundError:
                pass
            except ValidationError as error:  # of another version: the files are read again
                log.info("%s is written anew: %s", self._index_file.name, error.errors()[0]["msg"])
        return self._known

    def _store(self, known: dict[str, _Read[_T]]) -> None:
        kept = {path: read for path, read in known.items() if os.path.exists(path)}
        self._index_file.parent.mkdir(parents=True, exist_ok=True)
        new = self._index_file.with_name(f".{self._index_file.name}.new")
        new.write_bytes(self._adapter.dump_json(_Index(files=kept)))
        with contextlib.suppress(FileNotFoundError):  # `anemone generate` has just moved its own there
            new.rename(self._index_file)

    # --- changes --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def uploading(self, name: str) -> Iterator[Path]:
        """Yield the path of a file to write, in a hidden folder that is deleted afterwards; see `add`.

        Raises NameNotAccepted, and FileExistsError if there is a file of this name.
        """
        require_name(name)
        if name.casefold() in (each.casefold() for each in _by_name(_files(self.root))):
            raise FileExistsError(name)
        folder = self.root / f"{_UPLOADED}{os.urandom(8).hex()}"
        folder.mkdir(parents=True)
        try:
            yield folder / f"{name}{SUFFIX}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, uploaded: Path) -> _T:
        """Keep an uploaded file, once it has been read; returns its facts.

        Raises FileExistsError if there is one of its name by now, and AnemoneError for a file that cannot be used.
        """
        name, kept = uploaded.stem, self.root / uploaded.name
        read = self._now(name, uploaded)
        if read.facts is None:
            raise AnemoneError(read.reason or "")
        with self._lock:
            try:
                os.link(uploaded, kept)
            except FileExistsError:
                raise
            except OSError as error:  # a file system without hard links, such as exFAT
                if kept.exists():
                    raise FileExistsError(name) from error
                uploaded.rename(kept)
            known = self._loaded()
            known[str(kept)] = read
            self._store(known)
        return read.facts

    def delete(self, name: str) -> None:
        """Delete a file; raises UnknownAddon, and BundledAddon for one that comes with Anemone."""
        path = self.path(name)
        if not path.is_relative_to(self.root):
            raise BundledAddon(f"{name} comes with Anemone and stays; a file of your own with its name takes its place")
        path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete the rest of uploads that were interrupted."""
        for folder in self.root.glob(f"{_UPLOADED}*"):
            shutil.rmtree(folder)
