"""Runs coremltools' own operator tests with our runtime and prints a table of operators, passed and failed.

    python -m benchmarks.conformance                       # every operator test: an hour and more on two cores
    python -m benchmarks.conformance --op conv --op linear # tests whose code or name has one of these
    python -m benchmarks.conformance --sample 20           # one case in twenty, the same each time
    python -m benchmarks.conformance --kept cases.jsonl    # save results; a later run resumes

The tests are those installed with coremltools (``converters/mil/mil/ops/tests``), fp32 cases included, whose
predictions go through our runtime instead of Core ML. A case applies if it predicts with an ML program; it then
must pass, unless conformance_exceptions excuses it. The exit status is 1 if such a case fails.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import inspect
import json
import os
import re
import signal
import sys
import time
import zlib
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conformance_exceptions import LEFT_OUT, excuse

_TESTS = "converters/mil/mil/ops/tests"
_TORCH = "converters/mil/frontend/torch/test/test_torch_ops.py"


class TooSlow(BaseException):
    """A case exceeded its time limit; not an Exception, so that no test catches it."""


@dataclass(frozen=True)
class Case:
    """The result of one case.

    operators: those of the programs that it predicted with; None if it did not predict.
    reason: the error's class and message; "" without an error.
    """

    name: str
    outcome: str
    operators: list[str] | None
    reason: str


class Kept:
    """Results in a file of JSON lines, each written when its case has run, so that a stopped run can resume."""

    def __init__(self, path: Path | None) -> None:
        self.cases: list[Case] = []
        if path is not None and path.exists():
            self.cases = [Case(**json.loads(line)) for line in path.read_text().splitlines()]
        self._path = path

    def add(self, case: Case) -> None:
        """Add the result of a case."""
        self.cases.append(case)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(case)) + "\n")


@dataclass
class Counts:
    """Results of the cases that use an operator."""

    passed: int = 0
    excused: int = 0
    failed: int = 0


class Results:
    """The counts over all cases."""

    def __init__(self, cases: Iterable[Case]) -> None:
        self.operators: dict[str, Counts] = collections.defaultdict(Counts)
        self.total = Counts()
        self.inapplicable: collections.Counter[str] = collections.Counter()
        self.excuses: collections.Counter[str] = collections.Counter()
        self.failures: list[Case] = []
        for case in cases:
            self._count(case)

    def _count(self, case: Case) -> None:
        passed = case.outcome == "passed"
        if case.outcome == "skipped":
            self.inapplicable["skipped by coremltools"] += 1
        elif case.operators is None:
            self.inapplicable["predicts nothing" if passed else "stops before it predicts"] += 1
        else:
            reason = None if passed else excuse(case.name, case.operators, case.reason)
            for counts in [self.total, *(self.operators[op] for op in case.operators)]:
                counts.passed += passed
                counts.excused += not passed and reason is not None
                counts.failed += not passed and reason is None
            if reason is not None:
                self.excuses[reason] += 1
            elif not passed:
                self.failures.append(case)


@functools.cache
def _code(tests: Any) -> str:
    return inspect.getsource(tests)


def _name(node: str) -> str:
    """Return a case's name from pytest's node id: the path inside coremltools' operator tests, or the file name, and the test."""
    return node.partition(_TESTS)[2].strip("/") or node.rpartition("/")[2]


def _mentions(item: pytest.Function, wanted: list[str]) -> bool:
    code = _code(item.cls or item.function)
    return any(re.search(rf"\bmb\.{op}\(|\"{op}\"", code) or re.search(rf"\b{op}\b", item.name) for op in wanted)


