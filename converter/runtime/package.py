"""Opens what is at a path: a package, a compiled model, a model of a pipeline; and finds the function asked for."""

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
from converter.runtime.feature import PackageError, spoken

_MANIFEST = "Manifest.json"
#: A model of a pipeline: the pipeline's path and this, as coremlcompiler lays compiled pipelines out.
_STAGE = re.compile(r"model(\d+)")
_ACCEPTED = "an .mlpackage or .mlmodelc with an ML program is accepted"


#: A package's program, small enough to be read; weights, which are gigabytes, count by size and time.
_PROGRAMS = ("model.mlmodel", "model.mil")


def _parsed(raw: bytes, path: Path) -> Any:
    model = ml().Model()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise PackageError(f"{path}: its model is damaged: {error}") from error
    return model


def _refuse_other(path: Path) -> None:
    """Raise PackageError for a path that is not a package's or compiled model's folder, saying what it is."""
    if not path.exists():
        raise PackageError(f"{path} does not exist; {_ACCEPTED}")
    if path.is_file():
        kind = _parsed(path.read_bytes(), path).WhichOneof("Type") if path.suffix == ".mlmodel" else None
        if kind == "mlProgram":
            raise PackageError(f"{path} is a model file without its package; save it as an .mlpackage")
        what = f"a model file of the kind {kind}, not an ML program" if kind else "a file"
        raise PackageError(f"{path} is {what}; {_ACCEPTED}")
    if not (path / _MANIFEST).is_file():
        what = f"a folder without a {_MANIFEST}" if any(path.iterdir()) else "an empty folder"
        raise PackageError(f"{path} is {what}; {_ACCEPTED}")


def _read_package(path: Path) -> tuple[Any, Path]:
    """Return a package's model message of whatever type, and the folder it calls @model_path."""
    _refuse_other(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        item = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        raw = item.read_bytes()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PackageError(f"{path} is not a Core ML package: {spoken(error)}") from error
    return _parsed(raw, path), item.parent


def _stage_of(path: Path) -> tuple[Path, int] | None:
    """Return the pipeline package that ``path`` is a model of, and which."""
    named = _STAGE.fullmatch(path.name)
    return (path.parent, int(named[1])) if named and (path.parent / _MANIFEST).is_file() else None


def is_compiled(path: Path) -> bool:
    """Whether ``path`` is a compiled model or pipeline, or a model of a compiled pipeline."""
    stage = path.parent.suffix == ".mlmodelc" and _STAGE.fullmatch(path.name) is not None
    return (path.suffix == ".mlmodelc" or stage or (path / COMPILED).is_file()) and path.exists()


def _kind(model: Any) -> str:
    kind = model.WhichOneof("Type")
    return f"is of the kind {kind}" if kind else "holds no model"


def opened(path: Path) -> tuple[Any, Path]:
    """Return the model message (Model.proto) of an ML program, and the folder it calls @model_path.

    ``path`` is a package, a compiled model, or one of the `stages` of either. Raises PackageError if it cannot be
    read or is something else.
    """
    if is_compiled(path):
        return read_compiled(path), path
    if (stage := _stage_of(path)) is not None:
        whole, number = stage
        pipeline, folder = _read_package(whole)
        count = len(pipeline.pipeline.models)
        if number >= count:
            raise PackageError(f"{whole} has {count} models, so no {path.name}")
        model = pipeline.pipeline.models[number]
        if model.WhichOneof("Type") != "mlProgram":
            raise PackageError(
                f"{whole}: model {number + 1} of its {count} {_kind(model)}; pipelines of ML programs alone are accepted"
            )
        return model, folder
    model, folder = _read_package(path)
    if model.WhichOneof("Type") != "mlProgram":
        raise PackageError(f"{path} {_kind(model)}, not an ML program; {_ACCEPTED}")
    return model, folder


def read_model(path: Path) -> Any:
    """Return the model message of `opened`."""
    return opened(path)[0]


def stages(path: Path) -> tuple[Path, ...]:
    """Return the paths of a pipeline's models in the order they run in; of an ML program none. Raises PackageError."""
    if is_compiled(path):
        return compiled_stages(path)
    if _stage_of(path) is not None:
        return ()
    model, _ = _read_package(path)
    return tuple(path / f"model{n}" for n in range(len(model.pipeline.models)))


def _chosen(path: Path, known: Collection[str], default: str, function: str | None) -> str:
    name = function or default or ("main" if "main" in known or len(known) != 1 else next(iter(known)))
    if name not in known:
        what = "" if function else ", its default" if default else " and names no default"
        raise PackageError(f"{path} has no function {name!r}{what}; it has {', '.join(sorted(known))}")
    return name


def function_of(model: Any, path: Path, function: str | None) -> str:
    """Return the name of a function of a model message: ``function``, or if that is None the package's default.

    A package that names no default means "main", or the only function it has. Raises PackageError naming the
    functions.
    """
    return _chosen(path, model.mlProgram.functions, model.description.defaultFunctionName, function)


def described(model: Any, function: str) -> Any:
    """Return the description of one function's inputs and outputs in a model message."""
    return next((f for f in model.description.functions if f.name == function), model.description)


def default_function(path: Path) -> str:
    """Return the name of a package's default function; "main" of a pipeline. Raises PackageError if it has none."""
    if stages(path):
        return "main"
    if not is_compiled(path):
        return function_of(read_model(path), path, None)
    description = read_description(path)
    return _chosen(path, [f.name for f in description.functions] or ["main"], description.defaultFunctionName, None)


def own_description(path: Path, function: str | None) -> Any:
    """Return the description of a function, or of a pipeline, as quickly as it can be read; raises PackageError."""
    if is_compiled(path):
        whole = read_description(path)
        name = default_function(path) if function is None else function
    elif stages(path):
        return _read_package(path)[0].description
    else:
        model = read_model(path)
        return described(model, function_of(model, path, function))
    return next((f for f in whole.functions if f.name == name), whole)


def fingerprint(*packages: Path) -> str:
    """Return a digest that changes whenever the program or the weights of one of the packages or compiled models are replaced."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(p for p in package.rglob("*") if p.is_file()):
            digest.update(f"{package.name}/{file.relative_to(package).as_posix()}\n".encode())
            if file.name in _PROGRAMS:
                digest.update(hashlib.sha256(file.read_bytes()).digest())
            else:
                about = file.stat()
                digest.update(f"{about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()
