"""The pages of training runs: the form in four steps with and without script, and what a run's page tells."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.datastructures import MultiValueDict

from datasets.preprocess.recipe import DEFAULT_RECIPE, Recipe, plain_recipe
from datasets.record_filters import FILTERS
from ecgportal.jobs.models import Job
from ecgportal.jobs.services import cancel
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.api_client import Api
from tests.training.test_setting_up import FAST, Ward
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training.engine.settings import settings_schema
from training.forms import RunForm
from training.models import Study, TrainingRun
from training.services import run_again


@pytest.fixture
def page(ward: Ward, client: Client) -> Client:
    client.force_login(ward.user)
    return client


def form_of(ward: Ward, **changes) -> dict:
    """Return what the browser sends for the form as it stands, with some fields changed."""
    form = RunForm(project=ward.project, initial={"task": "multilabel"})
    sent = {name: "" if form[name].value() is None else form[name].value() for name in form.fields}
    sent |= {
        "datasets": [str(ward.first.pk), str(ward.second.pk)], "label_map": str(ward.label_map.pk), "architecture": "xresnet1d18",
        "epochs": 1, "threads": 1, "batch_size": 8, "classes": [], "split.test_sites": [], "selection.balanced": "",
    }  # fmt: skip
    return {
        name: value for name, value in (sent | changes).items() if value != "" or name not in ("selection.balanced",)
    }


def address(ward: Ward, name: str = "create") -> str:
    return reverse(f"training:{name}", args=[ward.project.pk])


def text_of(answer) -> str:
    return answer.content.decode()


def test_the_form_has_every_setting_with_its_reason(page, ward):
    text = text_of(page.get(address(ward)))
    schema = settings_schema()["properties"]
    names = [*(name for name in schema if name not in ("mode", "augmentation")), *schema["augmentation"]["properties"]]
    for name in names:
        entry = schema.get(name) or schema["augmentation"]["properties"][name]
        assert entry["title"] in text
    for step in ("1. Data", "2. Split", "3. Model", "4. Settings", "InceptionTime", "MACs per ECG"):
        assert step in text


def test_the_form_as_it_stands_starts_a_run_with_the_defaults(page, ward):
    answer = page.post(address(ward), form_of(ward))
    run = TrainingRun.objects.get()
    assert answer.headers["Location"] == reverse("training:detail", args=[run.pk])
    changed = {
        name
        for name, entry in settings_schema()["properties"].items()
        if name not in ("augmentation", "mode") and run.settings[name] != entry["default"]
    }
    assert changed == {"epochs", "threads", "batch_size"}
    assert run.split_settings == {"method": "fractions", "test": 0.2, "validation": 0.15}
    assert Recipe.from_json(run.recipe) == DEFAULT_RECIPE
    assert [row.pk for row in run.datasets.order_by("pk")] == sorted([ward.first.pk, ward.second.pk])


def test_choices_of_every_step_reach_the_run(page, ward):
    changes = {
        "classes": ["MI"], "task": "binary", "selection.filter.age_min": "31", "selection.cap": "20", "split.method": "site",
        "split.test_sites": ["B"], "split.validation": "0.25", "augmentation.noise_mv": "0.05", "mixed_precision": "false", "learning_rate": "",
        "name": "Mine",
    }  # fmt: skip
    assert page.post(address(ward), form_of(ward, **changes)).status_code == 302
    run = TrainingRun.objects.get()
    assert (run.classes, run.task, run.name) == (["MI"], "binary", "Mine")
    assert run.selection == {"filter": {"age_min": 31.0}, "balanced": False, "cap": 20}
    assert run.split_settings == {"method": "site", "test_sites": ["B"], "validation": 0.25}
    assert run.settings["augmentation"]["noise_mv"] == 0.05 and run.settings["mixed_precision"] is False
    assert run.settings["learning_rate"] is None


def test_every_filter_and_the_share_of_the_latest_can_be_chosen_on_the_page(page, ward):
    form = RunForm(project=ward.project)
    shown = text_of(page.get(address(ward)))
    for name in FILTERS:
        assert f"selection.filter.{name}" in form.fields and f'name="selection.filter.{name}"' in shown
    changes = {
        "selection.filter.recorded_to": "2030-01-31", "selection.filter.heart_rate_bpm_max": "300", "selection.filter.quality": "none",
        "split.method": "time", "split.late": "0.3",
    }  # fmt: skip
    answer = page.post(address(ward, "create"), form_of(ward, **changes) | {"action": "check"})
    assert 'id="id_selection.filter.recorded_to"' in text_of(answer)
    asked = RunForm(
        MultiValueDict({k: v if isinstance(v, list) else [str(v)] for k, v in form_of(ward, **changes).items()}),
        project=ward.project,
    )
    assert asked.is_valid(), asked.errors
    assert asked.asked["selection"]["filter"] == {
        "recorded_to": "2030-01-31",
        "heart_rate_bpm_max": 300.0,
        "quality": "none",
    }
    assert asked.asked["split"] == {"method": "time", "test": 0.3, "validation": 0.15}


def test_the_recipe_of_the_form_is_the_runs(page, ward):
    changes = {"recipe.fs_hz": "200", "recipe.leads": "I, II", "recipe.baseline": "median", "recipe.duration_s": "5"}
    page.post(address(ward), form_of(ward, **changes))
    expected = plain_recipe(leads=("I", "II"), fs_hz=200, duration_s=5, baseline="median")
    assert Recipe.from_json(TrainingRun.objects.get().recipe) == expected
    refused = page.post(address(ward), form_of(ward, **{"recipe.leads": "I, V17"}))
    assert refused.status_code == 422 and "V17" in text_of(refused) and "canonical name" in text_of(refused)
    assert TrainingRun.objects.count() == 1


def test_without_script_the_check_is_a_button(page, ward):
    text = text_of(page.post(address(ward), form_of(ward, action="check")))
    assert "can start" in text and "Time at most" in text and not TrainingRun.objects.exists()
    many = factories.make_label_map(
        ward.project, classes=["NORM", "LVH"], entries={"NORM": {"class": "NORM", "relation": "exact"}}
    )
    text = text_of(page.post(address(ward), form_of(ward, action="check", label_map=str(many.pk))))
    assert "cannot start" in text and "No record has the class LVH" in text


def test_with_script_a_change_brings_the_check_the_classes_and_the_costs(page, ward):
    text = text_of(page.post(address(ward, "check"), form_of(ward)))
    assert 'id="run-check"' in text and 'id="run-classes" hx-swap-oob="true"' in text and 'value="MI"' in text
    assert 'id="time-inception_time" hx-swap-oob="true"' in text and not TrainingRun.objects.exists()
    text = text_of(page.post(address(ward, "check"), form_of(ward, datasets=[])))
    assert "Choose at least one dataset" in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": "1000000000"}, "less than or equal to 1000"),
        ({"batch_size": "1000000000"}, "less than or equal to 4096"),
        ({"learning_rate": "nan"}, "Enter a number"),
        ({"split.test": "0.99"}, "less than or equal to 0.5"),
        ({"split.method": "site"}, "Name at least one hospital"),
        ({"split.method": "given_folds", "split.test_folds": "ten"}, "Give fold numbers"),
        ({"split.method": "k_fold", "split.folds": "4", "split.fold": "7"}, "fold 7 is not one of them"),
        ({"classes": ["GOUT"]}, "not a class of the chosen map"),
        ({"selection.cap": "2"}, "greater than or equal to 10"),
        ({"selection.filter.age_min": "129"}, "Too few records"),
        ({"label_map": "not-an-id"}, ""),
        ({"datasets": ["not-an-id"]}, ""),
    ],
)
def test_what_cannot_be_stands_beside_its_field(page, ward, changes, sentence):
    answer = page.post(address(ward), form_of(ward, **changes))
    assert answer.status_code == 422 and sentence in text_of(answer)
    field = next(iter(changes))
    errors = answer.context["form"].errors
    assert set(errors) & {
        field,
        "split.test_sites",
        "split.test_folds",
        "split.fold",
        "selection.filter",
    } or errors.get("__all__")
    assert not TrainingRun.objects.exists()


def test_the_page_of_a_run_tells_how_it_stands_and_how_it_ended(page, ward):
    run = ward.start(settings={**FAST, "epochs": 2, "members": 1})
    listed = text_of(page.get(reverse("training:list", args=[ward.project.pk])))
    assert f"{ward.first.name}, {ward.second.name}" in listed
    detail, live = (reverse(f"training:{name}", args=[run.pk]) for name in ("detail", "live"))
    assert 'hx-trigger="every 2s"' in text_of(page.get(live))
    TrainingRun.objects.filter(pk=run.pk).update(
        live={
            "epoch": 1,
            "epochs": 2,
            "batch": 1,
            "batches": 2,
            "loss": 0.7,
            "learning_rate": 0.001,
            "left_s": 130.0,
            "member": 1,
        }
    )
    text = text_of(page.get(live))
    assert "batch 1 of 2" in text and "0.7000" in text and "2 min" in text
    work_off()
    text = text_of(page.get(detail))
    for part in (
        "Training loss",
        "Validation loss",
        "ECG/s",
        "AUROC",
        "Data hash",
        "Weights hash",
        "0 subjects",
        "Run again",
        "kept",
    ):
        assert part in text
    assert "every 2s" not in text_of(page.get(live))


def test_the_page_of_a_search_names_no_network_before_one_is_chosen(page, ward):
    run, other = ward.start(architecture=None, search={"minutes": 5}, settings=FAST), ward.start()
    address = reverse("training:detail", args=[run.pk])
    listed = reverse("training:list", kwargs={"project": ward.project.pk})

    def networks() -> list[str]:
        return re.findall('data-label="Network">([^<]*)<', text_of(page.get(listed)))

    api = Api(session=ward.user)
    assert [row["architecture"] for row in api.get("training-runs/")["results"]] == [other.architecture, None]
    named = f"{other.architecture}, from scratch"
    assert "Network and settings are being chosen. Several findings" in text_of(page.get(address))
    assert networks() == [named, "Network and settings are being chosen"]
    cancel(actor=ward.user, job=run.job)
    assert "No network was chosen. Several findings" in text_of(page.get(address))
    assert networks() == [named, "No network was chosen"]
    Study.objects.filter(run=run).update(result={"trial": None})
    assert networks() == [named, f"{run.architecture}, from scratch"]
    assert api.get(f"training-runs/{run.pk}/")["architecture"] == run.architecture
    body = {"project": str(ward.project.pk), "dataset": str(ward.first.pk), "label_map": str(ward.label_map.pk)}
    assert api.post("training-runs/", body | {"search": {"minutes": 5}}, status=202)["architecture"] is None


def test_again_shows_the_comparison_and_rename_the_new_name(page, ward):
    run = ward.train(settings={**FAST, "members": 1})
    answer = page.post(reverse("training:again", args=[run.pk]))
    again = TrainingRun.objects.exclude(pk=run.pk).get()
    assert answer.headers["Location"] == reverse("training:detail", args=[again.pk])
    work_off()
    text = text_of(page.get(reverse("training:detail", args=[again.pk])))
    assert "Compared with the run that it repeats" in text and text.count(">no</span>") == 0
    page.post(reverse("training:rename", args=[again.pk]), {"name": "Second"})
    again.refresh_from_db()
    assert again.name == "Second"
    assert page.post(reverse("training:rename", args=[again.pk]), {"name": " "}).status_code == 422
    assert run_again(actor=ward.user, run=again).repeats == again


def test_measuring_the_machine_is_a_job(page, ward):
    answer = page.post(address(ward, "measure"))
    job = Job.objects.get(kind="measure_speeds")
    assert answer.headers["Location"] == reverse("jobs:detail", args=[job.pk])


def test_viewers_see_runs_and_start_none(client, ward):
    viewer = factories.make_user()
    factories.Membership.objects.create(project=ward.project, user=viewer, role="viewer")
    run = ward.start()
    client.force_login(viewer)
    assert client.get(reverse("training:detail", args=[run.pk])).status_code == 200
    for name in ("again", "rename"):
        assert client.post(reverse(f"training:{name}", args=[run.pk])).status_code == 403
    for name in ("check", "measure", "create"):
        assert client.post(address(ward, name)).status_code == 403


def test_the_only_dataset_of_a_project_is_meant(db, client):
    project = factories.make_project()
    client.force_login(factories.make_team(project)["editor"])
    only = factories.make_dataset(project)
    create, predict = reverse("training:create", args=[project.pk]), reverse("modelhub:predictions", args=[project.pk])

    def chosen(page):
        form = client.get(page).context["form"]
        return form["datasets" if page == create else "dataset"].value()

    assert chosen(create) == [only.pk] and chosen(predict) == only.pk
    assert "checked" in text_of(client.get(create)).partition(f'value="{only.pk}"')[2].partition(">")[0]
    factories.make_dataset(project)
    assert not chosen(create) and not chosen(predict)
