"""Speed of taking in an upload: a zip of generated WFDB, MUSE XML or DICOM files until all their records are stored.

Run: ``python -m tests.bench ingest``. The whole job is timed (unpacking, reading, quality, fingerprint, storing) against
reading the same records once with ``wfdb.rdsamp`` in the same run. Rates are for two cores: records over half of the
processor time that all processes of the job took together, the database's not included; the clock's rate is shown
beside it and is the lower one when other work runs on the machine.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

RECORDS = 384
CORES = 2
# Records a second on two cores.
GOALS = {"WFDB": 300.0, "MUSE XML": 100.0, "DICOM": 60.0}


@contextmanager
def database() -> Iterator[None]:
    """Set Django up over an empty database of its own, in a throw-away folder."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()
    from django.test.utils import setup_databases, teardown_databases

    from ecgportal.embedded_pg import EmbeddedServer

    home = Path(os.environ["PORTAL_TEST_HOME"])
    server = EmbeddedServer(home / "postgres", durable=False) if os.environ.get("PORTAL_TEST_EMBEDDED") else None
    if server:
        server.start()
    try:
        made = setup_databases(verbosity=0, interactive=False)
        try:
            yield
        finally:
            teardown_databases(made, verbosity=0)
    finally:
        if server:
            import shutil

            server.stop(5.0)
            shutil.rmtree(home, ignore_errors=True)


def write_zip(path: Path, records: int, kind: str = "WFDB") -> None:
    """Write files (12 x 5000; MUSE stores eight of the leads) of a few simulated ECGs, each with noise of its own."""
    from datasets.ecg import Record
    from datasets.simulate import simulate

    encode = {"WFDB": _wfdb, "MUSE XML": _muse, "DICOM": _dicom}[kind]
    rng = np.random.default_rng(1)
    base = [simulate(name, seed, fs_hz=500).record for seed, name in enumerate(("SNR", "LVH", "RBBB", "AF"))]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(records):
            ecg = base[number % len(base)]
            noise = rng.normal(0, 0.01, ecg.signal.shape).astype(np.float32)
            record = Record(np.roll(ecg.signal, int(rng.integers(5000)), axis=1) + noise, 500.0, ecg.leads)
            for name, data in encode(record, f"r{number:05d}").items():
                archive.writestr(name, data)


def _wfdb(record: Any, name: str) -> dict[str, bytes]:
    from tests.ecgfiles import wfdb_pair

    return wfdb_pair(record, name)


def _muse(record: Any, name: str) -> dict[str, bytes]:
    from tests.datasets.formats.test_muse_xml import EIGHT, document, lead, waveform

    leads = [lead(label, np.rint(record.lead(label) / 0.00488).astype(np.int64)) for label in EIGHT]
    return {f"{name}.xml": document(waveform("".join(leads)))}


def _dicom(record: Any, name: str) -> dict[str, bytes]:
    from tests.datasets.formats.test_dicom import channel, document, group

    channels = [channel(f"MDC_ECG_LEAD_{label.upper()}", label) for label in record.leads]
    digits = np.rint(record.signal.T / 0.0025).astype("<i2")
    return {f"{name}.dcm": document([group(digits, channels)], PatientID=name)}


def _used_s() -> float:
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _ingest(path: Path, records: int = 0) -> tuple[float, float]:
    """Take the archive in to a new dataset; returns processor time and clock time in seconds."""
    from django.core.files.base import File

    from datasets.services import upload_receive
    from ecgportal.jobs.models import JobState
    from tests.factories import make_dataset, make_project, make_user
    from tests.working import work_off_one

    dataset = make_dataset(make_project())
    with path.open("rb") as stream:
        ingest = upload_receive(actor=make_user(), dataset=dataset, files=[File(stream, name=path.name)])
    used, clock = _used_s(), time.perf_counter()
    job = work_off_one(ingest.job_id)
    used, clock = _used_s() - used, time.perf_counter() - clock
    if job.state != JobState.SUCCEEDED or ingest.items.filter(outcome="accepted").count() != (records or RECORDS):
        raise RuntimeError(f"the ingest ended as {job.state}: {job.error_message}")
    return used, clock


def _plain_s(path: Path, folder: Path, records: int = 40) -> float:
    """Return the processor time that ``wfdb.rdsamp`` takes for one record."""
    import wfdb

    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder, [name for i in range(records) for name in (f"r{i:05d}.hea", f"r{i:05d}.dat")])
    wfdb.rdsamp(str(folder / "r00000"))
    start = time.process_time()
    for i in range(records):
        wfdb.rdsamp(str(folder / f"r{i:05d}"))
    return (time.process_time() - start) / records


def run() -> list[Row]:
    """Take each archive in twice; the first time also starts what every job has to start."""
    rows: list[Row] = []
    with database(), tempfile.TemporaryDirectory() as name:
        for kind, goal in GOALS.items():
            path = Path(name) / f"{kind}.zip"
            write_zip(path, RECORDS, kind)
            used, clock = min(_ingest(path) for _ in range(2))
            rate = RECORDS * CORES / used
            rows += [
                {"name": f"zip to stored records, {kind} 12 x 5000, {CORES} cores", "value": round(rate, 1), "unit": "records/s",
                 "goal": f">= {goal:g}", "ok": rate >= goal},
                {"name": f"the same by the clock, {kind}", "value": round(RECORDS / clock, 1), "unit": "records/s", "goal": None, "ok": None},
            ]  # fmt: skip
            if kind == "WFDB":
                plain = _plain_s(path, Path(name))
                rows += [
                    {"name": "whole chain of one record, against wfdb.rdsamp of it", "value": round(used / RECORDS / plain, 2), "unit": "x",
                     "goal": None, "ok": None},
                    {"name": "processor time of one record, whole chain", "value": round(1000 * used / RECORDS, 2), "unit": "ms",
                     "goal": None, "ok": None},
                ]  # fmt: skip
    return rows


if __name__ == "__main__":
    for row in run():
        print(row["name"], row["value"], row["unit"], row["goal"] or "")
