"""Convert a checkpoint into a model folder: weights stream from the checkpoint into each package's weight.bin."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial as bound
from pathlib import Path

from converter.conversion.manifest import make_manifest
from converter.conversion.partial import Partial, require_replaceable
from converter.conversion.plan import ConversionPlan
from converter.conversion.planning import make_plan
from converter.conversion.preflight import require_memory, require_space
from converter.conversion.programs import write_network
from converter.errors import CheckpointError
from converter.folder import ModelFolder, package_folders
from converter.options import ConvertOptions
from converter.progress import OnProgress, Progress, Stage, ignore
from converter.sources.source import Source, open_source


class _ProgressCounter:
    """Counts the bytes written and the time taken, and reports them."""

    def __init__(self, totals: dict[str, int], report: OnProgress) -> None:
        self._totals, self._report = totals, report
        self._done, self._before, self._skipped = 0, 0, 0
        self._began = time.monotonic()

    def report(self, network: str, stage: Stage = "converting") -> None:
        total, worked = sum(self._totals.values()), self._done - self._skipped
        eta = (time.monotonic() - self._began) * (total - self._done) / worked if worked else None
        self._report(Progress(stage, network, self._done, total, eta))

    def written(self, network: str, size: int) -> None:
        # The total does not count constants that the checkpoint does not have (masks, frequencies).
        self._done = min(self._before + self._totals[network], self._done + size)
        self.report(network)

    def finish(self, network: str, *, skipped: bool) -> None:
        self._before += self._totals[network]
        self._done = self._before
        self._skipped += self._totals[network] if skipped else 0
        self.report(network)


def _take_over(plan: ConversionPlan, partial: Partial, out: Path, only: Collection[str]) -> None:
    """Take the networks that are not in ``only`` from the model in ``out``."""
    if unknown := sorted(set(only) - set(plan.networks)):
        raise CheckpointError(f"this model has no network {unknown[0]}; accepted: {', '.join(plan.networks)}")
    # The networks in `only` may be damaged; they are not looked at.
    model = ModelFolder.read(out)
    if model.manifest.plan != plan.fingerprint:
        raise CheckpointError(
            f"{out} was made from another checkpoint, with other options or by another version; convert all its networks"
        )
    for network in plan.networks:
        if network not in only:
            partial.take_over(network, model)


def convert(
    source: str | Path | Source,
    out: Path,
    options: ConvertOptions,
    progress: OnProgress = ignore,
    only: Collection[str] = (),
    *,
    verified: Callable[[str, float], None] = lambda network, psnr_db: None,
) -> ModelFolder:
    """Convert ``source`` (an open one, or what `open_source` takes) into the model folder ``out``, replacing a model there.

    An open source keeps the prediction type it was opened with. The rest is as in `write_model`; also raises
    CheckpointError if the source, a size or an option cannot be converted.
    """
    require_replaceable(out)
    if isinstance(source, str | Path):
        source = open_source(source, prediction_type=options.prediction_type, progress=progress)
    return write_model(make_plan(source, options, progress), out, progress, only, verified=verified)


def write_model(
    plan: ConversionPlan,
    out: Path,
    progress: OnProgress = ignore,
    only: Collection[str] = (),
    *,
    verified: Callable[[str, float], None] = lambda network, psnr_db: None,
) -> ModelFolder:
    """Write the model that a plan describes into the folder ``out``, replacing a model there.

    ``progress`` is called for every tensor written, ``verified`` with each network's PSNR in dB at its worst output,
    compared with its source. The folder appears complete or not at all. After a crash the finished networks are kept, and
    the next conversion by the same plan continues after them. With ``only``, the other networks stay as they are in
    ``out``. Take `conversion_lock` first if another process might convert into ``out`` too. Raises CheckpointError,
    SpaceError and MemoryShortage before it writes anything, and VerificationError if a network's results differ from
    its source's.
    """
    require_replaceable(out)
    left_out = plan.left_out()
    totals = plan.weight_bytes()
    require_memory(plan.largest_tensor())
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Partial.open(out, plan.fingerprint)
    if only:
        _take_over(plan, partial, out, only)
    networks = {n: packages for n in plan.networks if (packages := partial.finished(n)) is not None}
    for network in (n for n in plan.networks if n not in networks):
        plan.require_fp16(network)
    left = {network: plan.stored_bytes(network) for network in totals if network not in networks}
    # While a network is cut, its weights are on disk twice.
    cut = max((size for network, size in left.items() if plan.chunks(network) > 1), default=0)
    require_space(out.parent, sum(left.values()) + cut)

    counter = _ProgressCounter(totals, progress)
    for network in plan.networks:
        finished = network in networks
        if not finished:
            with partial.writing(network) as folder:
                written = write_network(
                    network,
                    plan,
                    folder,
                    written=bound(counter.written, network),
                    verifying=bound(counter.report, network, "verifying"),
                    verified=bound(verified, network),
                )
            networks[network] = written.packages
            partial.finish(network, written.packages, written.weights)
        counter.finish(network, skipped=finished)
    for name, files in plan.tokenizers.items():
        (partial.path / name).mkdir(exist_ok=True)
        for file, content in files.items():
            (partial.path / name / file).write_bytes(content)
    every = [package for each in networks.values() for package in each]
    sums = partial.files([*package_folders(partial.path, every), *plan.tokenizers])
    make_manifest(plan, networks, left_out, sums).write(partial.path)
    partial.become(out)
    return ModelFolder.open(out)
