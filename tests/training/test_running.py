"""The training job around the engine: what becomes of a run that is stopped, cancelled, or cannot start."""

from __future__ import annotations

import pytest

from ecgportal.errors import InvalidInput, JobCancelled
from ecgportal.jobs import runner, services
from ecgportal.jobs.models import JobState
from modelhub.architectures.companion import Accompanied
from modelhub.architectures.ensemble import Ensemble
from modelhub.architectures.registry import parameter_count
from modelhub.loading import module_of
from tests import factories
from training.metrics.membership import WARN_ABOVE
from training.models import SplitGroup, SplitMember, TrainingRun
from training.services import run_delete, run_resume, run_start, run_start_suggested

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
    told = run.report.report["membership"]
    assert 0 <= told["low"] <= told["value"] <= told["high"] <= 1
    assert any("trained on" in note for note in run.report.report["notes"]) == (told["value"] > WARN_ABOVE)


def test_a_cross_fitted_ensemble_becomes_one_version_that_can_be_loaded_and_fine_tuned(run):
    asked = {"epochs": 1, "members": 2, "threads": 1}
    choices = {"actor": run.created_by, "project": run.project, "dataset": run.dataset, "label_map": run.label_map}
    ensemble = run_start(**choices, settings=asked, architecture="xresnet1d18")
    _do(ensemble)
    version = ensemble.produced_version
    together = {"members": 2, "companion": True}
    assert version.contract["config"] == together and version.contract["architecture"] == "xresnet1d18"
    module = module_of(version)
    assert isinstance(module, Accompanied) and isinstance(module.network, Ensemble)
    assert version.parameters == parameter_count(module) and module.features.is_set
    tuned = run_start(**choices, settings={"epochs": 1, "threads": 1}, base_version=version, mode="head")
    _do(tuned)
    assert tuned.produced_version.contract["config"] == together
    assert tuned.produced_version.sha256 != version.sha256


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


def test_one_click_trains_on_the_map_that_fits_best(run, client):
    dataset = run.dataset
    factories.make_label_map(run.project, name="Touches them only", classes=["NORM", "MI", "A", "B"])
    client.force_login(run.created_by)
    assert client.post(f"/datasets/{dataset.pk}/train/").status_code == 404
    factories.Membership.objects.create(project=run.project, user=run.created_by, role="editor")
    answer = client.post(f"/datasets/{dataset.pk}/train/")
    started = TrainingRun.objects.exclude(pk=run.pk).get()
    assert answer.headers["Location"] == f"/training/{started.pk}/"
    assert (started.label_map, sorted(started.classes)) == (run.label_map, ["MI", "NORM"])
    assert started.architecture == "inception_time"


def test_without_labels_that_a_map_knows_the_click_says_so(run):
    bare = factories.make_dataset(run.project)
    for number in range(12):
        factories.make_record(bare, subject=f"q{number}", labels=("STRANGE",))
    with pytest.raises(InvalidInput, match="No label map gives two classes"):
        run_start_suggested(actor=run.created_by, dataset=bare)
