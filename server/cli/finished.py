"""What ``anemone analyze`` has finished, on disk beside the file it writes, so that it can be interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from converter.errors import AnemoneError
from converter.verification.sensitivity import Nearness
from converter.weights.activations import Activation
from server.terminal import Bar

#: A finished part of an analysis: the errors of a layer's weight, the layers' gains on an input, what palettes of all layers
#: do, or a layer's activations.
T = TypeVar("T", dict[int, float], dict[str, float], Nearness, Activation)

_LOCK = "lock"


def replace_file(file: Path, text: str) -> None:
    """Write a file whole, or leave the one that is there. Raises AnemoneError."""
    written = file.with_name(f".{file.name}.written")
    try:
        written.write_text(text, encoding="utf-8")
        os.replace(written, file)
    except OSError as error:
        raise AnemoneError(f"{file} cannot be written: {error.strerror}; the same command continues") from error


@contextmanager
def parts_beside(out: Path) -> Iterator[Path]:
    """Make the folder beside ``out`` for what is finished, and keep others from it. Raises AnemoneError."""
    if out.is_dir():
        raise AnemoneError(f"{out} is a folder; give the JSON file to write, such as {out / 'recipes.json'}")
    if out.exists() and not out.is_file():
        raise AnemoneError(f"{out} is not a file, and would be replaced; give the JSON file to write")
    parts = out.with_name(f".{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        lock = (parts / _LOCK).open("w")
    except OSError as error:
        raise AnemoneError(f"{out} cannot be written: {error.strerror}; give a file where one can be made") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnemoneError(f"another analysis is writing {out}; wait for it, or give another file") from error
        try:
            yield parts
        finally:
            if parts.is_dir() and os.listdir(parts) == [_LOCK]:
                shutil.rmtree(parts)


class Finished(Generic[T]):
    """What is measured, by name, on disk after each, so that an interrupted analysis continues."""

    def __init__(self, file: Path, identity: list[Any], kind: type[T]) -> None:
        self._file, self._identity = file, identity
        self._done: dict[str, T] = {}
        if file.is_file():
            try:
                content = json.loads(file.read_bytes())
                if content["identity"] == identity:
                    self._done = TypeAdapter(dict[str, kind]).validate_python(content["done"])  # type: ignore[valid-type]
            except (ValueError, LookupError, TypeError):
                pass  # damaged: everything is measured again

    def _add(self, name: str, found: T) -> None:
        self._done[name] = found
        content = {"identity": self._identity, "done": self._done}
        replace_file(self._file, TypeAdapter(dict[str, Any]).dump_json(content).decode())

    def measured(self, what: str, names: Iterable[str], measure: Callable[[str], T], bar: Bar) -> dict[str, T]:
        """Return what is measured by each of these names; ``measure`` those that are missing."""
        wanted = list(names)
        for number, name in enumerate(wanted):
            bar.show(what, number, len(wanted), name)
            if name not in self._done:
                self._add(name, measure(name))
        return {name: self._done[name] for name in wanted}
