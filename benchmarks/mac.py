"""What only a Mac can tell: how Core ML loads, places and computes our packages, how long it takes, how near it comes.

    python -m benchmarks.mac
    python -m benchmarks.mac --model ./sd15 --no-tests

Converts the bundled model, and for each network and compute unit loads it in processes of their own, twice, runs it
beside our runtime in fp32, asks Core ML's compute plan, and compares block by block; then makes whole images, idles
after a prediction, asks `anemone doctor`, and runs the tests. What fails is reported with its error and stops nothing
else. All goes to build/mac.json, and as tables to build/mac.md. The exit status is 1 where a check failed, 2 off a Mac.
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
#: Core ML lets inputs go about a second after a prediction, on a thread of its own (coremltools #2827, #2829).
_IDLE_SECONDS = 5
_PROMPT = "a red circle on a blue background"
#: How much of a failed command's output is kept.
_TAIL = 4000


@dataclass
class Check:
    """One check. found: its figures; error: why there are none. One of the two is always None."""

    name: str
    seconds: float
    found: Any = None
    error: str | None = None


def _finite(found: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not np.isfinite(found) else found


class Checks:
    """Checks one after the other, whatever becomes of each; all are written to ``out`` after every one."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.done: list[Check] = []

    def run(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do one check; returns its figures, or None where it failed."""
        print(name, file=sys.stderr, flush=True)
        check, begun = Check(name, 0.0), time.monotonic()
        try:
            check.found = work(*arguments)
        except AnemoneError as error:
            check.error = str(error)
        except Exception:
            # What nobody has run on a Mac can fail in ways nobody knows; the next check is run all the same.
            check.error = traceback.format_exc()
        check.seconds = time.monotonic() - begun
        self.done.append(check)
        self._out.write_text(json.dumps(self.told(), indent=1) + "\n")
        return check.found

    def told(self) -> dict[str, Any]:
        """All checks for the JSON file, without the user's name."""
        found: dict[str, Any] = _finite(
            without_home({"machine": this_machine(), "checks": [asdict(c) for c in self.done]})
        )
        return found

    def found(self, kind: str) -> list[tuple[list[str], Any]]:
        """The figures of the checks that are called ``kind`` and something, with the words after it."""
        named = ((check.name.split(), check.found) for check in self.done if check.found is not None)
        return [(words[1:], found) for words, found in named if words[0] == kind]


def ran(command: Sequence[str], **variables: str) -> dict[str, Any]:
    """Run a command of ours; its seconds, most memory in bytes, exit status and the end of what it printed."""
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


def succeeded(command: Sequence[str], **variables: str) -> dict[str, Any]:
    """The same; raises AnemoneError with the end of the output where the command fails."""
    found = ran(command, **variables)
    if found["status"] != 0:
        raise AnemoneError(f"{' '.join(command)} ended with status {found['status']}: {found['printed']}")
    return found


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
    """How near each output is to our runtime's in fp32, in dB, and how far two runs are apart, in the output's units."""
    first, second = in_child(_answers, path, function, units, "fast", 2)
    return {
        name: {"psnr_db": psnr(first[name], array), "drift": float(np.abs(first[name] - second[name]).max())}
        for name, array in _expected(path, function).items()
    }


def block_by_block(path: Path, function: str, units: Sequence[str]) -> dict[str, Any]:
    """Each block's dB on each compute unit, and where each parts."""
    found = compare_devices(path, function, tuple(units))
    apart = {u: None if (row := found.apart(u)) is None else row.block for u in units}
    return {"rows": [asdict(row) for row in found.rows], "failed": found.failed, "apart": apart}


def image(folder: Path, units: str, precision: str, out: Path) -> dict[str, Any]:
    """A whole image of the bundled prompt, made as `anemone generate` makes it, at ``out``."""
    settings = {"ANEMONE_COMPUTE_UNITS": json.dumps({"default": units})}
    command = ["server", "generate", _PROMPT, "-o", str(out), "--seed", "1", "--precision", precision]
    return succeeded([*command, "--model", str(folder)], **settings)


def agreement(out: Path, expected: Path) -> dict[str, Any]:
    """How near an image is to another: dB of its pixels, and whether they are the same."""
    found, other = (np.asarray(Image.open(file)).astype(np.float64) for file in (out, expected))
    return {"psnr_db": psnr(found, other), "same": bool(np.array_equal(found, other))}


def units_here(devices: Sequence[str] | None) -> tuple[str, ...]:
    """The compute units to try: without the Neural Engine where Core ML says there is none, as in a virtual machine."""
    if devices is None or "Neural Engine" in devices:
        return UNITS
    return tuple(units for units in UNITS if units != _ENGINE)


def opened(path: Path) -> dict[str, Any]:
    """What a model folder is; raises AnemoneError where it is none."""
    manifest = ModelFolder.open(path).manifest
    return {"family": manifest.family, "attention": manifest.attention, "sizes": manifest.sizes}


def check_networks(checks: Checks, folder: ModelFolder, units: Sequence[str]) -> None:
    """Every network of a model on every compute unit."""
    model = folder.path.name
    for network in folder.manifest.networks:
        package = folder.default(network)
        path = folder.path / package.path
        for one in units:
            words = f"{model} {network} {one}"
            # The first load compiles, and fits the program to the device; both are kept for the second.
            checks.run(f"first-load {words}", timed, path, package.function, one)
            checks.run(f"load {words}", timed, path, package.function, one)
            checks.run(f"numbers {words}", numbers, path, package.function, one)
            checks.run(f"plan {words}", in_child, device_shares, path, package.function, one)
            checks.run(f"idle {words}", in_child, _idle, path, package.function, one, _IDLE_SECONDS)
        checks.run(f"blocks {model} {network}", block_by_block, path, package.function, units)


def check_images(checks: Checks, folder: Path, units: Sequence[str], out: Path) -> None:
    """A whole image on every compute unit, twice, beside the one in fp32."""
    exact = out / f"{folder.name}-fp32.png"
    checks.run(f"image {folder.name} fp32", image, folder, "CPU_ONLY", "fp32", exact)
    for one in units:
        first, second = (out / f"{folder.name}-{one}-{n}.png" for n in (1, 2))
        checks.run(f"image {folder.name} {one}", image, folder, one, "fast", first)
        checks.run(f"image {folder.name} {one} again", image, folder, one, "fast", second)
        checks.run(f"pixels {folder.name} {one}", agreement, first, exact)
        checks.run(f"repeats {folder.name} {one}", agreement, second, first)


def doctor(folder: Path) -> Any:
    """`anemone doctor`'s report; what it finds wrong is part of it."""
    command = [sys.executable, "-m", "server", "doctor", str(folder), "--json"]
    return json.loads(subprocess.run(command, cwd=_ROOT, capture_output=True, text=True).stdout)


def _seconds(found: Any, name: str) -> str:
    return "-" if found is None else f"{getattr(found, name):.3f} s"


def _networks_table(checks: Checks) -> str:
    by = {
        kind: {tuple(w): f for w, f in checks.found(kind)} for kind in ("first-load", "load", "numbers", "plan", "idle")
    }
    keys = dict.fromkeys(key for found in by.values() for key in found)
    rows = []
    for key in keys:
        first, again, told, plan, idle = (by[kind].get(key) for kind in by)
        outputs = told.values() if told else ()
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
    pixels, repeats = ({tuple(w): f for w, f in checks.found(kind)} for kind in ("pixels", "repeats"))
    rows = []
    for words, found in checks.found("image"):
        if words[-1] != "again":
            near, same = pixels.get(tuple(words)), repeats.get(tuple(words))
            rows.append(
                [
                    " ".join(words),
                    f"{found['seconds']:.1f} s",
                    f"{found['memory'] / 1e9:.2f} GB",
                    "-" if near is None else f"{near['psnr_db']:.1f} dB",
                    "-" if same is None else "yes" if same["same"] else f"no, {same['psnr_db']:.1f} dB",
                ]
            )
    return table(["image", "process", "memory", "of fp32", "same again"], rows)


def _blocks_table(checks: Checks) -> str:
    rows = []
    for words, found in checks.found("blocks"):
        for units, block in found["apart"].items():
            failed = found["failed"].get(units)
            rows.append([f"{' '.join(words)} {units}", f"does not run: {failed}" if failed else block or "nowhere"])
    return table(["network", "parts at"], rows)


def markdown(checks: Checks) -> str:
    """All figures as tables, and what failed."""
    failed = [check for check in checks.done if check.error is not None]
    rows = [[check.name, f"{check.seconds:.0f} s", "failed" if check.error else "done"] for check in checks.done]
    parts = [
        f"# On {this_machine()}",
        *(f"## {title}\n\n{made(checks)}" for title, made in _TABLES.items()),
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
    """Every check, on the bundled model and on these."""
    devices = checks.run("devices", in_child, machine_devices)
    units, bundled = units_here(devices), scratch / "anemone-demo"
    checks.run("convert", succeeded, ["server", "convert", str(BUNDLED_MODEL), "-o", str(bundled)])
    for path in (bundled, *models):
        if checks.run(f"open {path.name}", opened, path) is not None:
            check_networks(checks, ModelFolder.open(path), units)
            check_images(checks, path, units, scratch)
            checks.run(f"doctor {path.name}", doctor, path)
    if tests:
        checks.run("tests", succeeded, ["pytest", "-q"])


def main() -> int:
    """Check and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="also a converted model folder")
    parser.add_argument("--no-tests", action="store_true", help="without the test suite")
    given = parser.parse_args()
    if sys.platform != "darwin":
        print("benchmarks.mac needs a Mac: it measures Core ML, which is nowhere else", file=sys.stderr)
        return 2
    scratch = _BUILD / "mac"
    scratch.mkdir(parents=True, exist_ok=True)
    checks = Checks(_BUILD / "mac.json")
    check_all(checks, [path.absolute() for path in given.model], scratch, tests=not given.no_tests)
    text = markdown(checks)
    (_BUILD / "mac.md").write_text(text)
    print(text)
    return int(any(check.error is not None for check in checks.done))


if __name__ == "__main__":
    sys.exit(main())
