"""Lay out a model folder as Apple's Resources folder, which its Swift package and the apps built on it load."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converter.apple.layout import SWIFT
from converter.apple.swift import Resource, SwiftError, SwiftModel, select
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.mil.package import copy_package, link
from converter.networks.registry import CONTROLNET
from converter.options import Size

#: The folder's name in Apple's own output.
FOLDER = "Resources"
_COMPILED = ".mlmodelc"
_PACKAGE = ".mlpackage"
_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
#: Everything that may be in such a folder when it is replaced: what is written here, and what adopting and running it adds.
_OWN = re.compile(
    rf"(?:{'|'.join(SWIFT)})\.(?:mlpackage|mlmodelc|mlmodelc\.stamp)|{CONTROLNET.name}|{_VOCABULARY}|{_MERGES}"
    r"|tokenizer(?:_\d)?|\.?anemone.*\.json|\.DS_Store"
)
#: What coremlcompiler says is cut to this many characters.
_LONGEST_OUTPUT = 500


@dataclass(frozen=True)
class Resources:
    """A written Resources folder.

    compiled: whether its models are compiled; apps load compiled ones only.
    notes: what it lacks and what an app must set, in sentences.
    """

    path: Path
    size: Size
    compiled: bool
    notes: tuple[str, ...]


def _copy(source: Path, target: Path) -> None:
    """Link weights; copy a package's other files, which coremltools writes anew wherever it opens the package."""
    if source.parent.name == "weights":
        link(source, target)
    else:
        shutil.copyfile(source, target)


def _has_compiler() -> bool:
    if shutil.which("xcrun") is None:
        return False
    # xcrun is there without Xcode; its Command Line Tools have no coremlcompiler.
    return subprocess.run(["xcrun", "--find", "coremlcompiler"], capture_output=True, check=False).returncode == 0


def _compile(package: Path) -> None:
    """Replace a package by its compiled model, whose weights are hard links to the package's where they are the same."""
    command = ["xcrun", "coremlcompiler", "compile", str(package), str(package.parent)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    compiled = package.with_suffix(_COMPILED)
    if done.returncode or not compiled.is_dir():
        said = (done.stderr or done.stdout).strip()[-_LONGEST_OUTPUT:] or f"exit status {done.returncode}"
        raise AnemoneError(f"coremlcompiler could not compile {package.name}: {said}")
    weights = {file.name: file for file in package.glob("Data/*/weights/*")}
    for file in compiled.glob("**/weights/*"):
        own = weights.get(file.name)
        if own is not None and filecmp.cmp(own, file, shallow=False):
            file.unlink()
            link(own, file)
    shutil.rmtree(package)


def _write_resource(resource: Resource, folder: Path, compiler: bool, report: Callable[[str], None]) -> None:
    target = folder / f"{resource.name}{resource.package.suffix}"
    copy_package(resource.package, target, _copy)
    if compiler and target.suffix == _PACKAGE:
        report(resource.name)
        _compile(target)


def _require_replaceable(out: Path) -> None:
    """Raise SwiftError unless ``out`` is free, or a folder with nothing in it but such models and their vocabulary."""
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise SwiftError(f"{out} is not a folder; give the name of a new one with --out")
    if other := sorted(entry.name for entry in out.iterdir() if not _OWN.fullmatch(entry.name)):
        raise SwiftError(f"{out} holds {other[0]}, which is not replaced; give the name of a new folder with --out")


def _become(written: Path, out: Path) -> None:
    """Move a written folder to ``out``; what was there is removed only afterwards."""
    if not out.exists():
        written.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    out.rename(old)
    written.rename(out)
    shutil.rmtree(old)


def write_resources(
    model: ModelFolder,
    out: Path | None = None,
    size: Size | None = None,
    refiner: ModelFolder | None = None,
    report: Callable[[str], None] = lambda name: None,
) -> Resources:
    """Write the Resources folder of a model, in the model's own folder unless ``out`` names another, replacing one there.

    It has one size: the default one, or ``size``. ``refiner`` is a model folder whose UNet becomes UnetRefiner. Where
    Xcode's coremlcompiler is, the models are compiled, and ``report`` is called with each one's name before; elsewhere they
    are packages with the same names. Their weights are hard links to the model's. The folder appears complete or not at all. Raises
    SwiftError if the Swift package could not read the model.
    """
    out = model.path / FOLDER if out is None else out
    selected: SwiftModel = select(model, size, refiner)
    _require_replaceable(out)
    compiler = _has_compiler()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as name:
        partial = Path(name) / FOLDER
        partial.mkdir()
        for resource in selected.resources:
            _write_resource(resource, partial, compiler, report)
        (partial / _VOCABULARY).write_bytes(selected.vocabulary)
        (partial / _MERGES).write_bytes(selected.merges)
        compiled = not any(partial.glob(f"**/*{_PACKAGE}"))
        _become(partial, out)
    return Resources(out, selected.size, compiled, selected.notes)
