"""Pages of label tables and label maps."""

from __future__ import annotations

import csv
import io

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from datasets import label_jobs
from datasets.forms import ColumnsForm, roles_of
from datasets.identity import pseudonym
from datasets.labels import table as tables
from datasets.models import Dataset, LabelImport, LabelMap, Record, RecordLabel
from ecgportal import storage
from ecgportal.audit.models import AuditEvent
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job, JobState
from ecgportal.jobs.services import claim
from ecgportal.projects.models import Project
from ecgportal.projects.services import pseudonym_key
from tests.datasets.labels.test_kinds_of_tables import workbook
from tests.factories import make_label_map, make_project, make_record

pytestmark = pytest.mark.django_db


def text_of(answer) -> str:
    return answer.content.decode()


TABLE = "filename_hr,patient_id,age,sex,scp_codes,strat_fold,nurse\nrec1,7,50,1,\"{'NORM': 100.0}\",1,x\nrec2,8,61,0,\"{'IMI': 80.0, 'ZZZ': 0}\",2,y\nrec9,9,1000,0,{},3,z\n"


def table_file(text: str = TABLE, name: str = "labels.csv") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, text.encode())


class TestLabels:
    def upload(self, client: Client, dataset: Dataset, file: SimpleUploadedFile | None = None) -> LabelImport:
        answer = client.post(reverse("datasets:labels", args=[dataset.pk]), {"file": file or table_file()})
        row = LabelImport.objects.get()
        assert answer["Location"] == reverse("datasets:label_import", args=[row.pk])
        return row

    def choices(self, **changed: str) -> dict[str, str]:
        columns = ["filename_hr", "patient_id", "age", "sex", "scp_codes", "strat_fold", "nurse"]
        roles = dict(zip(columns, ["record", "subject", "age", "sex", "codes:scp", "fold", ""])) | changed
        return {f"column_{number}": roles[column] for number, column in enumerate(columns)}

    def test_a_table_is_shown_before_anything_is_stored(self, editor: Client, dataset: Dataset) -> None:
        make_record(dataset, "rec1")
        make_record(dataset, "rec2")
        row = self.upload(editor, dataset)
        answer = editor.get(reverse("datasets:label_import", args=[row.pk]))
        found = answer.context["found"]
        assert (found["row_count"], found["checked"], found["matched"]) == (3, 3, 2)
        text = text_of(answer)
        assert "2 of the 3 rows fit a record" in text and "No record is called &#x27;rec9&#x27;" in text
        assert {field.label: field.initial for field in answer.context["form"].fields.values()} == {
            "filename_hr": "record", "patient_id": "subject", "age": "age", "sex": "sex", "scp_codes": "codes:scp", "strat_fold": "fold", "nurse": "",
        }  # fmt: skip
        assert not RecordLabel.objects.exists() and not Job.objects.exists()

    def test_the_whole_way_from_table_to_labels(self, editor: Client, dataset: Dataset) -> None:
        make_record(dataset, "rec1")
        make_record(dataset, "rec2")
        row = self.upload(editor, dataset)
        address = reverse("datasets:label_import", args=[row.pk])
        assert editor.post(address, self.choices()).status_code == 302
        row.refresh_from_db()
        assert row.job.state == JobState.QUEUED
        result = label_jobs.run(JobContext(claim(row.job_id, host="test")))
        Job.objects.filter(pk=row.job_id).update(
            state=JobState.SUCCEEDED, started_at=row.created_at, finished_at=row.created_at, result=result
        )
        first, second = Record.objects.select_related("subject").order_by("key")
        assert (first.subject.key, first.age, first.sex, first.fold) == (
            pseudonym(pseudonym_key(dataset.project), "7"),
            50.0,
            "F",
            1,
        )
        assert (second.sex, sorted(second.labels.values_list("code", "system", "likelihood"))) == (
            "M",
            [("IMI", "scp", 0.8), ("ZZZ", "scp", 0.0)],
        )
        text = text_of(editor.get(address))
        assert "rec9" in text and "No record" in text and "ZZZ" in text
        answer = editor.get(reverse("datasets:labels", args=[dataset.pk]))
        assert "labels.csv" in text_of(answer)

    def test_the_record_column_must_be_one(self, editor: Client, dataset: Dataset) -> None:
        address = reverse("datasets:label_import", args=[self.upload(editor, dataset).pk])
        assert "Choose the column that names the records" in text_of(editor.post(address, self.choices(filename_hr="")))
        answer = editor.post(address, self.choices(nurse="record"))
        assert answer.status_code == 422 and "chosen as record already" in text_of(answer)
        assert not Job.objects.exists()

    def test_checking_again_starts_nothing(self, editor: Client, dataset: Dataset) -> None:
        make_record(dataset, "x")
        address = reverse("datasets:label_import", args=[self.upload(editor, dataset).pk])
        answer = editor.post(address, self.choices(filename_hr="", nurse="record") | {"check": "1"})
        assert answer.status_code == 200 and answer.context["found"]["matched"] == 1 and not Job.objects.exists()

    def test_a_file_that_is_no_table_says_so_and_can_be_discarded(self, editor: Client, dataset: Dataset) -> None:
        row = self.upload(editor, dataset, SimpleUploadedFile("labels.csv", b"\xff\xfe\x00\x00\x01"))
        answer = editor.get(reverse("datasets:label_import", args=[row.pk]))
        assert answer.status_code == 422 and "labels.csv" in text_of(answer)
        assert editor.post(reverse("datasets:label_import_discard", args=[row.pk])).status_code == 302
        assert not LabelImport.objects.exists() and not storage.blob_path(row.sha256).exists()
        assert AuditEvent.objects.filter(action="labels.discarded").count() == 1

    def test_a_sheet_of_a_workbook_is_chosen(self, editor: Client, dataset: Dataset) -> None:
        make_record(dataset, "a")
        book = workbook(
            Legend=[["code", "words"], ["AFIB", "fibrillation"]], Labels=[["record", "label"], ["a", "AFIB"]], More=[["record", "label"], ["a", "NORM"]],
        )  # fmt: skip
        row = self.upload(editor, dataset, SimpleUploadedFile("labels.xlsx", book))
        address = reverse("datasets:label_import", args=[row.pk])
        answer = editor.get(address)
        assert answer.context["found"]["sheets"] == ["Legend", "Labels", "More"]
        # Labels and More have the same header and are joined.
        assert answer.context["found"]["matched"] == 2 and 'name="sheet"' in text_of(answer)
        assert "No column names the records" in text_of(editor.get(address, {"sheet": "Legend"}))
        answer = editor.get(address, {"sheet": "Labels"})
        assert answer.context["found"]["matched"] == 1 and '<option value="Labels" selected>' in text_of(answer)
        assert '<input type="hidden" name="sheet" value="Labels">' in text_of(answer)
        assert editor.get(address, {"sheet": "<b>"}).status_code == 422
        choices = {"column_0": "record", "column_1": "codes:", "sheet": "Labels"}
        assert editor.post(address, choices).status_code == 302
        row.refresh_from_db()
        label_jobs.run(JobContext(claim(row.job_id, host="test")))
        assert list(RecordLabel.objects.values_list("code", flat=True)) == ["AFIB"]
        row.refresh_from_db()
        assert row.mapping["sheet"] == "Labels"

    def test_a_table_is_read_once(self, editor: Client, dataset: Dataset) -> None:
        row = self.upload(editor, dataset)
        editor.post(reverse("datasets:label_import", args=[row.pk]), self.choices())
        editor.post(reverse("datasets:label_import", args=[row.pk]), self.choices())
        assert Job.objects.count() == 1
        assert editor.post(reverse("datasets:label_import_discard", args=[row.pk])).status_code == 409

    def test_the_columns_form_gives_back_the_guess(self) -> None:
        columns = ["id", "AF", "1dAVb", "dx"]
        table = tables.read_table(b"id,AF,1dAVb,dx\n1,1,0,164889003\n2,0,1,426783006\n", "t.csv")
        guessed = tables.guess_mapping(table).to_dict()
        roles = roles_of(guessed, columns)
        form = ColumnsForm({f"column_{n}": roles[c] for n, c in enumerate(columns)}, columns=columns, guessed=guessed)
        assert form.is_valid(), form.errors
        again = tables.guess_mapping(table, overrides=form.mapping).to_dict()
        assert again["record"] == guessed["record"] == "id"
        assert {c["column"]: c for c in again["labels"]} == {c["column"]: c for c in guessed["labels"]}

    def test_coverage_of_the_maps(
        self, editor: Client, project: Project, dataset: Dataset, django_assert_max_num_queries
    ) -> None:
        for codes in (("NORM",), ("NORM",), ("IMI",), ("ASMI", "NORM"), ()):
            make_record(dataset, labels=codes)
        own = make_label_map(project, "Own")
        make_label_map(project, "Other", classes=["A"], entries={})
        make_label_map(make_project(), "Foreign")
        # Coverage is counted once after a change.
        for most in (28, 14):
            with django_assert_max_num_queries(most):
                answer = editor.get(reverse("datasets:labels", args=[dataset.pk]))
        found = {c.label_map.name: (c.classified, c.by_class) for c in answer.context["coverages"]}
        assert found == {"Own": (4, {"NORM": 3, "MI": 1}), "Other": (0, {"A": 0})}
        assert answer.context["chosen"] == own and "not in the map" in text_of(answer)

    def test_the_newest_version_of_a_map_is_shown(self, editor: Client, project: Project, dataset: Dataset) -> None:
        make_label_map(project, "Own", version=1)
        newest = make_label_map(project, "Own", version=2)
        answer = editor.get(reverse("datasets:labels", args=[dataset.pk]))
        assert [c.label_map.pk for c in answer.context["coverages"]] == [newest.pk]


