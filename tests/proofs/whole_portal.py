"""A whole portal, started on an empty folder, does what people do with it; on which device it computes, and how long it takes.

Run: ``python -m tests.proofs.whole_portal [--small] [--limit-s S] [--folder F]``. The portal is started as a person starts it,
with its own database, the demonstration dataset and two workers for trainings, and is used by REST and by page only. It takes the
accelerator where the machine has one; then the processes that serve pages must leave it alone, and of two runs at once one must
wait for it. ``--small`` makes the default run smaller. After ``--limit-s`` the steps that are left are left out. Each
step is a row, and 1 is returned when one is not ok. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from ecgportal.processes import command_line, does_a_job
from tests.proofs import steps
from tests.proofs.client import PASSWORD, Client, Pages
from tests.proofs.hosts import Portal, free_port, until
from tests.proofs.steps import Hopeless, must
from tests.proofs.watched import Watched, holds_accelerator, waits_for_a_job

HOST, NETWORK, LABEL_MAP = "one", "xresnet1d18", "PTB-XL superclass"
CANCEL_LIMIT_S = 5.0
#: Device files of accelerators, of which a machine with one has at least one.
DEVICE_FILES = ("nvidia[0-9]*", "kfd")
#: More epochs than a run comes to before it is cancelled.
ENDLESS = 1000


class Use:
    """One person's use of a portal. Each public method is a step (see :mod:`tests.proofs.steps`), in the order of ``plan``."""

    def __init__(self, portal: Portal, small: bool):
        self.portal, self.small, self.port = portal, small, free_port()
        self.accelerators = [path for name in DEVICE_FILES for path in Path("/dev").glob(name)]
        self.client: Client
        self.ground: dict[str, Any] = {}
        self.first: dict[str, Any] = {}
        self.trunk = ""

    @property
    def plan(self) -> dict[str, steps.Step]:
        """The steps in their order, by name."""
        return {
            "first start until /healthz": self.start,
            "sign in, demonstration dataset": self.demonstration,
            "accelerator left alone before any job": self.serving_before,
            f"{NETWORK}, 3 epochs, no process ready": self.cold,
            f"{NETWORK}, 3 epochs, a process ready": self.kept_ready,
            "default run": self.default_run,
            "two runs at once": self.two_at_once,
            "cancel while it trains": self.cancel,
            "run without labels": self.without_labels,
            "fine-tuning from it": self.fine_tuned,
            "prediction, evaluation, ONNX": self.use_of_a_model,
            "costs by REST, pages of trainings": self.costs,
            "training process killed": self.killed,
            "accelerator left alone after all jobs": self.serving_after,
            "errors in the logs": self.logs,
            "end": self.end,
        }

    # The portal

    def start(self) -> str:
        self.portal.start(
            HOST, "all", PORT=str(self.port), PORTAL_BIND="127.0.0.1", PORTAL_DEMO="1", PORTAL_ADMIN_USER="admin",
            PORTAL_ADMIN_PASSWORD=PASSWORD, PORTAL_TRAIN_WORKERS="2", PORTAL_WARM_START="1",
        )  # fmt: skip
        until(self._answers, "the portal", 300)
        return ""

    def _answers(self) -> bool:
        if not self.portal.runs(HOST):
            raise Hopeless(f"the supervisor has ended:\n{self.portal.log(HOST)}")
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=10).is_success
        except httpx.TransportError:
            return False

    def demonstration(self) -> str:
        try:
            self.client = Client(self.port)
            until(lambda: self._dataset()["record_count"], "the demonstration dataset", 60)
            dataset = self._dataset()
            maps = self.client.ask("GET", "label-maps/?page_size=200")["results"]
        except RuntimeError as error:
            raise Hopeless(str(error)) from error
        self.ground = {
            "project": dataset["project"], "dataset": dataset["id"],
            "label_map": next(row["id"] for row in maps if row["name"] == LABEL_MAP),
        }  # fmt: skip
        return f"{dataset['name']}: {dataset['record_count']} records"

    def _dataset(self) -> dict[str, Any]:
        return next(iter(self.client.ask("GET", "datasets/")["results"]), {"record_count": 0})

    def serving_before(self) -> str:
        return self._serving_leave_it_alone()

    def serving_after(self) -> str:
        return self._serving_leave_it_alone()

    def _serving_leave_it_alone(self) -> str:
        """Look at all processes but those that do a job (those that wait for one included)."""
        serving = [process for process in self.portal.of(HOST) if waits_for_a_job(process) or not does_a_job(process)]
        must(len(serving) > 4, f"only {len(serving)} processes of the portal were found")
        holding = [command_line(process)[:120] for process in serving if holds_accelerator(process)]
        must(not holding, f"held by {holding}")
        if not self.accelerators:
            return "this machine has none"
        return f"{len(serving)} processes looked at"

    def logs(self) -> str:
        found = []
        for path in [*self.portal.home.glob("*.log"), *self.portal.home.glob("logs/*.log")]:
            lines = path.read_text(errors="replace").splitlines()
            found += [f"{path.name}: {line[:200]}" for line in lines if line.startswith("Traceback") or "ERROR" in line]
        must(not found, "; ".join(found[:5]))
        return "none"

    def end(self) -> str:
        status = self.portal.end(HOST)
        must(status == 0, f"the supervisor ended with {status}: {self.portal.log(HOST)[-500:]}")
        left = [command_line(process)[:120] for process in self.portal.left()]
        must(not left, f"left: {left}")
        return "no process left"

    # Runs

    def _run(self, name: str, epochs: int, **asked: Any) -> Watched:
        """Start a run of the small network, unless asked otherwise."""
        settings = {"epochs": epochs, **asked.pop("settings", {})}
        body = {**self.ground, "task": "multilabel", "architecture": NETWORK, "members": 1, **asked}
        if (members := body.pop("members")) is not None:
            settings["members"] = members
        given = {key: value for key, value in body.items() if value is not None}
        return Watched(
            self.portal,
            HOST,
            self.client,
            {**given, "name": name, "settings": settings},
            has_accelerator=bool(self.accelerators),
        )

    def _followed(self, run: Watched) -> dict[str, Any]:
        """Follow a run to its success; where it computed on an accelerator, its process must have been seen to hold it."""
        row = run.follow()
        must(row["state"] == "succeeded", f"{row['name']} {row['state']}: {row['error']} {row['message']}")
        # Without this nothing would follow from other processes' not being seen so.
        must(run.on_processor or run.held_accelerator, f"{run.device}, but its process was not seen to hold it")
        return row

    def cold(self) -> str:
        run = self._run("Nothing ready", 3)
        self.first = self._followed(run)
        return run.told()

    def kept_ready(self) -> str:

        def ready() -> int:
            return sum("ready" in command_line(process).split() for process in self.portal.of(HOST))

        begun = time.monotonic()
        until(lambda: ready() == 2, "two processes that are ready", 180)
        waited_s = time.monotonic() - begun
        run = self._run("Process ready", 3, settings={"learning_rate": 0.003})
        self._followed(run)
        return f"{run.told()} (the processes were waited for: {waited_s:.1f} s)"

    def default_run(self) -> str:
        run = self._run("Default", 3 if self.accelerators else 1, architecture=None, members=2 if self.small else None)
        row = self._followed(run)
        return f"{run.told()}, networks: {row['manifest']['networks']}"

    def two_at_once(self) -> str:
        epochs = 80 if self.accelerators else 4
        settings = {"learning_rate": 0.003, "patience": None}
        both = [
            self._run(name, epochs, settings={**settings, "seed": seed}) for seed, name in enumerate(("One", "Other"))
        ]
        until(lambda: not sum(run.look() for run in both), "the end of both", 900, 0.1)
        for run in both:
            self._followed(run)
        waits = sorted({sentence for run in both for sentence in run.messages if "waits" in sentence})
        must(bool(waits) or both[0].on_processor, "neither said that it waits for the accelerator")
        return f"{both[0].device}: {waits or 'side by side'}"

    def cancel(self) -> str:
        run = self._run("Cancelled", ENDLESS, settings={"learning_rate": 0.003, "patience": None})
        until(lambda: run.epochs() >= 2, "two epochs", 300, 0.1)
        begun = time.monotonic()
        self.client.ask("POST", f"training-runs/{run.id}/cancel/", {})
        until(lambda: not run.look(), "the end of the run", 60, 0.05)
        seconds = time.monotonic() - begun
        must(run.row["state"] == "cancelled" and run.row["produced_version"], f"{run.row['state']}, nothing kept")
        work = os.getloadavg()[0] / (os.cpu_count() or 1)
        must(seconds <= CANCEL_LIMIT_S or work > 2, f"took {seconds:.1f} s")
        late = f" (late: {work:.1f} times more work than processors)" if seconds > CANCEL_LIMIT_S else ""
        return f"{run.device}: after {seconds:.1f} s{late}, the best of {run.epochs()} epochs kept"

    def without_labels(self) -> str:
        run = self._run("No labels", 2, task="pretraining", label_map=None, members=None)
        self.trunk = self._followed(run)["produced_version"]
        return run.told()

    def fine_tuned(self) -> str:
        must(self.trunk, "there is nothing to start from")
        asked = {"architecture": None, "base_version": self.trunk, "mode": "full", "settings": {"learning_rate": 0.001}}
        run = self._run("From no labels", 2, **asked)
        self._followed(run)
        return run.told()

    def killed(self) -> str:
        epochs = 120 if self.accelerators else 5
        run = self._run("Killed", epochs, settings={"learning_rate": 0.003, "patience": None})
        until(lambda: run.epochs() >= 2, "two epochs", 300, 0.05)
        (process,) = run.processes()
        process.kill()
        begun, had = time.monotonic(), run.epochs()
        until(lambda: run.attempt() > 1, "another attempt", 120, 0.1)
        again_s = time.monotonic() - begun
        row = self._followed(run)
        numbers = [line["epoch"] for line in self.client.ask("GET", f"training-runs/{run.id}/metrics/")["results"]]
        must(numbers == list(range(1, epochs + 1)), f"epochs {numbers}")
        must(row["resumed"] >= 1, "it began anew")
        return f"{run.device}: after {had} of {epochs} epochs, begun again after {again_s:.1f} s, resumed: {row['resumed']}"

    # Models

    def use_of_a_model(self) -> str:
        from onnxruntime import InferenceSession

        must(self.first, "there is no model")
        version = self.first["produced_version"]
        asked = {"version": version, "dataset": self.ground["dataset"]}
        prediction = self.client.ask("POST", "predictions/", asked)
        evaluation = self.client.ask("POST", "evaluations/", {**asked, "label_map": self.ground["label_map"]})
        for row in (prediction, evaluation):
            self._end(row["job"])
        rows = self.client.ask("GET", f"predictions/{prediction['id']}/rows/?format=json")
        report = self.client.ask("GET", f"evaluations/{evaluation['id']}/report/?format=json")
        data = self.client.http.get(f"model-versions/{version}/download/?format=onnx").raise_for_status().content
        names = [one.name for one in InferenceSession(data, providers=["CPUExecutionProvider"]).get_inputs()]
        return f"{rows['count']} rows, AUROC macro {report['auroc_macro']['value']:.3f}, ONNX of {len(data) / 1e6:.1f} MB takes {names}"

    def _end(self, job: str) -> None:
        until(lambda: self._job(job)["state"] not in ("queued", "running"), "the end of a job", 300)
        row = self._job(job)
        must(row["state"] == "succeeded", f"{row['kind']} {row['state']}: {row['error']}")

    def _job(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.ask("GET", f"jobs/{job}/")
        return found

    def costs(self) -> str:
        networks = self.client.ask("POST", "training-runs/check/", {**self.ground, "task": "multilabel"})["networks"]
        measured = [row["architecture"] for row in networks if row["measured"]]
        must(NETWORK in measured, f"measured are {measured}, of {len(networks)} networks")
        pages, form = Pages(self.port), f"/projects/{self.ground['project']}/training/new/"
        fields = {"datasets": self.ground["dataset"], "label_map": self.ground["label_map"], "task": "multilabel"}
        page = pages.send(form.replace("new", "check"), fields, form=form)
        must("measured on this machine" in page or "MiB" in page, "the page of a new run tells no costs")
        pages.see(f"/training/{self.first['id']}/")
        cost = next(row for row in networks if row["architecture"] == NETWORK)
        return f"{len(networks)} networks, {len(measured)} of them measured; {NETWORK}: {cost['memory_mib']} MiB, {cost['seconds']:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="two networks in the default run")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="leave out what was not done after this time")
    parser.add_argument("--folder", help="where the throw-away portal lies")
    options = parser.parse_args()
    with Portal(options.folder, own_database=True) as portal:
        use = Use(portal, options.small)
        rows = steps.run(use.plan, options.limit_s)
    print(
        f"\n{steps.table(rows)}\nPython {sys.version.split()[0]}, {os.cpu_count()} processors, accelerators: {len(use.accelerators)}"
    )
    return 0 if all(row.is_ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
