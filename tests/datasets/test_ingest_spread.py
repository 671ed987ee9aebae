"""One upload read by several processes: parts are done once, whoever takes them and whoever dies, and others get their turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from datasets import ingest as ingesting
from datasets import ingest_plan, ingest_sharing, signals
from datasets.models import Ingest, IngestItem, IngestPart, Record, Stage, Subject
from ecgportal import storage
from ecgportal.jobs import runner, services
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job, JobState, WorkerBeat
from tests.bench.bench_ingest import _dicom
from tests.datasets.test_ingest import ecg, many, upload
from tests.ecgfiles import zip_of
from tests.factories import make_dataset, make_project
from tests.working import work_off, work_off_one


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(ingest_plan, "FILES_PER_PART", 4)
    monkeypatch.setattr(ingest_sharing, "_MANY_PARTS", 2)
    monkeypatch.setattr(ingesting, "_LOOK_S", 0.01)
    monkeypatch.setattr(ingesting, "_IDLE_S", 0.1)


def with_subjects(files: dict[str, bytes], subjects: int) -> dict[str, bytes]:
    """Let each header name one of a few persons."""
    headers = sorted(name for name in files if name.endswith(".hea"))
    named = {name: files[name] + f"# patient id: {n % subjects:05d}\n".encode() for n, name in enumerate(headers)}
    return {**files, **named}


def share_of(ingest: Ingest, host: str) -> Job:
    return services.enqueue(
        "ingest_share", actor=None, project=ingest.dataset.project, payload={"ingest": str(ingest.pk)}, host=host
    )


def stop_after(monkeypatch, count: int) -> None:
    """Let the process of the upload's own job die once ``count`` parts with files are stored."""
    write, done = ingesting.Store.write, []

    def dying(self, batch, taken=None):
        if taken is not None and "unpacks" not in taken.part.work:
            done.append(1)
        if len(done) > count:
            raise KeyboardInterrupt
        return write(self, batch, taken)

    with monkeypatch.context() as patch:
        patch.setattr(ingesting.Store, "write", dying)
        ingest = Ingest.objects.get()
        job = services.claim(ingest.job_id, host="a")
        with pytest.raises(KeyboardInterrupt):
            ingesting.run(JobContext(job))


