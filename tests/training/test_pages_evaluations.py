"""Pages and files that judge models: the report in three formats, thresholds, parts, several models, several datasets."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from django.test import Client
from django.urls import reverse
from pypdf import PdfReader

from datasets.models import Dataset, Record, Subject
from modelhub.models import Model, ModelVersion
from tests import factories
from training.attributes import age_band
from training.metrics.report import evaluate
from training.metrics.subgroups import subgroups
from training.models import EpochMetrics, Evaluation, TrainingRun

pytestmark = pytest.mark.django_db
CLASSES = ["NORM", "MI"]
N = 80


def _dataset(project: Any, name: str) -> Dataset:
    dataset = factories.make_dataset(project, name)
    first = factories.make_record(dataset, "first")
    people = Subject.objects.bulk_create(Subject(dataset=dataset, key=f"p{k}") for k in range(N // 2))
    rows = [
        Record(dataset=dataset, subject=people[k // 2], key=f"r{k:03d}", format="wfdb", fs_hz=100, n_samples=200, leads=list(factories.LEADS),
               sex="FM"[k % 2], age=20 + k, pack=first.pack, offset=0, content_sha256=f"{k:064d}")
        for k in range(N)
    ]  # fmt: skip
    first.delete()
    return dataset if Record.objects.bulk_create(rows) else dataset


def _version(project: Any, name: str) -> ModelVersion:
    return ModelVersion.objects.create(
        model=Model.objects.create(project=project, name=name), number=1, state="ready", origin="trained", contract={}, classes=CLASSES,
        task="multilabel", sha256="1" * 64, size=1,
    )  # fmt: skip


def _evaluation(version: ModelVersion, dataset: Dataset, strength: float, part: str = "all") -> Evaluation:
    rng = np.random.default_rng(4)
    truth = (rng.random((N, 2)) < 0.4).astype(float)
    scores = np.clip(strength * truth + (1 - strength) * rng.random((N, 2)), 0, 1).round(6)
    records = list(Record.objects.filter(dataset=dataset).order_by("key"))
    groups = [f"s:{row.subject_id}" for row in records]
    report = evaluate(
        scores, truth, CLASSES, "multilabel", groups=groups, thresholds=[0.4, 0.6], n_resamples=200
    ).to_json()
    by = {
        "sex": ["female" if row.sex == "F" else "male" for row in records],
        "age": [age_band(row.age) for row in records],
    }
    report["subgroups"] = subgroups(scores, truth, CLASSES, "multilabel", by, groups=groups, thresholds=[0.4, 0.6])
    samples = {
        "records": [str(row.pk) for row in records], "truth": truth.tolist(), "probabilities": scores.tolist(),
    }  # fmt: skip
    return Evaluation.objects.create(
        project=dataset.project, version=version, dataset=dataset, part=part, report=report, curves={"curves": report.pop("curves"), "samples": samples}
    )  # fmt: skip


@pytest.fixture
def project() -> Any:
    return factories.make_project()


@pytest.fixture
def viewer(client: Client, project: Any) -> Client:
    client.force_login(factories.make_team(project)["viewer"])
    return client


@pytest.fixture
def row(project: Any) -> Evaluation:
    return _evaluation(_version(project, "Net"), _dataset(project, "Ward"), 0.3, "test")


def test_the_pdf_report_holds_every_figure_and_every_class(viewer: Client, row: Evaluation) -> None:
    answer = viewer.get(f"/api/v1/evaluations/{row.pk}/report/?format=pdf")
    assert answer.status_code == 200 and answer["Content-Type"] == "application/pdf"
    text = "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(answer.content)).pages)
    value = row.report["auroc_macro"]
    for words in (
        "Net",
        "Ward",
        "held back",
        *CLASSES,
        "ROC curve",
        "Calibration",
        "female",
        f"{value['value']:.3f}",
        f"{value['low']:.3f} to",
    ):
        assert words in text, words
    assert viewer.get(reverse("training:report_pdf", args=[row.pk])).content.startswith(b"%PDF")


def test_every_metric_of_the_json_report_is_a_value_with_its_interval(viewer: Client, row: Evaluation) -> None:
    report = viewer.get(f"/api/v1/evaluations/{row.pk}/report/").json()
    figures = [report[name] for name in ("f1_weighted", "f1_macro", "auroc_macro", "auprc_macro")]
    assert list(report["per_class"]) == CLASSES
    for one in report["per_class"].values():
        figures += [one[name] for name in ("f1", "auroc", "auprc", "sensitivity", "specificity")]
        assert isinstance(one["threshold"], float) and isinstance(one["n_positive"], int)
    figures += [report["calibration"][name] for name in ("brier", "ece")]
    for figure in figures:
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert report["confusion_matrix"]["per_class"]["MI"]["tp"] >= 0
    assert viewer.get(f"/api/v1/evaluations/{row.pk}/report/?format=html").content.decode().count("<svg") >= 5
    refused = viewer.get(f"/api/v1/evaluations/{row.pk}/report/?format=docx")
    assert refused.status_code == 422 and "pdf" in refused.json()["error"]["fields"]["format"]


def test_a_page_shows_figures_thresholds_and_parts(viewer: Client, row: Evaluation) -> None:
    page = viewer.get(reverse("training:evaluation", args=[row.pk]))
    assert [figure["id"] for figure in page.context["figures"]] == [
        "roc",
        "precision_recall",
        "confusion",
        "calibration",
        "f1",
    ]
    rules = {one["rule"]: one for one in page.context["thresholds"]["rows"]}
    assert rules["in_use"]["threshold"] == 0.4 and rules["sensitivity_95"]["sensitivity"].value >= 0.95
    in_report = row.report["per_class"]["NORM"]["sensitivity"]["value"]
    assert rules["in_use"]["sensitivity"].value == pytest.approx(in_report)
    assert {part["title"] for part in page.context["parts"]} == {"Sex", "Age in years"}
    asked = viewer.get(reverse("training:evaluation", args=[row.pk]) + "?of_class=MI&threshold=0.3&prevalence=1")
    thresholds = asked.context["thresholds"]
    assert thresholds["name"] == "MI" and thresholds["rows"][1]["threshold"] == 0.3
    assert thresholds["rows"][1]["ppv_there"] < thresholds["rows"][1]["ppv"].value
    assert viewer.get(reverse("training:evaluation", args=[row.pk]) + "?threshold=7").status_code == 200


def test_thresholds_over_rest(viewer: Client, row: Evaluation) -> None:
    url = f"/api/v1/evaluations/{row.pk}/thresholds/"
    found = viewer.get(url + "?class=MI&threshold=0.55").json()
    assert found["rows"][1]["rule"] == "asked" and found["rows"][1]["specificity"]["low"] is not None
    assert viewer.get(url + "?class=XX").status_code == 422 and viewer.get(url + "?threshold=much").status_code == 422
    assert viewer.get(url + "?threshold=1.5").status_code == 422


def test_files_of_figures(viewer: Client, row: Evaluation) -> None:
    for kind in ("roc", "confusion"):
        assert viewer.get(reverse("viz:evaluation_svg", args=[row.pk, kind])).content.startswith(b"<svg")
        assert b"," in viewer.get(reverse("viz:evaluation_csv", args=[row.pk, kind])).content
    assert viewer.get(reverse("viz:evaluation_svg", args=[row.pk, "pie"])).status_code == 422


def test_files_of_a_training_run(viewer: Client, project: Any) -> None:
    job = factories.make_job(project, kind="train", state="succeeded")
    run = TrainingRun.objects.create(
        project=project, name="Run", dataset=factories.make_dataset(project), label_map=factories.make_label_map(project), classes=CLASSES, task="multilabel",
        architecture="inception_time", job=job, lr_finder={"rates": [1e-4, 1e-3], "losses": [0.7, 0.6]}, learning_rate=1e-3,
    )  # fmt: skip
    EpochMetrics.objects.create(run=run, epoch=1, values={"train_loss": 0.7, "val_loss": 0.65, "auroc_macro": 0.8})
    for kind, words in (("loss", "validation,1.0,0.65"), ("metrics", "AUROC"), ("rate", "0.001,0.6")):
        assert words in viewer.get(reverse("viz:training_csv", args=[run.pk, kind])).content.decode()
        assert viewer.get(reverse("viz:training_svg", args=[run.pk, kind])).content.startswith(b"<svg")
    assert viewer.get(reverse("viz:training_csv", args=[run.pk, "pie"])).status_code == 422


class TestSideBySide:
    def test_two_models_on_the_same_records(self, viewer: Client, project: Any, row: Evaluation) -> None:
        better = _evaluation(_version(project, "Wide net"), row.dataset, 0.45)
        url = reverse("training:compare", args=[project.pk])
        page = viewer.get(url, {"evaluation": [str(row.pk), str(better.pk)]})
        paired = page.context["paired"]
        first = paired["rows"][0]
        assert (paired["n"], paired["n_subjects"]) == (N, N // 2)
        assert first["metric"] == "auroc" and first["class"] is None and first["verdict"] == "second"
        expected = better.report["auroc_macro"]["value"] - row.report["auroc_macro"]["value"]
        assert first["difference"].value == pytest.approx(expected)
        over_rest = viewer.get(f"/api/v1/evaluations/{row.pk}/paired/?with={better.pk}").json()
        assert over_rest["n"] == N and over_rest["rows"][0]["difference"]["low"] > 0

    def test_other_datasets_are_compared_without_a_paired_difference(
        self, viewer: Client, project: Any, row: Evaluation
    ) -> None:
        other = _evaluation(row.version, _dataset(project, "Other ward"), 0.3)
        url = reverse("training:compare", args=[project.pk])
        page = viewer.get(url, {"evaluation": [str(row.pk), str(other.pk)]})
        assert "different datasets" in page.context["paired"]["reason"]
        assert [line["title"] for line in page.context["settings"]] == ["Dataset"]
        assert viewer.get(f"/api/v1/evaluations/{row.pk}/paired/?with={other.pk}").status_code == 422

    def test_foreign_and_wrong_ids_are_left_out(self, viewer: Client, project: Any, row: Evaluation) -> None:
        elsewhere = factories.make_project()
        foreign = _evaluation(_version(elsewhere, "Theirs"), _dataset(elsewhere, "Theirs"), 0.3)
        url = reverse("training:compare", args=[project.pk])
        page = viewer.get(url, {"evaluation": [str(row.pk), str(foreign.pk), "nonsense"]})
        assert [one.pk for one in page.context["rows"]] == [row.pk] and page.context["missing"] == 2
        assert viewer.get(f"/api/v1/evaluations/{row.pk}/paired/?with={foreign.pk}").status_code == 422

    def test_one_model_on_several_datasets(self, viewer: Client, project: Any, row: Evaluation) -> None:
        other = _dataset(project, "Other ward")
        _evaluation(row.version, other, 0.6)
        latest = _evaluation(row.version, other, 0.2)
        page = viewer.get(reverse("training:validation", args=[row.version_id]))
        shown = page.context["rows"]
        assert [one.row.pk for one in shown] == [row.pk, latest.pk] and shown[0].is_reference
        assert shown[1].drop == pytest.approx(
            row.report["auroc_macro"]["value"] - latest.report["auroc_macro"]["value"]
        )
        assert page.context["figure"]["title"] == "Net v1 on every dataset"

    def test_queries_are_bounded(
        self, viewer: Client, project: Any, row: Evaluation, django_assert_max_num_queries: Any
    ) -> None:
        rows = [row] + [_evaluation(_version(project, f"n{k}"), row.dataset, 0.3) for k in range(4)]
        with django_assert_max_num_queries(12):
            viewer.get(reverse("training:evaluations", args=[project.pk]))
        with django_assert_max_num_queries(16):
            viewer.get(reverse("training:evaluation", args=[row.pk]))
        with django_assert_max_num_queries(20):
            viewer.get(reverse("training:compare", args=[project.pk]), {"evaluation": [str(one.pk) for one in rows]})
