"""A run's manifest proves that no patient and no signal was on two sides, from the records themselves."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from datasets.models import LabelMap
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from training.manifests import digest_of_map, on_two_sides
from training.targets import Labelled

SIGNAL = "ab" * 32


def item(number: int, **fields) -> Labelled:
    pk = uuid.uuid5(uuid.NAMESPACE_OID, str(number))
    own = Labelled(pk, pk, f"k{number}", f"s:{number}", f"{number:02x}" * 32, None, "c", [], frozenset())
    return replace(own, **fields)


def test_a_patient_or_a_signal_on_two_sides_is_counted():
    sound = {"train": [item(1), item(2, group="s:1")], "validation": [item(3)], "test": [item(4)]}
    assert on_two_sides(sound) == {"subjects_on_two_sides": 0, "signals_on_two_sides": 0}
    assert on_two_sides(sound | {"test": [item(5, group="s:1")]})["subjects_on_two_sides"] == 1
    twins = {"train": [item(1, fingerprint=SIGNAL)], "validation": [item(2)], "test": [item(3, fingerprint=SIGNAL)]}
    assert on_two_sides(twins) == {"subjects_on_two_sides": 0, "signals_on_two_sides": 1}
    # The same signal twice on one side, and records without a fingerprint, are no finding.
    assert on_two_sides({"train": twins["train"] + twins["test"], "test": [item(8, fingerprint=""), item(9, fingerprint="")]}) == {
        "subjects_on_two_sides": 0, "signals_on_two_sides": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "split",
    [
        {"method": "k_fold", "folds": 3},
        {"method": "site", "test_sites": ["A"]},
    ],
)
def test_every_way_to_divide_is_proven_in_the_manifest(ward, split):
    """The ward has a patient of two hospitals and folds, and a signal under two names."""
    manifest = ward.train(split=split, settings={**FAST, "members": 1}).manifest
    assert (manifest["subjects_on_two_sides"], manifest["signals_on_two_sides"]) == (0, 0)


@pytest.mark.parametrize("task", ["multilabel", "pretraining"])
def test_the_manifest_and_the_kept_speed_name_the_device_that_trained(ward, monkeypatch, task):
    """A device that needs no hardware stands for an accelerator."""
    from training import running
    from training.engine import launch
    from training.models import Speed

    fit_network, together = running.fit_network, launch.together

    def elsewhere(*args, **options):
        module, result = fit_network(*args, **options)
        return module, replace(result, device="meta")

    monkeypatch.setattr(running, "fit_network", elsewhere)
    monkeypatch.setattr(launch, "together", lambda *args, **options: replace(together(*args, **options), device="meta"))
    unlabelled = {"label_map": None} if task == "pretraining" else {}
    run = ward.train(task=task, settings={**FAST, "members": 1}, **unlabelled)
    assert run.manifest["environment"]["device"] == "meta"
    assert {row.device for row in Speed.objects.all()} == (set() if task == "pretraining" else {"meta"})


def test_the_command_learns_without_labels_and_finds_a_rate(ward, monkeypatch):
    import io
    import json

    from django.core.management import call_command

    from ecgportal.commands import PortalCommand
    from tests.working import work_off_one

    monkeypatch.setattr(PortalCommand, "follow", lambda self, job: work_off_one(job.pk))

    def told(*arguments: str) -> dict:
        out = io.StringIO()
        rest = (
            "--project",
            str(ward.project.pk),
            "--dataset",
            ward.first.name,
            "--dataset",
            ward.second.name,
            "--architecture",
            "xresnet1d18",
        )
        user = ("--as-user", ward.user.username, "--json", "--set", "epochs=1", "--set", "threads=1")
        call_command("train", *rest, *user, *arguments, stdout=out)
        return json.loads(out.getvalue())

    trunk = told("--task", "pretraining", "--pretraining", "window_s=1.5")
    assert trunk["version"] and trunk["evaluation"] is None and trunk["test"] == {}
    rate = told("--label-map", str(ward.label_map.pk), "--find-rate")
    assert rate["suggestion"] > 0 and rate["records"] > 5
    assert told("--task", "pretraining", "--check")["ok"]


def test_a_run_tells_what_its_parts_hold(ward, client):
    from datasets.preprocess.recipe import Recipe
    from tests.api_client import Api
    from training.engine.manifest import code_digest
    from training.manifests import statistics_of
    from training.models import SplitMember

    run = ward.train(settings={**FAST, "members": 1})
    row = Api(session=ward.user).get(f"training-runs/{run.pk}/")
    manifest, found = row["manifest"], row["manifest"]["statistics"]
    assert (
        row["recipe"] == manifest["recipe"] and Recipe.from_json(manifest["recipe"]).digest == manifest["recipe_digest"]
    )
    assert manifest["label_map_sha256"] == digest_of_map(ward.label_map) and manifest["code_sha256"] == code_digest()
    for part in ("train", "validation", "test"):
        members = SplitMember.objects.filter(split=run.split, group__part=part)
        assert found[part]["classes"]["MI"] == members.filter(record__labels__code="IMI").count()
        assert found[part]["female"] == members.filter(record__sex="F").count()
        assert 30 <= found[part]["age_median"] <= 54
    client.force_login(ward.user)
    page = client.get(f"/training/{run.pk}/").content.decode()
    assert "What the parts hold" in page and "Median age" in page
    ages = {"train": [item(1, label=40.0, age=40.0), item(2, label=50.0)], "validation": [], "test": []}
    told = statistics_of(ages, ["age"], "regression")
    assert told["train"] == {"female": 0, "male": 0, "age_median": 40.0, "target_mean": 45.0, "target_deviation": 5.0}
    assert told["test"]["target_mean"] is None and told["test"]["age_median"] is None


def test_the_digest_of_the_code_goes_by_what_decides_a_training(tmp_path):
    from training.engine.manifest import digest_of_code

    engine, page = tmp_path / "training" / "engine" / "deep" / "fit.py", tmp_path / "training" / "views.py"
    seen = set()
    for path, content, is_new in (
        (engine, "a", True),
        (engine, "b", True),
        (page, "a", False),
        (tmp_path / "datasets" / "splits.py", "b", True),
        (engine.with_suffix(".pyc"), "b", False),
        (engine.with_name("run.py"), "b", True),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        digest = digest_of_code(tmp_path)
        assert (digest not in seen) == is_new
        seen.add(digest)


def test_the_digest_of_a_label_map_goes_by_what_it_does():
    def digest(**changes) -> str:
        values = {
            "name": "m",
            "version": 1,
            "system": "scp",
            "classes": ["NORM", "MI"],
            "entries": {"NORM": {"class": "NORM"}},
        }
        return digest_of_map(LabelMap(**values | changes))

    assert digest() == digest(name="other") and digest() == digest(entries={"NORM": {"class": "NORM", "note": "x"}})
    others = {"classes": ["MI", "NORM"]}, {"system": "any", "entries": {}}, {"entries": {"NORM": {"class": "MI"}}}
    assert len({digest(), *(digest(**change) for change in others)}) == 4
