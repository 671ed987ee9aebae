"""Two portals, each with a home, a database, web server and workers of its own, exchange models through ``/dav/``.

Run with ``pytest -m slow tests/modelhub/test_two_portals.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ecgportal import processes
from ecgportal.embedded_pg import EmbeddedServer
from ecgportal.home import REPOSITORY
from modelhub import loading
from tests.modelhub.conftest import make_contract
from tests.modelhub.test_architectures import small
from tests.modelhub.test_servers import free_port

pytestmark = pytest.mark.slow
PASSWORD = "correct horse battery 7"
BOTH = {"licence": "CC BY 4.0", "intended_use": "Research on rhythm.", "training_data": "Not known."}
_PATIENCE_S = 600


class Portal:
    """A portal started as ``make run`` starts it, spoken to over HTTP alone."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name, free_port()
        self.home = Path(tempfile.mkdtemp(prefix=f"two-{name}-", dir="/tmp"))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PORTAL_", "DJANGO_", "DATABASE_"))}
        own = {
            "PORTAL_HOME": str(self.home), "PORT": str(self.port), "PORTAL_ADMIN_PASSWORD": PASSWORD, "PORTAL_DEMO": "1",
            "PORTAL_IO_WORKERS": "1", "PORTAL_TRAIN_WORKERS": "1", "PORTAL_WEB_WORKERS": "1", "PORTAL_ENV_FILE": str(self.home / "none"),
        }  # fmt: skip
        self.output = self.home / "output"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ecgportal.supervisor"],
                cwd=REPOSITORY,
                env=inherited | own,
                stdout=output,
                stderr=output,
            )
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=f"{self.url}/api/v1/", timeout=60, trust_env=False)

    def until(self, condition: Any, what: str) -> Any:
        deadline = time.monotonic() + _PATIENCE_S
        while not (value := condition()):
            assert self.process.poll() is None, self.output.read_text()[-3000:]
            assert time.monotonic() < deadline, f"waited in vain for {what} of {self.name}"
            time.sleep(0.3)
        return value

    def sign_in(self) -> Portal:
        self.until(self._is_well, "the start")
        self.token = self.ask("post", "auth/token/", username="admin", password=PASSWORD)["token"]
        self.http.headers["Authorization"] = f"Token {self.token}"
        [dataset] = self.until(lambda: self.ask("get", "datasets/")["results"], "the demonstration dataset")
        self.dataset, self.project = dataset["id"], dataset["project"]
        self.until(
            lambda: self.ask("get", f"datasets/{self.dataset}/")["record_count"] == 200, "the demonstration records"
        )
        self.slug = self.ask("get", f"projects/{self.project}/")["slug"]
        return self

    def _is_well(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False, timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method: str, address: str, /, *, files: Any = None, params: Any = None, **body: Any) -> Any:
        how = {"data": body, "files": files} if files else {"json": body} if method != "get" else {}
        answer = self.http.request(method.upper(), address, params=params, **how)
        assert answer.is_success, (self.name, address, answer.text[:1000])
        return answer.json() if answer.content else None

    def job(self, pk: str) -> Any:
        row = self.until(
            lambda: (found := self.ask("get", f"jobs/{pk}/"))["state"] in ("succeeded", "failed") and found, "a job"
        )
        assert row["state"] == "succeeded", row
        return row["result"]

    def predict(self, version: str) -> dict[str, dict[str, float]]:
        run = self.ask("post", "predictions/", version=version, dataset=self.dataset)
        self.job(run["job"])
        rows: list[Any] = []
        page = self.ask("get", f"predictions/{run['id']}/rows/")
        while True:
            rows += page["results"]
            if not page["next"]:
                return {row["key"]: row["probabilities"] for row in rows}
            page = self.ask("get", page["next"])

    def pulls_from(self, other: Portal) -> str:
        """Set the other portal up as an exchange, pull its newest model, accept it, and return the version."""
        exchange = self.ask(
            "post",
            "exchanges/",
            name=other.name,
            url=f"{other.url}/dav/{other.slug}/",
            username="admin",
            password=other.token,
        )["id"]
        assert self.ask("post", f"exchanges/{exchange}/test/")["ok"]
        rows = self.ask("get", f"exchanges/{exchange}/models/", params={"project": self.project})["results"]
        [path] = [row["path"] for row in rows if row["state"] == "remote_only"]
        pulled = self.ask("post", f"exchanges/{exchange}/pull/", project=self.project, path=path)
        found = self.job(pulled["job"])
        assert (found["state"], found["signature"]) == ("quarantined", "unknown")
        refused = self.http.post("predictions/", json={"version": found["version"], "dataset": self.dataset})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_quarantined")
        self.ask("post", f"model-versions/{found['version']}/accept/")
        states = {
            r["path"]: r["state"]
            for r in self.ask("get", f"exchanges/{exchange}/models/", params={"project": self.project})["results"]
        }
        assert states[path] == "same"
        return found["version"]

    def clear(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        processes.end_processes(self.home / "run", hurry=lambda: True)
        EmbeddedServer(self.home / "postgres").stop(2.0)
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture
def portals():
    both = [Portal("north"), Portal("south")]
    try:
        yield [portal.sign_in() for portal in both]
    finally:
        for portal in both:
            portal.clear()


def same(one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]) -> float:
    """Return the largest difference of two sets of predictions on the same records."""
    assert len(one) == 200
    assert one.keys() == other.keys()
    return max(abs(p - other[key][name]) for key, answers in one.items() for name, p in answers.items())


def test_models_go_both_ways_and_answer_the_same(portals):
    north, south = portals
    # North has a copy of the starter model; it goes south.
    [entry] = north.ask("get", "catalogue/")["results"]
    own = north.ask("post", f"catalogue/{entry['id']}/copy/", project=north.project)
    there = south.pulls_from(north)
    assert south.ask("get", f"model-versions/{there}/")["sha256"] == own["sha256"]
    assert same(north.predict(own["id"]), south.predict(there)) <= 1e-6
    # South imports another network; it goes north.
    contract = make_contract(architecture="xresnet1d18")
    files = loading.export(small("xresnet1d18", n_leads=12, n_samples=1000, n_classes=5).eval(), contract)
    taken = south.ask(
        "post",
        "model-versions/",
        files={"file": ("net.onnx", files.main)},
        project=south.project,
        name="Southern net",
        **BOTH,
    )
    imported = south.job(taken["job"])["version"]
    # What came from the north is offered back as well and known there as the same.
    back = north.pulls_from(south)
    assert north.ask("get", f"model-versions/{back}/")["card"]["licence"] == BOTH["licence"]
    assert same(south.predict(imported), north.predict(back)) <= 1e-6
    kinds = {row["action"] for row in north.ask("get", "audit-events/", params={"page_size": 200})["results"]}
    assert {"exchange.pulled", "model_version.accepted", "model_version.downloaded"} <= kinds, json.dumps(sorted(kinds))
