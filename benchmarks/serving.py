"""Measures the server's own cost: time and memory in addition to image generation, and the effect of kills.

    python -m benchmarks.serving
    python -m benchmarks.serving --model demo/model

Jobs are measured with the tests' fake pipeline (tests/support/live_server.py), whose steps take a known time, in a real
worker behind a real server; ``--model`` instead compares a job of a real model with its bare pipeline.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Response, sync_playwright

from benchmarks.measure import memory
from benchmarks.served import PATIENCE_S, ROOT, ready, report, serving, until
from server.pipeline.request import bind
from tests.support.browser import MISSING, chromium, sandbox_flags
from tests.support.live_server import answers
from tests.support.mcp_client import NEW, sent

_DEEP = 10_000


# --- clients --------------------------------------------------------------------------------------------------------


def _enqueue(client: httpx.Client, prompt: str, **fields: Any) -> str:
    answer = client.post("/api/v1/txt2img", json={"prompt": prompt, **fields}, headers={"Prefer": "respond-async"})
    answer.raise_for_status()
    return str(answer.json()["id"])


def _job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    return dict(client.get(f"/api/v1/jobs/{job_id}").json())


def _ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    return dict(until(lambda: (j := _job(client, job_id))["status"] not in ("queued", "running") and j))


# --- figures --------------------------------------------------------------------------------------------------------


def _overhead(data_dir: Path, jobs: int) -> None:
    """Measure a job's time as its client sees it, without the steps."""
    with serving(data_dir) as (_, client):
        ready(client)
        beyond = []
        for i in range(jobs):
            began = time.perf_counter()
            answer = client.post("/api/v1/txt2img", json={"prompt": "a circle", "steps": 1, "seed": i})
            took = time.perf_counter() - began
            timings = _job(client, answer.headers["x-job-id"])["timings"]
            beyond.append(took - (timings["step"] or 0.0))
    median, worst = statistics.median(beyond), sorted(beyond)[int(0.95 * len(beyond))]
    report(
        "a job beyond its steps (accept, worker, PNG, disk)",
        f"{1e3 * median:.1f} ms, p95 {1e3 * worst:.1f}",
        "<= 10 ms",
    )


#: The call of each dialect that makes an image from a prompt.
_DIALECTS = {
    "native": "/api/v1/txt2img",
    "OpenAI": "/v1/images/generations",
    "AUTOMATIC1111": "/sdapi/v1/txt2img",
    "MCP": "/mcp",
}