class TestProcesses:
    @pytest.mark.django_db(transaction=True)
    def test_two_hosts_read_one_upload_and_one_of_them_is_killed(self):
        dataset = make_dataset(make_project())
        ingest = upload(dataset, {"a.zip": zip_of(with_subjects(many(768), 5))})
        own = services.claim(ingest.job_id, host="a")
        other = services.claim(share_of(ingest, "b").pk, host="b")
        processes = [self._start(own), self._start(other)]
        try:
            self._until(lambda: self._done("a") and self._done("b"), processes)
            processes[0].kill()
            processes[0].wait(30)
            before = Record.objects.count()
            assert 0 < before < 768
            assert services.give_back(own.pk, own.attempt, died=True) == JobState.QUEUED
            own = services.claim(own.pk, host="c")
            processes.append(self._start(own))
            assert processes[2].wait(300) == 0 and processes[1].wait(60) == 0
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        own.refresh_from_db()
        assert own.state == JobState.SUCCEEDED, own.error_message
        assert Job.objects.get(pk=other.pk).state == JobState.SUCCEEDED
        counts = {"accepted": 768, "companion": 768, "refused": 0, "duplicate": 0}
        assert ingesting.outcome_counts(ingest) == counts
        hosts = own.result["hosts"]
        assert {"a", "b"} <= set(hosts) and sum(hosts.values()) == 1536
        records = Record.objects.filter(dataset=dataset)
        assert records.count() == 768 == records.values("content_sha256").distinct().count()
        assert Subject.objects.filter(dataset=dataset).count() == 5
        assert all(np.isfinite(signals.read_signal(record)).all() for record in records[::97])
        positions = list(ingest.items.order_by("position").values_list("position", flat=True))
        assert positions == sorted(set(positions)) and len(positions) == 1536
        assert not IngestPart.objects.exists()
        assert not list(settings.PORTAL_HOME.glob(f"uploads/{ingest.pk}/*"))

    @staticmethod
    def _done(host: str) -> bool:
        return IngestPart.objects.filter(host=host, is_done=True, n_files__gt=0).exists()

    @staticmethod
    def _until(condition, processes, limit_s: float = 300.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
            time.sleep(0.02)

    @staticmethod
    def _start(job: Job) -> subprocess.Popen:
        own = connection.settings_dict
        environment = {
            **os.environ, "DATABASE_URL": f"postgresql://{own['USER']}@/{own['NAME']}?host={own['HOST']}",
            "PORTAL_HOME": str(settings.PORTAL_HOME), "DJANGO_SETTINGS_MODULE": "tests.settings", "PORTAL_READERS": "1",
        }  # fmt: skip
        command = [sys.executable, "manage.py", "run_job", str(job.pk), "--attempt", str(job.attempt)]
        return subprocess.Popen(command, cwd=settings.BASE_DIR, start_new_session=True, env=environment)


class TestParts:
    def test_what_one_process_left_another_one_does(self, dataset, small_parts, monkeypatch):
        ingest = upload(dataset, {"a.zip": zip_of(many(20))})
        stop_after(monkeypatch, 2)
        assert Record.objects.count() == 8
        # Once it is unpacked the archive takes no room any more.
        assert not (storage.area("uploads", ingest.pk) / ingest.files[0]["path"]).exists()
        # Its parts are held while it seems to run, and free when it is known to be dead.
        assert work_off_one(share_of(ingest, "b").pk).result == {"records": 8}
        held = IngestPart.objects.filter(is_done=False)
        assert [(part.host, len(part.work["files"])) for part in held] == [("a", 4)]
        assert Record.objects.count() == 16
        services.give_back(ingest.job_id, 1, died=True)
        (job,) = work_off()
        assert job.state == JobState.SUCCEEDED, job.error_message
        assert job.result["hosts"] == {"a": 16, "tests": 24}
        assert ingesting.outcome_counts(ingest) == {"accepted": 20, "companion": 20, "refused": 0, "duplicate": 0}

    def test_a_file_that_two_parts_read_is_told_once(self, dataset, small_parts):
        files = many(1)
        header, data = (name for name in sorted(files, reverse=True))
        copies = {f"part0/x{n}.hea": files[header].replace(b"r0000 ", f"x{n} ".encode(), 1) for n in range(6)}
        ingest = upload(dataset, {"a.zip": zip_of({**copies, data: files[data]})})
        (job,) = work_off()
        assert job.state == JobState.SUCCEEDED, job.error_message
        assert ingesting.outcome_counts(ingest) == {"accepted": 6, "companion": 1, "refused": 0, "duplicate": 0}

    def test_who_lost_its_part_stores_nothing(self, dataset, small_parts, monkeypatch):
        ingest = upload(dataset, {"a.zip": zip_of(many(8))})
        stop_after(monkeypatch, 0)
        share = services.claim(share_of(ingest, "b").pk, host="b")
        Job.objects.filter(pk=ingest.job_id).update(attempt=2)
        ingest.job.refresh_from_db()
        plan = ingest_plan.Plan(Ingest.objects.select_related("job").get())
        taken = plan.take(share)
        assert taken is not None and taken.part.host == "b"
        # It kept silent for too long: the upload's own job has taken the part.
        IngestPart.objects.filter(pk=taken.part.pk).update(taken_by=ingest.job, taken_attempt=2)
        store = ingesting.Store(plan.ingest)
        with pytest.raises(ingest_plan.PartLost):
            store.write(ingesting.Batch([ingest_plan.refused("x", "broken", "It is broken.")], None), taken)
        assert not IngestItem.objects.exists() and not Record.objects.exists()

    def test_cancelling_the_upload_stops_those_that_help(self, dataset, small_parts, monkeypatch):
        ingest = upload(dataset, {"a.zip": zip_of(many(20))})
        stop_after(monkeypatch, 1)
        services.give_back(ingest.job_id, 1, died=True)
        services.cancel(actor=None, job=ingest.job)
        job = work_off_one(share_of(ingest, "b").pk)
        assert (job.state, job.result) == (JobState.SUCCEEDED, {"records": 0})
        assert Record.objects.count() == 4
        # What is left of it goes with the next upload.
        upload(dataset, many(1, 50))
        work_off()
        assert not IngestPart.objects.exists() and not list(settings.PORTAL_HOME.glob(f"uploads/{ingest.pk}/*"))

    def test_names_that_files_tell_are_known_to_who_ends_the_upload(self, dataset, small_parts, monkeypatch):
        named: dict[str, bytes] = {}
        for number in range(8):
            # Each file is named by what it says is its patient.
            named |= _dicom(ecg(number, fs_hz=500.0), f"815551{number}")
        ingest = upload(dataset, named)
        stop_after(monkeypatch, 1)
        services.give_back(ingest.job_id, 1, died=True)
        work_off()
        ingest.refresh_from_db()
        assert ingesting.outcome_counts(ingest)["accepted"] == 8
        assert ingest.stage == Stage.READ and not any("815551" in entry["name"] for entry in ingest.files)
        assert not ingest.items.filter(name__contains="815551").exists()


class TestSharing:
    def test_other_hosts_are_asked_and_not_waited_for(self, dataset, small_parts):
        for name, age_s in (("b", 0), ("gone", 900)):
            WorkerBeat.objects.create(name=name, at=timezone.now() - timedelta(seconds=age_s))
        upload(dataset, {"a.zip": zip_of(many(20))})
        (job,) = work_off()[:1]
        assert job.kind == "ingest" and job.state == JobState.SUCCEEDED
        share = Job.objects.get(kind="ingest_share")
        assert (share.host, share.state, share.created_by) == ("b", JobState.CANCELLED, job.created_by)

    def test_a_small_upload_asks_nobody(self, dataset):
        WorkerBeat.objects.create(name="b", at=timezone.now())
        upload(dataset, {"a.zip": zip_of(many(20))})
        work_off()
        assert not Job.objects.filter(kind="ingest_share").exists()

    def test_a_job_for_a_host_is_started_there_only(self, dataset, monkeypatch):
        ingest = upload(dataset, {"a.zip": zip_of(many(1))})
        share = share_of(ingest, "b")
        begun: list = []
        monkeypatch.setattr(runner, "start_beside", lambda pk: begun.append(pk) or _Thread())
        for name, expected in (("a", []), ("b", [share.pk]), ("b", [share.pk])):
            monkeypatch.setenv("PORTAL_HOST_NAME", name)
            started = dict.fromkeys(begun, _Thread())
            runner.start_own(started)
            assert begun == expected
        # Given back after an orderly stop it still waits for its host.
        claimed = services.claim(share.pk, host="b")
        services.give_back(claimed.pk, claimed.attempt, died=False)
        assert list(services.for_host("b")) == [share] and not services.for_host("a").exists()

    def test_a_collection_that_is_not_on_the_host_is_left_to_others(self, dataset, settings, tmp_path):
        settings.IMPORT_ROOTS = [tmp_path]
        ingest = upload(dataset, many(1))
        Ingest.objects.filter(pk=ingest.pk).update(source={"collection": "ptbxl", "folder": "elsewhere/ptb-xl"})
        job = work_off_one(share_of(ingest, "b").pk)
        assert job.state == JobState.SUCCEEDED and "elsewhere/ptb-xl" in job.result["reason"]


class _Thread:
    def is_alive(self) -> bool:
        return True


class TestTurns:
    def test_a_long_import_lets_others_have_its_worker_and_goes_on(self, dataset, small_parts, settings):
        settings.JOB_TURN_S = 0.0
        ingest = upload(dataset, {"a.zip": zip_of(many(40))})
        other = upload(make_dataset(dataset.project), many(1, 90))
        Job.objects.filter(pk=other.job_id).update(enqueued_at=timezone.now() - timedelta(seconds=9))
        first = work_off_one(ingest.job_id)
        assert first.state == JobState.QUEUED and "others" in first.message.lower()
        assert IngestPart.objects.exists() and first.attempt < first.max_attempts
        jobs = work_off()
        assert [job.pk for job in jobs][0] == other.job_id and {job.state for job in jobs} == {JobState.SUCCEEDED}
        assert ingesting.outcome_counts(ingest)["accepted"] == 40

    def test_nobody_waits_nobody_gives_way(self, dataset, small_parts, settings):
        settings.JOB_TURN_S = 0.0
        ingest = upload(dataset, {"a.zip": zip_of(many(40))})
        assert work_off_one(ingest.job_id).state == JobState.SUCCEEDED
