"""Checks on a Mac how Core ML loads, places and computes our packages: times, memory and precision.

    python -m benchmarks.mac
    python -m benchmarks.mac --model ./sd15 --no-tests

Converts the bundled model. Then, for each network and compute unit: loads it twice in child processes, compares it with
our runtime in fp32, reads Core ML's compute plan, idles after a prediction, and compares block by block. Then it makes
whole images, runs `anemone doctor` and the tests. A failed check is reported with its error, and the others still run.
Results go to build/mac.json, and as tables to build/mac.md. The exit status is 1 if a check failed, 2 if this is not a Mac.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.table import table
from converter.devices.child import in_child
from converter.devices.comparison import compare_devices, likely_inputs
from converter.devices.timing import timed
from converter.devices.trials import this_machine
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.runtime import load
from converter.runtime.compute_plan import device_shares, machine_devices
from converter.verification.verify import psnr
from server.cli.devices import UNITS
from server.doctor.report import without_home
from server.settings import BUNDLED_MODEL

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "build"
_ENGINE = "CPU_AND_NE"
#: Core ML releases inputs about a second after a prediction, on its own thread (coremltools #2827, #2829).
_IDLE_SECONDS = 5
_PROMPT = "a red circle on a blue background"
#: The number of characters to keep of a failed command's output.
_TAIL = 4000


@dataclass
class Check:
    """One check. found: its figures; error: the reason why it failed. One of the two is always None."""

    name: str
    seconds: float
    found: Any = None
    error: str | None = None


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


class Checks:
    """Runs checks one after another, even if some fail; writes all results to ``out`` after each."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.done: list[Check] = []

    def run(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run one check and return its figures, or None if it failed."""
        print(name, file=sys.stderr, flush=True)
        check, begun = Check(name, 0.0), time.monotonic()
        try:
            check.found = work(*arguments)
        except AnemoneError as error:
            check.error = str(error)
        except Exception:
            # Nobody has run this on a Mac yet, so it can fail in unknown ways; the next check still runs.
            check.error = traceback.format_exc()
        check.seconds = time.monotonic() - begun
        self.done.append(check)
        self._out.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        return check.found

    def to_dict(self) -> dict[str, Any]:
        """Return all checks for the JSON file, without the user's name."""
        body: dict[str, Any] = _finite(
            without_home({"machine": this_machine(), "checks": [asdict(c) for c in self.done]})
        )
        return body

    def figures(self, kind: str) -> list[tuple[list[str], Any]]:
        """Return the figures of the checks whose name starts with ``kind``, with the other words of the name."""
        named = ((check.name.split(), check.found) for check in self.done if check.found is not None)
        return [(words[1:], figures) for words, figures in named if words[0] == kind]


def run_module(command: Sequence[str], **variables: str) -> dict[str, Any]:
    """Run a Python module; return its seconds, peak memory in bytes, exit status and the end of its output."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=_ROOT, stdout=printed, stderr=subprocess.STDOUT, env={**os.environ, **variables}
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
        printed.seek(0)
        text = printed.read().decode("utf-8", "replace")
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"status": process.returncode, "seconds": seconds, "memory": memory, "printed": text[-_TAIL:]}


def run_or_raise(command: Sequence[str], **variables: str) -> dict[str, Any]:
    """Run a Python module like `run_module`; raise AnemoneError with the end of its output if it fails."""
    result = run_module(command, **variables)
    if result["status"] != 0:
        raise AnemoneError(f"{' '.join(command)} ended with status {result['status']}: {result['printed']}")
    return result


def _answers(path: Path, function: str, units: str, precision: str, runs: int) -> list[dict[str, np.ndarray]]:
    network = load(path, function=function, compute_units=units, precision=precision)
    inputs = likely_inputs(path, function)
    return [network.predict(inputs) for _ in range(runs)]


def _idle(path: Path, function: str, units: str, seconds: float) -> dict[str, Any]:
    """Predict, idle as a server does after an image, and predict again."""
    network = load(path, function=function, compute_units=units)
    before = network.predict(likely_inputs(path, function))
    time.sleep(seconds)
    after = network.predict(likely_inputs(path, function))
    return {"same": all(bool(np.array_equal(before[name], after[name])) for name in before)}


@cache
def _expected(path: Path, function: str) -> dict[str, np.ndarray]:
    return in_child(_answers, path, function, "CPU_ONLY", "fp32", 1)[0]


def numbers(path: Path, function: str, units: str) -> dict[str, Any]:
    """Return each output's PSNR against our runtime in fp32, in dB, and the difference of two runs, in the output's units."""
    first, second = in_child(_answers, path, function, units, "fast", 2)
    return {
        name: {"psnr_db": psnr(first[name], array), "drift": float(np.abs(first[name] - second[name]).max())}
        for name, array in _expected(path, function).items()
    }


def block_by_block(path: Path, function: str, units: Sequence[str]) -> dict[str, Any]:
    """Return each block's dB on each compute unit, and the block at which each unit deviates."""
    comparison = compare_devices(path, function, tuple(units))
    apart = {u: None if (row := comparison.first_loss(u)) is None else row.block for u in units}
    return {"rows": [asdict(row) for row in comparison.rows], "failed": comparison.failed, "apart": apart}


def image(folder: Path, units: str, precision: str, out: Path) -> dict[str, Any]:
    """Make a whole image with `anemone generate` at ``out``, and return the command's figures."""
    settings = {"ANEMONE_COMPUTE_UNITS": json.dumps({"default": units})}
    command = ["server", "generate", _PROMPT, "-o", str(out), "--seed", "1", "--precision", precision]
    return run_or_raise([*command, "--model", str(folder)], **settings)


def agreement(out: Path, expected: Path) -> dict[str, Any]:
    """Compare two images: the PSNR of the pixels in dB, and whether they are identical."""
    pixels, other = (np.asarray(Image.open(file)).astype(np.float64) for file in (out, expected))
    return {"psnr_db": psnr(pixels, other), "same": bool(np.array_equal(pixels, other))}


def units_here(devices: Sequence[str] | None) -> tuple[str, ...]:
    """Return the compute units to check; without the Neural Engine if Core ML does not list it, as in a virtual machine."""
    if devices is None or "Neural Engine" in devices:
        return UNITS
    return tuple(units for units in UNITS if units != _ENGINE)


def describe_model(path: Path) -> dict[str, Any]:
    """Return a model's properties; raise AnemoneError if the folder is not a model."""
    manifest = ModelFolder.open(path).manifest
    return {"family": manifest.family, "attention": manifest.attention, "sizes": manifest.sizes}


def check_networks(checks: Checks, folder: ModelFolder, units: Sequence[str]) -> None:
    """Check every network of a model on every compute unit."""
    model = folder.path.name
    for network in folder.manifest.networks:
        package = folder.default(network)
        path = folder.path / package.path
        for unit in units:
            words = f"{model} {network} {unit}"
            # The first load compiles the program and adapts it to the device; the second load reuses both results.
            checks.run(f"first-load {words}", timed, path, package.function, unit)
            checks.run(f"load {words}", timed, path, package.function, unit)
            checks.run(f"numbers {words}", numbers, path, package.function, unit)
            checks.run(f"plan {words}", in_child, device_shares, path, package.function, unit)
            checks.run(f"idle {words}", in_child, _idle, path, package.function, unit, _IDLE_SECONDS)
        checks.run(f"blocks {model} {network}", block_by_block, path, package.function, units)


def check_images(checks: Checks, folder: Path, units: Sequence[str], out: Path) -> None:
    """Make a whole image twice on every compute unit, and compare it with the image in fp32."""
    exact = out / f"{folder.name}-fp32.png"
    checks.run(f"image {folder.name} fp32", image, folder, "CPU_ONLY", "fp32", exact)
    for unit in units:
        first, second = (out / f"{folder.name}-{unit}-{n}.png" for n in (1, 2))
        checks.run(f"image {folder.name} {unit}", image, folder, unit, "fast", first)
        checks.run(f"image {folder.name} {unit} again", image, folder, unit, "fast", second)
        checks.run(f"pixels {folder.name} {unit}", agreement, first, exact)
        checks.run(f"repeats {folder.name} {unit}", agreement, second, first)


def doctor(folder: Path) -> Any:
    """Return the report of `anemone doctor`, problems included."""
    command = [sys.executable, "-m", "server", "doctor", str(folder), "--json"]
    return json.loads(subprocess.run(command, cwd=_ROOT, capture_output=True, text=True).stdout)


def _seconds(timing: Any, name: str) -> str:
    return "-" if timing is None else f"{getattr(timing, name):.3f} s"


def _networks_table(checks: Checks) -> str:
    by = {
        kind: {tuple(w): f for w, f in checks.figures(kind)}
        for kind in ("first-load", "load", "numbers", "plan", "idle")
    }
    keys = dict.fromkeys(key for by_words in by.values() for key in by_words)
    rows = []
    for key in keys:
        first, again, errors, plan, idle = (by[kind].get(key) for kind in by)
        outputs = errors.values() if errors else ()
        rows.append(
            [
                " ".join(key),
                _seconds(first, "load"),
                _seconds(again, "load"),
                _seconds(again, "first"),
                _seconds(again, "step"),
                "-" if again is None else f"{again.memory / 1e9:.2f} GB",
                f"{min(o['psnr_db'] for o in outputs):.1f} dB" if outputs else "-",
                f"{max(o['drift'] for o in outputs):.2g}" if outputs else "-",
                ", ".join(f"{s.device} {'' if s.cost is None else f'{100 * s.cost:.0f} %'}({s.operations})" for s in plan or ()) or "-",
                "-" if idle is None else "same" if idle["same"] else "other numbers",
            ]
        )  # fmt: skip
    head = [
        "network",
        "first load",
        "load",
        "first run",
        "step",
        "memory",
        "of fp32",
        "drift",
        "plan: cost (operations)",
        "idling",
    ]
    return table(head, rows)


def _images_table(checks: Checks) -> str:
    pixels, repeats = ({tuple(w): f for w, f in checks.figures(kind)} for kind in ("pixels", "repeats"))
    rows = []
    for words, figures in checks.figures("image"):
        if words[-1] != "again":
            near, same = pixels.get(tuple(words)), repeats.get(tuple(words))
            rows.append(
                [
                    " ".join(words),
                    f"{figures['seconds']:.1f} s",
                    f"{figures['memory'] / 1e9:.2f} GB",
                    "-" if near is None else f"{near['psnr_db']:.1f} dB",
                    "-" if same is None else "yes" if same["same"] else f"no, {same['psnr_db']:.1f} dB",
                ]
            )
    return table(["image", "process", "memory", "of fp32", "same again"], rows)


def _blocks_table(checks: Checks) -> str:
    rows = []
    for words, figures in checks.figures("blocks"):
        for units, block in figures["apart"].items():
            failed = figures["failed"].get(units)
            rows.append([f"{' '.join(words)} {units}", f"does not run: {failed}" if failed else block or "nowhere"])
    return table(["network", "deviates at"], rows)


def markdown(checks: Checks) -> str:
    """Return all figures as tables, and the failed checks, in Markdown."""
    failed = [check for check in checks.done if check.error is not None]
    rows = [[check.name, f"{check.seconds:.0f} s", "failed" if check.error else "done"] for check in checks.done]
    parts = [
        f"# On {this_machine()}",
        *(f"## {title}\n\n{make(checks)}" for title, make in _TABLES.items()),
        f"## Checks\n\n{table(['check', 'took', 'state'], rows)}",
        *(f"### {check.name} failed\n\n```\n{(check.error or '')[-_TAIL:]}\n```" for check in failed),
    ]
    return str(without_home("\n\n".join(parts) + "\n"))


_TABLES: dict[str, Callable[[Checks], str]] = {
    "Networks": _networks_table,
    "Block by block": _blocks_table,
    "Whole images": _images_table,
}


def check_all(checks: Checks, models: Sequence[Path], scratch: Path, *, tests: bool) -> None:
    """Run every check, on the bundled model and on ``models``."""
    devices = checks.run("devices", in_child, machine_devices)
    units, bundled = units_here(devices), scratch / "anemone-demo"
    checks.run("convert", run_or_raise, ["server", "convert", str(BUNDLED_MODEL), "-o", str(bundled)])
    for path in (bundled, *models):
        if checks.run(f"open {path.name}", describe_model, path) is not None:
            check_networks(checks, ModelFolder.open(path), units)
            check_images(checks, path, units, scratch)
            checks.run(f"doctor {path.name}", doctor, path)
    if tests:
        checks.run("tests", run_or_raise, ["pytest", "-q"])


def main() -> int:
    """Run the checks, print the tables and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="also a converted model folder")
    parser.add_argument("--no-tests", action="store_true", help="without the test suite")
    args = parser.parse_args()
    if sys.platform != "darwin":
        print("benchmarks.mac needs a Mac: it measures Core ML, which only Macs have", file=sys.stderr)
        return 2
    scratch = _BUILD / "mac"
    scratch.mkdir(parents=True, exist_ok=True)
    checks = Checks(_BUILD / "mac.json")
    check_all(checks, [path.absolute() for path in args.model], scratch, tests=not args.no_tests)
    text = markdown(checks)
    (_BUILD / "mac.md").write_text(text)
    print(text)
    return int(any(check.error is not None for check in checks.done))


if __name__ == "__main__":
    sys.exit(main())
