"""Pages of datasets, records and uploads."""

from __future__ import annotations

import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from datasets import labelling, selectors, services
from datasets.measure.features import VERSION
from datasets.models import Dataset, Ingest, IngestItem, Record, RecordFeatures
from ecgportal import storage
from ecgportal.audit.models import AuditEvent
from ecgportal.jobs.models import Job, JobState
from ecgportal.projects.access import ROLE_ALLOWS, Action
from ecgportal.projects.models import Project, Role
from tests.factories import (
    make_dataset,
    make_ingest,
    make_job,
    make_label_map,
    make_record,
    make_user,
)

pytestmark = pytest.mark.django_db


def text_of(answer) -> str:
    return answer.content.decode()


def test_every_page_is_404_403_or_200_by_role(client: Client, team: dict, project: Project, dataset: Dataset) -> None:
    record = make_record(dataset)
    ingest = make_ingest(dataset)
    table = labelling.import_keep(
        actor=team["editor"], dataset=dataset, file=SimpleUploadedFile("t.csv", b"record,dx\n1,AF\n")
    )
    label_map = make_label_map(project)
    in_project, view, edit, delete = {"project": project.pk}, Action.DATA_VIEW, Action.DATA_EDIT, Action.DATA_DELETE
    pages = [
        ("datasets:list", in_project, view), ("datasets:create", in_project, edit), ("datasets:label_maps", in_project, view),
        ("datasets:label_map_create", in_project, edit), ("datasets:detail", {"pk": dataset.pk}, view),
        ("datasets:edit", {"pk": dataset.pk}, edit), ("datasets:delete", {"pk": dataset.pk}, delete),
        ("datasets:upload", {"pk": dataset.pk}, edit), ("datasets:labels", {"pk": dataset.pk}, view),
        ("datasets:ingest", {"pk": ingest.pk}, view), ("datasets:label_import", {"pk": table.pk}, view),
        ("datasets:label_map", {"pk": label_map.pk}, view), ("datasets:label_map_export", {"pk": label_map.pk}, view),
        ("datasets:record_delete", {"pk": record.pk}, delete),
    ]  # fmt: skip
    for name, kwargs, action in pages:
        address = reverse(name, kwargs=kwargs)
        client.logout()
        assert client.get(address).status_code == 302, name
        for role in (*Role.values, "outsider"):
            client.force_login(team[role])
            expected = 404 if role == "outsider" else 200 if action in ROLE_ALLOWS[role] else 403
            assert client.get(address).status_code == expected, (name, role)


class TestDatasets:
    def test_create_leads_to_the_upload_and_keeps_what_was_typed(
        self, editor: Client, project: Project, dataset: Dataset
    ) -> None:
        address = reverse("datasets:create", kwargs={"project": project.pk})
        answer = editor.post(address, {"name": "ptb-xl PART", "description": "kept text"})
        assert answer.status_code == 422
        assert "has a dataset with this name already" in text_of(answer) and "kept text" in text_of(answer)
        answer = editor.post(address, {"name": "Chapman"})
        assert answer["Location"] == reverse("datasets:upload", args=[Dataset.objects.get(name="Chapman").pk])

    def test_rename(self, editor: Client, dataset: Dataset) -> None:
        address = reverse("datasets:edit", args=[dataset.pk])
        assert editor.post(address, {"name": "PTB-XL", "description": "from 2020"}).status_code == 302
        dataset.refresh_from_db()
        assert (dataset.name, dataset.description) == ("PTB-XL", "from 2020")
        assert AuditEvent.objects.get(action="dataset.changed").changes["name"] == ["PTB-XL part", "PTB-XL"]

    def test_delete_asks_for_the_name(self, editor: Client, dataset: Dataset) -> None:
        make_record(dataset)
        address = reverse("datasets:delete", args=[dataset.pk])
        assert editor.post(address, {"name": "wrong"}).status_code == 422
        assert Dataset.objects.filter(pk=dataset.pk).exists()
        assert editor.post(address, {"name": "PTB-XL part"}).status_code == 302
        assert not Dataset.objects.filter(pk=dataset.pk).exists() and not Record.objects.exists()

    def test_deleting_a_dataset_removes_its_label_tables_from_storage(
        self, editor: Client, team: dict, dataset: Dataset
    ) -> None:
        row = labelling.import_keep(
            actor=team["editor"], dataset=dataset, file=SimpleUploadedFile("t.csv", b"record,dx\n1,AF\n")
        )
        assert storage.blob_path(row.sha256).exists()
        services.dataset_delete(actor=team["editor"], dataset=dataset)
        assert not storage.blob_path(row.sha256).exists()

    def test_the_list_is_bounded(self, editor: Client, project: Project, django_assert_max_num_queries) -> None:
        for _ in range(20):
            make_record(make_dataset(project), subject="p1")
        with django_assert_max_num_queries(9):
            answer = editor.get(reverse("datasets:list", kwargs={"project": project.pk}))
        assert [(d.record_count, d.subject_count) for d in answer.context["page_obj"]] == [(1, 1)] * 20

    def test_the_projects_first_page_counts_and_offers_the_next_step(self, editor: Client, project: Project) -> None:
        address = reverse("projects:detail", kwargs={"project": project.pk})
        assert "Create a dataset" in text_of(editor.get(address))
        make_record(make_dataset(project))
        answer = editor.get(address)
        assert "Create a dataset" not in text_of(answer)
        assert {(f.label, f.value) for f in answer.context["figures"]} >= {("Datasets", 1), ("Records", 1)}


