"""Faults of the disk, the data folder and the job database: what is wrong, what to do, and how requests are answered."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: The exceptions that `fault_of` looks at.
FAULTS = (OSError, sqlite3.Error)
#: The job database's name in messages.
_DATABASE = "the job database (jobs.sqlite3)"

FaultCode = Literal[
    "disk_full",
    "read_only",
    "no_permission",
    "missing",
    "in_the_way",
    "too_many_files",
    "no_resources",
    "disk_error",
    "database_locked",
    "database_damaged",
    "internal",
]


@dataclass(frozen=True)
class Fault:
    """Something outside the server that keeps it from reading or writing, and may pass.

    code: a word for programs. message: what is wrong, with the last two parts of the path, and what to do.
    """

    code: FaultCode
    message: str

    @property
    def status(self) -> int:
        """The HTTP status of requests that it stops."""
        return 507 if self.code == "disk_full" else 503

    @property
    def retry_after(self) -> int:
        """Seconds after which a client should retry: few if it usually passes by itself."""
        return 5 if self.code in ("database_locked", "too_many_files", "no_resources") else 30


#: Faults with what is said of each, as a pattern of the file or folder; the first that has the error's number is meant.
_ABOUT: dict[FaultCode, str] = {
    "disk_full": "the disk is full: {} cannot be written; free some space",
    "read_only": "the disk is read-only: {} cannot be written; make it writable again",
    "no_permission": "the server's user may not read or write {}; give it the permission back",
    "missing": "{} is missing; put its folder back, or restart the server",
    "in_the_way": "something else is in the place of {}: a file, a folder or a link; move it away",
    "too_many_files": "the server has as many files open as it may, so {} cannot be opened; close connections to it, or "
    "start it with a higher limit (ulimit -n)",
    "no_resources": "the machine has no memory or no processes left; close other programs",
    "disk_error": "{} cannot be read or written: the disk reports an error; check the disk and its connection",
    "database_locked": "another program has locked {}, or the disk is slow; end that program, or wait",
    "database_damaged": "{} is damaged; stop the server and restore it from a backup, or move it away",
}

_BY_ERRNO: dict[int, FaultCode] = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "no_permission",
    errno.EPERM: "no_permission",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EEXIST: "in_the_way",
    errno.EISDIR: "in_the_way",
    errno.ELOOP: "in_the_way",
    errno.ENOTEMPTY: "in_the_way",
    errno.EMFILE: "too_many_files",
    errno.ENFILE: "too_many_files",
    errno.EAGAIN: "no_resources",
    errno.ENOMEM: "no_resources",
    errno.EBUSY: "database_locked",
    errno.EIO: "disk_error",
    errno.ENXIO: "disk_error",
    errno.ENODEV: "disk_error",
    errno.ESTALE: "disk_error",
    errno.ENOTCONN: "disk_error",
}

_BY_SQLITE: dict[int, FaultCode] = {
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "no_permission",
    sqlite3.SQLITE_CANTOPEN: "missing",
    sqlite3.SQLITE_NOMEM: "no_resources",
    sqlite3.SQLITE_IOERR: "disk_error",
    sqlite3.SQLITE_BUSY: "database_locked",
    sqlite3.SQLITE_LOCKED: "database_locked",
    sqlite3.SQLITE_CORRUPT: "database_damaged",
    sqlite3.SQLITE_NOTADB: "database_damaged",
}


def fault_of(error: BaseException) -> Fault | None:
    """Return the fault behind an exception; None if the disk and the database are not the cause."""
    if isinstance(error, sqlite3.Error):
        # The last eight bits are the kind; SQLite's extended codes say more.
        code = _BY_SQLITE.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
        if code in ("missing", "disk_error") and _files_are_used_up():
            code = "too_many_files"
        return None if code is None else Fault(code, _ABOUT[code].format(_DATABASE))
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        code = _BY_ERRNO.get(error.errno or 0)
        return None if code is None else Fault(code, _ABOUT[code].format(_shown(error.filename)))
    return None


def _shown(path: object) -> str:
    """Return a path's last two parts: clients need not know the server's folders."""
    return "/".join(Path(os.fsdecode(path)).parts[-2:]) if isinstance(path, str | bytes) else "a file"


def _files_are_used_up() -> bool:
    """Return whether no further file can be opened: SQLite does not tell why it could not open one."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file in the block's OSErrors that name none, as those of a write to an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
