"""Runs whose trainings go to two processes: without labels, networks from outside, a search, a learning curve."""

from __future__ import annotations

import os

import pytest

from ecgportal.jobs.models import JobState
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.modelhub.test_installed import SOURCE
from tests.training.test_fine_tuning import ONE, foreign, weights
from tests.training.test_searches import search
from tests.training.test_searches import small as small  # a fixture
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training.engine.crew import Crew
from training.models import Study, TrialState
from training.services import learning_curve_start


@pytest.fixture
def teams(settings, monkeypatch):
    """Two processes for each training; returns ``(processes, whether they had to be started)`` of each work."""
    settings.TRAIN_PROCESSES = 2
    done, do = [], Crew.do

    def counted(self, count, *args, **kwargs):
        done.append((count, self.idle))
        return do(self, count, *args, **kwargs)

    monkeypatch.setattr(Crew, "do", counted)
    return done


def test_a_run_without_labels_learns_in_a_team(ward: Ward, teams):
    run = ward.train(task="pretraining", label_map=None, settings={**FAST, "epochs": 2})
    assert run.manifest["processes"] == 2 and run.epochs.count() == 2 and teams == [(2, True)]


@pytest.mark.parametrize(("source", "mode"), [(foreign, "head_then_full"), (weights, "full")])
def test_networks_from_outside_are_fine_tuned_in_a_team(ward: Ward, teams, settings, source, mode):
    asked = {"epochs": 2, "head_epochs": 1} if mode == "head_then_full" else {}
    how = {"settings": {**ONE, **asked}, "base_version": source(ward), "architecture": None, "mode": mode}
    run = ward.train(**how)
    assert run.manifest["processes"] == 2 and run.report.report["n"] > 0
    assert not any("could not go" in warning for warning in run.warnings)
    settings.TRAIN_PROCESSES = 1
    alone = ward.train(**how)
    assert alone.manifest["processes"] == 1
    for own, theirs in zip(run.epochs.order_by("epoch"), alone.epochs.order_by("epoch"), strict=True):
        assert own.values["train_loss"] == pytest.approx(theirs.values["train_loss"], rel=1e-3)
        assert own.values["val_loss"] == pytest.approx(theirs.values["val_loss"], rel=1e-3, abs=1e-4)


def test_an_installed_network_is_trained_in_a_team(ward: Ward, teams, tmp_path, monkeypatch):
    folder = tmp_path / "networks"
    folder.mkdir(mode=0o755)
    (folder / "ward.py").write_text(SOURCE)
    os.chmod(folder / "ward.py", 0o644)
    monkeypatch.setenv("PORTAL_ARCHITECTURES", str(folder))
    run = ward.train(settings=ONE, architecture="ward_net")
    assert run.manifest["processes"] == 2 and not any("could not go" in warning for warning in run.warnings)


def test_a_search_and_a_learning_curve_keep_one_team_for_their_trials(ward: Ward, small, teams):
    run = search(ward)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    trials = Study.objects.get(run=run).trials.count()
    # All trials, then the training of the winner.
    assert teams == [(2, True)] + [(2, False)] * (trials - 1) + [(2, True)]
    assert run.manifest["processes"] == 2
    teams.clear()
    study = learning_curve_start(actor=ward.user, run=run)
    work_off()
    study.refresh_from_db()
    done = study.trials.filter(state=TrialState.DONE).count()
    assert done >= 2 and teams == [(2, True)] + [(2, False)] * (done - 1)
