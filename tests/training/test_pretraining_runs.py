"""Learning without labels as a run: its trunk is a version to fine-tune, and what a later run holds back is not learned from."""

from __future__ import annotations

import io

import pytest
import torch

from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import JobState
from modelhub.loading import module_of
from modelhub.services import card_update
from modelhub.services_predictions import prediction_start
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training.checking import check
from training.engine.network import head_layers, parameter_names
from training.models import Evaluation, SplitMember, TrainingRun
from training.services import learning_curve_start, run_again

ALONE = {**FAST, "epochs": 2, "members": 1}


def learn(ward: Ward, **asked) -> TrainingRun:
    return ward.train(**{"task": "pretraining", "label_map": None, "settings": {**FAST, "epochs": 2}, **asked})


def parts_of(run: TrainingRun) -> dict[str, str]:
    rows = SplitMember.objects.filter(split=run.split_id).values_list("record", "group__part")
    return {str(record): part for record, part in rows}


def test_a_trunk_comes_from_records_without_labels_by_rest(ward):
    from datasets.models import RecordLabel

    RecordLabel.objects.all().delete()
    api = Api(session=ward.user)
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "task": "pretraining",
        "architecture": "xresnet1d18", "settings": {**FAST, "epochs": 2}, "pretraining": {"window_s": 1.5},
    }  # fmt: skip
    checked = api.post("training-runs/check/", body, status=200)
    assert checked["ok"] and checked["split"]["train"]["records"] == 24 and checked["cost"]["seconds"] > 0
    [said] = [row["message"] for row in checked["findings"] if row["code"] == "without_labels"]
    assert "All records are learned from" in said
    started = api.post("training-runs/", body, status=202)
    work_off()
    run = api.get(f"training-runs/{started['id']}/")
    assert run["state"] == "succeeded", run
    assert (
        run["report"] is None
        and run["split"]["train"]["records"] == 24
        and run["pretraining"] == {"method": "contrastive", "window_s": 1.5, "ahead": 2}
    )
    rows = api.get(f"training-runs/{run['id']}/metrics/")["results"]
    assert [row["epoch"] for row in rows] == [1, 2] and {"train_loss", "accuracy", "chance"} <= set(rows[0])
    assert run["manifest"]["weights_hash"] and run["manifest"]["pretraining"]["window_s"] == 1.5
    version = api.get(f"model-versions/{run['produced_version']}/")
    assert (version["classes"], version["task"], version["state"]) == ([], "pretraining", "ready")
    api.refused(
        "post", "predictions/", {"version": version["id"], "dataset": str(ward.first.pk)}, status=409, code="no_classes"
    )
    api.refused(
        "post", "evaluations/", {"version": version["id"], "dataset": str(ward.first.pk)}, status=409, code="no_classes"
    )


def test_what_a_later_run_holds_back_is_not_learned_from(ward):
    later = ward.start(settings=ALONE)
    trunk = learn(ward, label_map=ward.label_map)
    work_off()
    later.refresh_from_db()
    assert {record for record, part in parts_of(later).items() if part == "test"} == {
        record for record, part in parts_of(trunk).items() if part == "test"
    }
    tuned = ward.train(settings=ALONE, base_version=trunk.produced_version, architecture=None, mode="head")
    assert tuned.report.report["left_out_training_subjects"] == 0
    assert tuned.report.report["n"] == tuned.manifest["records"]["test"]
    assert trunk.manifest["subjects_on_two_sides"] == trunk.manifest["signals_on_two_sides"] == 0
    # Without the map all was learned from, so that nothing is left to judge by.
    everything = learn(ward)
    assert set(parts_of(everything).values()) == {"train"}
    found = check(
        project=ward.project, datasets=[ward.first, ward.second], label_map=ward.label_map, base_version=everything.produced_version,
        mode="head", settings=ALONE,
    )  # fmt: skip
    assert any(row.code == "leakage" for row in found.findings)


@pytest.mark.parametrize("mode", ["head", "head_then_full"])
def test_a_trunk_is_fine_tuned(ward, mode):
    trunk = learn(ward, label_map=ward.label_map).produced_version
    run = ward.train(
        base_version=trunk,
        architecture=None,
        mode=mode,
        settings={**ALONE, "head_epochs": 1 if mode == "head_then_full" else None},
    )
    made = run.produced_version
    assert made.parent == trunk and made.classes == ["NORM", "MI"] and made.contract["parent"] == trunk.sha256
    before, after = module_of(trunk), module_of(made)
    head = parameter_names(after, head_layers(after))
    same = {
        name: torch.equal(tensor, before.state_dict()[name])
        for name, tensor in after.state_dict().items()
        if name not in head and not any(name.startswith(part.rsplit(".", 1)[0]) for part in head)
    }
    assert same and all(same.values()) == (mode == "head")
    assert run.manifest["base"] == trunk.sha256