def _asked(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return what httpx is to send."""
    if path != "/mcp":
        return {"json": fields}
    message, headers = sent("tools/call", NEW, name="generate_image", arguments=fields)
    return {"json": message, "headers": headers}


def _dialects(data_dir: Path, jobs: int) -> None:
    """Compare a job of each dialect with that of the native one, in turns: a request with the same fields, and its image."""
    took: dict[str, list[float]] = {name: [] for name in _DIALECTS}
    with serving(data_dir) as (_, client):
        ready(client)
        for i in range(jobs + 1):
            for name, path in _DIALECTS.items():
                asked = _asked(path, {"prompt": "a circle", "steps": 1, "seed": i})
                began = time.perf_counter()
                answer = client.post(path, **asked)
                took[name].append(time.perf_counter() - began)
                answer.raise_for_status()
    # The first of each is a warm-up.
    medians = {name: statistics.median(times[1:]) for name, times in took.items()}
    for name, median in medians.items():
        beyond = median - medians["native"]
        if name == "native":
            report("a job by the native route", f"{1e3 * median:.1f} ms")
        else:
            took_ms = f"{1e3 * median:.1f} ms, {1e3 * beyond:+.1f} ms"
            report(f"a job by {name}, and beyond the native route", took_ms, "<= 2 ms beyond native")


def _keep(responses: list[Response], response: Response) -> None:
    responses.append(response)


def _page(data_dir: Path, times: int) -> None:
    """Measure the page's first load in Chromium, with an empty cache: its bytes, and the time until it can be used."""
    path = chromium()
    if path is None:
        report("the page's first load", MISSING)
        return
    sizes, loads = [], []
    with serving(data_dir) as (_, client), sync_playwright() as playwright:
        ready(client)
        browser = playwright.chromium.launch(executable_path=path, args=sandbox_flags())
        for _ in range(times):
            page = browser.new_context().new_page()
            responses: list[Response] = []
            page.on("response", partial(_keep, responses))
            began = time.perf_counter()
            page.goto(str(client.base_url))
            page.get_by_role("button", name="Generate", disabled=False).wait_for()
            loads.append(time.perf_counter() - began)
            # Not that of the event stream, which does not end.
            whole = [each for each in responses if "event-stream" not in each.headers.get("content-type", "")]
            sizes.append(sum(len(each.body()) for each in whole))
            page.context.close()
        browser.close()
    report("the page's first load, with its calls", f"{max(sizes) / 1e3:.0f} kB", "<= 150 kB")
    report("until it can be used", f"{statistics.median(loads):.2f} s, longest {max(loads):.2f}", "<= 1 s")


def _reads(data_dir: Path, seconds: float) -> None:
    """Measure status reads over two connections while the worker keeps a core busy."""
    with serving(data_dir) as (_, client):
        ready(client)
        busy = _enqueue(client, "busy", steps=150, n=8)
        waiting = _enqueue(client, "a circle")
        until(lambda: _job(client, busy)["progress"])
        for name, job_id in (("running", busy), ("queued", waiting)):
            counts: list[int] = []
            began = time.perf_counter()
            readers = [threading.Thread(target=_read, args=(client, job_id, seconds, counts)) for _ in range(2)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            rate = sum(counts) / (time.perf_counter() - began)
            report(f"reads of a {name} job while one is running", f"{rate:.0f} a second", ">= 500")
        assert _job(client, busy)["status"] == "running"


def _read(client: httpx.Client, job_id: str, seconds: float, counts: list[int]) -> None:
    # Without httpx, whose requests take as long as the server's answers, on the same two cores.
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80)
    count, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        connection.request("GET", f"/api/v1/jobs/{job_id}")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        count += 1
    connection.close()
    counts.append(count)


def _accepting(data_dir: Path) -> None:
    """Measure the time from a request to its 202, with 10 and with 10,000 waiting jobs."""
    with serving(data_dir) as (_, client):
        ready(client)
        for _ in range(8):
            # Minutes of work, so that no counted job starts meanwhile.
            _enqueue(client, "slow", steps=150, n=8, priority="high")
        taken: dict[int, float] = {}
        waiting = 0
        for depth in (10, _DEEP):
            while waiting < depth:
                _enqueue(client, "a circle")
                waiting += 1
            times = []
            for _ in range(100):
                began = time.perf_counter()
                _enqueue(client, "a circle")
                times.append(time.perf_counter() - began)
            waiting += 100
            taken[depth] = statistics.median(times)
            report(f"an accept with {depth} waiting", f"{1e3 * taken[depth]:.2f} ms", "")
    report("10,000 against 10", f"{taken[_DEEP] / taken[10]:.2f} times", "about 1")


def _growth(data_dir: Path, jobs: int) -> None:
    """Measure the server's memory (without the worker's) after a fifth of the jobs, and after all."""
    with serving(data_dir) as (process, client):
        ready(client)
        early = 0
        for i in range(jobs):
            client.post("/api/v1/txt2img", json={"prompt": "a circle", "seed": i}).raise_for_status()
            if i == jobs // 5:
                early = memory(process.pid, children=False)[0]
        late = memory(process.pid, children=False)[0]
    change = 100 * (late - early) / early
    report(f"memory of the server over {jobs} jobs", f"{late / 1e6:.0f} MB, {change:+.1f} %", "+-5 %")


def _first_step(client: httpx.Client, job_id: str) -> None:
    """Wait until the job has made a step."""
    until(lambda: _job(client, job_id)["progress"])


def _cancelling(data_dir: Path, times: int) -> None:
    """Count the steps that a job still runs after the answer to its cancellation."""
    with serving(data_dir) as (_, client):
        ready(client)
        steps = []
        for _ in range(times):
            job_id = _enqueue(client, "slow", steps=150)
            _first_step(client, job_id)
            before = client.delete(f"/api/v1/jobs/{job_id}").json()["progress"]["step"]
            steps.append(_ended(client, job_id)["timings"]["running"] / 0.1 - before)
    report("steps that a job runs after its cancellation", f"{max(steps):.1f} at most", "<= 1, and its start")


def _killing(data_dir: Path, kills: int, chance: random.Random) -> None:
    """Kill the server or its worker at random moments while jobs arrive and run; then look for every job."""
    accepted: dict[str, str] = {}
    half_written = 0
    for kill in range(kills):
        with serving(data_dir) as (process, client):
            stopping = threading.Event()

            def send(client: httpx.Client = client, kill: int = kill, stopping: threading.Event = stopping) -> None:
                number = 0
                while not stopping.is_set():
                    try:
                        accepted[_enqueue(client, "slow", steps=2, seed=number)] = f"{kill}"
                    except httpx.HTTPError:
                        # Not ready yet, or killed before the answer: the server has accepted nothing.
                        time.sleep(0.05)
                    number += 1
                    time.sleep(chance.uniform(0.02, 0.2))

            sending = threading.Thread(target=send)
            if kill == 0:
                ready(client)
            sending.start()
            time.sleep(chance.uniform(0.5, 6.0))
            victim = process.pid
            if chance.random() < 0.3:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                victim = int(chance.choice(children)) if children else victim
            os.kill(victim, signal.SIGKILL)
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
            process.wait()
            stopping.set()
            sending.join()
    with serving(data_dir) as (_, client):
        ready(client)
        done = {job_id: _ended(client, job_id) for job_id in accepted}
        for job in done.values():
            for image in job["images"]:
                answer = client.get(image["url"])
                try:
                    Image.open(io.BytesIO(answer.content)).load()
                except OSError:
                    half_written += 1
    statuses = [job["status"] for job in done.values()]
    report(f"jobs accepted through {kills} kills, and lost", f"{len(accepted)}, {len(accepted) - len(done)}", "0 lost")
    again = sum(job["attempts"] > 1 for job in done.values())
    finished, failed = statuses.count("succeeded"), statuses.count("failed")
    report(
        "of them finished, failed after two deaths, restarted",
        f"{finished}, {failed}, {again}",
        "all finished or failed",
    )
    report("partly written images served", str(half_written), "0")
    # A kill between commit and answer leaves a job that the client does not know, but the database does.
    with closing(sqlite3.connect(data_dir / "jobs.sqlite3")) as db:
        named = {name for (name,) in db.execute("SELECT file FROM images UNION SELECT file FROM attachments")}
    files = [p for folder in ("images", "attachments") for p in (data_dir / folder).iterdir() if p.name not in named]
    report("files without a job", str(len(files)), "0")


def _beside_pipeline(source: Path, data_dir: Path, jobs: int) -> None:
    """Compare a real model's job in the server with the same request in the bare pipeline."""
    from converter.folder import ModelFolder
    from server.pipeline.loading import open_pipeline

    command = [
        sys.executable,
        "-m",
        "server",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
        "--model",
        str(source),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            threading.Thread(target=process.stderr.read, daemon=True).start()
            base = line.partition(" at ")[2].partition(",")[0]
            with httpx.Client(base_url=base, timeout=PATIENCE_S, trust_env=False) as client:
                until(lambda: answers(client))
                ready(client)
                body = {"prompt": "a red circle on a blue background", "steps": 4}
                served = []
                for i in range(jobs + 1):
                    began = time.perf_counter()
                    answer = client.post("/api/v1/txt2img", json={**body, "seed": i}).raise_for_status()
                    served.append(time.perf_counter() - began)
                stored = client.get(f"/api/v1/jobs/{answer.headers['x-job-id']}").json()["request"]
        finally:
            process.kill()
    (folder,) = (data_dir / "models").glob("[!.]*")
    model = open_pipeline(ModelFolder.open(folder), {})
    model.load()
    bare = []
    for i in range(jobs + 1):
        began = time.perf_counter()
        for _ in model.generate(bind(model.manifest, **{**stored, "seed": i}), {}):
            pass
        bare.append(time.perf_counter() - began)
    # The first run of each is a warm-up.
    through, alone = statistics.median(served[1:]), statistics.median(bare[1:])
    result = f"{1e3 * through:.0f} ms, {1e3 * (through - alone):+.1f} ms"
    report(f"a job of {source.name} through the server, over the bare pipeline", result, "<= 10 ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    figures = ("overhead", "dialects", "page", "reads", "accepting", "memory", "cancelling", "killing")
    parser.add_argument("--only", choices=figures, action="append", help="measure only this; may be repeated")
    parser.add_argument("--model", type=Path, help="a checkpoint or model folder to compare with its bare pipeline")
    parser.add_argument("--jobs", type=int, default=500, help="jobs of the memory measurement")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=5, help="seed of the random moments of kills")
    args = parser.parse_args()
    measures: dict[str, Callable[[Path], None]] = {
        "overhead": lambda folder: _overhead(folder, 100),
        "dialects": lambda folder: _dialects(folder, 200),
        "page": lambda folder: _page(folder, 10),
        "reads": lambda folder: _reads(folder, 5.0),
        "accepting": _accepting,
        "memory": lambda folder: _growth(folder, args.jobs),
        "cancelling": lambda folder: _cancelling(folder, 10),
        "killing": lambda folder: _killing(folder, args.kills, random.Random(args.seed)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is not None:
            _beside_pipeline(args.model.absolute(), Path(scratch) / "model", 10)
        for name in args.only or ([] if args.model is not None else figures):
            measures[name](Path(scratch) / name)


if __name__ == "__main__":
    main()
