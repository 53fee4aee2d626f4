"""The server's metrics, for Prometheus. They contain no prompt, key, address or job id.

The functions may be called from any thread. A process has one set of counters, as in prometheus_client itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from server.events import END, EndStatus

#: A step takes hundredths of a second on the Neural Engine and a minute on two old cores.
_STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: From one image in one step to eight large images in 150 steps.
_JOB_BUCKETS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

# `_created` series are unused and double the output.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
# Memory, CPU and open files of the HTTP process, on systems with /proc.
ProcessCollector(registry=REGISTRY)

_QUEUE = Gauge("anemone_queue_jobs", "Jobs that are not over", ["state"], registry=REGISTRY)
_JOBS = Counter("anemone_jobs", "Jobs that are over", ["status"], registry=REGISTRY)
_JOB_SECONDS = Histogram(
    "anemone_job_seconds", "From a job's start to its end, its worker's deaths included", buckets=_JOB_BUCKETS,
    registry=REGISTRY,
)  # fmt: skip
_STEP_SECONDS = Histogram("anemone_step_seconds", "One denoising step", buckets=_STEP_BUCKETS, registry=REGISTRY)
_LOADS = Counter("anemone_model_loads", "Models loaded, or that could not be", ["outcome"], registry=REGISTRY)
_LOADED = Gauge("anemone_model_loaded", "Models that are loaded", registry=REGISTRY)
_DEATHS = Counter("anemone_worker_deaths", "Times the worker process died", registry=REGISTRY)
_FLAGGED = Counter(
    "anemone_flagged_images", "Images in which a safety checker found something", ["outcome"], registry=REGISTRY
)
_CONVERSIONS = Counter("anemone_conversions", "Conversions that are over", ["status"], registry=REGISTRY)

# Start every series at 0: Prometheus does not count a missing series as 0, so that rate() would miss its first event.
for _state in ("queued", "running"):
    _QUEUE.labels(_state)
for _status in END:
    _JOBS.labels(_status)
    _CONVERSIONS.labels(_status)
for _outcome in ("loaded", "failed"):
    _LOADS.labels(_outcome)
for _outcome in ("blurred", "refused"):
    _FLAGGED.labels(_outcome)


def queue_changed(jobs: Mapping[Literal["queued", "running"], int]) -> None:
    """Set how many jobs are in these states; a state that is left out keeps its number."""
    for state, count in jobs.items():
        _QUEUE.labels(state).set(count)


def job_ended(status: EndStatus, seconds: float | None) -> None:
    """Count a job that has ended; ``seconds`` since it started, None if it never did."""
    _JOBS.labels(status).inc()
    if seconds is not None:
        _JOB_SECONDS.observe(seconds)


def step_done(seconds: float) -> None:
    """Count a denoising step that took ``seconds``."""
    _STEP_SECONDS.observe(seconds)


def model_loaded(outcome: Literal["loaded", "failed"]) -> None:
    """Count a model that the worker has loaded, or failed to."""
    _LOADS.labels(outcome).inc()


def models_are_loaded(count: int) -> None:
    """Set how many models are loaded; their names are not exported."""
    _LOADED.set(count)


def image_flagged(outcome: Literal["blurred", "refused"]) -> None:
    """Count an image in which a safety checker found something."""
    _FLAGGED.labels(outcome).inc()


def worker_died() -> None:
    """Count a death of the worker process."""
    _DEATHS.inc()


def conversion_ended(status: EndStatus) -> None:
    """Count a conversion that has ended."""
    _CONVERSIONS.labels(status).inc()


def exposition() -> bytes:
    """Return everything in Prometheus' text format, version 0.0.4."""
    return generate_latest(REGISTRY)
