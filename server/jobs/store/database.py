"""The job database's connections; they keep it in place while the server runs."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from server.faults import FAULTS
from server.jobs.store.files import StoredFiles
from server.jobs.store.opening import open_database, require_whole, set_aside
from server.jobs.store.schema import connect, durably, shrink

log = logging.getLogger("anemone.store")

#: How long a write waits for another program that has the database locked, a backup for example.
WRITE_SECONDS = 5.0
#: The event loop reads, and answers nobody while it waits. Writers do not lock out readers; only repairs of the database do.
_READ_SECONDS = 0.2

#: Device and inode of a file; None if there is none.
_Identity: TypeAlias = tuple[int, int] | None


def _identity(path: str | Path) -> _Identity:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class Database:
    """One connection that writes and one that reads, so that a read does not wait for a write on its way to the disk.

    lock: held by whoever writes.
    is_new: whether there was no database before, or none that could be used.

    A file that somebody removes stays whole as long as it is open. So each write looks first whether the file in the data
    folder is still the open one (two calls of stat, 4 us); if not, what is open is written to a new file in its place.
    If others have written to the open file, it is checked before it is written to.
    """

    def __init__(self, path: Path, attachments: StoredFiles) -> None:
        """Open or make the database; see `open_database` for what it raises."""
        self.lock, self._reading = threading.RLock(), threading.Lock()
        self._path, self._attachments = path, attachments
        self._db, self.is_new = open_database(path, attachments, WRITE_SECONDS)
        self._read = connect(path, _READ_SECONDS)
        self._open_files, self._written = self._files(), self._size_and_time()

    def close(self) -> None:
        """Close the database."""
        with self.lock:
            try:
                self._keep_in_place()
            except FAULTS as error:
                log.error("%s was removed while the server ran, and cannot be put back: %s", self._path, error)
            with self._reading:
                self._read.close()
                self._db.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Run the block as a transaction; if it is ``durable``, a power cut right afterwards does not undo it."""
        with self._own_file():
            if durable:
                with durably(self._db):
                    yield from self._transaction()
            else:
                yield from self._transaction()

    @contextmanager
    def _own_file(self) -> Iterator[None]:
        """Hold the lock for a block that writes to the database, which is whole and in its place."""
        with self.lock:
            self._keep_in_place()
            if self._size_and_time() != self._written:
                require_whole(self._path, self._attachments, WRITE_SECONDS)
            try:
                yield
            finally:
                self._written = self._size_and_time()

    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            # After some errors, of a full disk for one, SQLite has rolled back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def check(self) -> None:
        """Put the database back if somebody removed it; raise what a write would raise."""
        with self._own_file():
            pass

    @property
    def row_bytes(self) -> int:
        """The bytes that the rows take; the file may be larger until `shrink`."""
        pragmas = "pragma_page_count, pragma_freelist_count, pragma_page_size"
        ((used,),) = self.rows(f"SELECT (page_count - freelist_count) * page_size FROM {pragmas}")
        return int(used)

    def shrink(self) -> None:
        """Give the pages of deleted jobs back to the file system."""
        with self._own_file():
            shrink(self._db)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._reading:
            return self._read.execute(query, values).fetchall()

    def _size_and_time(self) -> tuple[int, int]:
        """Return the file's size, and when it was written to; only a transaction of this object changes them."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return 0, 0  # removed during the transaction: the next one puts it back
        return status.st_size, status.st_mtime_ns

    def _files(self) -> tuple[_Identity, _Identity]:
        return _identity(self._path), _identity(f"{self._path}-wal")

    def _keep_in_place(self) -> None:
        if self._files() == self._open_files:
            return
        copy = self._path.with_name(f"{self._path.name}.new")
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(copy)) as target:
            self._db.backup(target)
        if self._files()[1] == self._open_files[1]:
            # Of the open database, which the copy holds: beside another one, SQLite would mix the two.
            for end in ("-wal", "-shm"):
                Path(f"{self._path}{end}").unlink(missing_ok=True)
        found = set_aside(self._path, "replaced") if os.path.lexists(self._path) else None
        copy.rename(self._path)
        with self._reading:
            # Closed before the new ones are opened: SQLite then deletes the -wal file by its name.
            self._read.close()
            self._db.close()
            self._db, self._read = connect(self._path, WRITE_SECONDS), connect(self._path, _READ_SECONDS)
        self._open_files, self._written = self._files(), self._size_and_time()
        other = f"; what was found instead is kept as {found.name}" if found is not None else ""
        log.warning(
            "%s was removed or replaced while the server ran: it is put back with all jobs%s. To use another one, stop the "
            "server first",
            self._path,
            other,
        )