class TestLabelMaps:
    HEAD = {"name": "Own", "system": "scp", "classes": "NORM\nMI\n"}

    def test_list_shows_own_and_built_in_maps(
        self, editor: Client, project: Project, django_assert_max_num_queries
    ) -> None:
        make_label_map(project, "Own")
        make_label_map(None, "Built in")
        make_label_map(make_project(), "Foreign")
        with django_assert_max_num_queries(8):
            answer = editor.get(reverse("datasets:label_maps", kwargs={"project": project.pk}))
        assert {row.name for row in answer.context["page_obj"]} == {"Own", "Built in"}

    def test_saving_makes_the_next_version_and_leaves_the_old_one(self, editor: Client, project: Project) -> None:
        first = make_label_map(project, "Own", frozen=True)
        rows = {
            "code": ["NORM", "IMI", "ASMI", ""],
            "class": ["NORM", "MI", "MI", ""],
            "relation": ["exact", "exact", "broader", "exact"],
        }
        answer = editor.post(reverse("datasets:label_map", args=[first.pk]), {**self.HEAD, **rows})
        saved = LabelMap.objects.get(name="Own", version=2)
        assert answer["Location"] == reverse("datasets:label_map", args=[saved.pk])
        assert saved.entries["ASMI"] == {"class": "MI", "relation": "broader"} and not saved.frozen
        first.refresh_from_db()
        assert "ASMI" not in first.entries

    def test_a_class_that_is_not_listed_is_refused_and_the_rows_stay(self, editor: Client, project: Project) -> None:
        first = make_label_map(project, "Own")
        answer = editor.post(
            reverse("datasets:label_map", args=[first.pk]),
            {**self.HEAD, "code": ["QQQ"], "class": ["HYP"], "relation": ["exact"]},
        )
        text = text_of(answer)
        assert (
            answer.status_code == 422
            and "not one of the classes" in text
            and 'value="QQQ"' in text
            and 'value="HYP"' in text
        )
        assert LabelMap.objects.count() == 1

    def test_a_class_named_twice_is_refused(self, editor: Client, project: Project) -> None:
        answer = editor.post(
            reverse("datasets:label_map_create", kwargs={"project": project.pk}), {**self.HEAD, "classes": "MI\nMI"}
        )
        assert answer.status_code == 422 and "MI is named twice" in text_of(answer)

    def test_built_in_maps_are_read_by_all_and_changed_by_nobody(
        self, editor: Client, client: Client, team: dict
    ) -> None:
        label_map = make_label_map(None, "PTB-XL superclass", frozen=True)
        client.force_login(team["outsider"])
        address = reverse("datasets:label_map", args=[label_map.pk])
        assert client.get(address).status_code == 200 and '<form class="form form--card"' not in text_of(
            client.get(address)
        )
        assert client.post(address, self.HEAD).status_code == 404
        client.logout()
        assert client.get(address).status_code == 302

    def test_a_copy_of_a_built_in_map(self, editor: Client, project: Project) -> None:
        source = make_label_map(None, "PTB-XL superclass")
        foreign = make_label_map(make_project(), "Foreign")
        address = reverse("datasets:label_map_create", kwargs={"project": project.pk})
        answer = editor.get(address, {"from": str(source.pk)})
        assert 'value="PTB-XL superclass (own)"' in text_of(answer) and 'value="IMI"' in text_of(answer)
        for wrong in (str(foreign.pk), "nonsense"):
            assert editor.get(address, {"from": wrong}).status_code == 404

    def test_export_and_import_give_the_same_map(self, editor: Client, project: Project) -> None:
        label_map = make_label_map(
            project,
            "Own",
            entries={
                "NORM": {"class": "NORM", "relation": "exact"},
                "X": {"class": None, "relation": "unmapped"},
                "-Y": {"class": "MI", "relation": "exact"},
                "IMI": {"class": "MI", "relation": "broader"},
            },
        )
        answer = editor.get(reverse("datasets:label_map_export", args=[label_map.pk]))
        assert {row["code"] for row in csv.DictReader(io.StringIO(text_of(answer)))} == {"NORM", "X", "'-Y", "IMI"}
        assert AuditEvent.objects.filter(action="label_map.exported").count() == 1
        file = SimpleUploadedFile("map.csv", answer.content)
        editor.post(
            reverse("datasets:label_maps", kwargs={"project": project.pk}),
            {"file": file, "name": "Own", "system": "scp"},
        )
        again = LabelMap.objects.get(name="Own", version=2)
        assert again.entries == label_map.entries and set(again.classes) == {"NORM", "MI"}

    def test_a_file_that_is_no_map_is_refused_beside_the_field(self, editor: Client, project: Project) -> None:
        file = SimpleUploadedFile("map.csv", b"a,b\n1,2\n")
        answer = editor.post(
            reverse("datasets:label_maps", kwargs={"project": project.pk}),
            {"file": file, "name": "Own", "system": "scp"},
        )
        assert (
            answer.status_code == 422 and "file" in answer.context["form"].errors and 'value="Own"' in text_of(answer)
        )
