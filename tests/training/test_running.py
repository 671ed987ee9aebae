"""The training job around the engine: what becomes of a run that is stopped, cancelled, or cannot start."""

from __future__ import annotations

import pytest

from ecgportal.errors import InvalidInput, JobCancelled
from ecgportal.jobs import runner, services
from ecgportal.jobs.models import JobState
from tests import factories
from training.models import SplitGroup, SplitMember, TrainingRun
from training.services import run_delete, run_resume, run_start

pytestmark = pytest.mark.django_db


@pytest.fixture
def run() -> TrainingRun:
    project = factories.make_project()
    owner = factories.make_user()
    dataset = factories.make_dataset(project)
    for number in range(24):
        factories.make_record(dataset, subject=f"p{number // 2}", labels=("NORM",) if number % 4 < 2 else ("IMI",))
    return run_start(
        actor=owner, project=project, dataset=dataset, label_map=factories.make_label_map(project), settings={"epochs": 1},
        architecture="xresnet1d18",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_heartbeat(settings):
    """The heartbeat has a connection of its own, which does not see the rows of a test inside a transaction."""
    settings.JOB_HEARTBEAT_S = 3600


def _do(run: TrainingRun) -> None:
    job = services.claim(run.job_id, host="here")
    assert job is not None
    runner.run(job.pk, job.attempt)
    run.refresh_from_db()


@pytest.mark.parametrize(("code", "state"), [("interrupted", JobState.QUEUED), ("cancelled", JobState.CANCELLED)])
def test_a_stop_before_the_first_epoch_is_told_from_a_cancel(run, monkeypatch, code, state):
    def stopped(*args, **kwargs):
        raise JobCancelled("Stopped before the first epoch.", code=code)

    monkeypatch.setattr("training.engine.fit.fit", stopped)
    _do(run)
    assert run.job.state == state
    assert run.produced_version is None


def test_a_run_ends_with_a_version_and_an_evaluation_and_no_subject_is_on_two_sides(run):
    _do(run)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    assert run.produced_version.classes == ["NORM", "MI"]
    assert run.report.report["n"] == SplitMember.objects.filter(split=run.split, group__part="test").count()
    sides: dict[str, set[str]] = {}
    for member in SplitMember.objects.filter(split=run.split).select_related("group", "record__subject"):
        sides.setdefault(member.record.subject.key, set()).add(member.group.part)
    assert len(sides) == 12
    assert all(len(parts) == 1 for parts in sides.values())
    assert {group.part for group in SplitGroup.objects.filter(split=run.split)} == {"train", "validation", "test"}


def test_only_a_run_that_failed_or_was_cancelled_can_be_resumed(run):
    with pytest.raises(InvalidInput.__base__, match="only a failed or cancelled"):
        run_resume(actor=run.created_by, run=run)
    services.cancel(actor=run.created_by, job=run.job)
    run.refresh_from_db()
    resumed = run_resume(actor=run.created_by, run=run)
    assert (resumed.job.state, resumed.resumed) == (JobState.QUEUED, 1)


def test_an_open_run_cannot_be_deleted(run):
    with pytest.raises(InvalidInput.__base__, match="has not ended"):
        run_delete(actor=run.created_by, run=run)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"label_map": None}, "tell apart"),
        ({"classes": ["UNKNOWN"]}, "has no class"),
        ({"architecture": "perceptron"}, "no network"),
        ({"mode": "head"}, "model to start from"),
        ({"settings": {"epochs": 10**9}}, "epochs"),
        ({"settings": {"batch_size": 10**9}}, "batch"),
        ({"settings": {"learning_rate": float("nan")}}, "rate"),
        ({"task": "regression", "target": "height"}, "numeric field"),
    ],
)
def test_choices_that_cannot_be_are_refused_with_a_sentence(run, changes, word):
    values = {
        "actor": run.created_by, "project": run.project, "dataset": run.dataset, "label_map": run.label_map, "task": "multilabel",
        "settings": {}, "architecture": None, **changes,
    }  # fmt: skip
    with pytest.raises(InvalidInput) as error:
        run_start(**values)
    assert word in f"{error.value.message} {error.value.fields}".lower()
