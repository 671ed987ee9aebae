"""Maps of a dataset: places, colours, the records inside a line, who may see them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from django.test import Client
from django.urls import reverse

from datasets.measure.features import VERSION
from datasets.models import Dataset, Record, RecordFeatures
from ecgportal import storage
from ecgportal.errors import Conflict, InvalidInput
from modelhub.architectures.registry import build
from modelhub.models import Model, ModelVersion
from modelhub.weights import save_safetensors
from tests.factories import make_dataset, make_job, make_project, make_record, make_team
from tests.modelhub.conftest import make_contract
from tests.working import work_off
from viz import mapping
from viz.models import DatasetMap, MapPoint
from viz.projection import project, standardised


def _two_clouds(n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.vstack([rng.normal(0, 1, (n, 12)), rng.normal(6, 1, (n, 12))])


def test_principal_components_part_what_differs_and_repeat_themselves():
    values = _two_clouds()
    found = project(values, with_umap=False, scale=True)
    left, right = found.pca[:60, 0], found.pca[60:, 0]
    assert (left.max() < right.min()) or (right.max() < left.min())
    assert 0.5 < found.explained[0] <= 1 and found.umap is None
    assert np.array_equal(found.pca, project(values, with_umap=False, scale=True).pca)


@pytest.mark.slow
def test_umap_keeps_neighbours_together():
    values = _two_clouds(40)
    places = project(values, with_umap=True, scale=True).umap
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert np.mean((distance.argmin(axis=1) < 40) == (np.arange(80) < 40)) > 0.95


def test_unknown_numbers_become_the_middle_and_constant_ones_go():
    made = standardised(np.array([[1.0, 5, np.nan], [3.0, 5, np.nan], [np.nan, 5, np.nan]]))
    assert made.shape == (3, 1) and made[2, 0] == pytest.approx(0)
    with pytest.raises(InvalidInput, match="at least"):
        project(np.ones((3, 2)), with_umap=False, scale=True)
    with pytest.raises(InvalidInput, match="do not differ"):
        project(np.ones((30, 2)), with_umap=False, scale=True)


@pytest.fixture
def dataset(db: None) -> Dataset:
    dataset = make_dataset(make_project(), "Ward")
    for k in range(8):
        row = make_record(
            dataset, f"r{k}", labels=("AFIB",) if k < 4 else ("NORM", "AFIB")[: 1 + k % 2], sex="FM"[k % 2]
        )
        shape = np.full((8, 50), k % 3, np.float16)
        shape[:, 10] = k
        RecordFeatures.objects.create(
            record=row, version=VERSION, heart_rate_bpm=60 + 10 * k, qrs_ms=90 + (k % 3), qtc_ms=400 - k, shape=shape.astype("<f2").tobytes()
        )  # fmt: skip
    return dataset


@pytest.fixture
def team(dataset: Dataset) -> dict[str, Any]:
    return make_team(dataset.project)


@pytest.fixture
def made(dataset: Dataset, team: dict[str, Any]) -> DatasetMap:
    make_record(dataset, "unmeasured")
    row = mapping.map_start(actor=team["editor"], dataset=dataset, basis="measures", version=None, with_umap=False)
    assert work_off()[-1].state == "succeeded"
    return DatasetMap.objects.get(pk=row.pk)


class TestMaking:
    @pytest.mark.parametrize("basis", ["measures", "shape"])
    def test_every_measured_record_gets_a_place(self, dataset: Dataset, team: dict[str, Any], basis: str) -> None:
        make_record(dataset, "unmeasured")
        row = mapping.map_start(actor=team["editor"], dataset=dataset, basis=basis, version=None, with_umap=False)
        with pytest.raises(Conflict, match="already"):
            mapping.map_start(actor=team["editor"], dataset=dataset, basis=basis, version=None, with_umap=False)
        job = work_off()[-1]
        row.refresh_from_db()
        assert job.state == "succeeded" and job.result["records"] == 8 and row.left_out == 1
        assert row.points.count() == 8 and len(row.explained) == 2
        mapping.map_delete(actor=team["editor"], row=row)
        assert not MapPoint.objects.exists()

    def test_what_a_model_sees_places_every_record_that_it_can_take(
        self, dataset: Dataset, team: dict[str, Any]
    ) -> None:
        make_record(dataset, "two leads", leads=("I", "II"))
        contract = make_contract(n_samples=200, classes=("NORM", "AFIB"), architecture="xresnet1d18")
        module = build("xresnet1d18", n_leads=12, n_samples=200, fs_hz=100.0, n_classes=2, seed=0)
        weights = storage.put_bytes(save_safetensors(module, {"architecture": "xresnet1d18"}))[0]
        version = ModelVersion.objects.create(
            model=Model.objects.create(project=dataset.project, name="Net"), number=1, state="ready", origin="trained", contract=json.loads(contract.to_json()),
            classes=["NORM", "AFIB"], task="multilabel", sha256=weights, weights_sha256=weights, size=1,
        )  # fmt: skip
        row = mapping.map_start(actor=team["editor"], dataset=dataset, basis="model", version=version, with_umap=False)
        job = work_off()[-1]
        row.refresh_from_db()
        assert job.state == "succeeded", job.error_message
        assert row.points.count() == 8 and row.left_out == 1 and row.explained[0] > 0

    def test_what_cannot_be_made_is_said(self, dataset: Dataset, team: dict[str, Any]) -> None:
        bare = make_dataset(dataset.project)
        with pytest.raises(Conflict, match="measured"):
            mapping.map_start(actor=team["editor"], dataset=bare, basis="measures", version=None, with_umap=False)
        foreign = ModelVersion.objects.create(
            model=Model.objects.create(project=make_project(), name="Theirs"), number=1, state="ready", origin="trained", contract={}, classes=["A"],
            task="multilabel", sha256="1" * 64, size=1,
        )  # fmt: skip
        for version in (None, foreign):
            with pytest.raises(InvalidInput, match="model"):
                mapping.map_start(
                    actor=team["editor"], dataset=dataset, basis="model", version=version, with_umap=False
                )

    def test_a_deleted_record_leaves_the_map(self, made: DatasetMap) -> None:
        Record.objects.get(key="r3").delete()
        assert made.points.count() == 7


class TestReading:
    def test_places_and_categories_belong_to_the_same_records(self, made: DatasetMap) -> None:
        for colour, expected in (
            ("labels", "AFIB"),
            ("sex", "female"),
            ("age", "unknown"),
            ("quality", "not judged"),
            ("format", "wfdb"),
        ):
            found = mapping.places(made, "pca", colour)
            assert len(found.xy) == len(found.records) == len(found.keys) == len(found.groups) == 8
            assert found.groups[found.keys.index("r0")] == expected
        found = mapping.places(made, "pca", "labels")
        assert found.groups[found.keys.index("r4")] == "NORM" and found.groups[found.keys.index("r5")] == "AFIB"

    def test_the_records_inside_a_line_are_those_inside(self, made: DatasetMap) -> None:
        found = mapping.places(made, "pca", "sex")
        middle = float(np.median(found.xy[:, 0]))
        left = mapping.inside(made, "pca", [(-99.0, -99.0), (middle, -99.0), (middle, 99.0), (-99.0, 99.0)])
        assert {row.key for row in left} == {key for key, (x, _) in zip(found.keys, found.xy) if x < middle}
        assert sum(n for line in mapping.regions(made, "pca") for n, _ in line) == 8
        for line in mapping.regions(made, "pca"):
            for n, corners in line:
                assert mapping.inside(made, "pca", corners).count() == n

    @pytest.mark.parametrize("text", ["", "1,2", "1,2;3,4", "a,b;c,d;e,f", "1,2;3,4;nan,5", ";".join(["1,2"] * 300)])
    def test_an_area_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            mapping.read_area(text)

    def test_pages(
        self, client: Client, made: DatasetMap, team: dict[str, Any], django_assert_max_num_queries: Any
    ) -> None:
        client.force_login(team["viewer"])
        with django_assert_max_num_queries(14):
            page = client.get(reverse("viz:map", args=[made.pk]))
        assert page.context["regions"][0][0] == "pca"
        url = reverse("viz:map_records", args=[made.pk])
        with django_assert_max_num_queries(14):
            assert client.get(url + "?by=pca&area=-99,-99;99,-99;99,99;-99,99").context["page_obj"].paginator.count == 8
        assert client.get(url + "?area=1,2").status_code == 422
        assert client.post(reverse("viz:maps", args=[made.dataset_id]), {"basis": "shape"}).status_code == 403
        client.force_login(team["editor"])
        assert client.post(reverse("viz:maps", args=[made.dataset_id]), {"basis": "model"}).status_code == 422
        assert client.post(reverse("viz:maps", args=[made.dataset_id]), {"basis": "shape"}).status_code == 302
        client.force_login(team["outsider"])
        assert client.get(reverse("viz:map", args=[made.pk])).status_code == 404


def _ask(client: Client, output: str, outputs: list[tuple[str, str]], inputs: list[tuple[str, str, Any]]) -> Any:
    body = {
        "output": output, "outputs": [{"id": name, "property": prop} for name, prop in outputs],
        "inputs": [{"id": name, "property": prop, "value": value} for name, prop, value in inputs], "state": [], "changedPropIds": [],
    }  # fmt: skip
    return client.post("/dash/app/MapView/_dash-update-component", json.dumps(body), content_type="application/json")


def test_the_dash_view_asks_for_permission_at_every_call(
    client: Client, made: DatasetMap, team: dict[str, Any]
) -> None:
    address = ("address", "search", f"?id={made.pk}")
    draw = [("map", "figure"), ("told", "children")]
    inputs = [address, ("method", "value", "umap"), ("colour", "value", "labels"), ("scheme", "data", "dark")]
    for role, status in (("outsider", 404), ("viewer", 200)):
        client.force_login(team[role])
        answer = _ask(client, "..map.figure...told.children..", draw, inputs)
        assert answer.status_code == status
    figure = answer.json()["response"]["map"]["figure"]
    assert "of variance" in figure["layout"]["xaxis"]["title"]["text"]
    chosen = [("chosen", "children"), ("open", "href"), ("open", "hidden")]
    area = ("area", "data", "-99,-99;99,-99;99,99;-99,99")
    found = _ask(
        client, "..chosen.children...open.href...open.hidden..", chosen, [address, area, ("method", "value", "pca")]
    ).json()["response"]
    assert found["chosen"]["children"] == "8 records inside the line." and "area=-99,-99" in found["open"]["href"]


def test_a_click_on_a_place_names_the_record_there(client: Client, made: DatasetMap, team: dict[str, Any]) -> None:
    client.force_login(team["viewer"])
    found = mapping.places(made, "pca", "sex")
    outputs = [("point", "children"), ("point", "href"), ("point", "hidden")]

    def ask(clicked: Any) -> Any:
        inputs = [("address", "search", f"?id={made.pk}"), ("map", "clickData", clicked), ("method", "value", "pca")]
        return _ask(client, "..point.children...point.href...point.hidden..", outputs, inputs)

    for key, pk, (x, y) in zip(found.keys, found.records, found.xy.tolist()):
        answer = ask({"points": [{"x": x + 1e-4, "y": y}]}).json()["response"]["point"]
        assert answer == {"children": f"Open {key}", "href": reverse("viz:record", args=[pk]), "hidden": False}
    for clicked in (None, {}, {"points": [{"x": "a"}]}, {"points": [{"x": float("1e999"), "y": 0}]}, {"points": 3}):
        assert ask(clicked).json()["response"]["point"]["hidden"] is True
    client.force_login(team["outsider"])
    assert ask({"points": [{"x": 0, "y": 0}]}).status_code == 404


def test_a_map_of_a_failed_job_shows_why(client: Client, dataset: Dataset, team: dict[str, Any]) -> None:
    row = DatasetMap.objects.create(
        dataset=dataset, basis="shape", job=make_job(dataset.project, kind="map", state="failed")
    )
    client.force_login(team["viewer"])
    assert "because the test wanted it" in client.get(reverse("viz:map", args=[row.pk])).content.decode()


class TestRest:
    def test_a_map_is_made_read_and_deleted(
        self, client: Client, dataset: Dataset, team: dict[str, Any], django_assert_max_num_queries: Any
    ) -> None:
        body = {"dataset": str(dataset.pk), "basis": "measures", "with_umap": False}
        for role, status in (("outsider", 404), ("viewer", 403), ("editor", 202)):
            client.force_login(team[role])
            answer = client.post("/api/v1/dataset-maps/", body, content_type="application/json")
            assert answer.status_code == status, answer.content
        assert answer.json()["state"] == "queued" and answer.json()["job"]
        assert client.post("/api/v1/dataset-maps/", body, content_type="application/json").status_code == 409
        assert (
            client.post(
                "/api/v1/dataset-maps/", {**body, "basis": "model"}, content_type="application/json"
            ).status_code
            == 422
        )
        assert work_off()[-1].state == "succeeded"
        client.force_login(team["viewer"])
        [row] = client.get(f"/api/v1/dataset-maps/?dataset={dataset.pk}").json()["results"]
        assert row["state"] == "succeeded" and len(row["explained"]) == 2 and row["id"] == answer.json()["id"]
        address = f"/api/v1/dataset-maps/{row['id']}/"
        with django_assert_max_num_queries(12):
            found = client.get(address + "points/?colour=labels").json()
        assert (
            len(found["record"]) == len(found["key"]) == len(found["x"]) == len(found["y"]) == len(found["group"]) == 8
        )
        assert dict(zip(found["key"], found["group"]))["r4"] == "NORM" and found["method"] == "pca"
        inside = client.get(address + "records/?area=-99,-99;99,-99;99,99;-99,99").json()
        assert inside["count"] == 8 and {one["id"] for one in inside["results"]} == set(found["record"])
        for bad in ("points/?method=umap", "points/?colour=taste", "records/", "records/?area=1,2"):
            assert client.get(address + bad).status_code == 422, bad
        client.force_login(team["editor"])
        assert client.delete(address).status_code == 204 and not DatasetMap.objects.exists()
