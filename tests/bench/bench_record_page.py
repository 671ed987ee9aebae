"""The record page of a 12 × 5000 record in a real Chromium, against the portal's own web server.

Run: ``python -m tests.bench record_page``. A portal of its own is started in a folder that is removed again
(PostgreSQL, the web server with two processes, a few simulated records). The libraries of the interactive view
are in the browser's cache, as at every visit but the first. Each figure is the median of several visits.

first paint, ready: milliseconds from the click to the first contentful paint, and until the interactive ECG answers.
zoom, pan: from the key to the frame in which the paper has moved, the longer of what the browser tells and of two frames. sent: bytes over the network that were not cached.
callback: the whole answer of the Dash view, over loopback.
Rows named "work" are processor time (of the page's main thread, of the web server's processes): on a machine
that does other things beside, they say more than the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from playwright.sync_api import BrowserContext, CDPSession, Page, sync_playwright

from ecgportal import home
from ecgportal.embedded_pg import EmbeddedServer
from tests.chromium import chromium_path

ROOT = Path(__file__).resolve().parents[2]
_PASSWORD = "correct-horse-battery"
_VISITS, _STEPS, _CALLS = 7, 12, 15
_PATIENCE_S = 180.0
_FILL = """
from datasets.demo import add_simulated
from datasets.models import Record
from datasets.services import dataset_create
from ecgportal.accounts.models import User
from ecgportal.projects.services import project_create
user = User.objects.get(username="admin")
dataset = dataset_create(actor=user, project=project_create(actor=user, name="Bench"), name="Bench")
add_simulated(dataset, actor=user, n=8, seed=1)
print("record", Record.objects.filter(dataset=dataset).first().pk)
"""
# The times of each key: until the browser says that the change was presented (rounded by it to 8 ms), until two frames have
# passed, and until Plotly has drawn the paper anew. In the first frame the traces must already lie where they belong.
_WATCH = """() => {
  const plot = document.querySelector("#ecg .js-plotly-plot"), paper = window.ecgPaper;
  const steps = (window.steps = []);
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (entry.name === "keydown" && steps.length) steps.at(-1).shown = entry.duration;
  }).observe({ type: "event", durationThreshold: 16 });
  document.querySelector("#paper-region").addEventListener("keydown", (event) => {
    const step = { start: event.timeStamp, before: paper.ranges().x.join() };
    steps.push(step);
    requestAnimationFrame(() => {
      step.moved = paper.ranges().x.join() !== step.before;
      requestAnimationFrame(() => { step.frames = performance.now() - step.start; });
    });
  }, true);
  plot.on("plotly_afterplot", () => { if (steps.length) steps.at(-1).drawn = performance.now() - steps.at(-1).start; });
}"""


@contextmanager
def portal() -> Iterator[tuple[str, str, psutil.Process]]:
    """Start a portal of its own; yield its address, the id of a record of twelve leads and 5000 samples, and its process."""
    folder = Path(tempfile.mkdtemp(prefix="ecgportal-bench-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = EmbeddedServer(folder / "postgres", durable=False)
    database.start()
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "PORTAL_ENV")} | {
        "PORTAL_HOME": str(folder), "PORT": str(port), "PORTAL_PROCESSES": "web", "PORTAL_DEMO": "0", "PORTAL_ADMIN_PASSWORD": _PASSWORD,
        "PORTAL_ENV_FILE": os.devnull, "DATABASE_URL": home.embedded_url(folder / "postgres" / "s"),
    }  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "ecgportal.supervisor"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(f"{address}/accounts/login/", server)
        filled = subprocess.run(
            [sys.executable, "manage.py", "shell", "-c", _FILL],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        yield address, filled.stdout.split()[-1], psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
        database.stop(5.0)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(address: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError("The portal ended while it started.")
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError("The portal did not answer in time.")


def _work_ms(session: CDPSession) -> float:
    """Return the processor time of the page's main thread so far."""
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return 1000 * float(metrics["TaskDuration"])


def _server_work_ms(server: psutil.Process) -> float:
    """Return the processor time of the web server's processes so far."""
    found = [server, *server.children(recursive=True)]
    return 1000 * sum(sum(one.cpu_times()[:2]) for one in found)


def _visit(context: BrowserContext, page: Page, address: str) -> dict[str, float]:
    """Open the record page and return first paint, readiness and work in ms, and the bytes that were not cached."""
    session = context.new_cdp_session(page)
    sent = {"bytes": 0.0}
    session.send("Network.enable")
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    session.on("Network.loadingFinished", lambda event: sent.update(bytes=sent["bytes"] + event["encodedDataLength"]))
    page.goto("about:blank")
    sent["bytes"] = 0.0
    page.goto(address)
    page.wait_for_function("() => performance.getEntriesByName('ecg-ready').length")
    page.wait_for_timeout(300)
    timings = page.evaluate(
        """() => ({ paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
                    ready: performance.getEntriesByName("ecg-ready")[0].startTime })"""
    )
    work = _work_ms(session)
    session.detach()
    return {"paint": timings["paint"], "ready": timings["ready"], "bytes": sent["bytes"], "work": work}


