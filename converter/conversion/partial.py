"""The folder that a conversion writes into: finished networks survive a crash, unfinished ones are written again."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from converter.checksums import FileSum, checksums, wrong_content
from converter.errors import CheckpointError
from converter.folder import ModelFolder, package_files, package_folders
from converter.manifest import FILE, Package
from converter.mil.package import copy_package

_STATE = "conversion.json"
#: What is a model's own in its folder: packages, compiled or not, tokenizers, the Resources made of them, and what Anemone
#: and a Mac's Finder note there.
_OWN = re.compile(r".+\.(mlpackage|mlmodelc|mlmodelc\.stamp)|tokenizer(_\d)?|Resources|\.?anemone.*\.json.*|\.DS_Store")


@contextmanager
def conversion_lock(out: Path) -> Iterator[None]:
    """Take the lock of the model folder ``out``; wait while another process converts into it.

    The system releases the lock when the process ends, however it ends.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f".{out.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def require_replaceable(out: Path, file: str = FILE) -> None:
    """Raise CheckpointError unless ``out`` is free, empty or a folder with this manifest, which a conversion replaces."""
    if not out.name or out.name == "..":
        raise CheckpointError(f"{out} is not the name of a new folder; give one, such as ./my-model")
    if out.is_symlink():
        raise CheckpointError(f"{out} is a link, which a conversion would replace; give the folder itself")
    if not out.exists() or (out.is_dir() and ((out / file).is_file() or not any(out.iterdir()))):
        return
    raise CheckpointError(
        f"{out} exists and is not a converted model (it has no {file}), so it stays as it is; give the name of a new folder "
        "or of a model to replace"
    )


@dataclass(frozen=True)
class _State:
    """The fingerprint of a conversion's plan, the packages of the networks it has finished, and their files' checksums."""

    fingerprint: str | None
    networks: dict[str, tuple[Package, ...]]
    files: dict[str, FileSum] = field(default_factory=dict)


_STATES = TypeAdapter(_State)


@dataclass(frozen=True)
class Partial:
    """The folder that the conversion with the plan ``fingerprint`` writes into, next to the model folder it becomes."""

    path: Path
    fingerprint: str

    @staticmethod
    def open(out: Path, fingerprint: str) -> Partial:
        """Return the partial folder for ``out``; remove one that a conversion by another plan left."""
        partial = Partial(out.with_name(f".{out.name}.partial"), fingerprint)
        if partial._state().fingerprint != fingerprint and partial.path.is_dir():
            shutil.rmtree(partial.path)
        return partial

    def _state(self) -> _State:
        """Read the state; return an empty one if the file is missing or damaged, so that everything is converted again."""
        file = self.path / _STATE
        try:
            return _STATES.validate_json(file.read_bytes(), strict=True) if file.is_file() else _State(None, {})
        except ValidationError:
            return _State(None, {})

    def _write(self, state: _State) -> None:
        new = self.path / f"{_STATE}.new"
        new.write_bytes(_STATES.dump_json(state))
        new.rename(self.path / _STATE)

    def finished(self, network: str) -> tuple[Package, ...] | None:
        """Return the packages of a finished network; None if it is not finished, or if a file of it was damaged since."""
        state = self._state()
        packages = state.networks.get(network)
        files = package_files(state.files, packages or ())
        return packages if wrong_content(self.path, files, again=True) is None else None

    def files(self, parts: Iterable[str]) -> dict[str, FileSum]:
        """Return the checksums of all files of these packages and tokenizers; those of finished networks are not read."""
        return checksums(self.path, parts, self._state().files)

    @contextmanager
    def writing(self, network: str) -> Iterator[Path]:
        """Make an empty folder to write a network's packages into."""
        folder = self._folder(network)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder

    def _folder(self, network: str) -> Path:
        return self.path / f"{network.replace('/', '_')}.writing"

    def finish(self, network: str, packages: tuple[Package, ...], known: Mapping[str, FileSum]) -> None:
        """Move a network's packages out of the folder of `writing` and record the network as finished.

        ``known`` has the checksums of files by their paths in the folder; others are read.
        """
        folder = self._folder(network)
        paths = package_folders(folder, packages)
        files = checksums(folder, paths, known)
        for path in paths:
            target = self.path / path
            shutil.rmtree(target, ignore_errors=True)
            (folder / path).rename(target)
        shutil.rmtree(folder)
        state = self._state()
        self._write(_State(self.fingerprint, state.networks | {network: packages}, state.files | files))

    def take_over(self, network: str, model: ModelFolder) -> None:
        """Link the files of a network from a model whose network is the same. Raises DamagedModel."""
        packages = model.manifest.networks[network]
        if (wrong := wrong_content(model.path, package_files(model.manifest.files, packages))) is not None:
            raise model.damaged(wrong)
        with self.writing(network) as folder:
            for path in package_folders(model.path, packages):
                copy_package(model.path / path, folder / path)
        self.finish(network, packages, model.manifest.files)

    def become(self, out: Path) -> None:
        """Move the finished folder to ``out``, and into it what its user has put beside the model that it replaces.

        That model is removed only afterwards; one that a conversion left because it was killed just then, too.
        """
        (self.path / _STATE).unlink()
        if out.exists():
            out.rename(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
        self.path.rename(out)
        for old in out.parent.glob(f".{escape(out.name)}.old-*"):
            for entry in old.iterdir():
                if not _OWN.fullmatch(entry.name) and not os.path.lexists(out / entry.name):
                    entry.rename(out / entry.name)
            shutil.rmtree(old, ignore_errors=True)
