"""A web host and two worker hosts that share a database and a bucket and no folder; one loses its power while it trains.

Run: ``python -m tests.proofs.bucket_hosts [--epochs N] [--folder F]``. Three supervisors with a ``PORTAL_HOME`` each work over one database and
moto's S3 server. An upload to the web host is read by a worker and shown by the web host; a training is killed with its whole host after
two epochs and goes on at the other one from the checkpoint in the bucket; then a record is deleted at the web host, and its samples must
be gone from the bucket and from every host within three minutes, and from the one that was killed when it comes back.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np

from tests.ecgfiles import make_cohort
from tests.proofs.client import PASSWORD, Client
from tests.proofs.hosts import Portal, free_port, until

_GONE_S = 180.0
_HOSTS = {"web": "web", "one": "workers", "two": "workers"}


class Bucket:
    """Use as a context: an S3 server in a process of its own, whose settings stand in the environment."""

    def __enter__(self) -> Bucket:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self._server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.environ.update(
            AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="portal", AWS_SECRET_ACCESS_KEY="word", AWS_REGION="us-east-1",
            PORTAL_STORAGE_URL="s3://ecg/proof", PORTAL_SECRET_KEY="s" * 50,
        )  # fmt: skip
        until(lambda: self._answers(url), "the S3 server", 120)
        httpx.put(f"{url}/ecg").raise_for_status()
        return self

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            return httpx.get(f"{url}/moto-api/data.json", timeout=10).is_success
        except httpx.TransportError:
            return False

    def __exit__(self, *exc: object) -> None:
        self._server.kill()
        self._server.wait()


def _where(data: bytes, homes: dict[str, Path]) -> list[str]:
    """Return the files and objects that hold some bytes."""
    from ecgportal import bucket

    store = bucket.parse(os.environ["PORTAL_STORAGE_URL"])
    found = [f"bucket: {entry.key}" for entry in store.list() if data in (store.read(entry.key) or b"")]
    for name, folder in homes.items():
        for path in folder.rglob("*"):
            try:
                if path.is_file() and data in path.read_bytes():
                    found.append(f"{name}: {path.relative_to(folder)}")
            except FileNotFoundError:
                continue
    return found


def prove(epochs: int, folder: str | None) -> bool:
    """Run the proof and print what was found; True when all is as it must be."""
    with Bucket(), Portal(folder) as portal:
        homes = {name: portal.home / f"home-{name}" for name in _HOSTS}
        port = free_port()

        def settings(name: str) -> dict[str, str]:
            return {
                "PORTAL_HOME": str(homes[name]), "PORTAL_RUN": str(portal.home / "run" / f"{name}-{_HOSTS[name]}"), "PORT": str(port),
                "PORTAL_ADMIN_PASSWORD": PASSWORD, "PORTAL_WARM_START": "0",
            }  # fmt: skip

        for name, role in _HOSTS.items():
            portal.start(name, role, **settings(name))
            if name == "web":
                until(lambda: "is ready at" in portal.log("web"), "the web host", 300)
        client = Client(port)
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30).status_code == 200, "health", 300)
        project = client.ask("POST", "projects/", {"name": "Proof"})["id"]
        dataset = client.ask("POST", "datasets/", {"project": project, "name": "Ward"})["id"]
        cohort = make_cohort(40)
        archive = cohort.zip()
        ingest = client.ask("POST", "ingests/", {"dataset": dataset})["id"]
        (row,) = client.ask("POST", f"ingests/{ingest}/files/", {"files": [{"name": "a.zip", "size": len(archive)}]})
        half = len(archive) // 2
        client.piece(row["id"], 0, archive[:half])
        client.piece(row["id"], half, archive[half:])
        job = client.ask("POST", f"ingests/{ingest}/finish/")["job"]
        _end(client, job)
        answer = client.http.post(f"datasets/{dataset}/labels/", files={"file": ("t.csv", cohort.table())})
        answer.raise_for_status()
        _end(client, answer.json()["job"])
        stored = client.ask("GET", f"datasets/{dataset}/")["record_count"]
        record = client.ask("GET", f"records/?dataset={dataset}")["results"][0]["id"]
        shown = client.http.get(f"records/{record}/signal/?format=npy")
        shown.raise_for_status()
        print(f"{stored} of 40 records read by {_host_of(job)}, shown by web ({len(shown.content)} bytes)", flush=True)

        maps = client.ask("GET", "label-maps/?page_size=200")["results"]
        superclass = next(entry["id"] for entry in maps if entry["name"] == "PTB-XL superclass")
        run = client.ask(
            "POST", "training-runs/",
            {
                "project": project, "dataset": dataset, "label_map": superclass, "architecture": "xresnet1d18",
                "settings": {"epochs": epochs, "patience": epochs},
            },
        )  # fmt: skip
        until(lambda: _epochs(client, run["id"]) >= 2, "two epochs", 600)
        victim = _host_of(run["job"])
        print(
            f"training on {victim} after {_epochs(client, run['id'])} epochs: {portal.cut_power(victim)} processes killed",
            flush=True,
        )
        _end(client, run["job"])
        told, finisher = client.ask("GET", f"training-runs/{run['id']}/"), _host_of(run["job"])
        print(
            f"{told['state']} on {finisher}, resumed {told['resumed']} times, {_epochs(client, run['id'])} epochs",
            flush=True,
        )

        marker = np.asarray(_signal_of(record), "<f4")[0, :200].tobytes()
        before = _where(marker, homes)
        client.http.delete(f"records/{record}/").raise_for_status()
        begun = time.monotonic()
        alive = {name: home for name, home in homes.items() if name != victim}
        until(lambda: not _where(marker, alive), "the deleted samples to go", _GONE_S, 2.0)
        print(f"samples of the deleted record lay in {before}; gone after {time.monotonic() - begun:.0f} s", flush=True)
        portal.start(victim, _HOSTS[victim], **settings(victim))
        until(lambda: not _where(marker, homes), "the samples to go from the host that comes back", _GONE_S, 2.0)
        print(f"{victim}, started again, has forgotten them, too", flush=True)
        ok = (
            stored == 40 and told["state"] == "succeeded" and told["resumed"] == 1 and finisher != victim
            and _epochs(client, run["id"]) <= epochs and len(before) >= 2
        )  # fmt: skip
        if not ok:
            print(*(portal.log(name) for name in _HOSTS), sep="\n")
        return ok


def _signal_of(record: str) -> np.ndarray:
    """Read a record's samples as any host would, with this process's own folder."""
    from datasets import signals
    from datasets.models import Record

    return signals.read_signal(Record.objects.get(pk=record))


def _host_of(job: str) -> str:
    from ecgportal.jobs.models import Job

    return Job.objects.get(pk=job).host


def _epochs(client: Client, run: str) -> int:
    return int(client.ask("GET", f"training-runs/{run}/metrics/")["count"])


def _end(client: Client, job: str) -> None:
    """Wait until a job has succeeded."""

    def is_over() -> bool:
        row = client.ask("GET", f"jobs/{job}/")
        if row["state"] in ("failed", "cancelled"):
            raise RuntimeError(f"job {job} {row['state']}: {row['error']}")
        return row["state"] == "succeeded"

    until(is_over, f"the end of job {job}", 900, 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folder", help="where the throw-away portal lies")
    options = parser.parse_args()
    ok = prove(options.epochs, options.folder)
    print("PASSED" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