def _steps(context: BrowserContext, page: Page, keys: tuple[str, str], pause_ms: int) -> dict[str, float]:
    """Return the median times and the mean work of moving the paper by keys, in ms.

    pause_ms: between the keys; shorter than the paper's rest, it is never drawn anew in between.
    """
    frame = page.frames[1]
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    frame.evaluate("() => { window.steps.length = 0; }")
    before = _work_ms(session)
    for k in range(_STEPS):
        page.keyboard.press(keys[k % 2])
        page.wait_for_timeout(pause_ms)
    page.wait_for_timeout(1500)
    work = (_work_ms(session) - before) / _STEPS
    session.detach()
    steps = frame.evaluate("() => window.steps")
    assert len(steps) == _STEPS and all(step["moved"] for step in steps), (
        "A key did not move the paper in its first frame."
    )
    # The browser does not tell what took less than 16 ms.
    painted = statistics.median(max(step["frames"], step.get("shown", 16.0)) for step in steps)
    worst = max(max(step["frames"], step.get("shown", 16.0)) for step in steps)
    return {
        "painted": painted,
        "worst": worst,
        "drawn": statistics.median(step["drawn"] for step in steps if "drawn" in step),
        "work": work,
    }


def _callback_ms(
    context: BrowserContext, page: Page, address: str, marks: str, server: psutil.Process
) -> tuple[float, float]:
    """Return the median time and the mean work of the view's callback, asked as the browser asks it, in ms."""
    with page.expect_request(
        lambda one: "_dash-update-component" in one.url and "ecg.figure" in (one.post_data or "")
    ) as asked:
        page.goto(address)
    body = json.loads(asked.value.post_data or "{}")
    for each in body["inputs"]:
        if each["id"] == "marks":
            each["value"] = marks
    page.wait_for_function("() => performance.getEntriesByName('ecg-ready').length")
    token = next(cookie["value"] for cookie in context.cookies() if cookie["name"] == "csrftoken")
    spent = []
    before = _server_work_ms(server)
    for _ in range(_CALLS):
        start = time.perf_counter()
        answer = context.request.post(
            asked.value.url.partition("?")[0],
            data=json.dumps(body),
            headers={"Content-Type": "application/json", "X-CSRFToken": token},
        )
        spent.append(1000 * (time.perf_counter() - start))
        assert answer.status == 200, answer.text()
    return statistics.median(spent), (_server_work_ms(server) - before) / _CALLS


def measure() -> dict[str, float]:
    """Return all figures by name."""
    with (
        portal() as (server, record, process),
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as profile,
    ):
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium_path(), args=["--no-sandbox", "--disable-dev-shm-usage"], base_url=server,
            viewport={"width": 1280, "height": 900},
        )  # fmt: skip
        page = context.new_page()
        page.goto("/accounts/login/")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", _PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_load_state()
        address = f"/records/{record}/"
        first = _visit(context, page, address)
        _visit(context, page, address)
        visits = [_visit(context, page, address) for _ in range(_VISITS)]
        found = {name: statistics.median(one[name] for one in visits) for name in visits[0]}
        found |= {f"first_{name}": value for name, value in first.items()}
        page.frames[1].evaluate(_WATCH)
        page.frames[1].locator("#paper-region").focus()
        # From a rest, in which Plotly draws anew; in a row, as a held key; and into the drawing that follows a rest.
        for name, keys, pause_ms in (
            ("zoom", ("+", "-"), 900), ("pan", ("ArrowRight", "ArrowLeft"), 900), ("zoom_held", ("+", "-"), 50), ("zoom_into", ("+", "-"), 215),
        ):  # fmt: skip
            if name == "pan":
                page.keyboard.press("+")
                page.wait_for_timeout(900)
            found |= {f"{name}_{key}": value for key, value in _steps(context, page, keys, pause_ms).items()}
        for marks in ("none", "waves"):
            key = f"callback_{marks}"
            found[key], found[f"{key}_work"] = _callback_ms(context, page, address, marks, process)
        context.close()
    return found


def run() -> list[dict[str, Any]]:
    """Return rows ``name, value, unit, goal, ok``; empty without a Chromium."""
    if chromium_path() is None:
        return []
    found = measure()
    rows = [
        ("first contentful paint", found["paint"], "ms", 800), ("interactive ECG ready", found["ready"], "ms", 1500),
        ("zoom by key until painted", found["zoom_painted"], "ms", 100), ("pan by key until painted", found["pan_painted"], "ms", 100),
        ("zoom by a held key, each step", found["zoom_held_painted"], "ms", 100), ("zoom while the paper is drawn anew", found["zoom_into_painted"], "ms", 100),
        ("sent besides the cached library", found["bytes"] / 1000, "KB", 250), ("callback, plain", found["callback_none"], "ms", 60),
        ("callback, with P, QRS and T marked", found["callback_waves"], "ms", 60),
    ]  # fmt: skip
    out: list[dict[str, Any]] = [
        {"name": name, "value": round(value, 1), "unit": unit, "goal": f"at most {goal} {unit}", "ok": value <= goal}
        for name, value, unit, goal in rows
    ]
    work = (
        ("a visit: work in the page", "work"), ("zoom: work in the page", "zoom_work"), ("pan: work in the page", "pan_work"),
        ("callback, plain: work at the server", "callback_none_work"), ("callback, marked: work at the server", "callback_waves_work"),
    )  # fmt: skip
    work += (
        ("zoom: slowest of 12 steps", "zoom_worst"), ("pan: slowest of 12 steps", "pan_worst"), ("zoom: drawn in full detail, rest included", "zoom_drawn"),
        ("pan: drawn in full detail, rest included", "pan_drawn"),
    )  # fmt: skip
    out += [{"name": name, "value": round(found[key], 1), "unit": "ms", "goal": None, "ok": None} for name, key in work]
    for name, key, unit in (
        ("very first visit: ready", "first_ready", "ms"),
        ("very first visit: sent", "first_bytes", "KB"),
    ):
        value = found[key] / (1000 if unit == "KB" else 1)
        out.append({"name": name, "value": round(value, 1), "unit": unit, "goal": None, "ok": None})
    return out
