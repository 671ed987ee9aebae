"""Choose for me: what is tried, what is chosen, how it stops, goes on and is cancelled, and a trial in full."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib import import_module
from itertools import count, product

import pytest
from django.apps import apps

from datasets.preprocess.recipe import Recipe, plain_recipe
from ecgportal import storage
from ecgportal.errors import InvalidInput, JobCancelled
from ecgportal.jobs.models import JobState
from ecgportal.jobs.services import cancel
from modelhub.architectures.catalog import catalog
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off, work_off_one
from training import candidates, running, searching
from training.engine.settings import Augmentation, FitSettings
from training.models import Study, TrainingRun, Trial, TrialState
from training.services import run_again, run_resume, trial_take


@pytest.fixture
def small(monkeypatch):
    """Two small networks and short trials."""
    monkeypatch.setattr(candidates, "_CANDIDATES", ("xresnet1d18", "net1d_s"))
    monkeypatch.setattr(candidates, "_TRIAL_EPOCHS", 2)
    monkeypatch.setattr(searching, "_FIRST_RUNG", 1)


def search(ward: Ward, **asked) -> TrainingRun:
    run = ward.start(architecture=None, search={"minutes": 0.02}, settings={**FAST, "epochs": 2, "members": 1}, **asked)
    work_off()
    return TrainingRun.objects.select_related("job").get(pk=run.pk)


def test_a_search_tries_on_the_development_part_and_trains_the_winner_once(ward, small):
    run = search(ward)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    study = Study.objects.get(run=run)
    trials = list(study.trials.all())
    assert trials and all(trial.state != TrialState.RUNNING for trial in trials)
    best = study.trials.get(number=study.result["trial"])
    # On a slow machine the minutes are over within the first.
    done = [trial for trial in trials if trial.state == TrialState.DONE] or trials
    assert best.scores[-1] == max(trial.scores[-1] for trial in done)
    assert run.architecture == best.choices["start"]
    assert run.settings["learning_rate"] == best.choices["learning_rate"] and run.settings["epochs"] == 2
    assert run.report.part == "test" and run.produced_version.architecture == run.architecture
    assert run.epochs.count() == 2
    # Nothing of the test part was seen while choosing: every trial is scored on the validation part.
    for trial in done:
        assert trial.score is None or 0 <= trial.low <= trial.score <= trial.high <= 1


def test_a_search_with_a_base_tries_its_modes_too(db, small, django_assert_num_queries):
    with django_assert_num_queries(1):
        offered = candidates.offer(FitSettings(epochs=2), True, {}, 100, 20, budget_s=1e9).starts
    assert offered == ["base:head", "base:full", "base:head_then_full", "xresnet1d18", "net1d_s"]
    # Of one epoch nothing is left for all layers after the head.
    offered = candidates.offer(FitSettings(epochs=1), True, SHORT, 20000, 3000, budget_s=60).starts
    assert offered == ["base:head", "base:full", "net1d_s"]


@pytest.fixture
def computed(monkeypatch):
    """The linear model beside one small network, and short trials."""
    monkeypatch.setattr(candidates, "_CANDIDATES", ("net1d_s", "linear"))
    monkeypatch.setattr(candidates, "_TRIAL_EPOCHS", 2)


SHORT = json.loads(plain_recipe(duration_s=4).to_json())


NETWORK = {
    "start": "net1d_s", "learning_rate": 0.004, "weight_decay": 0.01, "augmentation": "off", "class_weights": "none",
}  # fmt: skip


def test_networks_that_are_too_slow_for_the_minutes_are_named(ward, small, monkeypatch, client):
    monkeypatch.setattr(candidates, "seconds_per_epoch", lambda name, *counts: 0.0 if name == "net1d_s" else 99.0)
    run = search(ward)
    assert {trial.choices["start"] for trial in Trial.objects.filter(study__run=run)} == {"net1d_s"}
    client.force_login(ward.user)
    left_out = f"more than a quarter of the minutes: {catalog()['xresnet1d18'].title}."
    for address in (f"/training/{run.pk}/", f"/training/{run.pk}/search/"):
        assert left_out in client.get(address).content.decode()


def test_the_linear_model_is_offered_where_it_can_be_computed_in_the_time(db, computed):
    def offered(n_train: int = 200, budget_s: float = 60, **settings) -> list[str]:
        return candidates.offer(FitSettings(epochs=2, **settings), False, {}, n_train, 30, budget_s).starts

    assert offered() == ["linear", "net1d_s"]
    assert offered(20_000, 1e9) == offered(companion="always") == offered(budget_s=0.1) == ["net1d_s"]


def test_the_linear_model_is_tried_once_and_its_time_counts_and_it_can_win(ward, computed, client):
    run = ward.start(architecture=None, search={"minutes": 0.1}, settings=FAST, recipe=SHORT)
    asked, study = run.settings, Study.objects.get(run=run)
    Trial.objects.create(study=study, number=1, choices=NETWORK, state=TrialState.DONE, scores=[-99.0], seconds=5.999)
    # As a process that was killed in it leaves it.
    Trial.objects.create(study=study, number=2, choices={"start": "linear"})
    work_off()
    run = TrainingRun.objects.select_related("job", "produced_version").get(pk=run.pk)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    _, trial = study.trials.all()
    assert trial.choices == {"start": "linear"} and trial.state == TrialState.DONE and trial.seconds > 0
    assert len(trial.scores) == 1 and Study.objects.get(pk=study.pk).result["trial"] == 2
    # In full it is a run of it: with what was asked for, and on folds of the whole development part where that is the default.
    assert (run.architecture, run.settings) == ("linear", asked) and run.report.part == "test"
    assert run.produced_version.architecture == "linear"
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert "computed, without epochs" in page and "chooses nothing on the validation records" in page
    taken = trial_take(actor=ward.user, run=run, number=2)
    assert (taken.architecture, taken.settings) == ("linear", asked)


def test_a_search_cancelled_after_the_linear_model_keeps_it(ward, computed, monkeypatch):
    def in_the_network(trials):
        return trials.filter(state=TrialState.RUNNING, number=2).exists()

    run, study = cancelled(ward, wish(ward), monkeypatch, in_the_network)
    assert study.result["kept"] and study.result["choices"] == {"start": "linear"}
    assert run.architecture == "linear" and run.manifest["trial"] == 1
    assert "number 1, computed, without epochs" in Api(session=ward.user).get(f"training-runs/{run.pk}/")["outcome"]
    again = run_again(actor=ward.user, run=run)
    work_off_one(again.job_id)
    again.refresh_from_db()
    assert again.manifest["weights_hash"] == run.manifest["weights_hash"]


def test_the_winner_is_trained_as_a_default_run_of_its_network_is(ward):
    run = ward.start(architecture=None, search={"minutes": 5}, settings={})
    study = Study.objects.get(run=run)
    Trial.objects.create(study=study, number=1, choices=NETWORK, state=TrialState.DONE, scores=[1.0])
    searching._take_winner(run, study)
    settings = FitSettings.from_dict(run.settings)
    usual = FitSettings(learning_rate=0.004)
    assert replace(settings, augmentation=usual.augmentation) == usual and run.architecture == "net1d_s"
    networks = settings.n_members(300)
    config = running.contract_of(run, Recipe.from_json(run.recipe), networks).config
    assert (networks, config) == (5, {"members": 5, "companion": True})


def test_an_interrupted_search_goes_on_with_what_was_tried(ward, small):
    run = ward.start(architecture=None, search={"minutes": 0.01}, settings={**FAST, "epochs": 2, "members": 1})
    study = Study.objects.get(run=run)
    choices = {
        "start": "net1d_s",
        "learning_rate": 0.004,
        "weight_decay": 0.01,
        "augmentation": "off",
        "class_weights": "none",
    }
    Trial.objects.create(
        study=study, number=1, choices=choices, state=TrialState.DONE, scores=[2.0, 3.0], score=0.9, seconds=1000
    )
    Trial.objects.create(study=study, number=2, choices=choices | {"start": "xresnet1d18"}, state=TrialState.RUNNING)
    work_off()
    run.refresh_from_db()
    study.refresh_from_db()
    # The budget was spent already, so the best of before wins without further trials.
    assert study.result["trial"] == 1 and run.architecture == "net1d_s" and run.settings["learning_rate"] == 0.004
    assert run.settings["augmentation"]["noise_mv"] == 0.0


def test_an_interrupted_search_goes_on_with_what_it_would_have_tried():
    import optuna

    space = searching._distributions(["net1d_s", "xresnet1d18"])

    def proposed(before: list[Trial], count: int) -> list[dict]:
        tries, found = optuna.create_study(direction="maximize"), []
        for trial in before:
            searching._tell_again(tries, trial, space)
        for number in range(len(before), len(before) + count):
            tries.sampler = searching.sampler(3, number)
            asked = tries.ask(space)
            found.append(dict(asked.params))
            tries.tell(asked, number / 100)
        return found

    whole = proposed([], 12)
    assert len({trial["learning_rate"] for trial in whole}) == 12
    for done in (2, 10):
        before = [
            Trial(choices=choices, state=TrialState.DONE, scores=[number / 100])
            for number, choices in enumerate(whole[:done])
        ]
        assert proposed(before, 2) == whole[done : done + 2]


def test_class_weights_are_tried_only_where_the_loss_that_they_change_does_not_compare(ward):
    import optuna

    from training.run_records import records_of

    run = ward.start(architecture=None, search={"minutes": 5}, settings=FAST)
    by_part = {"validation": records_of(run)}
    assert "class_weights" in searching._space(run, by_part, ["net1d_s"])
    run.settings["monitor"] = "loss"
    space = searching._space(run, by_part, ["net1d_s"])
    assert set(space) == {"start", "learning_rate", "weight_decay", "augmentation"}
    # What an earlier search tried is told to the sampler all the same.
    tries = optuna.create_study(direction="maximize")
    searching._tell_again(tries, Trial(choices=NETWORK, state=TrialState.DONE, scores=[-0.5]), space)
    assert tries.best_value == -0.5
    kept = {name: NETWORK[name] for name in space}
    assert searching.settings_of(Study.objects.get(run=run), kept).class_weights == run.settings["class_weights"]


def test_a_cancelled_search_keeps_its_trials_and_is_resumed_as_a_search(ward, small):
    run = ward.start(architecture=None, search={"minutes": 5}, settings=FAST)
    cancel(actor=ward.user, job=run.job)
    run.refresh_from_db()
    resumed = run_resume(actor=ward.user, run=run)
    assert resumed.job.kind == "search" and Study.objects.get(run=run).job == resumed.job
    # The winner's training, too, may fall back on what was tried.
    Study.objects.filter(run=run).update(result={"trial": None})
    cancel(actor=ward.user, job=resumed.job)
    resumed.refresh_from_db()
    assert run_resume(actor=ward.user, run=resumed).job.kind == "search"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"search": {"minutes": -1}, "architecture": None}, "search.minutes"),
        ({"search": {"minutes": float("nan")}, "architecture": None}, "search.minutes"),
        ({"search": {"hours": 1}, "architecture": None}, "search.minutes"),
        ({"search": {"minutes": 5}}, "architecture"),
        ({"search": {"minutes": 5}, "architecture": None, "split": {"method": "k_fold"}}, "split.method"),
    ],
)
def test_a_search_that_cannot_be_is_refused(ward, asked, field):
    with pytest.raises(InvalidInput) as error:
        ward.start(**asked)
    assert field in error.value.fields


def test_a_search_spends_its_minutes_and_each_trial_can_be_trained_in_full(ward, small, client):
    run = search(ward)
    study = Study.objects.get(run=run)
    trials = list(study.trials.all())
    # The last trial is begun before the minutes are over, or is the one that gives a first result.
    assert (
        len(trials) == 1
        or sum(trial.seconds for trial in trials[:-1]) < 60 * study.settings["minutes"] + trials[0].seconds
    )
    api = Api(session=ward.user)
    other = next((trial for trial in trials if trial.number != study.result["trial"]), trials[0])
    taken = api.post(f"training-runs/{run.pk}/take-trial/", {"number": other.number}, status=202)
    assert taken["architecture"] == other.choices["start"] and taken["settings"]["epochs"] == 2
    assert taken["settings"]["learning_rate"] == other.choices["learning_rate"]
    assert taken["split_settings"] == run.split_settings and taken["name"].endswith(f"trial {other.number}")
    api.refused("post", f"training-runs/{run.pk}/take-trial/", {"number": 999}, status=422)
    client.force_login(ward.user)
    answer = client.post(f"/training/{run.pk}/take-trial/", {"number": other.number})
    assert answer.status_code == 302 and TrainingRun.objects.count() == 3


def cancelled(ward: Ward, run: TrainingRun, monkeypatch, when) -> tuple[TrainingRun, Study]:
    """Do a search whose trainings are cancelled when ``when(trials)`` is true."""
    from training.trying import Follow

    trials = Trial.objects.filter(study__run=run)
    with monkeypatch.context() as patch:
        patch.setattr(Follow, "should_stop", lambda self: "cancelled" if when(trials) else False)
        work_off_one(run.job_id)
    run = TrainingRun.objects.select_related("job", "produced_version").get(pk=run.pk)
    assert run.job.state == JobState.CANCELLED, run.job.error_message
    return run, Study.objects.get(run=run)


def wish(ward: Ward, **settings) -> TrainingRun:
    return ward.start(
        architecture=None, search={"minutes": 5}, settings={**FAST, "epochs": 2, "members": 1, **settings}
    )


def test_a_search_cancelled_within_its_first_epoch_has_no_model_and_goes_on_from_there(
    ward, small, monkeypatch, client
):
    run, study = cancelled(ward, wish(ward), monkeypatch, lambda trials: True)
    assert run.produced_version is None and not study.result and study.trials.get().state == TrialState.RUNNING
    said = Api(session=ward.user).get(f"training-runs/{run.pk}/")["outcome"]
    assert "before a network had finished its first epoch" in said and "Resume" in said
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert said in page and "not finished" in page and "Resume</button>" in page
    Study.objects.filter(pk=study.pk).update(settings=study.settings | {"minutes": 0.001})
    run_resume(actor=ward.user, run=run)
    work_off()
    assert Study.objects.get(pk=study.pk).result["trial"] and TrainingRun.objects.get(pk=run.pk).produced_version


def test_a_cancelled_search_keeps_the_model_of_its_best_trial(ward, small, monkeypatch, client):
    def in_the_third(trials):
        return trials.filter(state=TrialState.RUNNING, number=3).exists()

    run, study = cancelled(ward, wish(ward, epochs=4, patience=1), monkeypatch, in_the_third)
    best = study.trials.get(number=study.result["trial"])
    ended = study.trials.exclude(number=3)
    assert study.result["kept"] and best.state == TrialState.DONE and ended.count() == 2
    assert best.scores[-1] == max(trial.scores[-1] for trial in ended.filter(state=TrialState.DONE))
    assert study.trials.get(number=3).state == TrialState.STOPPED
    version = run.produced_version
    assert version.architecture == run.architecture == best.choices["start"] and run.manifest["trial"] == best.number
    assert run.settings["epochs"] == 2 and run.epochs.count() == 2 and run.manifest["stopped_reason"] == "cancelled"
    api = Api(session=ward.user)
    said = api.get(f"training-runs/{run.pk}/")["outcome"]
    assert f"number {best.number}, epoch {run.best_epoch} of the 2" in said
    assert "after 2 whole trainings" in api.get(f"training-runs/{run.pk}/search/")["outcome"]
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert said in page and "kept as the model" in page and "trained in full<" not in page
    api.refused("post", f"training-runs/{run.pk}/resume/", {}, status=409, code="not_resumable")
    # The job that follows judges it, the same again gives the same weights, and a trial in full is what was asked for.
    assert [job.kind for job in work_off()] == ["judge_run"]
    assert TrainingRun.objects.get(pk=run.pk).report.part == "test"
    again = run_again(actor=ward.user, run=run)
    full = trial_take(actor=ward.user, run=run, number=best.number)
    assert (full.settings["epochs"], full.settings["patience"]) == (4, 1)
    work_off()
    again.refresh_from_db()
    assert again.manifest["weights_hash"] == run.manifest["weights_hash"]


def test_a_search_cancelled_in_its_first_trial_keeps_that_trials_best_epoch(ward, small, monkeypatch):
    from training.trying import Follow

    told, real = [], Follow.on_epoch_end
    monkeypatch.setattr(Follow, "on_epoch_end", lambda self, row: told.append(row) or real(self, row))
    run, study = cancelled(ward, wish(ward), monkeypatch, lambda trials: told)
    assert run.produced_version is not None and run.manifest["epochs"] == 1
    assert study.trials.get().state == TrialState.STOPPED and study.result["trial"] == 1


def test_a_search_cancelled_before_the_winners_first_epoch_keeps_what_was_tried(ward, small, monkeypatch):
    run = ward.start(architecture=None, search={"minutes": 0.001}, settings={**FAST, "epochs": 3, "members": 1})

    def stopped(*args):
        raise JobCancelled("Stopped before the first epoch.", code="cancelled")

    monkeypatch.setattr(running, "_fit", stopped)
    work_off_one(run.job_id)
    run = TrainingRun.objects.select_related("job").get(pk=run.pk)
    study = Study.objects.get(run=run)
    assert run.job.state == JobState.CANCELLED and run.produced_version is not None, run.job.error_message
    assert run.manifest["trial"] == study.result["trial"] and run.settings["epochs"] == 2
    assert not any(storage.area("checkpoints", study.pk).iterdir())


def test_a_trial_in_full_has_the_augmentations_that_were_asked_for_not_the_winners(ward):
    run = wish(ward)
    study, asked = Study.objects.get(run=run), run.settings["augmentation"]
    choices = {
        "start": "net1d_s",
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "augmentation": "default",
        "class_weights": "none",
    }
    Trial.objects.create(study=study, number=1, choices=choices, state=TrialState.DONE)
    # As after a winner with the strong ones.
    TrainingRun.objects.filter(pk=run.pk).update(settings=run.settings | {"augmentation": asked | {"noise_mv": 0.05}})
    run.refresh_from_db()
    assert trial_take(actor=ward.user, run=run, number=1).settings["augmentation"] == asked


def test_the_augmentations_of_a_search_differ_in_every_part_that_the_default_uses():
    usual = Augmentation()
    off, default, strong = (asdict(replace(usual, **changes)) for changes in candidates.augmentations().values())
    assert list(candidates.augmentations()) == list(candidates.SPACE["augmentation"])
    assert default == asdict(usual) and not any(off.values())
    FitSettings(augmentation=Augmentation(**strong))
    for name, value in default.items():
        assert strong[name] > value if value else strong[name] == 0


def test_a_search_keeps_what_was_asked_for_and_ends_when_all_that_is_left_was_tried(ward, small):
    asked = {"learning_rate": 1e-5, "weight_decay": 0.5, "augmentation": {"noise_mv": 0.0}}
    run = ward.start(architecture=None, search={"minutes": 600}, settings={**FAST, "epochs": 2, "members": 1, **asked})
    frozen = run.settings
    work_off()
    run = TrainingRun.objects.select_related("job").get(pk=run.pk)
    assert run.job.state == JobState.SUCCEEDED, run.job.error_message
    study = Study.objects.get(run=run)
    assert study.settings["sampled"] == ["class_weights"]
    tried = [(trial.choices["start"], trial.choices["class_weights"]) for trial in study.trials.all()]
    assert sorted(tried) == sorted(product(("xresnet1d18", "net1d_s"), ("none", "sqrt")))
    assert run.settings == frozen | {"class_weights": study.result["choices"]["class_weights"]}


def test_the_only_trial_ends_after_an_epoch_when_the_minutes_are_over(ward, small, monkeypatch):
    monkeypatch.setattr(candidates, "_TRIAL_EPOCHS", 15)
    clock = count(0, 1000.0)
    monkeypatch.setattr(searching, "monotonic", lambda: next(clock))
    run = ward.start(architecture=None, search={"minutes": 5}, settings={**FAST, "epochs": 15, "members": 1})
    monkeypatch.setattr(running, "train", lambda *a: {})
    work_off()
    study = Study.objects.get(run=run)
    trial = study.trials.get()
    assert (trial.state, trial.note, len(trial.scores)) == (TrialState.STOPPED, "the minutes were over", 1)
    assert trial.score is not None and study.result["trial"] == 1


def test_a_trial_that_the_end_of_the_minutes_finds_in_its_first_epoch_is_stopped_and_not_failed(
    ward, small, monkeypatch
):
    run = wish(ward)
    study = Study.objects.get(run=run)
    first = Trial.objects.create(
        study=study, number=1, choices=NETWORK, state=TrialState.DONE, scores=[0.5], seconds=299
    )
    clock = count(0, 1000.0)
    monkeypatch.setattr(searching, "monotonic", lambda: next(clock))
    monkeypatch.setattr(running, "train", lambda *a: {})
    work_off()
    second = study.trials.get(number=2)
    assert (second.state, second.note, second.scores) == (TrialState.STOPPED, "the minutes were over", [])
    assert Study.objects.get(pk=study.pk).result["trial"] == first.number


def test_what_was_tried_before_searches_kept_their_augmentations_stays_what_it_was(ward):
    run = wish(ward)
    study = Study.objects.get(run=run)
    study.settings.pop("augmentations")
    study.save()
    import_module("training.migrations.0009_search_augmentations").keep_what_was_tried(apps, None)
    study.refresh_from_db()
    off, strong = (
        searching.settings_of(study, NETWORK | {"augmentation": name}).augmentation for name in ("off", "strong")
    )
    assert (off.noise_mv, off.wander_mv) == (0.0, 0.1) and (strong.shift_s, strong.scale) == (1.0, 0.4)
    new = Study.objects.get(run=wish(ward)).settings["augmentations"]
    assert new == candidates.augmentations()
