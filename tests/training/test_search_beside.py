"""A search compares a network that is trained in full beside a linear companion as it answers beside the linear model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from django.db import IntegrityError, transaction

from datasets.preprocess.recipe import plain_recipe
from ecgportal.jobs.models import JobState
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.fitting import run as fit_tiny
from tests.training.test_computed import linear as linear_module
from tests.training.test_ensemble import GROUPS
from tests.training.test_searches import NETWORK, SHORT
from tests.training.test_searches import computed as computed  # a fixture
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.training.tiny import parts_for, tiny_settings
from tests.working import work_off, work_off_one
from training import running, searching
from training.engine import computed as computing
from training.engine.companion import answers_beside
from training.engine.data import unit_of
from training.engine.monitor import goodness_of
from training.engine.settings import FitSettings
from training.models import Study, TrainingRun, Trial, TrialState
from training.problems.base import LossOptions
from training.problems.registry import get_problem
from training.trying import Follow, note_beside, note_score

TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)[:, None]
LINEAR = np.array([-2, -2, -2, 1, 2, 2, 2, 0.5], np.float32)[:, None]
#: Mostly wrong, and right where the linear model is wrong.
LONE = np.array([1, 1, 1, -8, -1, -1, -1, 2], np.float32)[:, None]


def scored(monitor: str = "auroc_macro", truth: np.ndarray = TRUTH) -> Trial:
    """Return a trial of a network that answers ``LONE``, scored alone and then beside ``LINEAR``."""
    row = TrainingRun(task="binary", classes=["AF"])
    trial = Trial(number=2, choices=NETWORK, state=TrialState.DONE, scores=[7 / 16], seconds=9)
    by_part = {part: [SimpleNamespace(group=str(number)) for number in range(len(TRUTH))] for part in ("train", "validation")}  # fmt: skip
    note_score(trial, row, LONE, truth, [item.group for item in by_part["validation"]])
    result = SimpleNamespace(validation_outputs=LONE, monitor=monitor)
    note_beside(trial, row, result, LINEAR, by_part, lambda items: truth, FitSettings())
    return trial


def test_a_network_that_is_worse_alone_than_the_linear_model_wins_beside_it():
    network, linear = scored(), Trial(number=1, choices={"start": "linear"}, state=TrialState.DONE, scores=[15 / 16])
    assert (network.alone, network.score, network.goodness) == (7 / 16, 1.0, 1.0)
    study = SimpleNamespace(trials=SimpleNamespace(all=lambda: [linear, network]))
    assert searching._best(study) is network
    # Its own score, by which the sampler goes on, stays; and what is kept as it was tried has no companion.
    assert network.scores == [7 / 16] and searching._best(study, as_tried=True) is linear
    network.goodness = None
    assert searching._best(study) is linear


def test_the_loss_is_better_the_lower_and_what_is_not_defined_leaves_the_own_score():
    both = answers_beside(LONE, LINEAR, is_classes=True)
    loss = get_problem("binary").loss(TRUTH, LossOptions())
    assert scored("loss").goodness == pytest.approx(-float(loss(torch.from_numpy(both), torch.from_numpy(TRUTH))))
    none = scored(truth=np.ones_like(TRUTH))
    assert none.goodness is None and none.alone is None and none.score is None


@pytest.mark.parametrize("kind", ["multiclass", "regression", "multilabel"])
def test_the_goodness_of_answers_is_what_a_training_says_of_them(kind):
    parts, problem = parts_for(kind), get_problem(kind)
    names, settings = tuple(str(number) for number in range(parts[1].shape[1])), tiny_settings(members=1)
    result = fit_tiny(linear_module(len(names)), settings, problem=problem, parts=parts, groups=GROUPS)
    for monitor, key in (("loss", "val_loss"), (problem.monitor, problem.monitor)):
        found = goodness_of(monitor, result.validation_outputs, parts[3], parts[1], problem, settings, names)
        sign = 1 if monitor.startswith("auroc") else -1
        assert found == pytest.approx(sign * result.history[0][key], rel=1e-4)


def test_beside_each_other_numbers_stay_in_their_unit():
    rng = np.random.default_rng(0)
    networks, linear = rng.normal(size=(2, 20, 1))
    centre, spread = unit_of(50 + 20 * rng.normal(size=(30, 1)), get_problem("regression"))
    inside = answers_beside(networks, linear, is_classes=False)
    outside = answers_beside(networks * spread + centre, linear * spread + centre, is_classes=False)
    np.testing.assert_allclose(outside, inside * spread + centre, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "records", "members", "gains"),
    [
        ({}, 300, 1, True), ({}, 24, 1, False), ({"members": 1}, 300, 1, False), ({"companion": "never"}, 300, 1, False),
        ({"companion": "always"}, 24, 1, True), ({}, 300, 3, False), ({"members": 3}, 4001, 1, False),
    ],
)  # fmt: skip
def test_the_companion_is_that_of_the_run_in_full(db, settings, records, members, gains):
    recipe = plain_recipe(duration_s=4)
    row = TrainingRun(
        task="binary", classes=["AF"], architecture="net1d_s", members=members, recipe=SHORT,
        settings=FitSettings(**settings).to_dict(),
    )  # fmt: skip
    parts = {"train": [None] * (records - 4), "validation": [None] * 4, "test": []}
    data = SimpleNamespace(by_part=lambda number: parts, recipe=recipe)
    assert running.gains_companion(row, data) is gains


def test_a_score_alone_needs_one_beside(ward):
    study = Study.objects.get(run=ward.start(architecture=None, search={"minutes": 5}))
    with pytest.raises(IntegrityError, match="trial_alone_or_beside"), transaction.atomic():
        Trial.objects.create(study=study, number=1, choices=NETWORK, alone=0.5)


def test_a_search_that_goes_on_scores_networks_beside_what_the_linear_model_said_before(
    ward, computed, monkeypatch, client
):
    noted, features, at_choice = [], [], []
    note, of, take = searching.note_beside, computing.features_of, searching._take_winner
    monkeypatch.setattr(searching, "note_beside", lambda *a: noted.append(a) or note(*a))
    monkeypatch.setattr(computing, "features_of", lambda *a: features.append(a) or of(*a))
    monkeypatch.setattr(searching, "_take_winner", lambda *a: at_choice.append(len(features)) or take(*a))
    # The winner in full is another test's.
    monkeypatch.setattr(running, "train", lambda *a: {})
    # Nothing stops by the clock: after the minutes the trial that was begun is ended.
    monkeypatch.setattr(searching, "monotonic", lambda: 0.0)
    run = ward.start(
        architecture=None, search={"minutes": 5}, settings={**FAST, "members": 2, "companion": "auto"}, recipe=SHORT
    )
    with monkeypatch.context() as patch:
        network = Trial.objects.filter(study__run=run, state=TrialState.RUNNING, number=2)
        patch.setattr(Follow, "should_stop", lambda self: "interrupted" if network.exists() else False)
        assert work_off_one(run.job_id).state == JobState.QUEUED
    study = Study.objects.get(run=run)
    linear = study.trials.get(number=1)
    assert linear.state == TrialState.DONE and linear.goodness is None and not noted and len(features) == 1
    # The minutes are over after the linear model, but for a moment in which the network is gone on with.
    network.update(seconds=0)
    Study.objects.filter(pk=study.pk).update(settings=study.settings | {"minutes": (linear.seconds + 1e-6) / 60})
    work_off()
    run = TrainingRun.objects.select_related("job").get(pk=run.pk)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    first, second = study.trials.all()
    # The answers were stored with the trial: they are not computed again.
    assert at_choice == [1] and (first.score, first.scores, first.alone) == (linear.score, linear.scores, None)
    ((_, _, result, answers, *_),) = noted
    assert answers.shape == result.validation_outputs.shape and not np.allclose(answers, result.validation_outputs)
    assert second.goodness is not None and second.scores == [row["score"] for row in result.history]
    reached = {first.number: first.scores[-1], second.number: second.goodness}
    assert reached[Study.objects.get(pk=study.pk).result["trial"]] == max(reached.values())
    shown = Api(session=ward.user).get(f"training-runs/{run.pk}/search/")["trials"]
    assert [(row["score"], row["alone"]) for row in shown] == [(first.score, None), (second.score, second.alone)]
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert "by what it and this linear model say together" in page and ">Alone</th>" in page
    Trial.objects.filter(pk=second.pk).update(alone=None, goodness=None)
    page = client.get(f"/training/{run.pk}/search/").content.decode()
    assert "linear model" in page and "say together" not in page and ">Alone<" not in page
