"""Persons stay out: planted identifiers are in no table, no file and no log of a project that does not keep them."""

from __future__ import annotations

import base64
import json

import h5py
import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from datasets import ecg, labelling, uploading
from datasets.file_names import FileNames
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from datasets.identity import pseudonym, site_name
from datasets.models import LabelImport, Record, Subject
from datasets.scrubbing import AS_SENT, NOT_KEPT, SCRUBBED, scrub
from datasets.services import upload_receive
from datasets.simulate import simulate
from ecgportal import storage
from ecgportal.audit.export import as_csv, as_fhir, as_json
from ecgportal.audit.models import AuditEvent
from ecgportal.jobs.models import JobState
from ecgportal.projects.services import pseudonym_key
from ecgportal.secrets import decrypt
from tests.datasets.formats.test_fhir_observation import as_xml
from tests.ecgfiles import wfdb_pair, zip_of
from tests.factories import make_dataset, make_project, make_user
from tests.planted import (
    BIRTH,
    FIRST,
    FREE,
    NAME,
    NUMBER,
    PLACE,
    everything_stored,
    hits,
    leads,
    planted_arrays,
    planted_contec,
    planted_dicom,
    planted_edf,
    planted_fhir,
    planted_mfer,
    planted_muse,
    planted_wfdb,
    unpacked,
)
from tests.shared import needs_shared
from tests.working import work_off


def take_in(project, files: dict[str, bytes], **options):
    dataset = make_dataset(project)
    sent = [SimpleUploadedFile(name, data) for name, data in files.items()]
    ingest = upload_receive(actor=make_user(), dataset=dataset, files=sent, options=options)
    jobs = work_off()
    assert [job.state for job in jobs] == [JobState.SUCCEEDED]
    return dataset, ingest


@needs_shared
def test_planted_identifiers_are_nowhere(db, own_home, caplog, capfd, django_capture_on_commit_callbacks):
    files = {
        **planted_wfdb(),
        "a.dcm": planted_dicom(),
        "b.xml": planted_muse(),
        "c.edf": planted_edf(),
        "d.xml": f"<x>{NAME}</x>".encode(),
        "e.json": planted_fhir(),
        "f.mwf": planted_mfer(),
        "g.xml": as_xml(json.loads(planted_fhir()) | {"id": "second"}).replace(" 9 16 ", " 9 17 ").encode(),
    }
    assert all(hits(data) for name, data in files.items() if name != "ecg.dat")
    dataset, ingest = take_in(make_project(), files)
    records = {record.key: record for record in Record.objects.filter(dataset=dataset)}
    assert set(records) == {"ecg", "a", "b", "c", "e", "f", "g"}, list(ingest.items.values_list("name", "message"))
    table = f"file,patient_id,name,born,recording_date,remark,label\na,{NUMBER},{NAME},{BIRTH},2009-07-23 10:11:12,{FREE},NORM\n"
    table += f"c,{NUMBER},{FIRST},1937-04-11,2009-07-23 10:11:12,{PLACE},AFIB\n"
    labelling.import_start(
        actor=make_user(),
        dataset=dataset,
        file=SimpleUploadedFile("t.csv", table.encode()),
        mapping={"labels": ["label"]},
    )
    with django_capture_on_commit_callbacks(execute=True):
        (job,) = work_off()
    assert (job.state, job.result["taken"]) == (JobState.SUCCEEDED, 2), job.error_message
    found = {where: words for where, data in everything_stored().items() if (words := hits(data))}
    assert found == {}
    assert not hits(caplog.text.encode()) and not hits("".join(capfd.readouterr()).encode())
    assert {key: record.meta["original"] for key, record in records.items()} == {
        "ecg": SCRUBBED, "a": SCRUBBED, "b": NOT_KEPT, "c": SCRUBBED, "e": NOT_KEPT, "f": NOT_KEPT, "g": NOT_KEPT,
    }  # fmt: skip


def test_the_search_finds_what_a_project_keeps(db, own_home):
    """Else it would prove nothing where it finds nothing."""
    name = f"{NAME}_{FIRST}"
    header = wfdb_pair(simulate("SNR", 3, fs_hz=250).record, name)
    header[f"{name}.hea"] += f"#{NUMBER}\n".encode()
    take_in(make_project(keeps_identifiers=True), header)
    found = {where: hits(data) for where, data in everything_stored().items()}
    assert set(found["table datasets_record"]) == {NAME, FIRST}
    assert [words for where, words in found.items() if where.startswith("blobs") and words] == [[NAME, FIRST, NUMBER]]
    for before in (b"", b"x", b"xy"):
        assert hits(base64.b64encode(before + name.encode() + b"..")) == [NAME, FIRST]
    assert hits(f"\\x{name.encode().hex()}".encode()) == [NAME, FIRST] and hits(name.upper().encode("utf-16-le")) == [
        NAME,
        FIRST,
    ]
    assert hits(unpacked(zip_of({"a.txt": b"born 11-APR-1937"}))) == ["11-Apr-1937"]


