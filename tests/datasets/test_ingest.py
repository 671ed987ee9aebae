"""From uploads to records: order, claims, restarts, processes that die, and the same signal under another name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import h5py
import numpy as np
import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection

from datasets import announced, ingest_plan, reading_pool, signals, twins
from datasets import ingest as ingesting
from datasets.ecg import Record
from datasets.file_index import FileIndex
from datasets.fingerprint import buckets
from datasets.formats.base import ReadOptions
from datasets.models import Ingest, IngestItem, OriginalFile, Outcome
from datasets.models import Record as StoredRecord
from datasets.reading import FileTask
from datasets.reading_pool import ReadingPool, read_here
from datasets.services import upload_receive
from datasets.simulate import simulate
from ecgportal import storage
from ecgportal.errors import JobCancelled
from ecgportal.jobs import services as job_services
from ecgportal.jobs.models import Job, JobState
from tests.ecgfiles import wfdb_pair, zip_of
from tests.factories import make_dataset, make_project, make_user
from tests.working import work_off


def _nothing() -> None:
    return None


def ecg(seed: int, fs_hz: float = 100.0) -> Record:
    return simulate("SNR", seed, fs_hz=fs_hz).record


def many(count: int, first: int = 0) -> dict[str, bytes]:
    """Return WFDB pairs with different signals, cheaply made of one ECG."""
    base = ecg(1)
    files: dict[str, bytes] = {}
    for number in range(first, first + count):
        noise = np.random.default_rng(number).normal(0, 0.3, base.signal.shape).astype(np.float32)
        files |= wfdb_pair(Record(base.signal + noise, base.fs_hz, base.leads), f"part{number % 3}/r{number:04d}")
    return files


def upload(dataset, files: dict[str, bytes], **options) -> Ingest:
    sent = [SimpleUploadedFile(name.rpartition("/")[2], data) for name, data in files.items()]
    for file, name in zip(sent, files):
        file.name = name
    return upload_receive(actor=make_user(), dataset=dataset, files=sent, options=options)


def outcomes(ingest: Ingest) -> list[tuple[str, str, str]]:
    return list(ingest.items.order_by("position").values_list("name", "outcome", "code"))


@pytest.fixture
def pooled(monkeypatch):
    """Read in processes of their own, as large uploads are."""
    monkeypatch.setattr(ingest_plan, "_FEW_FILES", 0)
    monkeypatch.setattr(ingest_plan, "FILES_PER_PART", 8)
    monkeypatch.setattr(ingesting, "_workers", lambda: 2)


class TestOutcome:
    def test_here_and_in_processes_the_same_comes_out_in_the_same_order(self, dataset, monkeypatch, pooled):
        files = {**many(20), "readme.txt": b"nothing", "part0/lonely.dat": b"\x00" * 64}
        first = upload(dataset, {"a.zip": zip_of(files)})
        (job,) = work_off()
        assert job.state == JobState.SUCCEEDED, job.error_message
        monkeypatch.setattr(ingest_plan, "_FEW_FILES", 1000)
        other = make_dataset(dataset.project)
        second = upload(other, {"a.zip": zip_of(files)})
        work_off()
        assert outcomes(first) == outcomes(second)
        assert ingesting.outcome_counts(first) == {"accepted": 20, "companion": 20, "refused": 2, "duplicate": 0}
        ours, theirs = (StoredRecord.objects.filter(dataset=d).order_by("key") for d in (dataset, other))
        for one, two in zip(ours, theirs, strict=True):
            assert np.array_equal(signals.read_signal(one), signals.read_signal(two))
            assert (one.quality, one.fingerprint, one.meta) == (two.quality, two.fingerprint, two.meta)

    def test_signals_and_original_bytes_are_those_that_were_sent(self, dataset, pooled):
        files = many(9)
        upload(dataset, {"a.zip": zip_of(files)})
        work_off()
        for record in StoredRecord.objects.filter(dataset=dataset).prefetch_related("originals"):
            stem = next(name for name in files if name.endswith(f"{record.key}.hea")).removesuffix(".hea")
            digits = np.frombuffer(files[f"{stem}.dat"], "<i2").reshape(-1, 12).T
            np.testing.assert_allclose(signals.read_signal(record), digits / 1000, atol=1e-6)
            assert {o.name: storage.read_blob(o.sha256) for o in record.originals.all()} == {
                f"{record.key}.hea": files[f"{stem}.hea"], f"{record.key}.dat": files[f"{stem}.dat"],
            }  # fmt: skip

    def test_the_same_again_is_a_duplicate_and_takes_no_room(self, dataset, pooled):
        upload(dataset, {"a.zip": zip_of(many(10))})
        work_off()
        packs = set(storage.area("signals", dataset.pk).iterdir())
        again = upload(dataset, {"b.zip": zip_of(many(10))})
        more = upload(dataset, {"c.zip": zip_of(many(12))})
        work_off()
        assert ingesting.outcome_counts(again)["duplicate"] == 10
        counts = ingesting.outcome_counts(more)
        assert (counts["duplicate"], counts["accepted"]) == (10, 2)
        new = set(storage.area("signals", dataset.pk).iterdir()) - packs
        assert sum(path.stat().st_size for path in new) == 2 * 4 * 12 * 1000

    def test_a_key_that_is_taken_gets_its_folder_or_is_refused(self, dataset):
        def named(number: int, folder: str) -> dict[str, bytes]:
            (header, data), stem = many(1, number).values(), f"r{number:04d}"
            return {f"{folder}/x.hea": header, f"{folder}/{stem}.dat": data}

        first = upload(dataset, {"a.zip": zip_of({**named(0, "a"), **named(1, "b")})})
        second = upload(dataset, {"b.zip": zip_of(named(2, "a"))})
        third = upload(dataset, {"c.zip": zip_of(named(3, "a"))})
        work_off()
        assert [row[1] for row in outcomes(first)] == ["accepted", "companion", "accepted", "companion"]
        assert outcomes(second)[0] == ("a/x.hea", "accepted", "")
        assert set(StoredRecord.objects.filter(dataset=dataset).values_list("key", flat=True)) == {"x", "a/x", "b/x"}
        assert outcomes(third)[0] == ("a/x.hea", "refused", "key_taken")

    def test_a_collection_is_read_in_parts(self, dataset, pooled, monkeypatch):
        monkeypatch.setattr(ingest_plan, "LARGE_BYTES", 1000)
        rng = np.random.default_rng(2)
        base = ecg(1).signal.T
        count = 700
        tracings = np.stack([base + rng.normal(0, 0.3, base.shape) for _ in range(count)]).astype(np.float32)
        path = storage.area("run") / "exams.hdf5"
        with h5py.File(path, "w") as file:
            file["tracings"] = tracings
            file["exam_id"] = np.arange(5000, 5000 + count)
        ingest = upload(
            dataset, {"exams.hdf5": path.read_bytes()}, fs_hz=100.0, unit="mV", lead_order=list(ecg(1).leads)
        )
        (job,) = work_off()
        assert job.state == JobState.SUCCEEDED, job.error_message
        found = outcomes(ingest)
        assert len(found) == count and {row[1:] for row in found} == {("accepted", "")}, found[:2]
        assert [name for name, _, _ in found] == [f"exams.hdf5: {number}" for number in range(5000, 5000 + count)]
        record = StoredRecord.objects.get(dataset=dataset, key="5650")
        np.testing.assert_allclose(signals.read_signal(record), tracings[650].T, atol=1e-6)

    def test_segments_are_not_records_of_their_own(self, dataset):
        pair = wfdb_pair(ecg(1), "a0001")
        files = {**pair, "z9.hea": b"z9/1 12 100 1000\na0001 1000\n"}
        ingest = upload(dataset, {"a.zip": zip_of(files)})
        work_off()
        assert outcomes(ingest) == [
            ("z9.hea", "accepted", ""), ("a0001.hea", "companion", ""), ("a0001.dat", "companion", ""),
        ]  # fmt: skip


class TestSameSignal:
    def test_it_is_found_in_another_file_and_grouped(self, dataset, pooled):
        record = ecg(5)
        upload(dataset, {"a.zip": zip_of({**wfdb_pair(record, "one"), **wfdb_pair(ecg(6), "other")})})
        second = upload(
            dataset,
            {
                "b.zip": zip_of(
                    {**wfdb_pair(record, "two", gain_per_mv=500.0), **wfdb_pair(record, "three", gain_per_mv=400.0)}
                )
            },
        )
        work_off()
        assert set(second.items.exclude(code="").values_list("name", "outcome", "code")) == {
            ("two.hea", "accepted", "same_signal"), ("three.hea", "accepted", "same_signal"),
        }  # fmt: skip
        (group,) = twins.groups(dataset)
        keys = dict(dataset.records.values_list("pk", "key"))
        assert [keys[pk] for pk in group.records] == ["one", "three", "two"]

    def test_the_database_computes_the_same_buckets(self, dataset):
        upload(dataset, many(1))
        work_off()
        record = StoredRecord.objects.get(dataset=dataset)
        assert tuple(record.fingerprint_buckets) == buckets(record.fingerprint)


class TestPool:
    """The pool itself; a fake file name makes a reader die or hang where the test wants it."""

    @pytest.fixture
    def index(self, tmp_path):
        found = {}
        for name, data in many(12).items():
            path = tmp_path / name.replace("/", "-")
            path.write_bytes(data)
            found[name] = path
        return found

    def tasks(self, index, size=4):
        names = sorted(name for name in index if name.endswith(".hea"))
        return [(i, [FileTask(name) for name in names[i : i + size]]) for i in range(0, len(names), size)]

    @pytest.fixture
    def listed(self, index, tmp_path):
        return FileIndex.write(tmp_path / "files.jsonl", tmp_path, index)

    def test_a_file_that_kills_its_process_is_refused_and_the_others_are_read(
        self, index, listed, tmp_path, monkeypatch
    ):
        worker = tmp_path / "worker.py"
        worker.write_text(
            "import os, sys\nfrom datasets import reading_worker as w\nread = w.read_file\n"
            "def deadly(task, *rest):\n    if 'r0004' in task.name: os.kill(os.getpid(), 9)\n    return read(task, *rest)\n"
            "w.read_file = deadly\nw.main()\n"
        )
        self._use(monkeypatch, worker)
        plain = [a for b in read_here(self.tasks(index), index, ReadOptions(), tmp_path, _nothing) for a in b.answers]
        with ReadingPool(2, listed, {}, tmp_path) as pool:
            batches = list(pool.run(self.tasks(index), _nothing))
        answers = [answer for batch in batches for answer in batch.answers]
        # However often a task was begun anew, its end is told once, and last.
        assert [batch.key for batch in batches if batch.is_last] == [0, 4, 8]
        assert [batch.key for batch in batches] == sorted(batch.key for batch in batches)
        assert [a["name"] for a in answers] == [a["name"] for a in plain]
        assert [(a["name"], a["code"]) for a in answers if a["kind"] == "refused"] == [
            ("part1/r0004.hea", "reader_died")
        ]

    def test_a_file_that_hangs_is_refused(self, index, listed, tmp_path, monkeypatch):
        worker = tmp_path / "worker.py"
        worker.write_text(
            "import os, pathlib, time\nfrom datasets import reading_worker as w\nread = w.read_file\n"
            "def slow(task, *rest):\n"
            "    if 'r0004' in task.name:\n"
            "        pathlib.Path(__file__).with_name(f'hangs-{os.getpid()}').touch()\n"
            "        time.sleep(600)\n"
            "    return read(task, *rest)\n"
            "w.read_file = slow\nw.main()\n"
        )
        self._use(monkeypatch, worker)

        def impatient_once_it_hangs():
            # A process that starts on a busy machine is silent, too.
            hangs = any((tmp_path / f"hangs-{pid}").exists() for pid in pool.pids)
            pool._silent_s = 1.0 if hangs else 600.0

        with ReadingPool(1, listed, {}, tmp_path) as pool:
            answers = [
                answer for batch in pool.run(self.tasks(index), impatient_once_it_hangs) for answer in batch.answers
            ]
        assert [(a["name"], a["code"]) for a in answers if a["kind"] == "refused"] == [
            ("part1/r0004.hea", "reader_timeout")
        ]
        assert len(answers) == 12

    def test_leaving_ends_the_processes(self, index, listed, tmp_path):
        def stop():
            if pool.pids:
                raise JobCancelled("stop")

        with pytest.raises(JobCancelled), ReadingPool(2, listed, {}, tmp_path) as pool:
            pids: list[int] = []
            try:
                list(pool.run(self.tasks(index), stop))
            finally:
                pids = pool.pids
        assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)

    @staticmethod
    def _use(monkeypatch, worker: Path) -> None:
        start = subprocess.Popen

        def popen(command, **rest):
            rest["env"] = {**rest["env"], "PYTHONPATH": str(settings.BASE_DIR)}
            return start([sys.executable, str(worker)], **rest)

        monkeypatch.setattr(reading_pool.subprocess, "Popen", popen)


class TestRestart:
    @pytest.fixture(autouse=True)
    def _before(self):
        self.before = self._blobs()

    def test_a_second_attempt_adds_only_what_is_missing(self, dataset, monkeypatch):
        ingest = upload(dataset, {"a.zip": zip_of(many(30))})
        monkeypatch.setattr(ingest_plan, "FILES_PER_PART", 8)
        write, calls = ingesting.Store.write, []

        def failing(self, batch, taken=None):
            if taken is not None and "unpacks" not in taken.part.work:
                calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return write(self, batch, taken)

        monkeypatch.setattr(ingesting.Store, "write", failing)
        job = job_services.claim(ingest.job.pk, host="here")
        from ecgportal.jobs.context import JobContext

        with pytest.raises(KeyboardInterrupt):
            ingesting.run(JobContext(job))
        assert ingest.items.count() == 32 and StoredRecord.objects.filter(dataset=dataset).count() == 16
        monkeypatch.setattr(ingesting.Store, "write", write)
        ingesting.run(JobContext(job))
        assert ingesting.outcome_counts(ingest) == {"accepted": 30, "companion": 30, "refused": 0, "duplicate": 0}
        assert len({name for name, _, _ in outcomes(ingest)}) == 60

    @pytest.mark.django_db(transaction=True)
    def test_kill_9_in_the_middle_loses_nothing_and_doubles_nothing(self):
        dataset = make_dataset(make_project())
        ingest = upload(dataset, {"a.zip": zip_of(many(400))})
        claimed = job_services.claim(ingest.job.pk, host="here")
        process = self._start(claimed)
        try:
            self._wait(lambda: IngestItem.objects.filter(ingest=ingest).exists() or process.poll() is not None)
            process.kill()
            process.wait(30)
            stored = StoredRecord.objects.filter(dataset=dataset).count()
            assert 0 < stored < 400
            assert job_services.give_back(claimed.pk, claimed.attempt, died=True) == JobState.QUEUED
            claimed = job_services.claim(ingest.job.pk, host="here")
            process = self._start(claimed)
            assert process.wait(300) == 0
        finally:
            if process.poll() is None:
                process.kill()
        job = Job.objects.get(pk=claimed.pk)
        assert job.state == JobState.SUCCEEDED, job.error_message
        assert ingesting.outcome_counts(ingest) == {"accepted": 400, "companion": 400, "refused": 0, "duplicate": 0}
        records = StoredRecord.objects.filter(dataset=dataset)
        assert records.count() == 400 == records.values("content_sha256").distinct().count()
        assert all(np.isfinite(signals.read_signal(record)).all() for record in records[::37])
        assert not list(settings.PORTAL_HOME.glob(f"uploads/{ingest.pk}/*"))

    @pytest.mark.django_db(transaction=True)
    def test_kill_9_before_the_commit_leaves_no_file_behind(self):
        dataset = make_dataset(make_project())
        ingest = upload(dataset, {"a.zip": zip_of(many(4, first=5000))})
        claimed = job_services.claim(ingest.job.pk, host="here")
        dies = (
            "import os, django; django.setup()\n"
            "from datasets import storing\n"
            "from ecgportal.jobs import runner\n"
            "rows = storing.copy_rows\n"
            "def copy_rows(wanted):\n"
            "    if any(type(row).__name__ == 'OriginalFile' for row in wanted):\n"
            "        os.kill(os.getpid(), 9)\n"
            "    return rows(wanted)\n"
            "storing.copy_rows = copy_rows\n"
            f"runner.run('{claimed.pk}', {claimed.attempt})\n"
        )
        process = subprocess.run(
            [sys.executable, "-c", dies], env=self._environment(), cwd=settings.BASE_DIR, check=False
        )
        assert process.returncode == -signal.SIGKILL
        left = self._files(dataset)
        assert len(left["packs"]) == 1 and len(left["blobs"]) == 8 and len(left["notes"]) == 1
        # While somebody writes to the dataset nothing of it is touched.
        other = connection.copy()
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [str(dataset.pk)])
            assert announced.remove_left() == 0 and self._files(dataset) == left
        other.close()
        assert announced.remove_left(dataset.pk) == 1
        assert self._files(dataset) == {"packs": set(), "blobs": set(), "notes": set()}
        job_services.give_back(claimed.pk, claimed.attempt, died=True)
        assert [job.state for job in work_off() if job.kind == "ingest"] == [JobState.SUCCEEDED]
        found = self._files(dataset)
        assert len(found["packs"]) == 1 and len(found["blobs"]) == 8 and not found["notes"]
        assert announced.remove_left() == 0 and self._files(dataset) == found

    def test_a_note_about_what_was_stored_removes_nothing(self, dataset):
        """The process was killed between the commit and taking its note back."""
        upload(dataset, {"a.zip": zip_of(many(2, first=5100))})
        work_off()
        record = StoredRecord.objects.filter(dataset=dataset)[0]
        found = self._files(dataset)
        announced.announce(dataset.pk, record.pack, found["blobs"])
        assert announced.remove_left(dataset.pk) == 0 and self._files(dataset) == found
        assert np.isfinite(signals.read_signal(record)).all()

    def test_the_next_upload_removes_what_another_left(self, dataset):
        pack = uuid.uuid4()
        announced.announce(dataset.pk, pack, [storage.put_bytes(b"of somebody")[0]])
        path = storage.area("signals", dataset.pk) / f"{pack}.f32"
        path.write_bytes(b"samples of somebody")
        upload(make_dataset(make_project()), {"a.zip": zip_of(many(1, first=5200))})
        work_off()
        assert self._files(dataset) == {"packs": set(), "blobs": set(), "notes": set()}

    @staticmethod
    def _blobs() -> set[str]:
        return {path.name for path in Path(settings.MEDIA_ROOT).glob("*/*/*")}

    def _files(self, dataset) -> dict[str, set[str]]:
        """What lies on the disk: packs and notes of a dataset, and blobs of the test that no other dataset names."""
        others = OriginalFile.objects.exclude(record__dataset=dataset).values_list("sha256", flat=True)
        home = settings.PORTAL_HOME
        return {
            "packs": {path.name for path in home.glob(f"signals/{dataset.pk}/*")},
            "notes": {path.name for path in home.glob(f"writing/{dataset.pk}/*")},
            "blobs": self._blobs() - self.before - set(others),
        }

    @staticmethod
    def _wait(condition, limit_s: float = 300.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @staticmethod
    def _start(job: Job) -> subprocess.Popen:
        command = [
            sys.executable,
            str(settings.BASE_DIR / "manage.py"),
            "run_job",
            str(job.pk),
            "--attempt",
            str(job.attempt),
        ]
        return subprocess.Popen(command, start_new_session=True, env=TestRestart._environment())

    @staticmethod
    def _environment() -> dict[str, str]:
        own = connection.settings_dict
        return {
            **os.environ, "DATABASE_URL": f"postgresql://{own['USER']}@/{own['NAME']}?host={own['HOST']}",
            "PORTAL_HOME": str(settings.PORTAL_HOME), "DJANGO_SETTINGS_MODULE": "tests.settings", "PORTAL_READERS": "2",
        }  # fmt: skip

    def test_cancelling_keeps_what_is_stored_and_removes_the_files(self, dataset):
        ingest = upload(dataset, {"a.zip": zip_of(many(5))})
        job = job_services.claim(ingest.job.pk, host="here")
        job_services.cancel(actor=None, job=job)
        from ecgportal.jobs import runner

        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        runner.run(job.pk, job.attempt)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        assert Job.objects.get(pk=job.pk).state == JobState.CANCELLED
        assert not list(settings.PORTAL_HOME.glob(f"uploads/{ingest.pk}/*"))
        assert Outcome.REFUSED not in {outcome for _, outcome, _ in outcomes(ingest)}