def test_a_trunk_tells_what_it_is_and_travels(ward, client):
    client.force_login(ward.user)
    run = learn(ward, label_map=ward.label_map)
    trunk = run.produced_version
    page = client.get(f"/versions/{trunk.pk}/").content.decode()
    assert "cannot predict" in page and "Fine-tune" in page and "Try it on one record" not in page
    shown = client.get(f"/training/{run.pk}/").content.decode()
    assert "Right window found" in shown and "Fine-tune the trunk" in shown and "Held back as by" in shown
    assert "cannot predict" not in client.get(f"/projects/{ward.project.pk}/models/").content.decode()
    api = Api(session=ward.user)
    card = api.get(f"model-versions/{trunk.pk}/card/")
    assert "fine-tuned" in card["markdown"]
    with pytest.raises(Conflict, match="cannot predict"):
        prediction_start(actor=ward.user, project=ward.project, version=trunk, dataset=ward.first)
    for kind, name in (("safetensors", "t.safetensors"), ("bundle", "t.zip")):
        data = b"".join(client.get(f"/versions/{trunk.pk}/download/?format={kind}"))
        body = {"project": str(ward.project.pk), "name": f"Trunk by {kind}", "file": io.BytesIO(data)}
        body["file"].name = name
        answer = client.post("/api/v1/model-versions/", body)
        assert answer.status_code == 202, answer.content
        job = work_off()[-1]
        assert job.state == JobState.SUCCEEDED, job.error_message
        taken = api.get(f"model-versions/{job.result['version']}/")
        assert taken["task"] == "pretraining" and taken["classes"] == []
        if taken["state"] == "quarantined":
            api.post(f"model-versions/{taken['id']}/accept/", {}, status=200)
        own = type(trunk).objects.get(pk=taken["id"])
        card_update(
            actor=ward.user,
            version=own,
            card={"licence": "CC BY 4.0", "intended_use": "Research.", "training_data": "Not known."},
        )
        tuned = ward.train(
            settings={**FAST, "members": 1},
            mode="head",
            architecture=None,
            base_version=own,
        )
        assert tuned.produced_version.classes == ["NORM", "MI"]


def test_the_same_again_gives_the_same_trunk(ward):
    run = learn(ward, label_map=ward.label_map)
    again = run_again(actor=ward.user, run=run)
    work_off()
    again.refresh_from_db()
    assert again.job.state == JobState.SUCCEEDED, again.job.error_message
    assert again.manifest["weights_hash"] == run.manifest["weights_hash"]
    assert again.produced_version.weights_sha256 == run.produced_version.weights_sha256
    assert not Evaluation.objects.exists()
    with pytest.raises(Conflict, match="needs labels"):
        learning_curve_start(actor=ward.user, run=run)


def test_a_cancel_keeps_the_trunk_of_the_last_epoch(ward, monkeypatch):
    from training.pretraining import _Told

    run = ward.start(task="pretraining", label_map=None, settings={**FAST, "epochs": 50})
    monkeypatch.setattr(_Told, "should_stop", lambda self: "cancelled" if self.run.epochs.count() else False)
    work_off()
    run.refresh_from_db()
    assert run.job.state == JobState.CANCELLED and run.produced_version.is_trunk
    assert run.manifest["epochs"] == 1 and run.manifest["stopped_reason"] == "cancelled"
    said = Api(session=ward.user).get(f"training-runs/{run.pk}/")["outcome"]
    assert said == "Cancelled; the trunk is that of epoch 1, the last whole one."


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"pretraining": {"window_s": 0}}, "pretraining.window_s"),
        ({"pretraining": {"window_s": float("nan")}}, "pretraining.window_s"),
        ({"pretraining": {"window_s": 5}}, "pretraining.window_s"),
        ({"pretraining": {"ahead": 1.5}}, "pretraining.ahead"),
        ({"pretraining": {"colour": 1}}, "pretraining.colour"),
        ({"pretraining": {"method": "dreaming"}}, "pretraining.method"),
        ({"pretraining": {"method": "masked", "hidden": 1}}, "pretraining.hidden"),
        ({"split": {"method": "k_fold"}}, "split.method"),
        ({"settings": {"members": 3}}, "members"),
        ({"selection": {"balanced": True}}, "selection.balanced"),
        ({"search": {"minutes": 5}, "architecture": None}, "search.minutes"),
        ({"task": "multilabel", "pretraining": {"ahead": 2}}, "pretraining.ahead"),
    ],
)
def test_what_cannot_be_learned_so_is_refused_beside_its_field(ward, asked, field):
    with pytest.raises(InvalidInput) as error:
        ward.start(**{"task": "pretraining", **asked})
    assert field in error.value.fields


