"""The linear model of fixed features: computed in one pass, judged on records that it has not learned from."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from datasets.preprocess.recipe import plain_recipe
from ecgportal.errors import JobCancelled, TrainingFailed
from ecgportal.jobs.models import JobState
from modelhub.architectures.registry import build, parameter_count
from modelhub.loading import module_of
from tests import factories
from tests.training.fitting import Recorder, run
from tests.training.test_ensemble import GROUPS
from tests.training.tiny import FS_HZ, parts_for, tiny_data, tiny_parts, tiny_settings
from tests.working import work_off_one
from training.checking import check
from training.engine import settings as limits
from training.engine.predict import predict
from training.engine.source import ArraySource, Joined
from training.models import TrainingRun
from training.problems.registry import get_problem
from training.services import run_start


def linear(n_classes=2, n_leads=3, n_samples=64, seed=0):
    return build("linear", n_leads=n_leads, n_samples=n_samples, fs_hz=FS_HZ, n_classes=n_classes, seed=seed)


def computed(**options):
    """Compute it as a run without settings does: on folds."""
    return run(linear(), tiny_settings(members=3), groups=GROUPS, **options)


def test_it_is_one_epoch_whose_figures_are_of_records_that_it_has_not_learned_from():
    told = Recorder()
    result = computed(callbacks=[told])
    assert result.history == told.rows and len(told.rows) == 1 and told.ended == 1
    assert (result.epochs, result.best_epoch, result.stopped_reason, result.members) == (1, 1, "finished", 1)
    row, parts = result.history[0], tiny_parts()
    assert row["auroc_macro"] > 0.9 and 0 < row["train_loss"] < row["val_loss"] and row["is_best"]
    assert told.info["epochs"] == 1 and 0 < told.batches[-1].fraction < 1
    assert len(result.thresholds) == 2 and result.cross_fitted and len(result.validation_outputs) == 64
    net = linear()
    net.load_state_dict(result.best_state)
    answers = predict(net, Joined((parts[0], parts[2])))
    assert np.corrcoef(answers.ravel(), result.validation_outputs.ravel())[0, 1] > 0.9
    assert any("kernels" in fact for fact in result.facts)


def test_its_weights_depend_on_the_data_alone():
    hashes = {computed().weights_hash, computed().weights_hash}
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        hashes.add(run(linear(seed=9), tiny_settings(members=3, threads=None, epochs=50, learning_rate=0.5), groups=GROUPS).weights_hash)  # fmt: skip
    finally:
        torch.set_num_threads(before)
    assert len(hashes) == 1


def test_labels_by_chance_are_not_learned_however_many_features_there_are():
    signals, _ = tiny_data(120)
    truth = (np.random.default_rng(4).random((120, 1)) < 0.5).astype(np.float32)
    parts = ArraySource(signals[:80]), truth[:80], ArraySource(signals[80:]), truth[80:]
    result = run(linear(1), tiny_settings(members=4), parts=parts, groups=(list(range(80)), list(range(80, 120))))
    assert abs(result.history[0]["auroc_macro"] - 0.5) < 0.2


@pytest.mark.parametrize("kind", ["multiclass", "regression", "multilabel"])
def test_it_is_there_for_every_task_and_for_unknown_labels(kind):
    train, t, validation, v = parts_for(kind)
    result = run(linear(t.shape[1]), tiny_settings(), problem=get_problem(kind), parts=(train, t, validation, v))
    net = linear(t.shape[1])
    net.load_state_dict(result.best_state)
    answers = predict(net, validation)
    np.testing.assert_allclose(answers, result.validation_outputs, atol=1e-3 * np.abs(answers).max())
    if kind == "regression":
        # In the target's own unit.
        assert np.abs(answers - v).mean() < 0.5 * np.abs(v - v.mean()).mean()


def test_alone_it_chooses_nothing_on_the_records_that_it_is_judged_by():
    parts = tiny_parts()
    result = run(linear(), tiny_settings(members=1), groups=GROUPS)
    turned = run(linear(), tiny_settings(members=1), parts=(*parts[:3], 1 - parts[3]), groups=GROUPS)
    assert turned.weights_hash == result.weights_hash and not result.cross_fitted
    auroc = result.history[0]["auroc_macro"]
    assert auroc > 0.9 and auroc == pytest.approx(1 - turned.history[0]["auroc_macro"])
    net = linear()
    net.load_state_dict(result.best_state)
    np.testing.assert_allclose(predict(net, parts[2]), result.validation_outputs, atol=1e-3)
    assert any("5 folds of the training part" in fact for fact in result.facts)
    # Three patients cannot be dealt to folds: it has to choose on what it is judged by.
    few = run(linear(), tiny_settings(members=1), groups=([f"p{i % 3}" for i in range(40)], GROUPS[1]))
    assert not any("folds" in fact for fact in few.facts)


def test_what_was_computed_is_stored_and_taken_from_there(tmp_path):
    first = run(linear(), tiny_settings(members=1), groups=GROUPS, checkpoint_dir=tmp_path)
    told = Recorder(stop_at=0)
    again = run(linear(), tiny_settings(members=1), groups=GROUPS, checkpoint_dir=tmp_path, callbacks=[told])
    assert (again.weights_hash, again.history, again.facts) == (first.weights_hash, first.history, first.facts)
    np.testing.assert_array_equal(again.validation_outputs, first.validation_outputs)
    assert told.info["resumed_epoch"] == 1 and told.info["history"] == first.history and not told.rows
    # What belongs to other data is computed anew.
    with pytest.raises(JobCancelled):
        run(linear(), tiny_settings(members=1), parts=tiny_parts(seed=1), groups=GROUPS, checkpoint_dir=tmp_path, callbacks=[told])  # fmt: skip


def test_what_cannot_be_computed_is_said(monkeypatch):
    train, t, validation, v = tiny_parts()
    with pytest.raises(TrainingFailed, match="validation part") as none:
        run(linear(), parts=(train, t, None, None))
    assert none.value.code == "no_validation"
    with pytest.raises(JobCancelled) as stopped:
        run(linear(), callbacks=[Recorder(stop_at=1)])
    assert stopped.value.code == "cancelled"
    flat = [ArraySource(np.full((len(rows), 3, 64), 0.3, np.float32)) for rows in (t, v)]
    silent = run(linear(), parts=(flat[0], t, flat[1], v))
    assert (
        any("every ECG alike" in note for note in silent.notes) and np.ptp(silent.validation_outputs, axis=0).max() == 0
    )
    np.testing.assert_allclose(1 / (1 + np.exp(-silent.validation_outputs[0])), v.mean(0), atol=0.05)
    monkeypatch.setattr(limits, "MOST_COMPUTED", 50)
    with pytest.raises(TrainingFailed, match="at most 50 records") as many:
        run(linear())
    assert many.value.code == "too_many_records"


def test_it_learns_on_by_gradients_from_what_was_computed():
    base = linear()
    base.load_state_dict(computed().best_state)
    parts = tiny_parts(seed=7)
    tuned = run(base, tiny_settings(mode="full", epochs=3), parts=parts)
    assert tuned.epochs == 3 and tuned.history[0]["stage"] == "full"
    assert not torch.equal(tuned.best_state["linear.weight"], base.linear.weight)
    assert torch.equal(tuned.best_state["features.levels"], base.features.levels)
    net = linear()
    net.load_state_dict(tuned.best_state)
    assert roc_auc_score(parts[3][:, 0], predict(net, parts[2])[:, 0]) > 0.8


@pytest.fixture
def choices(db):
    project = factories.make_project()
    dataset = factories.make_dataset(project)
    for number in range(24):
        factories.make_record(dataset, subject=f"p{number // 2}", labels=("NORM",) if number % 4 < 2 else ("IMI",))
    return {"project": project, "datasets": [dataset], "label_map": factories.make_label_map(project), "architecture": "linear"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"settings": {"companion": "always"}}, "none beside it"),
        ({"task": "pretraining", "pretraining": {"method": "masked"}}, "no trunk"),
    ],
)
def test_choices_that_do_not_go_with_it_are_refused(choices, changes, word):
    found = check(**{**choices, **changes})
    assert not found.ok and any(word in finding.message for finding in found.findings), found.findings


def test_the_check_says_that_it_has_no_epochs_and_what_it_costs(choices, monkeypatch):
    found = check(**choices)
    assert found.ok and found.cost.networks == 1
    assert any(finding.code == "computed" and finding.level == "info" for finding in found.findings)
    assert check(**choices, settings={"epochs": 40, "members": 3}).cost.seconds == found.cost.seconds
    network = check(**{**choices, "architecture": "xresnet1d18"}).cost
    assert network.seconds - network.epoch_seconds > found.cost.seconds
    monkeypatch.setattr(limits, "MOST_COMPUTED", 10)
    refused = check(**choices)
    assert {finding.code for finding in refused.findings if finding.level == "error"} == {"too_many_records"}


@pytest.mark.parametrize("split", [{}, {"method": "k_fold", "folds": 3, "fold": None}])
def test_a_run_of_it_ends_with_a_model_and_an_evaluation(choices, split):
    owner = factories.make_user()
    recipe = json.loads(plain_recipe(duration_s=4).to_json())
    run: TrainingRun = run_start(actor=owner, **choices, split=split, recipe=recipe, settings={"threads": 1})
    work_off_one(run.job_id)
    run.refresh_from_db()
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    version = run.produced_version
    module = module_of(version)
    assert version.architecture == "linear" and version.parameters == parameter_count(module)
    assert run.report.pk and run.epochs.count() == (3 if split else 1)
    assert version.contract["config"] == ({"members": 3} if split else {})