class TestRecords:
    @pytest.fixture
    def filled(self, dataset: Dataset) -> Dataset:
        make_record(dataset, "a/100", subject="p1", labels=("NORM",), age=40.0, sex="F")
        make_record(
            dataset, "a/101", subject="p1", labels=("NORM", "SR"), age=71.5, sex="M", quality={"flags": ["flat_lead"]}
        )
        make_record(dataset, "b/200", subject="p2", labels=("AFIB",), format="dicom", fs_hz=500.0)
        return dataset

    def keys(self, client: Client, dataset: Dataset, **params: str) -> list[str]:
        answer = client.get(reverse("datasets:detail", args=[dataset.pk]), params)
        assert answer.status_code == 200
        return [record.key for record in answer.context["page_obj"]]

    def test_filters(self, editor: Client, filled: Dataset) -> None:
        assert self.keys(editor, filled) == ["a/100", "a/101", "b/200"]
        assert self.keys(editor, filled, search="P1") == ["a/100", "a/101"]
        assert self.keys(editor, filled, label="NORM", sex="M") == ["a/101"]
        assert self.keys(editor, filled, format="dicom") == ["b/200"]
        assert self.keys(editor, filled, quality="flat_lead") == ["a/101"]
        assert self.keys(editor, filled, age_min="41", age_max="80") == ["a/101"]
        assert self.keys(editor, filled, label="no such code", sex="X", age_min="old") == ["a/100", "a/101", "b/200"]

    def test_sorting_puts_unknown_ages_last_both_ways(self, editor: Client, filled: Dataset) -> None:
        assert self.keys(editor, filled, sort="age") == ["a/100", "a/101", "b/200"]
        assert self.keys(editor, filled, sort="-age") == ["a/101", "a/100", "b/200"]
        assert self.keys(editor, filled, sort="-key") == ["b/200", "a/101", "a/100"]
        assert self.keys(editor, filled, sort="dataset__project__slug") == ["a/100", "a/101", "b/200"]

    def test_sorting_by_a_measure_shows_it_and_is_followed_from_record_to_record(
        self, editor: Client, filled: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key, qtc in (("c/1", 430.0), ("c/2", 390.5), ("c/3", 430.0), ("c/4", None)):
            record = make_record(filled, key, quality_score=0.5)
            RecordFeatures.objects.create(record=record, version=VERSION, qtc_ms=qtc)
        assert self.keys(editor, filled, sort="-qtc_ms") == ["c/1", "c/3", "c/2", "a/100", "a/101", "b/200", "c/4"]
        text = text_of(editor.get(reverse("datasets:detail", args=[filled.pk]), {"sort": "qtc_ms"}))
        assert 'data-label="QTc (Fridericia) (ms)">390.5<' in text
        text = text_of(editor.get(reverse("datasets:detail", args=[filled.pk]), {"sort": "-quality"}))
        assert ">0.50" in text
        for sort in selectors.SORTS:
            records = list(selectors.sorted_records(Record.objects.filter(dataset=filled), sort)[0])
            for before, record, after in zip([None, *records], records, [*records[1:], None]):
                found = selectors.neighbours(record, Record.objects.filter(dataset=filled), sort)
                assert found == (before, after), (sort, record)
        third = Record.objects.get(key="c/3")
        text = text_of(editor.get(reverse("viz:record", args=[third.pk]), {"sort": "-qtc_ms", "quality_min": "0.4"}))
        links = re.findall(r'rel="(prev|next)" data-keeps-view href="/records/([^/]+)/', text)
        keys = {str(row.pk): row.key for row in Record.objects.all()}
        assert [(rel, keys[pk]) for rel, pk in links] == [("prev", "c/1"), ("next", "c/2")]
        assert f"{reverse('datasets:detail', args=[filled.pk])}?quality_min=0.4&amp;sort=-qtc_ms#records" in text
        # Of a list that is too long to be read whole the measures are not offered, and records follow by key.
        monkeypatch.setattr(selectors, "MOST_BY_MEASURE", 3)
        assert self.keys(editor, filled, sort="-qtc_ms")[0] == "a/100"
        text = text_of(editor.get(reverse("viz:record", args=[third.pk]), {"sort": "-qtc_ms"}))
        links = re.findall(r'rel="(prev|next)" data-keeps-view href="/records/([^/]+)/', text)
        assert [keys[pk] for _, pk in links] == ["c/2", "c/4"]

    def test_figures_and_links_behind_the_label_counts(self, editor: Client, filled: Dataset) -> None:
        answer = editor.get(reverse("datasets:detail", args=[filled.pk]))
        totals = answer.context["totals"]
        assert (totals.records, totals.subjects, totals.labelled, totals.rates_hz) == (3, 2, 3, (100.0, 500.0))
        assert totals.flags == {"flat_lead": 1} and totals.formats == {"wfdb": 2, "dicom": 1}
        assert totals.duration_h == pytest.approx(6 / 3600)
        assert answer.context["labels"] == [("NORM", 2), ("AFIB", 1), ("SR", 1)]
        assert "?label=NORM#records" in text_of(answer)

    def test_the_link_to_a_record_keeps_the_filter(self, editor: Client, filled: Dataset) -> None:
        record = Record.objects.get(key="a/100")
        text = text_of(editor.get(reverse("datasets:detail", args=[filled.pk]), {"label": "NORM", "page": "1"}))
        assert f"{reverse('viz:record', kwargs={'pk': record.pk})}?label=NORM" in text

    def test_the_page_is_bounded(self, editor: Client, dataset: Dataset, django_assert_max_num_queries) -> None:
        for number in range(60):
            make_record(dataset, subject=f"p{number}", labels=("NORM", f"X{number}"))
        for _ in range(6):
            make_ingest(dataset)
        with django_assert_max_num_queries(28):
            answer = editor.get(reverse("datasets:detail", args=[dataset.pk]), {"search": "p"})
        # The figures are counted by now.
        with django_assert_max_num_queries(13):
            editor.get(reverse("datasets:detail", args=[dataset.pk]), {"search": "p"})
        assert len(answer.context["page_obj"]) == 50 and len(answer.context["more_labels"]) == 46

    def test_names_from_files_are_escaped(self, editor: Client, dataset: Dataset) -> None:
        make_record(dataset, "<img src=x>", subject="<b>p", labels=("<i>",))
        text = text_of(editor.get(reverse("datasets:detail", args=[dataset.pk])))
        assert "<img src=x>" not in text and "<b>p" not in text and "<i>" not in text

    def test_deleting_a_record_removes_it_and_its_last_subject(self, editor: Client, filled: Dataset) -> None:
        record = Record.objects.get(key="b/200")
        address = reverse("datasets:record_delete", args=[record.pk])
        assert "cannot be undone" in text_of(editor.get(address))
        assert editor.post(address)["Location"] == reverse("datasets:detail", args=[filled.pk])
        assert self.keys(editor, filled) == ["a/100", "a/101"]
        assert set(filled.subjects.values_list("key", flat=True)) == {"p1"}
        assert AuditEvent.objects.filter(action="record.deleted", object_label="b/200").count() == 1


class TestUpload:
    def test_files_become_an_upload_with_a_job(self, editor: Client, dataset: Dataset) -> None:
        files = [SimpleUploadedFile("a.hea", b"a 1 100 10\n"), SimpleUploadedFile("a.dat", b"\x00" * 20)]
        address = reverse("datasets:upload", args=[dataset.pk])
        answer = editor.post(address, {"files": files, "fs_hz": "250", "unit": "uV", "lead_order": "I, II"})
        ingest = Ingest.objects.get()
        assert answer["Location"] == reverse("datasets:ingest", args=[ingest.pk])
        assert [file["name"] for file in ingest.files] == ["a.hea", "a.dat"]
        assert ingest.options == {"fs_hz": 250.0, "unit": "uV", "lead_order": ["I", "II"]}
        assert ingest.job.state == JobState.QUEUED

    def test_digits_become_a_unit(self, editor: Client, dataset: Dataset) -> None:
        address = reverse("datasets:upload", args=[dataset.pk])
        file = SimpleUploadedFile("a.csv", b"1,2\n")
        answer = editor.post(address, {"files": [file], "unit": "digits"})
        assert answer.status_code == 422 and "how many digits" in text_of(answer)
        editor.post(
            address, {"files": [SimpleUploadedFile("a.csv", b"1,2\n")], "unit": "digits", "digits_per_mv": "204.8"}
        )
        assert Ingest.objects.get().options == {"unit": "204.8/mV"}

    def test_the_script_begins_an_upload_and_goes_on_with_it(self, editor: Client, dataset: Dataset) -> None:
        address = reverse("datasets:upload", args=[dataset.pk])
        answer = editor.post(address, {"fs_hz": "250", "unit": ""}, headers={"X-Upload": "open"})
        ingest = Ingest.objects.get()
        assert answer.json() == {"ingest": str(ingest.pk)} and ingest.is_open and ingest.options == {"fs_hz": 250.0}
        answer = editor.post(address, {"lead_order": "I,I"}, headers={"X-Upload": "open"})
        assert answer.status_code == 422 and answer.json()["error"]["fields"]["lead_order"]
        page = text_of(editor.get(address))
        assert "Not finished yet" in page and f"?open={ingest.pk}" in page and "data-open" not in page
        page = text_of(editor.get(address, {"open": ingest.pk}))
        assert f'data-open="{ingest.pk}"' in page and "Choose the same files" in page
        assert "are still being sent" in text_of(editor.get(reverse("datasets:ingest", args=[ingest.pk])))
        assert editor.post(reverse("datasets:upload_discard", args=[ingest.pk])).url == address
        assert not Ingest.objects.exists()

    def test_another_persons_unfinished_upload_is_not_listed(self, editor: Client, dataset: Dataset) -> None:
        Ingest.objects.create(dataset=dataset, created_by=make_user(), is_open=True)
        assert "Not finished yet" not in text_of(editor.get(reverse("datasets:upload", args=[dataset.pk])))

    def test_too_large_stores_nothing(self, editor: Client, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "MAX_UPLOAD_BYTES", 10)
        files = {"files": [SimpleUploadedFile("a.hea", b"x" * 11)]}
        answer = editor.post(reverse("datasets:upload", args=[dataset.pk]), files)
        assert answer.status_code == 413 and "Send it in parts" in text_of(answer)
        assert not Ingest.objects.exists() and not Job.objects.exists()

    @pytest.mark.parametrize(("field", "value"), [("fs_hz", "0"), ("fs_hz", "fast"), ("lead_order", "I,I")])
    def test_wrong_answers_stand_beside_their_field(
        self, editor: Client, dataset: Dataset, field: str, value: str
    ) -> None:
        answer = editor.post(
            reverse("datasets:upload", args=[dataset.pk]), {"files": [SimpleUploadedFile("a", b"x")], field: value}
        )
        assert (
            answer.status_code == 422
            and field in answer.context["form"].errors
            and f'value="{value}"' in text_of(answer)
        )


class TestIngest:
    ITEMS = (
        ("a.hea", "accepted", "", ""), ("a.dat", "companion", "", "Read together with its header."),
        ("b.csv", "refused", "needs_answer", "b.csv does not say its rate."), ("c.csv", "refused", "needs_answer", "c.csv does not say its rate."),
        ("letter.pdf", "refused", "not_an_ecg", "letter.pdf is not an ECG."),
    )  # fmt: skip

    def test_counts_reasons_and_the_form_for_answers(self, editor: Client, dataset: Dataset) -> None:
        ingest = make_ingest(dataset, items=self.ITEMS)
        answer = editor.get(reverse("datasets:ingest", args=[ingest.pk]))
        assert {o["value"]: o["count"] for o in answer.context["outcomes"]} == {
            "accepted": 1,
            "duplicate": 0,
            "refused": 3,
            "companion": 1,
        }
        assert [(r["code"], r["n"]) for r in answer.context["reasons"]] == [("needs_answer", 2), ("not_an_ecg", 1)]
        assert answer.context["asked"] == []

    def test_the_guesses_stand_in_the_form_for_answers(self, editor: Client, dataset: Dataset) -> None:
        waiting = [{"name": "b.csv", "shown": "b.csv", "path": "waiting/000000", "size": 3}]
        ingest = make_ingest(dataset, items=self.ITEMS, waiting=waiting)
        address = reverse("datasets:ingest", args=[ingest.pk])
        asks = {
            "fs_hz": "Guess: 500. 5000 samples are 10 s then.", "unit": "Guess: 200/mV. The leads span 300.",
            "lead_order": "Guess: I II V1. As a rule.",
        }  # fmt: skip
        ingest.items.filter(name="b.csv").update(asks=asks)
        answer = editor.get(address)
        (group,) = answer.context["asked"]
        assert group["form"].initial == {
            "fs_hz": "500", "unit": "digits", "digits_per_mv": "200", "lead_order": "I, II, V1",
        }  # fmt: skip
        counts = {o["value"]: o["count"] for o in answer.context["outcomes"]}
        assert counts["refused"] == 1 and answer.context["waiting"] == 2
        refused = editor.get(address, {"outcome": "refused"}).context["page_obj"]
        assert [item.name for item in refused] == ["letter.pdf"]
        assert "5000 samples are 10 s then" in text_of(answer)
        assert editor.post(address, {"group": group["key"], "fs_hz": "-1"}).status_code == 422
        assert editor.post(address, {"group": group["key"], "fs_hz": "500", "unit": "mV"})["Location"] == address
        ingest.refresh_from_db()
        assert ingest.options == {"fs_hz": 500.0, "unit": "mV"} and ingest.job.state == JobState.QUEUED

    def test_filters(self, editor: Client, dataset: Dataset) -> None:
        address = reverse("datasets:ingest", args=[make_ingest(dataset, items=self.ITEMS).pk])

        def names(**params: str) -> list[str]:
            return [item.name for item in editor.get(address, params).context["page_obj"]]

        assert names(outcome="refused") == ["b.csv", "c.csv", "letter.pdf"]
        assert names(code="not_an_ecg") == ["letter.pdf"]
        assert names(search="A.") == ["a.hea", "a.dat"]

    def test_viewers_see_reasons_but_no_form(self, client: Client, team: dict, dataset: Dataset) -> None:
        client.force_login(team["viewer"])
        answer = client.get(
            reverse("datasets:ingest", args=[make_ingest(dataset, items=self.ITEMS, waiting=[{"name": "b.csv"}]).pk])
        )
        assert "does not say its rate" in text_of(answer) and "with these answers" not in text_of(answer)

    def test_a_running_upload_polls(self, editor: Client, dataset: Dataset) -> None:
        ingest = make_ingest(dataset, state=JobState.RUNNING)
        assert reverse("jobs:fragment", args=[ingest.job_id]) in text_of(
            editor.get(reverse("datasets:ingest", args=[ingest.pk]))
        )

    def test_an_upload_without_a_job_is_shown(self, editor: Client, dataset: Dataset) -> None:
        ingest = Ingest.objects.create(dataset=dataset, options={"simulated": 5})
        assert editor.get(reverse("datasets:ingest", args=[ingest.pk])).status_code == 200
        assert editor.get(reverse("datasets:detail", args=[dataset.pk])).status_code == 200

    def test_the_page_is_bounded(self, editor: Client, dataset: Dataset, django_assert_max_num_queries) -> None:
        ingest = make_ingest(dataset)
        record = make_record(dataset)
        IngestItem.objects.bulk_create(
            IngestItem(ingest=ingest, position=n, name=f"{n:04d}.hea", outcome="accepted", record=record)
            for n in range(120)
        )
        with django_assert_max_num_queries(11):
            editor.get(reverse("datasets:ingest", args=[ingest.pk]))


def test_jobs_lead_to_what_they_work_on(editor: Client, team: dict, project: Project, dataset: Dataset) -> None:
    ingest = make_ingest(dataset)
    assert reverse("datasets:ingest", args=[ingest.pk]) in text_of(
        editor.get(reverse("jobs:detail", args=[ingest.job_id]))
    )
    lost = make_job(project, kind="ingest", payload={})
    assert editor.get(reverse("jobs:detail", args=[lost.pk])).status_code == 200