def test_masked_learning_goes_on_from_a_trunk_by_rest(ward):
    """Two runs by REST: fresh weights, then on from the trunk; the label map holds the same records back in both."""
    api = Api(session=ward.user)
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "task": "pretraining",
        "label_map": str(ward.label_map.pk), "settings": {**FAST, "epochs": 2},
    }  # fmt: skip
    masked = {"method": "masked", "span_s": 0.4}
    first = api.post("training-runs/", {**body, "architecture": "xresnet1d18", "pretraining": masked}, status=202)
    work_off()
    run = api.get(f"training-runs/{first['id']}/")
    assert run["state"] == "succeeded", run
    assert run["pretraining"] == {"method": "masked", "span_s": 0.4, "hidden": 0.4, "hidden_leads": 0.3}
    rows = api.get(f"training-runs/{run['id']}/metrics/")["results"]
    assert {"train_loss", "val_loss", "explained"} <= set(rows[0]) and "chance" not in rows[0]
    more = {**body, "base_version": run["produced_version"], "pretraining": masked | {"hidden": 0.5}}
    assert api.post("training-runs/check/", more, status=200)["ok"]
    second = api.post("training-runs/", more, status=202)
    work_off()
    onward = TrainingRun.objects.get(pk=second["id"])
    assert onward.job.state == JobState.SUCCEEDED, onward.job.error_message
    made, base = onward.produced_version, onward.base_version
    assert made.parent == base and made.is_trunk and made.contract["parent"] == base.sha256 == onward.manifest["base"]
    assert onward.mode == "full" and made.facts["base"] == str(base)
    tuned = ward.train(settings=ALONE, base_version=made, architecture=None, mode="head")
    assert tuned.produced_version.parent == made and tuned.report.report["left_out_training_subjects"] == 0


def test_what_learning_cannot_go_on_from_is_refused(ward):
    """An ensemble is no single network; a network of windows must take any length; all layers learn."""
    trunk = learn(ward, architecture="xception_time", pretraining={"method": "masked"}).produced_version
    for asked, field in [
        ({"base_version": trunk}, "base_version"),
        ({"base_version": trunk, "mode": "head", "pretraining": {"method": "masked"}}, "mode"),
        ({"architecture": "xception_time"}, "architecture"),
    ]:
        with pytest.raises(InvalidInput) as error:
            ward.start(**{"task": "pretraining", "label_map": None, "architecture": None, **asked})
        assert field in error.value.fields
    ensemble = ward.train(settings={**FAST, "members": 2}).produced_version
    with pytest.raises(InvalidInput, match="ensemble"):
        ward.start(task="pretraining", architecture=None, base_version=ensemble, pretraining={"method": "masked"})


def test_the_form_starts_masked_learning_from_a_trunk(ward, client):
    from tests.training.test_pages_runs import address, form_of

    client.force_login(ward.user)
    trunk = learn(ward, label_map=ward.label_map, pretraining={"method": "masked"})
    shown = client.get(f"/training/{trunk.pk}/").content.decode()
    assert "Learn on without labels" in shown and "reconstructs hidden spans" in shown and "Hidden signal told" in shown
    opened = client.get(address(ward), {"task": "pretraining", "base": trunk.produced_version_id})
    assert opened.context["form"]["task"].value() == "pretraining"
    sent = form_of(
        ward, task="pretraining", base_version=str(trunk.produced_version_id),
        **{"pretraining.method": "masked", "pretraining.hidden": "0.3"},
    )  # fmt: skip
    answer = client.post(address(ward), sent)
    assert answer.status_code == 302, answer.context["form"].errors
    run = TrainingRun.objects.exclude(pk=trunk.pk).get()
    assert run.base_version == trunk.produced_version and run.pretraining["hidden"] == 0.3
    wrong = client.post(address(ward), sent | {"pretraining.span_s": "9"})
    assert wrong.status_code == 422 and "Choose shorter spans" in str(wrong.context["form"].errors)


def test_the_form_starts_a_run_without_labels(ward, client):
    from tests.training.test_pages_runs import address, form_of

    client.force_login(ward.user)
    sent = form_of(ward, task="pretraining", label_map="", **{"pretraining.window_s": "2.5"})
    answer = client.post(address(ward), sent)
    assert answer.status_code == 302, answer.context["form"].errors
    run = TrainingRun.objects.get()
    assert run.job.kind == "pretrain" and run.pretraining == {"method": "contrastive", "window_s": 2.5, "ahead": 2}
    wrong = client.post(address(ward), sent | {"pretraining.window_s": "9"})
    assert wrong.status_code == 422 and "Choose shorter windows" in str(
        wrong.context["form"].errors["pretraining.window_s"]
    )