def test_words_beside_bare_numbers_are_nowhere(db, own_home, caplog, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        _, ingest = take_in(make_project(), planted_arrays(), fs_hz=500.0, unit="mV", lead_order=list(ecg.LEADS_12))
    told = dict(ingest.items.values_list("name", "message"))
    assert ingest.items.exclude(outcome="refused").count() == len(told) - 1
    # The sentence about a column says all but what the column is called.
    assert told["column.npy"].startswith("column.npy holds no array that is an ECG; it holds I (9,), … (9,).")
    assert {where: words for where, data in everything_stored().items() if (words := hits(data))} == {}
    assert not hits(caplog.text.encode())


def test_names_in_capitals_are_nowhere_and_in_no_export(
    db, own_home, caplog, capfd, django_capture_on_commit_callbacks
):
    """Names as devices write them, in file names and texts of files that have no identifying field of their own."""
    stem = f"{NAME}_{FIRST}_1937".upper()
    pair = wfdb_pair(simulate("SNR", 3, fs_hz=250).record, stem)
    header = pair[f"{stem}.hea"].decode() + f"#Dx: {NAME.upper()}^{FIRST.upper()}\n#{NAME}^{FIRST} {BIRTH}\n"
    lone = wfdb_pair(simulate("SNR", 4, fs_hz=250).record, f"{NAME.lower()}_{FIRST.lower()}_{BIRTH}")
    owner = make_user()
    project = make_project({owner: "owner"})
    with django_capture_on_commit_callbacks(execute=True):
        dataset, _ = take_in(
            project, {**pair, f"{stem}.hea": header.encode(), **lone, f"{NAME}^{FIRST}.txt": b"nothing"}
        )
    assert Record.objects.filter(dataset=dataset, key__startswith="F-").count() == 2
    table = f"file,label\n{stem},NORM\n{stem}_2,NORM\n"
    labelling.import_start(
        actor=owner, dataset=dataset, file=SimpleUploadedFile(f"{NAME}^{FIRST}.csv", table.encode()), mapping={"labels": ["label"]}
    )  # fmt: skip
    with django_capture_on_commit_callbacks(execute=True):
        (job,) = work_off()
    assert job.result["taken"] == 1, job.result
    assert {where: words for where, data in everything_stored().items() if (words := hits(data))} == {}
    assert not hits(caplog.text.encode()) and not hits("".join(capfd.readouterr()).encode())
    events = AuditEvent.objects.filter(project_id=project.pk).order_by("id")
    told = "".join("".join(form(events)) for form in (as_csv, as_json, as_fhir))
    assert len(told) > 1000 and not hits(told.encode())
    client = Client()
    client.force_login(owner)
    record = Record.objects.filter(dataset=dataset).first()
    for path in (
        f"/api/v1/records/?dataset={dataset.pk}", f"/api/v1/records/{record.pk}/", f"/api/v1/datasets/{dataset.pk}/labels/",
        f"/api/v1/records/{record.pk}/signal/?format=csv", f"/datasets/{dataset.pk}/", f"/records/{record.pk}/", f"/records/{record.pk}/ecg.svg",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200 and not hits(answer.content), path
        assert not hits(str(answer.headers).encode())


def test_the_name_in_a_file_that_waits_for_answers_is_in_no_message(db, own_home, caplog):
    dataset, ingest = take_in(make_project(), {"h.ecg": planted_contec()})
    (item,) = ingest.items.all()
    assert item.code == "needs_answer" and set(item.asks) == {"fs_hz", "unit", "lead_order"}
    tables = {where: data for where, data in everything_stored().items() if where.startswith("table ")}
    name = NAME[:8].lower().encode()
    assert (
        not [where for where, data in tables.items() if name in data.lower()]
        and name not in caplog.text.lower().encode()
    )


@needs_shared
def test_a_person_in_a_file_name_is_nowhere(db, own_home, caplog, capfd, django_capture_on_commit_callbacks):
    """The name of the person may be what a file is called, a folder, an archive, or a table's cell."""
    stem = f"{NAME}_{FIRST}"
    pair = wfdb_pair(simulate("SNR", 3, fs_hz=250).record, f"{NAME}, {FIRST}/{stem}")
    files = {
        f"{stem}.zip": zip_of({**pair, f"x/{stem}.txt": b"nothing"}),
        # Recognised by what the file itself says of its person.
        f"case {NUMBER}.dcm": planted_dicom(), "plain.edf": planted_edf(),
        f"{stem}_2.csv": b"I,II\n" + b"0.1,0.2\n0.4,0.9\n" * 1500,
    }  # fmt: skip
    project = make_project()
    names = FileNames(pseudonym_key(project))
    with django_capture_on_commit_callbacks(execute=True):
        dataset, ingest = take_in(project, files)
    records = {record.key: record for record in Record.objects.filter(dataset=dataset)}
    assert set(records) == {names.pseudonym(stem), names.pseudonym(f"case {NUMBER}"), "plain"}
    table = f"file,label\n{stem}.hea,NORM\ncase {NUMBER}.dcm,AFIB\nplain,SR\n{FIRST}_{NAME},NORM\n"
    labelling.import_start(
        actor=make_user(), dataset=dataset, file=SimpleUploadedFile(f"{stem}.csv", table.encode()), mapping={"labels": ["label"]}
    )  # fmt: skip
    with django_capture_on_commit_callbacks(execute=True):
        (job,) = work_off()
    assert (job.state, job.result["taken"]) == (JobState.SUCCEEDED, 3), job.error_message
    # The one file that waits for an answer is kept with its name until then.
    ingest.refresh_from_db()
    assert [entry["name"] for entry in ingest.waiting] == [f"{stem}_2.csv"]
    assert ingest.items.get(code="needs_answer").name == ingest.waiting[0]["shown"]
    with django_capture_on_commit_callbacks(execute=True):
        uploading.upload_answer(actor=None, ingest=ingest, options={"fs_hz": 500, "unit": "mV"})
        work_off()
    assert Record.objects.filter(dataset=dataset).count() == 4
    found = {where: words for where, data in everything_stored().items() if (words := hits(data))}
    assert found == {}
    assert not hits(caplog.text.encode()) and not hits("".join(capfd.readouterr()).encode())
    # The stored header still finds its signal file.
    record = records[names.pseudonym(stem)]
    stored = {original.name: storage.read_blob(original.sha256) for original in record.originals.all()}
    header = next(name for name in stored if name.endswith(".hea"))
    _, result = registry.read(BytesSource(header, stored[header], stored))
    assert result.records[0][0] == record.key and len(stored) == 2


@needs_shared
def test_what_research_needs_stays(db):
    files = {**planted_wfdb(), "a.dcm": planted_dicom(), "b.xml": planted_muse(), "c.edf": planted_edf()}
    project = make_project()
    dataset, _ = take_in(project, files)
    records = {record.key: record for record in Record.objects.filter(dataset=dataset).select_related("subject")}
    # One person in three files of three formats is one subject.
    expected = pseudonym(pseudonym_key(project), NUMBER)
    assert {records[key].subject.key for key in "abc"} == {expected}
    assert (records["ecg"].age, records["ecg"].sex) == (62.0, "F")
    assert list(records["ecg"].labels.values_list("system", "code")) == [("snomed", "426783006")]
    assert records["b"].meta["printed"]["heart_rate_bpm"] == 102
    assert records["b"].labels.exists()


@needs_shared
@pytest.mark.parametrize("key", ["ecg", "a", "c"])
def test_a_scrubbed_original_reads_as_the_same_signal(db, key):
    from datasets import signals
    from datasets.ecg import normalise
    from datasets.formats import registry
    from datasets.formats.base import BytesSource

    dataset, _ = take_in(make_project(), {**planted_wfdb(), "a.dcm": planted_dicom(), "c.edf": planted_edf()})
    record = Record.objects.prefetch_related("originals").get(dataset=dataset, key=key)
    stored = {original.name: storage.read_blob(original.sha256) for original in record.originals.all()}
    first = next(name for name in stored if not name.endswith(".dat"))
    _, result = registry.read(BytesSource(first, stored[first], stored))
    again = normalise(result.records[0][1])
    np.testing.assert_array_equal(again.signal, signals.read_signal(record))
    assert again.meta.subject is None and again.fs_hz == record.fs_hz


def test_clean_files_are_kept_as_sent(db):
    files = wfdb_pair(simulate("SNR", 3, fs_hz=250).record, "ecg")
    dataset, _ = take_in(make_project(), files)
    record = Record.objects.get(dataset=dataset)
    assert record.meta["original"] == AS_SENT
    assert {o.name: storage.read_blob(o.sha256) for o in record.originals.all()} == files


@needs_shared
def test_a_project_that_keeps_identifiers_has_them_encrypted(db):
    project = make_project(keeps_identifiers=True)
    dataset, _ = take_in(project, {"a.dcm": planted_dicom()})
    subject = Subject.objects.get(dataset=dataset)
    assert subject.key == pseudonym(pseudonym_key(project), NUMBER)
    assert NUMBER not in subject.identifier_encrypted and decrypt(subject.identifier_encrypted) == NUMBER
    assert storage.read_blob(Record.objects.get(dataset=dataset).originals.get().sha256) == planted_dicom()


def test_label_tables_group_patients_by_the_same_pseudonyms(db):
    project = make_project()
    files = {
        **wfdb_pair(simulate("SNR", 3, fs_hz=250).record, "x1"),
        **wfdb_pair(simulate("SNR", 4, fs_hz=250).record, "x2"),
    }
    dataset, _ = take_in(project, files)
    for _ in range(2):
        table = b"file,patient_id,scp_codes\nx1,15709.0,NORM\nx2,15709,NORM\n"
        labelling.import_start(actor=make_user(), dataset=dataset, file=SimpleUploadedFile("t.csv", table))
        (job,) = work_off()
        assert job.state == JobState.SUCCEEDED, job.error_message
        assert list(Subject.objects.filter(dataset=dataset).values_list("key", flat=True)) == [
            pseudonym(pseudonym_key(project), "15709")
        ]
    row = LabelImport.objects.first()
    assert row.is_scrubbed and b"15709" not in storage.read_blob(row.sha256)
    assert pseudonym(pseudonym_key(make_project()), "15709") != pseudonym(pseudonym_key(project), "15709")


def test_a_site_that_is_a_name_becomes_a_pseudonym(db):
    project = make_project()
    files = {
        **wfdb_pair(simulate("SNR", 3, fs_hz=250).record, "x1"),
        **wfdb_pair(simulate("SNR", 4, fs_hz=250).record, "x2"),
        **wfdb_pair(simulate("SNR", 5, fs_hz=250).record, "x3"),
    }
    dataset, _ = take_in(project, files)
    table = b"file,hospital,fold,label\nx1,St. Elsewhere Hospital,3,NORM\nx2,St. Elsewhere  Hospital,4,NORM\nx3,12.0,5,NORM\n"
    labelling.import_start(actor=make_user(), dataset=dataset, file=SimpleUploadedFile("t.csv", table))
    (job,) = work_off()
    assert job.state == JobState.SUCCEEDED, job.error_message
    first, second, third = Record.objects.filter(dataset=dataset).order_by("key")
    assert first.site == second.site and first.site.startswith("S-") and third.site == "12"
    assert [first.fold, second.fold, third.fold] == [3, 4, 5]
    assert b"Elsewhere" not in storage.read_blob(LabelImport.objects.get().sha256)
    assert site_name(b"k", "St. Elsewhere Hospital", keeps=True) == "St. Elsewhere Hospital"


def test_names_of_files_stay_where_the_project_keeps_identifiers(db):
    files = wfdb_pair(simulate("SNR", 3, fs_hz=250).record, f"{NAME}_{FIRST}")
    dataset, _ = take_in(make_project(keeps_identifiers=True), files)
    assert Record.objects.get(dataset=dataset).key == f"{NAME}_{FIRST}"


@needs_shared
@pytest.mark.parametrize("records", [None, b"-1"])
def test_what_lies_behind_the_data_records_of_an_edf_file_is_not_kept(records, tmp_path):
    data = bytearray(planted_edf())
    if records is not None:
        # The recording was not closed; its last data record is cut off.
        data[236:244] = records.ljust(8)
    data += f"+9\x14{NAME}\x14\x00".encode()
    outcome, kept = scrub("edf", "c.edf", tmp_path / "c.edf", bytes(data))
    assert outcome == SCRUBBED and not hits(kept)


@pytest.mark.parametrize(
    "name", ["tail.npy", "remark.npy", "column.npy", "head.mat", "behind.h5", "before.h5", "group.h5"]
)
def test_words_beside_bare_numbers_are_not_kept(name, tmp_path):
    data = planted_arrays()[name]
    assert hits(data)
    path = tmp_path / name
    path.write_bytes(data)
    kind = {"npy": "numpy", "mat": "matlab", "h5": "hdf5"}[name.rpartition(".")[2]]
    outcome, kept = scrub(kind, name, path)
    assert outcome == (NOT_KEPT if name.endswith("h5") or name == "column.npy" else SCRUBBED)
    if kept is not None:
        assert not hits(kept)
        options = ReadOptions(fs_hz=500, unit="mV", lead_order=ecg.LEADS_12)
        before, after = (
            registry.read(BytesSource(name, content), options)[1].records[0][1].signal for content in (data, kept)
        )
        np.testing.assert_array_equal(before, after)


def test_clean_arrays_are_kept_as_sent(tmp_path):
    for libver in ("earliest", "latest"):
        with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
            file.create_dataset("ecg", data=leads(12), compression="gzip")
        assert scrub("hdf5", "a.h5", tmp_path / "a.h5") == (AS_SENT, None)
    np.save(tmp_path / "a.npy", leads(12).T)
    assert scrub("numpy", "a.npy", tmp_path / "a.npy") == (AS_SENT, None)
