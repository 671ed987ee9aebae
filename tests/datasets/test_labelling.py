"""Label tables and the files that they speak of, in whichever order they come."""

from __future__ import annotations

from django.core.files.uploadedfile import SimpleUploadedFile

from datasets import label_jobs, labelling
from datasets.models import LabelImport, LabelSource, Record, RecordLabel
from datasets.services import upload_receive
from ecgportal.jobs import runner
from ecgportal.jobs.models import Job, JobState
from tests.ecgfiles import make_cohort, zip_of
from tests.factories import make_user
from tests.working import work_off, work_off_one


def send(dataset, files: dict[str, bytes]):
    return upload_receive(actor=make_user(), dataset=dataset, files=[SimpleUploadedFile("a.zip", zip_of(files))])


def table(dataset, text: bytes) -> LabelImport:
    return labelling.import_start(actor=make_user(), dataset=dataset, file=SimpleUploadedFile("t.csv", text))


def table_codes(dataset) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    rows = RecordLabel.objects.filter(record__dataset=dataset, source=LabelSource.TABLE)
    for key, code in rows.values_list("record__key", "code"):
        found.setdefault(key, set()).add(code)
    return found


def pairs(cohort, *keys: str) -> dict[str, bytes]:
    return {name: data for name, data in cohort.files.items() if name.rpartition("/")[2].partition(".")[0] in keys}


def test_a_table_labels_records_that_come_after_it(dataset):
    cohort = make_cohort(3)
    send(dataset, pairs(cohort, "case000"))
    work_off()
    first = table(dataset, cohort.table())
    work_off()
    assert set(table_codes(dataset)) == {"case000"}
    first.refresh_from_db()
    assert (first.result["taken"], first.result["unmatched"]) == (1, 2)
    # What the table said of other records stays as it is when it speaks again.
    kept = RecordLabel.objects.get(record__key="case000", code="NORM", source=LabelSource.TABLE)
    send(dataset, pairs(cohort, "case001", "case002"))
    (job,) = work_off()
    assert job.state == JobState.SUCCEEDED, job.error_message
    assert set(table_codes(dataset)) == {"case000", "case001", "case002"}
    assert RecordLabel.objects.filter(pk=kept.pk).exists()
    first.refresh_from_db()
    assert (first.result["taken"], first.result["unmatched"]) == (3, 0)
    assert Record.objects.filter(dataset=dataset, fold__isnull=False, subject__isnull=False).count() == 3


def test_a_table_without_labels_leaves_labels_alone(dataset):
    cohort = make_cohort(2)
    send(dataset, cohort.files)
    table(dataset, cohort.table())
    table(dataset, b"file_name,age,site\ncase000,61,7\ncase001,62,7\n")
    work_off()
    assert set(table_codes(dataset)) == {"case000", "case001"}
    assert sorted(Record.objects.values_list("age", "site")) == [(61.0, "7"), (62.0, "7")]


def test_the_job_waits_for_files_that_were_sent_before_it(dataset, monkeypatch):
    cohort = make_cohort(2)
    ingest = send(dataset, cohort.files)
    row = table(dataset, cohort.table())
    # The table's job is taken first; it lends its worker to the files.
    lent: list = []

    def beside(job_id):
        lent.append(job_id)
        work_off_one(job_id)

    monkeypatch.setattr(runner, "start_beside", beside)
    monkeypatch.setattr(label_jobs.time, "sleep", lambda seconds: None)
    work_off_one(row.job_id)
    assert lent == [ingest.job_id]
    job = Job.objects.get(pk=row.job_id)
    assert job.state == JobState.SUCCEEDED, job.error_message
    assert job.result["taken"] == 2 and job.result["unmatched"] == 0


def test_a_later_upload_is_not_waited_for(dataset):
    cohort = make_cohort(1)
    row = table(dataset, cohort.table())
    send(dataset, cohort.files)
    assert [job.pk for job in work_off()][0] == row.job_id
    assert set(table_codes(dataset)) == {"case000"}