class Conformance:
    """A pytest plugin that chooses the cases, limits their time, and records their results."""

    def __init__(self, wanted: list[str], sample: int, limit: float, kept: Kept) -> None:
        self._wanted, self._sample, self._limit, self._kept = wanted, sample, limit, kept

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the requested cases that have not run yet; the sample depends on the hash of a name, so it never changes."""
        if self._wanted:
            items[:] = [i for i in items if _mentions(i, self._wanted)]
        ran = {case.name for case in self._kept.cases}
        chosen = (i for i in items if zlib.crc32(i.nodeid.encode()) % self._sample == 0)
        items[:] = [i for i in chosen if _name(i.nodeid) not in ran]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
        """Stop a case at its time limit."""

        def late(number: int, frame: Any) -> None:
            raise TooSlow(f"longer than {self._limit:g} s")

        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, self._limit)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, Any]:
        """Record the result of a case."""
        report = yield
        if call.when == "call" or (call.when == "setup" and report.outcome != "passed"):
            self._add(item.nodeid, report.outcome, call.excinfo)
        return report

    def _add(self, node: str, outcome: str, error: Any) -> None:
        from benchmarks.conformance_proxy import PREDICTED

        seen = PREDICTED.ran
        if outcome == "failed" and not seen:  # a program that could not be loaded may have stopped the case
            seen = [p for p in PREDICTED.loaded if p.error is not None]
        operators = sorted(set().union(*(p.operators for p in seen))) if seen else None
        PREDICTED.loaded, PREDICTED.ran = [], []
        # Every ct.convert collects garbage and visits all objects that pytest and coremltools keep of every case: in a
        # run of 11,000 cases this took half of the time.
        gc.freeze()
        reason = "" if error is None else " ".join(f"{error.typename}: {error.value}".split())
        self._kept.add(Case(_name(node), outcome, operators, reason))


def report(results: Results) -> str:
    """Return the table, the reasons why cases are excused or do not apply, and every failure, as text."""
    rows = sorted(results.operators.items())
    lines = [f"{'operator':32} {'passed':>7} {'failed':>7} {'excused':>8}"]
    lines += [f"{op:32} {t.passed:7} {t.failed:7} {t.excused:8}" for op, t in rows]
    total = results.total
    lines += [f"{'cases':32} {total.passed:7} {total.failed:7} {total.excused:8}"]
    lines += [f"excused: {count} {why}" for why, count in results.excuses.most_common()]
    lines += [f"not run: {name}, {why}" for name, why in LEFT_OUT.items()]
    lines += [f"does not apply: {count} {why}" for why, count in results.inapplicable.most_common()]
    lines += [f"FAILED {case.name}\n    {case.reason[:300]}" for case in results.failures]
    return "\n".join(lines)


def run(wanted: list[str], sample: int, limit: float, where: list[str], kept: Kept) -> Results:
    """Run the tests in this process and count all recorded results; coremltools must not be imported yet."""
    os.environ |= {"PYMIL_TEST_TARGETS": "mlprogram", "INCLUDE_MIL_FP32_UNIT_TESTS": "1"}
    from benchmarks.conformance_proxy import install

    install()
    import coremltools

    root = Path(coremltools.__file__).parent
    plugin = Conformance(wanted, sample, limit, kept)
    options = ["-q", "-q", "--no-header", "--no-summary", "--tb=no", "-p", "no:cacheprovider", "-c", os.devnull]
    options += [f"--ignore-glob=*/{name}" for name in LEFT_OUT]
    pytest.main([*options, f"--rootdir={root}", "-W", "ignore", *(str(root / w) for w in where)], plugins=[plugin])
    return Results(kept.cases)


def main() -> None:
    """Run the requested cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", default=[], help="only cases of this operator; may be repeated")
    parser.add_argument("--sample", type=int, default=1, help="one case in N, always the same ones (all)")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one case (60)")
    parser.add_argument("--torch", action="store_true", help="coremltools' PyTorch frontend tests, end to end")
    parser.add_argument("--file", action="append", help="only this test file of coremltools; may be repeated")
    parser.add_argument("--kept", type=Path, help="a file that records results; cases in it do not run again")
    args = parser.parse_args()
    before = time.perf_counter()
    where = args.file or [_TORCH if args.torch else _TESTS]
    results = run(args.op, args.sample, args.limit, where, Kept(args.kept))
    print(report(results))
    print(f"{time.perf_counter() - before:.0f} s")
    if results.failures or not results.total.passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
