"""The lint over packages and folders of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from converter.errors import AnemoneError
from converter.folder import FILE, ModelFolder
from converter.lint.chips import DEFAULT_CHIP, Chip, chip_named
from converter.lint.context import RuleContext
from converter.lint.finding import Finding, exit_status, gathered
from converter.lint.listing import read_listing
from converter.lint.placement import Placement
from converter.lint.report import report
from converter.lint.rules import attention, engine, layout, norms, numerics, storage
from converter.lint.stored import Blobs
from converter.runtime.chunks import chunk_paths
from converter.runtime.feature import PackageError
from converter.runtime.package import stages

_SUFFIXES = (".mlpackage", ".mlmodelc")
_ACCEPTED = "accepted: an .mlpackage or .mlmodelc, a model folder, a folder of packages"
#: Every rule that looks at one function.
_RULES = (
    engine.foreign_types,
    engine.ranks,
    engine.axes,
    storage.flexible_shapes,
    engine.no_path,
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
    return gathered([*problems, *storage.twice_stored(listing, contexts)])


def lint_package(path: Path, chip: str = DEFAULT_CHIP) -> list[Finding]:
    """Find what would leave the Neural Engine of ``chip``, slow it or lose precision, in a package's functions.

    Errors first. Nothing is run and no Mac is needed. Raises PackageError if the package cannot be read and
    ChipError for a chip other than those of `CHIPS`.
    """
    return _findings(path, chip_named(chip), Blobs())


def _models(path: Path) -> dict[str, Path]:
    """Return a package or compiled model by its name; of a pipeline its models."""
    try:
        found = stages(path)
    except PackageError:
        found = ()  # reading the package raises the same error again
    return {f"{path.name}/{model.name}": model for model in found} or {path.name: path}


def _package_of(compiled: Path) -> Path:
    return compiled.with_suffix(".mlpackage")


def _is_package(path: Path) -> bool:
    """Whether a path is a package or compiled model, and not a folder of them."""
    return path.suffix in _SUFFIXES or path.is_file() or (path / "Manifest.json").is_file()


def packages_in(path: Path) -> dict[str, Path]:
    """Return the packages that ``path`` is or has: a package or compiled model, a model folder, a folder of them; by name.

    Raises AnemoneError if there is none, and ManifestError for a damaged model folder.
    """
    if _is_package(path):
        return _models(path)
    if not path.exists():
        raise AnemoneError(f"{path} does not exist; {_ACCEPTED}")
    if (path / FILE).is_file():
        folder = ModelFolder.open(path)
        networks = [path / p.path for packages in folder.manifest.networks.values() for p in packages]
        if not networks:
            raise AnemoneError(f"{path} is a model without networks; {_ACCEPTED}")
        return {part.relative_to(path).as_posix(): part for network in networks for part in chunk_paths(network)}
    # A compiled model beside its package is what loading the package left there.
    found = sorted(
        p
        for suffix in _SUFFIXES
        for p in path.glob(f"*{suffix}")
        if suffix == ".mlpackage" or not _package_of(p).exists()
    )
    if not found:
        raise AnemoneError(f"{path} has no packages; {_ACCEPTED}")
    return {name: model for package in found for name, model in _models(package).items()}


def _checks(path: Path, chip: str) -> Iterator[tuple[str, Callable[[], list[Finding]]]]:
    """Yield each package of `packages_in` by name, with its check; weights that packages share are read once."""
    limits, blobs = chip_named(chip), Blobs()
    for name, package in packages_in(path).items():
        yield name, partial(_findings, package, limits, blobs)


def lint_folder(path: Path, chip: str = DEFAULT_CHIP) -> dict[str, list[Finding]]:
    """Return `lint_package` for each package of `packages_in`, by name."""
    return {name: check() for name, check in _checks(path, chip)}


def lint(path: Path, chip: str = DEFAULT_CHIP, *, notes: bool = False) -> tuple[str, int]:
    """Return `lint_folder` in words for a terminal, and the exit status: 0 if it found nothing but notes, otherwise 1.

    ``notes`` prints the notes as well. In a folder, a package that cannot be read is reported and the others are still
    checked; if ``path`` is that package itself, PackageError is raised.
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
