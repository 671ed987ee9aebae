"""The learning curve: parts of whole patients, ensembles and the linear model, the forecast, a cancel, and what the pages say."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.models import RecordLabel
from ecgportal.errors import Conflict
from ecgportal.jobs.services import cancel
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_searches import SHORT, search
from tests.training.test_searches import small as small  # a fixture
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training.engine.settings import MOST_SEED, FitSettings
from training.forecast import Point, forecast
from training.growing import part_of, seed_of
from training.models import SplitMember, Study, TrainingRun, Trial, TrialState
from training.selectors import repetition
from training.services import learning_curve_start, run_again, run_delete, run_resume
from training.splitting import make_split


def test_parts_are_whole_patients_and_hold_each_other(ward):
    run = ward.start()
    from training.run_records import records_of

    items = records_of(run)
    make_split(run, items)
    half, third = part_of(items, 0.5, 1), part_of(items, 0.3, 1)
    assert {item.record for item in third} <= {item.record for item in half}
    assert len(third) < len(half) < len(items) and part_of(items, 1.0, 1) == items
    assert not {item.group for item in half} & {item.group for item in items if item not in half}
    assert part_of(items, 0.5, 1) != part_of(items, 0.5, 2)


def test_a_learning_curve_trains_on_growing_parts_and_goes_on(ward, monkeypatch):
    run = ward.train(settings={**FAST, "members": 1})
    api = Api(session=ward.user)
    assert api.get(f"training-runs/{run.pk}/learning-curve/")["state"] is None
    started = api.post(f"training-runs/{run.pk}/learning-curve/", {}, status=202)
    assert started["state"] == "queued" and started["trials"] == []
    api.refused("post", f"training-runs/{run.pk}/learning-curve/", {}, status=409, code="study_open")
    work_off()
    found = api.get(f"training-runs/{run.pk}/learning-curve/")
    assert found["state"] == "succeeded", found
    sizes = [trial["choices"]["records"] for trial in found["trials"]]
    assert sizes == sorted(sizes) and sizes[-1] == run.manifest["records"]["train"]
    # 24 records: the smallest parts are too few to be learned from, and too few sizes are left for a forecast.
    assert found["trials"][0]["state"] == "failed" and "too few" in found["trials"][0]["note"]
    assert "at least 4 sizes" in found["result"]["reason"]
    before = len(sizes)
    again = api.post(f"training-runs/{run.pk}/learning-curve/", {"repeats": 2}, status=202)
    work_off()
    assert again["settings"]["repeats"] == 2
    assert len(api.get(f"training-runs/{run.pk}/learning-curve/")["trials"]) == 2 * before


def test_the_learning_curve_of_an_ensemble_is_that_of_ensembles(ward):
    run = ward.train(settings={**FAST, "members": 2})
    study = learning_curve_start(actor=ward.user, run=run)
    work_off()
    trials = list(study.trials.all())
    assert trials[-1].state == TrialState.DONE, trials[-1].note
    assert trials[-1].choices["records"] == run.manifest["records"]["train"] + run.manifest["records"]["validation"]
    assert trials[-1].score == pytest.approx(run.report.report["auroc_macro"]["value"], abs=1e-6)


def test_the_learning_curve_of_the_linear_model_ends_where_its_run_did(ward):
    run = ward.train(architecture="linear", settings={**FAST, "members": 2}, recipe=SHORT)
    study = learning_curve_start(actor=ward.user, run=run)
    work_off()
    *_, whole = study.trials.all()
    assert whole.choices["records"] == run.manifest["records"]["train"] + run.manifest["records"]["validation"]
    assert whole.score == pytest.approx(run.report.report["auroc_macro"]["value"], abs=1e-6)


def test_the_pages_of_both_grow_and_tell(ward, small, client):
    client.force_login(ward.user)
    run = search(ward)
    page = f"/training/{run.pk}/"
    text = client.get(page).content.decode()
    assert "Chosen for you" in text and "trained in full" in text and "What would more labels bring?" in text
    assert 'name="repeats"' in text
    for number in ("many", "\u00b2", "9" * 5000, "-1"):
        assert client.post(f"{page}learning-curve/", {"repeats": number}).status_code == 422
    assert client.post(f"{page}learning-curve/", {"repeats": "2"}).status_code == 302
    assert Study.objects.get(run=run, kind="learning_curve").settings == {"repeats": 2}
    assert 'hx-trigger="every 3s"' in client.get(f"{page}curve/").content.decode()
    work_off()
    study = Study.objects.get(run=run, kind="learning_curve")
    for number, size in enumerate((50, 100, 200, 400), start=50):
        Trial.objects.create(
            study=study, number=number, choices={"records": size, "subjects": size, "share": 9, "repeat": 9}, state=TrialState.DONE,
            score=law(size), low=law(size) - 0.02, high=law(size) + 0.02,
        )  # fmt: skip
    Study.objects.filter(pk=study.pk).update(
        result={"metric": "auroc_macro", **forecast([Point(n, law(n)) for n in (50, 100, 200, 400)]).to_json()}
    )
    text = client.get(f"{page}curve/").content.decode()
    assert "With twice the training records (800 instead of 400)" in text and "<svg" in text and "every 3s" not in text
    assert "trained in full" in client.get(f"{page}search/").content.decode()


def test_a_learning_curve_needs_a_model_and_is_deleted_with_its_run(ward):
    run = ward.start()
    with pytest.raises(Conflict, match="produced a model"):
        learning_curve_start(actor=ward.user, run=run)
    cancel(actor=ward.user, job=run.job)
    done = ward.train(settings={**FAST, "members": 1})
    study = learning_curve_start(actor=ward.user, run=done)
    with pytest.raises(Conflict, match="being made"):
        run_delete(actor=ward.user, run=done)
    cancel(actor=ward.user, job=study.job)
    run_delete(actor=ward.user, run=TrainingRun.objects.get(pk=done.pk))
    assert not Study.objects.exists()


def swap_labels() -> None:
    """Give every record the other of the two classes."""
    normal = list(RecordLabel.objects.filter(code="NORM").values_list("pk", flat=True))
    RecordLabel.objects.filter(code="IMI").update(code="NORM")
    RecordLabel.objects.filter(pk__in=normal).update(code="IMI")


def test_a_learning_curve_goes_by_the_labels_of_its_run_and_says_that_they_changed(ward, monkeypatch):
    monkeypatch.setattr("training.growing.SHARES", (1.0,))
    run = ward.train(settings={**FAST, "members": 1}, recipe=SHORT)
    swap_labels()
    study = learning_curve_start(actor=ward.user, run=run)
    work_off()
    assert study.trials.get().score == pytest.approx(run.report.report["auroc_macro"]["value"], abs=1e-6)
    run.refresh_from_db()
    assert any("the labels of 24 of its 24 records have changed" in sentence for sentence in run.warnings)
    again = run_again(actor=ward.user, run=run)
    work_off()
    again.refresh_from_db()
    assert ("Data", False) in {(what, same) for what, _, _, same in repetition(again)} and not again.warnings
    # Runs of earlier versions kept nothing to go by.
    SplitMember.objects.filter(split=run.split).update(truth=None)
    learning_curve_start(actor=ward.user, run=run, repeats=2)
    work_off()
    study.refresh_from_db()
    assert study.job.error_code == "labels_changed" and "Run again" in study.job.error_message


def test_a_run_goes_on_after_its_end_was_untimely_with_the_labels_that_it_began_with(ward, monkeypatch):
    from training.live import Report

    run, real = ward.start(settings={**FAST, "epochs": 2, "members": 1}, recipe=SHORT), Report.on_epoch_end
    monkeypatch.setattr(Report, "on_epoch_end", lambda self, row: swap_labels() or 1 / 0)
    work_off()
    monkeypatch.setattr(Report, "on_epoch_end", real)
    run_resume(actor=ward.user, run=TrainingRun.objects.get(pk=run.pk))
    work_off()
    run = TrainingRun.objects.select_related("job").get(pk=run.pk)
    assert run.job.state == "succeeded", run.job.error_message
    parts = SplitMember.objects.filter(split=run.split, group__part="train", record__labels__code="NORM")
    assert run.manifest["statistics"]["train"]["classes"]["MI"] == parts.count()
    assert any("have changed" in sentence for sentence in run.warnings)


def law(n, a=0.95, b=1.2, c=0.5):
    return a - b * n**-c


def test_the_forecast_finds_a_known_law_and_covers_the_truth():
    sizes = [50, 100, 200, 400, 800]
    found = forecast([Point(n, law(n), law(n) - 0.01, law(n) + 0.01) for n in sizes])
    assert found.twice["value"] == pytest.approx(law(1600), abs=0.01)
    assert found.twice["low"] <= law(1600) <= found.twice["high"] <= 1.0
    assert found.now["value"] < found.twice["value"]
    assert found.curve[0][0] == 50 and found.curve[-1][0] == 1600


def test_the_forecast_is_unsure_where_the_points_are():
    rng = np.random.default_rng(1)
    points = [(n, law(n) + rng.normal(0, 0.03)) for n in (50, 100, 200, 400, 800)]
    sure = forecast([Point(n, y, y - 0.01, y + 0.01) for n, y in points]).twice
    unsure = forecast([Point(n, y, y - 0.12, y + 0.12) for n, y in points]).twice
    assert unsure["high"] - unsure["low"] > sure["high"] - sure["low"] > 0


def test_an_error_is_forecast_to_fall():
    points = [Point(n, 5 + 40 * n**-0.5, None, None) for n in (50, 100, 200, 400)]
    found = forecast(points, lower_is_better=True, most=None)
    assert (
        5 < found.twice["value"] < found.now["value"]
        and found.twice["low"] <= found.twice["value"] <= found.twice["high"]
    )
    assert forecast([Point(10, 0.5)] * 9).reason.startswith("A forecast needs")


def test_a_cancelled_learning_curve_keeps_what_is_done_and_says_what_is_missing(ward, monkeypatch, client):
    from training.trying import Follow

    run = ward.train(settings={**FAST, "members": 1})
    study = learning_curve_start(actor=ward.user, run=run)
    done = Trial.objects.filter(study=study, state=TrialState.DONE)
    with monkeypatch.context() as patch:
        patch.setattr(Follow, "should_stop", lambda self: "cancelled" if done.exists() else False)
        work_off()
    api, kept = Api(session=ward.user), list(done.values("number", "score"))
    found = api.get(f"training-runs/{run.pk}/learning-curve/")
    assert (found["state"], found["result"]["metric"]) == ("cancelled", "auroc_macro") and kept
    left = 5 - study.trials.exclude(state=TrialState.RUNNING).count()
    assert f"{left} of its trainings" in found["outcome"] and "100 %" in found["outcome"]
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert found["outcome"] in page and "Go on with the learning curve" in page
    learning_curve_start(actor=ward.user, run=run)
    work_off()
    found = api.get(f"training-runs/{run.pk}/learning-curve/")
    assert (found["state"], found["outcome"], len(found["trials"])) == ("succeeded", "", 5)
    assert kept == list(done.filter(number__in=[row["number"] for row in kept]).values("number", "score"))


def test_repeats_of_the_largest_seed_have_seeds_of_their_own():
    seeds = [seed_of(MOST_SEED, repeat) for repeat in range(5)]
    assert len({FitSettings(seed=seed).seed for seed in seeds}) == 5 and seed_of(3, 2) == 5
