"""A job that did not do its work leads back to the page on which it was asked for, with what was filled in there."""

from __future__ import annotations

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from datasets.models import Ingest
from ecgportal.jobs.models import Job
from ecgportal.jobs.registry import KINDS, way_back
from modelhub import services_predictions
from modelhub.models import PredictionRun
from tests import factories
from tests.modelhub.conftest import beats
from tests.modelhub.test_predicting import make_version
from tests.working import work_off

pytestmark = pytest.mark.django_db


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_a_refused_model_file_leads_back_to_the_form_as_it_was_filled_in():
    project = factories.make_project()
    team = factories.make_team(project)
    client = signed_in(team["editor"])
    sent = {
        "name": "Their net", "classes": "NORM, MI", "task": "multilabel", "fs_hz": "250", "licence": "CC0", "intended_use": "Triage",
        "file": SimpleUploadedFile("notes.onnx", b"<!doctype html>"),
    }  # fmt: skip
    answer = client.post(reverse("modelhub:import", kwargs={"project": project.pk}), sent)
    job = work_off()[-1]
    assert (job.state, job.error_code) == ("failed", "not_onnx")
    page = client.get(answer["Location"]).content.decode()
    way = way_back(job)
    assert "Try again with another file" in page and way.url in page
    form = client.get(way.url).context["form"]
    shown = {name: form[name].value() for name in ("name", "classes", "task", "fs_hz", "licence", "intended_use")}
    assert shown == {
        "name": "Their net", "classes": "NORM, MI", "task": "multilabel", "fs_hz": 250.0, "licence": "CC0", "intended_use": "Triage",
    }  # fmt: skip
    assert "Try again" not in signed_in(team["viewer"]).get(answer["Location"]).content.decode()


def test_what_another_project_sent_does_not_fill_in_the_form():
    project = factories.make_project()
    client = signed_in(factories.make_team(project)["editor"])
    other = factories.make_job(
        factories.make_project(), kind="model_import", state="failed", payload={"name": "Secret", "contract": {}, "card": {}}
    )  # fmt: skip
    address = reverse("modelhub:import", kwargs={"project": project.pk})
    for again in (other.pk, "no-id", ""):
        page = client.get(address, {"again": again})
        assert page.status_code == 200 and "Secret" not in page.content.decode()


def test_a_failed_upload_leads_back_to_its_answers():
    project = factories.make_project()
    client = signed_in(factories.make_team(project)["editor"])
    dataset = factories.make_dataset(project)
    options = {"fs_hz": 250.0, "unit": "200/mV", "lead_order": ["I", "II"]}
    ingest = Ingest.objects.create(dataset=dataset, options=options)
    ingest.job = factories.make_job(project, kind="ingest", state="failed", payload={"ingest": str(ingest.pk)})
    ingest.save()
    way = way_back(ingest.job)
    assert way.url in client.get(reverse("datasets:ingest", kwargs={"pk": ingest.pk})).content.decode()
    form = client.get(way.url).context["form"]
    shown = {name: form[name].value() for name in ("fs_hz", "unit", "digits_per_mv", "lead_order")}
    assert shown["fs_hz"] == 250.0 and shown["digits_per_mv"] == "200" and shown["lead_order"] == "I, II"
    Ingest.objects.filter(pk=ingest.pk).update(source={"collection": "ptb_xl"})
    assert reverse("datasets:import", kwargs={"project": project.pk}) in way_back(ingest.job).url


def test_failed_predictions_lead_back_to_what_was_chosen():
    project = factories.make_project()
    owner = factories.make_team(project)["owner"]
    dataset = factories.make_dataset(project)
    records = [factories.make_record(dataset, key, signal=beats(1)[0]) for key in ("one", "two")]
    version = make_version(project)
    run = services_predictions.prediction_start(
        actor=owner, project=project, version=version, dataset=dataset, records=records[:1]
    )
    Job.objects.filter(pk=run.job_id).update(
        state="failed", started_at=run.job.created_at, finished_at=run.job.created_at, error_code="x"
    )
    way = way_back(Job.objects.get(pk=run.job_id))
    client = signed_in(owner)
    assert way.url in client.get(reverse("modelhub:prediction", kwargs={"pk": run.pk})).content.decode()
    form = client.get(way.url).context["form"]
    assert (form["version"].value(), form["dataset"].value(), form["records"].value()) == (
        version.pk, dataset.pk, "one",
    )  # fmt: skip
    PredictionRun.objects.all().delete()
    assert client.get(way.url).status_code == 200


def test_every_kind_has_a_way_back_and_none_leads_from_work_that_was_done():
    # What a run does stands on its own page, to which the job's page leads in any state.
    own_page = {"train", "pretrain", "search", "judge_run"}
    assert {name for name, kind in KINDS.items() if kind.again is None and not name.startswith("probe")} == own_page
    project = factories.make_project()
    for state in ("queued", "running", "succeeded"):
        assert way_back(factories.make_job(project, kind="exchange_pull", state=state)) is None
    assert way_back(factories.make_job(project, kind="a kind of another release", state="failed")) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("labels", "label_import"), ("map", "map"), ("try_model", "version"), ("saliency", "prediction"), ("evaluate", "evaluation"),
        ("learning_curve", "study"), ("ingest", "ingest"),
    ],
)  # fmt: skip
def test_there_is_no_way_back_to_what_was_deleted(kind, name):
    project = factories.make_project()
    payload = {name: "00000000-0000-0000-0000-000000000000"}
    assert way_back(factories.make_job(project, kind=kind, state="failed", payload=payload)) is None
