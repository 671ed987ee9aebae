"""The command prints what a search compared as page and interface show it, and goes on with earlier runs as they do."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import CommandError, call_command

from ecgportal.commands import PortalCommand
from ecgportal.jobs.services import cancel
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_searches import NETWORK
from tests.training.test_searches import small as small  # a fixture
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off_one
from training.models import Study, TrainingRun, Trial, TrialState


@pytest.fixture
def here(monkeypatch):
    """Do foreground jobs in this process, where the test's transaction is seen."""
    monkeypatch.setattr(PortalCommand, "follow", lambda self, job: work_off_one(job.pk))


def told(ward: Ward, *arguments: object) -> str:
    out = io.StringIO()
    call_command("train", "--as-user", ward.user.username, *map(str, arguments), stdout=out)
    return out.getvalue()


def test_the_command_prints_the_comparison_and_trains_a_trial_in_full(ward, small, here, client):
    new = ("--project", ward.project.name, "--dataset", ward.first.name, "--dataset", ward.second.name)
    fast = [part for name, value in (FAST | {"members": 1}).items() for part in ("--set", f"{name}={value}")]
    choice = ("--label-map", ward.label_map.pk, "--search", 0.02, "--set", "weight_decay=0.5")
    printed = told(ward, *new, *fast, *choice)
    run = TrainingRun.objects.get()
    shown = Api(session=ward.user).get(f"training-runs/{run.pk}/search/")
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert shown["trials"] and "Kept as asked: weight decay 0.5." in shown["notes"]
    for text in (printed, page):
        assert all(note in text for note in shown["notes"])
        assert all(trial[word] in text for trial in shown["trials"] for word in ("start", "settings"))
        # Of the winner the page says the second part beside its badge.
        assert all(part in text for trial in shown["trials"] for part in trial["outcome"].split("; "))
    (line,) = (line for line in printed.splitlines() if line.startswith(f"{shown['result']['trial']}  "))
    best = shown["trials"][shown["result"]["trial"] - 1]
    assert f"{best['score']:.3f} ({best['low']:.3f} to {best['high']:.3f})" in line and "trained in full" in line

    asked = ("--take-trial", run.pk, shown["trials"][0]["number"], "--json")
    taken = TrainingRun.objects.get(pk=json.loads(told(ward, *asked))["run"])
    assert taken.architecture == shown["trials"][0]["choices"]["start"] and taken.settings["weight_decay"] == 0.5
    assert taken.produced_version is not None
    with pytest.raises(CommandError, match="There is no trial 99"):
        told(ward, "--take-trial", run.pk, 99)


def test_the_command_resumes_a_run_and_does_one_again(ward, here):
    run = ward.start(settings=FAST | {"members": 1})
    cancel(actor=ward.user, job=run.job)
    resumed = json.loads(told(ward, "--resume", run.name, "--project", ward.project.name, "--json"))
    run.refresh_from_db()
    assert resumed["run"] == str(run.pk) and run.resumed == 1 and run.produced_version is not None
    again = TrainingRun.objects.get(pk=json.loads(told(ward, "--again", run.pk, "--json"))["run"])
    assert again.repeats == run and again.manifest["weights_hash"] == run.manifest["weights_hash"]
    for refused, said in (
        (("--resume", run.pk), "only a failed or cancelled one"),
        (("--again", run.pk, "--set", "epochs=3", "--check"), "Leave out --set, --check"),
        (("--label-map", ward.label_map.pk), "Give --project and --dataset"),
    ):
        with pytest.raises(CommandError, match=said):
            told(ward, *refused)


def test_a_trial_that_became_the_model_says_that_it_was_stopped_early(ward):
    run = ward.start(architecture=None, search={"minutes": 5}, settings=FAST)
    Trial.objects.create(
        study=Study.objects.get(run=run), number=1, choices=NETWORK, state=TrialState.STOPPED, note="the minutes were over", score=0.8,
    )  # fmt: skip
    Study.objects.filter(run=run).update(result={"trial": 1})
    (shown,) = Api(session=ward.user).get(f"training-runs/{run.pk}/search/")["trials"]
    assert shown["outcome"] == "trained in full; as a trial stopped early: the minutes were over"
