"""A model folder in the making: finished networks survive a crash, half-written ones are never taken for finished."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from converter.errors import CheckpointError
from converter.folder import FILE, ModelFolder, Package

_STATE = "conversion.json"


@contextmanager
def conversion_lock(out: Path) -> Iterator[None]:
    """Hold the right to make the model folder ``out``; waits while another process makes it.

    The lock is the system's, so it goes with the process that holds it, however that ends.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f".{out.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def require_replaceable(out: Path) -> None:
    """Raise CheckpointError unless ``out`` is free, an empty folder or a model, which a conversion into it replaces."""
    if not out.name or out.name == "..":
        raise CheckpointError(f"{out} is no name of a new folder; give one, such as ./my-model")
    if out.is_symlink():
        raise CheckpointError(f"{out} is a link, which a conversion would replace; give the folder itself")
    if not out.exists() or (out.is_dir() and ((out / FILE).is_file() or not any(out.iterdir()))):
        return
    raise CheckpointError(
        f"{out} is there and is no converted model (it has no {FILE}), so it is left alone; give the name of a new folder or "
        "of a model to replace"
    )


@dataclass(frozen=True)
class _State:
    """How far a conversion is: of which plan, and the packages of its finished networks."""

    fingerprint: str | None
    networks: dict[str, tuple[Package, ...]]


_STATES = TypeAdapter(_State)


@dataclass(frozen=True)
class Partial:
    """The folder a conversion of ``fingerprint`` writes into, beside the one it is to become."""

    path: Path
    fingerprint: str

    @staticmethod
    def open(out: Path, fingerprint: str) -> Partial:
        """The partial folder for ``out``: as a cut-off conversion of the same plan left it, otherwise not there yet."""
        partial = Partial(out.with_name(f".{out.name}.partial"), fingerprint)
        if partial._state().fingerprint != fingerprint and partial.path.is_dir():
            shutil.rmtree(partial.path)
        return partial

    def _state(self) -> _State:
        """What is finished; nothing where there is no file, or a damaged one: everything is converted again then."""
        file = self.path / _STATE
        try:
            return _STATES.validate_json(file.read_bytes(), strict=True) if file.is_file() else _State(None, {})
        except ValidationError:
            return _State(None, {})

    def _write(self, networks: dict[str, tuple[Package, ...]]) -> None:
        beside = self.path / f"{_STATE}.new"
        beside.write_bytes(_STATES.dump_json(_State(self.fingerprint, networks)))
        beside.rename(self.path / _STATE)

    def finished(self, network: str) -> tuple[Package, ...] | None:
        """The packages of a network that was finished before; None where it was not."""
        return self._state().networks.get(network)

    @contextmanager
    def writing(self, network: str) -> Iterator[Path]:
        """An empty folder to write a network's packages into."""
        folder = self._folder(network)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder

    def _folder(self, network: str) -> Path:
        return self.path / f"{network.replace('/', '_')}.writing"

    def finish(self, network: str, packages: tuple[Package, ...]) -> None:
        """Take a network's packages, written in `writing`'s folder, as finished."""
        folder = self._folder(network)
        for path in {package.path for package in packages}:
            target = self.path / path
            shutil.rmtree(target, ignore_errors=True)
            (folder / path).rename(target)
        shutil.rmtree(folder)
        self._write(self._state().networks | {network: packages})

    def take_over(self, network: str, there: ModelFolder) -> None:
        """Take a network from a model that was converted by the same plan; its files are linked, not copied."""
        packages = there.manifest.networks[network]
        with self.writing(network) as folder:
            for path in {package.path for package in packages}:
                shutil.copytree(there.path / path, folder / path, copy_function=os.link)
        self.finish(network, packages)

    def become(self, out: Path) -> None:
        """Put the finished folder in ``out``'s place. What was there goes only once this is whole."""
        (self.path / _STATE).unlink()
        old = out.with_name(f".{out.name}.old-{os.getpid()}")
        if out.exists():
            out.rename(old)
        self.path.rename(out)
        shutil.rmtree(old, ignore_errors=True)
