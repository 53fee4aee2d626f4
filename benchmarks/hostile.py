"""Measures what a server still does for ordinary clients while others wear it out.

    python -m benchmarks.hostile
    python -m benchmarks.hostile --senders 1

The clients (benchmarks/hostile_clients.py) run in processes of their own, with less priority than the server and the
probe of /healthz, but on the same cores; the report says how much processor time the server took, and everything else.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import psutil

from benchmarks.hostile_clients import lingering, making_images, probing, sending_junk, uploading
from benchmarks.measure import memory
from benchmarks.served import ready, report, serving

_SECONDS = 20.0
_QUIET_SECONDS = 5.0
_IDLE, _DRIPPING, _UPLOADS = 200, 50, 40


@dataclass
class _Memory:
    """Own bytes of a process and its children: when it was first measured, and the most since."""

    idle: int
    peak: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def watch(self, pid: int) -> None:
        while not self._stopping.wait(0.05):
            self.peak = max(self.peak, memory(pid)[0])

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def _watched(pid: int) -> Iterator[_Memory]:
    watched = _Memory(idle=memory(pid)[0])
    thread = threading.Thread(target=watched.watch, args=(pid,))
    thread.start()
    try:
        yield watched
    finally:
        watched.stop()
        thread.join()


def _milliseconds(asked: Sequence[tuple[int, float]], share: float) -> float:
    times = sorted(seconds for _, seconds in asked)
    return 1e3 * times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.most_common()) or "none"


def _healthz(when: str, asked: Sequence[tuple[int, float]], goal: str) -> None:
    figures = f"{_milliseconds(asked, 0.5):.1f} ms, p99 {_milliseconds(asked, 0.99):.0f}"
    report(f"/healthz {when} ({len(asked)} asked)", figures, goal)


def _images(when: str, made: Sequence[tuple[int, float]]) -> None:
    done = [(status, seconds) for status, seconds in made if status == 200]
    figures = f"{len(done)} of {len(made)}, {_milliseconds(done, 0.5):.0f} ms, {_milliseconds(done, 1.0):.0f}"
    report(f"images {when}: finished, median and longest", figures)


def _processor_seconds(pid: int) -> tuple[float, float]:
    """Return the processor time of a process and its children, and of the whole machine."""
    process = psutil.Process(pid)
    own = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    machine = psutil.cpu_times()
    return sum(t.user + t.system for t in own), sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)


def _load(data_dir: Path, pool: ProcessPoolExecutor, senders: int) -> None:
    """Measure /healthz, ordinary images and memory, first on a quiet server, then with everything going on at once."""
    with serving(data_dir) as (process, client):
        ready(client)
        port = client.base_url.port or 80
        until = time.monotonic() + _QUIET_SECONDS
        probe, images = pool.submit(probing, port, until), pool.submit(making_images, port, until)
        _healthz("of a quiet server", probe.result(), "")
        _images("of a quiet server", images.result())
        with _watched(process.pid) as watched:
            until = time.monotonic() + _SECONDS
            used = _processor_seconds(process.pid)
            lingers = pool.submit(lingering, port, _IDLE, _DRIPPING, until)
            junk = [pool.submit(sending_junk, port, 14 * i, until) for i in range(senders)]
            probe, images = pool.submit(probing, port, until), pool.submit(making_images, port, until)
            asked, made = probe.result(), images.result()
            answers = sum((sender.result() for sender in junk), Counter[str]())
            server, machine = (now - before for now, before in zip(_processor_seconds(process.pid), used, strict=True))
    _healthz("meanwhile", asked, "p99 <= 100 ms")
    report("of them without an answer", str(sum(status != 200 for status, _ in asked)), "0")
    _images("meanwhile", made)
    report(
        "memory of server and worker, peak and idle",
        f"{watched.peak / 1e6:.0f} MB, {watched.idle / 1e6:.0f}",
        "<= 400 MB",
    )
    report("processor time of server and worker, of all else", f"{server:.1f} s, {machine - server:.1f} s")
    print(f"junk: {_words(answers)}\nconnections: {_words(lingers.result())}")


def _uploads(data_dir: Path, pool: ProcessPoolExecutor) -> None:
    """Measure memory while many clients upload images at the limit of pixels."""
    with serving(data_dir) as (process, client):
        ready(client)
        port = client.base_url.port or 80
        making_images(port, time.monotonic() + 1)
        with _watched(process.pid) as watched:
            answers = pool.submit(uploading, port, _UPLOADS).result()
    over = (watched.peak - watched.idle) / 1e6
    report(f"{_UPLOADS} uploads of 8000x4000: memory over idle", f"{over:.0f} MB", "<= 300 MB")
    print(f"uploads: {_words(answers)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    figures = ("load", "uploads")
    parser.add_argument("--only", choices=figures, action="append", help="measure only this; may be repeated")
    parser.add_argument("--senders", type=int, default=3, help="processes that send junk")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(args.senders + 3, get_context("spawn")) as pool:
        measures: dict[str, Callable[[], None]] = {
            "load": lambda: _load(Path(scratch) / "load", pool, args.senders),
            "uploads": lambda: _uploads(Path(scratch) / "uploads", pool),
        }
        for name in args.only or figures:
            measures[name]()


if __name__ == "__main__":
    main()
