"""Open packages, compiled models and models of pipelines, and find their functions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from converter.mil.mlproto import ml
from converter.runtime.compiled import COMPILED, compiled_stages, read_compiled, read_description
from converter.runtime.feature import PackageError, error_text

_MANIFEST = "Manifest.json"
#: The name of a pipeline's model under the pipeline's path, as coremlcompiler names them in compiled pipelines.
_STAGE = re.compile(r"model(\d+)")
_ACCEPTED = "an .mlpackage or .mlmodelc with an ML program is accepted"

#: Files with programs, which fingerprints read. Weights have gigabytes and count by size and time.
_PROGRAMS = ("model.mlmodel", "model.mil")


def _parsed(raw: bytes, path: Path) -> Any:
    model = ml().Model()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise PackageError(f"{path}: its model is damaged: {error}") from error
    return model


def _refuse_other(path: Path) -> None:
    """Raise PackageError for a path that is not a package's folder; the message says what it is."""
    if not path.exists():
        raise PackageError(f"{path} does not exist; {_ACCEPTED}")
    if path.is_file():
        kind = _parsed(path.read_bytes(), path).WhichOneof("Type") if path.suffix == ".mlmodel" else None
        if kind == "mlProgram":
            raise PackageError(f"{path} is a model file without a package; save it as an .mlpackage")
        other = f"a model file of the kind {kind}, not an ML program" if kind else "a file"
        raise PackageError(f"{path} is {other}; {_ACCEPTED}")
    if not (path / _MANIFEST).is_file():
        other = f"a folder without a {_MANIFEST}" if any(path.iterdir()) else "an empty folder"
        raise PackageError(f"{path} is {other}; {_ACCEPTED}")


def _read_package(path: Path) -> tuple[Any, Path]:
    """Return a package's model message of any type, and the folder of its @model_path."""
    _refuse_other(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        item = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        raw = item.read_bytes()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PackageError(f"{path} is not a Core ML package: {error_text(error)}") from error
    return _parsed(raw, path), item.parent


def _stage_of(path: Path) -> tuple[Path, int] | None:
    """Return the pipeline package that ``path`` is a model of, and the model's number; None for other paths."""
    match = _STAGE.fullmatch(path.name)
    return (path.parent, int(match[1])) if match and (path.parent / _MANIFEST).is_file() else None


def is_compiled(path: Path) -> bool:
    """Return whether ``path`` is a compiled model or pipeline, or a model of a compiled pipeline."""
    stage = path.parent.suffix == ".mlmodelc" and _STAGE.fullmatch(path.name) is not None
    return (path.suffix == ".mlmodelc" or stage or (path / COMPILED).is_file()) and path.exists()


def _kind(model: Any) -> str:
    kind = model.WhichOneof("Type")
    return f"is of the kind {kind}" if kind else "has no model"


def open_program(path: Path) -> tuple[Any, Path]:
    """Return the model message (Model.proto) of an ML program, and the folder of its @model_path.

    ``path`` is a package, a compiled model, or one of the `stages` of either. Raises PackageError if it cannot
    be read or is something else.
    """
    if is_compiled(path):
        return read_compiled(path), path
    if (stage := _stage_of(path)) is not None:
        parent, number = stage
        pipeline, folder = _read_package(parent)
        count = len(pipeline.pipeline.models)
        if number >= count:
            raise PackageError(f"{parent} has {count} models, so {path.name} does not exist")
        model = pipeline.pipeline.models[number]
        if model.WhichOneof("Type") != "mlProgram":
            raise PackageError(
                f"{parent}: model {number + 1} of its {count} {_kind(model)}; only pipelines of ML programs are accepted"
            )
        return model, folder
    model, folder = _read_package(path)
    if model.WhichOneof("Type") != "mlProgram":
        raise PackageError(f"{path} {_kind(model)}, not an ML program; {_ACCEPTED}")
    return model, folder


def read_model(path: Path) -> Any:
    """Return the model message of `open_program`."""
    return open_program(path)[0]


def stages(path: Path) -> tuple[Path, ...]:
    """Return the paths of a pipeline's models in running order; empty for an ML program. Raises PackageError."""
    if is_compiled(path):
        return compiled_stages(path)
    if _stage_of(path) is not None:
        return ()
    model, _ = _read_package(path)
    return tuple(path / f"model{n}" for n in range(len(model.pipeline.models)))


def _chosen(path: Path, names: Collection[str], default: str, function: str | None) -> str:
    name = function or default or ("main" if "main" in names or len(names) != 1 else next(iter(names)))
    if name not in names:
        remark = "" if function else ", its default" if default else " and names no default"
        raise PackageError(f"{path} has no function {name!r}{remark}; it has {', '.join(sorted(names))}")
    return name


def function_of(model: Any, path: Path, function: str | None) -> str:
    """Return the name of a model message's function: ``function``, or the package's default if that is None.

    Without a named default, that is "main", or the only function. Raises PackageError naming the functions.
    """
    return _chosen(path, model.mlProgram.functions, model.description.defaultFunctionName, function)


def describe_function(model: Any, function: str) -> Any:
    """Return the description of one function's inputs and outputs in a model message."""
    return next((f for f in model.description.functions if f.name == function), model.description)


def default_function(path: Path) -> str:
    """Return the name of a package's default function; "main" for a pipeline. Raises PackageError if it has none."""
    if stages(path):
        return "main"
    if not is_compiled(path):
        return function_of(read_model(path), path, None)
    description = read_description(path)
    return _chosen(path, [f.name for f in description.functions] or ["main"], description.defaultFunctionName, None)


def own_description(path: Path, function: str | None) -> Any:
    """Read the description of a function or pipeline, without its program if possible; raises PackageError."""
    if is_compiled(path):
        description = read_description(path)
        name = default_function(path) if function is None else function
    elif stages(path):
        return _read_package(path)[0].description
    else:
        model = read_model(path)
        return describe_function(model, function_of(model, path, function))
    return next((f for f in description.functions if f.name == name), description)


def fingerprint(*packages: Path) -> str:
    """Return a digest that changes when the program or the weights of a package or compiled model are replaced."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(p for p in package.rglob("*") if p.is_file()):
            digest.update(f"{package.name}/{file.relative_to(package).as_posix()}\n".encode())
            if file.name in _PROGRAMS:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
            else:
                stat = file.stat()
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
