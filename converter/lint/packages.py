"""Lint packages and folders of packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.lint.chips import DEFAULT_CHIP, Chip, chip_named
from converter.lint.context import RuleContext
from converter.lint.finding import Finding, exit_status, gather
from converter.lint.listing import read_listing
from converter.lint.placement import Placement
from converter.lint.report import report
from converter.lint.rules import attention, engine, layout, norms, numerics, storage
from converter.lint.stored import Blobs
from converter.manifest import FILE
from converter.runtime.chunks import chunk_paths
from converter.runtime.feature import PackageError
from converter.runtime.package import stages

_SUFFIXES = (".mlpackage", ".mlmodelc")
_ACCEPTED = "accepted: an .mlpackage or .mlmodelc, a model folder, a folder of packages"
#: Every rule about one function.
_RULES = (
    engine.unsupported_types,
    engine.ranks,
    engine.axes,
    storage.flexible_shapes,
    engine.unsupported_operations,
    storage.sizes,
    storage.versions,
    engine.kernels,
    storage.compression,
    layout.linear_layers,
    layout.padding,
    attention.softmaxes,
    layout.transposed_rows,
    layout.joined_rows,
    norms.decomposed,
    storage.unused_constants,
    layout.idle_operations,
    attention.fused_attention,
    attention.compile_time,
    engine.islands,
    storage.traffic,
    numerics.constants,
    norms.squares,
    attention.late_scale,
    numerics.angles,
    norms.epsilons,
    numerics.narrow_slices,
    numerics.inexact_indices,
    numerics.palettes,
)


def _findings(path: Path, chip: Chip, blobs: Blobs) -> list[Finding]:
    listing = read_listing(path, blobs)
    contexts = [RuleContext(listing, f, chip, Placement(f, chip)) for f in listing.functions]
    problems = [problem for context in contexts for rule in _RULES for problem in rule(context)]
    return gather([*problems, *storage.twice_stored(listing, contexts)])


def lint_package(path: Path, chip: str = DEFAULT_CHIP) -> list[Finding]:
    """Find operations of a package that would leave the Neural Engine of ``chip``, slow it or lose precision.

    Errors come first. This runs nothing and needs no Mac. Raises PackageError if the package cannot be read and
    ChipError for a chip that is not in `CHIPS`.
    """
    return _findings(path, chip_named(chip), Blobs())


def _models(path: Path) -> dict[str, Path]:
    """Return a package or compiled model by its name; for a pipeline, its models."""
    try:
        models = stages(path)
    except PackageError:
        models = ()  # reading the package raises the same error again
    return {f"{path.name}/{model.name}": model for model in models} or {path.name: path}


def _package_of(compiled: Path) -> Path:
    return compiled.with_suffix(".mlpackage")


def _is_package(path: Path) -> bool:
    """Return whether a path is a package or compiled model, and not a folder of them."""
    return path.suffix in _SUFFIXES or path.is_file() or (path / "Manifest.json").is_file()


def packages_in(path: Path) -> dict[str, Path]:
    """Return the packages at ``path`` by name: one package or compiled model, or those of a model folder or other folder.

    Raises AnemoneError if it has none, and ManifestError for a damaged model folder.
    """
    if _is_package(path):
        return _models(path)
    if not path.exists():
        raise AnemoneError(f"{path} does not exist; {_ACCEPTED}")
    if (path / FILE).is_file():
        folder = ModelFolder.open(path)
        networks = [path / p.path for packages in folder.manifest.networks.values() for p in packages]
        if not networks:
            raise AnemoneError(f"{path} is a model folder without networks; {_ACCEPTED}")
        return {part.relative_to(path).as_posix(): part for network in networks for part in chunk_paths(network)}
    # Loading a package leaves its compiled model next to it.
    packages = sorted(
        p
        for suffix in _SUFFIXES
        for p in path.glob(f"*{suffix}")
        if suffix == ".mlpackage" or not _package_of(p).exists()
    )
    if not packages:
        raise AnemoneError(f"{path} has no packages; {_ACCEPTED}")
    return {name: model for package in packages for name, model in _models(package).items()}


def _checks(path: Path, chip: str) -> Iterator[tuple[str, Callable[[], list[Finding]]]]:
    """Yield the name and the check of each package of `packages_in`; weights that packages share are read once."""
    limits, blobs = chip_named(chip), Blobs()
    for name, package in packages_in(path).items():
        yield name, partial(_findings, package, limits, blobs)


def lint_folder(path: Path, chip: str = DEFAULT_CHIP) -> dict[str, list[Finding]]:
    """Return the findings of each package of `packages_in`, by name."""
    return {name: check() for name, check in _checks(path, chip)}


def lint(path: Path, chip: str = DEFAULT_CHIP, *, notes: bool = False) -> tuple[str, int]:
    """Return the findings of `lint_folder` as text for a terminal, and the exit status: 0 for notes only, otherwise 1.

    With ``notes`` the text has the notes as well. In a folder, the text reports a package that cannot be read, and the
    others are still checked. Raises PackageError if ``path`` itself is such a package.
    """
    sections, status = [], 0
    for name, check in _checks(path, chip):
        try:
            findings = check()
        except PackageError as error:
            if _is_package(path):
                raise
            sections.append(f"{name}\ncannot be read: {error}")
            status = 1
            continue
        sections.append(f"{name} on {chip}\n{report(findings, notes=notes)}")
        status = max(status, exit_status(findings))
    return "\n\n".join(sections), status
