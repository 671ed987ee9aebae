"""What a search costs, said before it starts: its minutes and its winner's training, alike by page, REST and command."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import call_command

from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_pages_runs import address, form_of, text_of
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from training import candidates
from training.live import duration
from training.models import Speed


@pytest.fixture
def speeds(monkeypatch):
    """Two small networks of which one takes twice as long, and the linear model."""
    monkeypatch.setattr(candidates, "_CANDIDATES", ("linear", "net1d_s", "xresnet1d18"))
    for name, step_s in (("linear", 0.001), ("net1d_s", 0.01), ("xresnet1d18", 0.02)):
        Speed.objects.create(architecture=name, step_s=step_s, device="cpu")


def checked(ward: Ward, minutes: float, **asked) -> dict:
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk),
        "settings": FAST | {"epochs": 40}, **asked,
    }  # fmt: skip
    return Api(session=ward.user).post("training-runs/check/", body | {"search": {"minutes": minutes}}, status=200)


def alone(ward: Ward, architecture: str) -> dict:
    body = {
        "project": str(ward.project.pk), "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk),
        "settings": FAST | {"epochs": 40}, "architecture": architecture,
    }  # fmt: skip
    return Api(session=ward.user).post("training-runs/check/", body, status=200)["cost"]


def said(found: dict, code: str) -> list[str]:
    return [finding["message"] for finding in found["findings"] if finding["code"] == code]


def test_a_search_costs_its_minutes_and_the_longest_training_that_may_win(ward, speeds, client):
    found, longest = checked(ward, 60), alone(ward, "xresnet1d18")
    cost = found["cost"]
    assert cost["seconds"] == pytest.approx(3600 + longest["seconds"]) and cost["measured"]
    assert cost["networks"] == longest["networks"] and cost["memory_mib"] >= longest["memory_mib"]
    # Nothing is said of one network.
    assert (cost["parameters"], cost["million_macs"], cost["epoch_seconds"]) == (None, None, None)
    assert "60 min of search and up to" in cost["basis"] and not said(found, "search_too_short")
    assert "Kept as asked" not in said(found, "search")[0]
    client.force_login(ward.user)
    page = text_of(client.post(address(ward), form_of(ward, action="check", **{"search.minutes": "60"})))
    shown = page[page.index("Time at most") :]
    assert "(60 min of search and up to " in shown and "Arithmetic" not in shown[: shown.index("</dl>")]
    out = io.StringIO()
    rest = ("--project", ward.project.name, "--dataset", ward.first.name, "--dataset", ward.second.name)
    choice = (
        "--label-map",
        str(ward.label_map.pk),
        "--set",
        "epochs=40",
        "--set",
        "threads=1",
        "--set",
        "batch_size=8",
    )
    call_command(
        "train", *rest, *choice, "--search", "60", "--check", "--json", "--as-user", ward.user.username, stdout=out
    )
    assert json.loads(out.getvalue())["cost"] == cost


def test_a_network_that_is_too_slow_for_the_minutes_does_not_count(ward, speeds):
    epoch_s = alone(ward, "net1d_s")["epoch_seconds"]
    # A trial of 15 epochs is to take a quarter of the minutes at most.
    found = checked(ward, 4 * 15.1 * epoch_s / 60)
    assert "xresnet" not in said(found, "search")[0].lower()
    assert found["cost"]["seconds"] < 4 * 16 * epoch_s + alone(ward, "xresnet1d18")["seconds"]


def test_the_check_says_when_one_epoch_is_longer_than_the_minutes(ward, speeds, monkeypatch):
    Speed.objects.exclude(architecture="linear").update(step_s=30.0)
    Speed.objects.filter(architecture="linear").update(step_s=1e-6)
    (told,) = said(checked(ward, 1), "search_too_short")
    assert "takes about" in told and "the linear model wins" in told
    monkeypatch.setattr(candidates, "_CANDIDATES", ("net1d_s", "xresnet1d18"))
    found = checked(ward, 1)
    (told,) = said(found, "search_too_short")
    epoch_s = alone(ward, "net1d_s")["epoch_seconds"]
    assert duration(epoch_s) in told and "lasts for that epoch" in told
    assert found["ok"] and found["cost"]["seconds"] > epoch_s + 40 * epoch_s


def test_the_check_says_what_a_search_keeps_as_asked(ward, speeds):
    found = checked(ward, 60, settings=FAST | {"learning_rate": 1e-5, "augmentation": {"noise_mv": 0.0}})
    (told,) = said(found, "search")
    assert (
        "Kept as asked and not tried otherwise: learning rate 1e-05, augmentation scaling 0.3, time shift 2 s" in told
    )
