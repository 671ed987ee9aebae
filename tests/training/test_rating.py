"""A learning rate before the start: found as a run would find it, shown with its curve, taken or not."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest

from ecgportal.errors import JobCancelled
from ecgportal.jobs.models import Job, JobState
from ecgportal.jobs.services import cancel
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_pages_runs import address, form_of, text_of
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training import rating
from training.models import Split, TrainingRun


def body_of(ward: Ward, **changes) -> dict:
    return {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk),
        "architecture": "xresnet1d18", "settings": {**FAST, "members": 1, "learning_rate": None}, **changes,
    }  # fmt: skip


def test_a_rate_is_found_by_rest_as_the_run_finds_it(ward):
    api = Api(session=ward.user)
    started = api.post("training-runs/find-rate/", body_of(ward), status=202)
    work_off()
    job = api.get(f"jobs/{started['job']}/")
    assert job["state"] == "succeeded", job["error"]
    found = job["result"]
    assert len(found["rates"]) == len(found["losses"]) > 10 and found["rates"] == sorted(found["rates"])
    assert found["suggestion"] in (found["valley"], found["steepest"], 1e-3)
    assert not TrainingRun.objects.exists() and not Split.objects.exists()
    run = ward.train(settings={**FAST, "members": 1, "learning_rate": None})
    assert run.manifest["records"]["train"] == found["records"]
    assert run.lr_finder["rates"] == found["rates"] and run.lr_finder["losses"] == pytest.approx(
        found["losses"], rel=1e-4
    )


def test_a_wait_for_the_accelerator_is_the_jobs_progress(ward, monkeypatch):
    monkeypatch.setattr("training.engine.lr_finder.find_learning_rate", lambda *args, waiting, **options: waiting(True))

    def progress(share, message):
        if "accelerator" in message:
            raise JobCancelled(message)

    Api(session=ward.user).post("training-runs/find-rate/", body_of(ward), status=202)
    job = Job.objects.get()
    with pytest.raises(JobCancelled, match="this machine's accelerator; the finder waits"):
        rating.run(SimpleNamespace(job=job, payload=job.payload, progress=progress))


def test_what_cannot_be_found_is_refused_beside_its_field(ward):
    api = Api(session=ward.user)
    wrong = api.refused("post", "training-runs/find-rate/", body_of(ward, settings={"epochs": 0}), status=422)
    assert "epochs" in wrong["fields"]
    wrong = api.refused("post", "training-runs/find-rate/", body_of(ward, task="pretraining"), status=422)
    assert "learning_rate" in wrong["fields"]
    wrong = api.refused("post", "training-runs/find-rate/", body_of(ward, architecture="linear"), status=422)
    assert "computed in one pass" in wrong["fields"]["learning_rate"] and not Job.objects.exists()


@pytest.mark.parametrize("gone", ["label_map", "base_version"])
def test_data_that_is_gone_ends_the_job_with_a_sentence(ward, gone):
    Api(session=ward.user).post("training-runs/find-rate/", body_of(ward), status=202)
    job = Job.objects.get()
    job.payload["asked"][gone] = str(uuid.uuid4())
    job.save()
    job = work_off()[-1]
    assert (job.state, job.error_code) == (JobState.FAILED, "data_gone")


def test_the_form_shows_the_curve_and_the_user_takes_a_rate_or_not(ward, client):
    client.force_login(ward.user)
    assert "Find a learning rate" in text_of(client.get(address(ward)))
    answer = client.post(address(ward, "find_rate"), form_of(ward))
    job = Job.objects.get(kind="find_rate")
    page = text_of(answer)
    assert answer.status_code == 200 and f'value="{job.pk}"' in page and "waits for its turn" in page
    part = f"/training/rates/{job.pk}/"
    assert "every 2s" in text_of(client.get(part))
    work_off()
    job.refresh_from_db()
    shown = text_of(client.get(part))
    assert "every 2s" not in shown and "<svg" in shown and "Learning-rate finder" in shown
    rate = f"{job.result['steepest'] or job.result['suggestion']:.2g}"
    assert f'value="{rate}"' in shown
    taken = client.post(address(ward), form_of(ward, take_rate=rate, rate_job=str(job.pk)))
    assert taken.context["form"]["learning_rate"].value() == rate and "<svg" in text_of(taken)
    assert not TrainingRun.objects.exists()
    client.post(address(ward), form_of(ward, learning_rate=rate, rate_job=str(job.pk)))
    assert TrainingRun.objects.get().settings["learning_rate"] == float(rate)


def test_a_form_that_is_not_complete_starts_no_finder_and_a_cancelled_one_says_so(ward, client):
    client.force_login(ward.user)
    answer = client.post(address(ward, "find_rate"), form_of(ward, datasets=[]))
    assert answer.status_code == 422 and not Job.objects.exists()
    client.post(address(ward, "find_rate"), form_of(ward))
    job = Job.objects.get()
    cancel(actor=ward.user, job=job)
    assert "was cancelled" in text_of(client.get(f"/training/rates/{job.pk}/"))
    # A job of another project, or of another kind, is not shown on this form.
    assert client.post(address(ward), form_of(ward, action="check", rate_job="no id")).status_code == 200
