"""The rights of what the server keeps: prompts, images, keys and logins are for its owner only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converter.errors import AnemoneError

#: What others may not do with a file or folder.
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
#: The files that the server keeps in its data folder, without those of models.
_FILES = re.compile(
    r"jobs\.sqlite3.*|lock|\.?(api-key|sessions\.json)(\.new)?|(images|attachments)/(unknown/)?[0-9a-f]{32}\.(png|bin)(\.partial)?"
    r"|conversions/[0-9a-f]{20}\.(json|new)|tls/\.?(cert|key)\.pem(\.new)?"
)
#: The folders that have them, those inside another first; "." is the data folder.
_FOLDERS = ("images/unknown", "images", "attachments/unknown", "attachments", "conversions", "tls", ".")
#: What may be beside them: models and checkpoints, which can be shared, and what a Mac's Finder writes.
_BESIDE = ("models", "checkpoints", ".DS_Store", ".localized")


@contextmanager
def private_files() -> Iterator[None]:
    """Make files for their owner only (0600, folders 0700) in the block, also in the processes that it starts."""
    former = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(former)


class _StillOpen(OSError):
    """The rights did not change, as on disks that keep none."""


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, by one rename; a power cut leaves the file before or this one."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


@contextmanager
def remade(path: Path) -> Iterator[None]:
    """Raise the block's OSErrors as an AnemoneError that says what to do about a file or folder that the server can make anew."""
    try:
        yield
    except OSError as error:
        raise AnemoneError(
            f"{path} cannot be used: {error.strerror}; let the server's user read and write it, or move it away, and the "
            "server makes a new one"
        ) from error


def make_private(data_dir: Path) -> str | None:
    """Take others' rights from an existing data folder and what the server keeps there, of which earlier versions left some.

    A folder that also holds other files, such as a home folder, keeps its own rights. Returns a sentence for the owner if
    other users can still enter or read something.
    """
    data_dir, others = data_dir.resolve(), []
    try:
        for name in _FOLDERS:
            folder = data_dir / name
            # A folder that is closed already protects its files: thousands of images are looked at only once.
            if name == "." or (folder.is_dir() and not folder.is_symlink() and _is_open(folder)):
                others = _narrow_files(data_dir, name)
                if not others:
                    _narrow(folder)
        if not _is_open(data_dir):
            return None
    except OSError as error:
        reason = error.strerror or str(error)
        return (
            f"other users of this machine may read the data folder {data_dir}: its rights cannot be changed ({reason}); "
            "if they must not, choose a --data-dir of your own on another disk"
        )
    return (
        f"the data folder {data_dir} also holds other files ({min(others)}), so it keeps its rights; what the server writes "
        "there is for its owner only"
    )


def _narrow_files(data_dir: Path, folder: str) -> list[str]:
    """Narrow the server's files in one of its folders; return the names of what else is there."""
    others = []
    for path in (data_dir / folder).iterdir():
        name = path.relative_to(data_dir).as_posix()
        if _FILES.fullmatch(name):
            _narrow(path)
        elif name not in _FOLDERS and path.name not in _BESIDE:
            others.append(path.name)
    return others


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & _OTHERS)


def _narrow(path: Path) -> None:
    if path.is_symlink():
        return
    about = path.stat()
    if not about.st_mode & _OTHERS:
        return
    if about.st_uid != os.geteuid():
        raise _StillOpen(f"{path} belongs to another user")
    path.chmod(stat.S_IMODE(about.st_mode) & ~_OTHERS)
    if _is_open(path):
        raise _StillOpen(f"the disk of {path} keeps no rights")
