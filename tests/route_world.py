"""Two projects with a row of every kind in the first, and how a route is asked about them."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from django.test import Client
from rest_framework.serializers import BaseSerializer

from datasets.models import (
    ArrivingFile,
    Dataset,
    LabelImport,
    LabelMap,
    LabelSource,
    Record,
    RecordAnnotation,
    RecordLabel,
    Subject,
)
from ecgportal import storage
from ecgportal.jobs.models import JobState
from modelhub.models import (
    CatalogueEntry,
    Exchange,
    Model,
    ModelAlias,
    ModelVersion,
    Prediction,
    PredictionRun,
    SigningKey,
    Transfer,
)
from tests import factories
from tests.route_table import Route
from training.models import Evaluation, TrainingRun
from viz.models import DatasetMap


@pytest.fixture
def world(db, settings, tmp_path):
    return World()


@pytest.fixture
def client_factory(db):
    def make(user: Any) -> Client:
        client = Client(raise_request_exception=False)
        if user is not None:
            client.force_login(user)
        return client

    return make


class World:
    """Two projects with the same members' roles, each holding one row of every kind."""

    def __init__(self) -> None:
        self.own, self.sibling = factories.make_project(name="Own"), factories.make_project(name="Sibling")
        team, others = factories.make_team(self.own), factories.make_team(self.sibling)
        self.users = {
            "anonymous": None, "outsider": team["outsider"], **{role: team[role] for role in ("viewer", "editor", "owner")},
            **{f"sibling {role}": others[role] for role in ("viewer", "editor", "owner")},
        }  # fmt: skip
        self.administrator = factories.make_user(is_administrator=True)
        self.rows: dict[type, Any] = {}
        self.fill()

    def fill(self) -> None:
        project = self.own
        dataset = factories.make_dataset(project)
        record = factories.make_record(dataset, labels=("NORM",))
        subject = Subject.objects.create(dataset=dataset, key="P-1")
        label_map = factories.make_label_map(project)
        model = Model.objects.create(project=project, name="Net")
        contract = {
            "format": 1, "leads": list(factories.LEADS), "fs_hz": 100.0, "n_samples": 1000, "classes": ["NORM"], "task": "multilabel", "unit": "mV",
            "normalisation": "none", "architecture": "inception_time", "config": {}, "recipe": None, "thresholds": {}, "output": "logits",
            "fixed_length": False, "parent": None,
        }  # fmt: skip
        version = ModelVersion.objects.create(
            model=model,
            number=1,
            state="ready",
            origin="trained",
            contract=contract,
            classes=["NORM"],
            task="multilabel",
            sha256=storage.put_bytes(b"weights")[0],
            size=7,
        )
        exchange = Exchange.objects.create(name="X", url="http://127.0.0.1:9/")
        done = {"state": JobState.FAILED}
        run = TrainingRun.objects.create(
            project=project, name="Run", dataset=dataset, label_map=label_map, classes=["NORM"], task="multilabel", architecture="inception_time",
            job=factories.make_job(project, kind="train", **done),
        )  # fmt: skip
        rows: list[Any] = [
            project, dataset, record, subject, label_map, model, version, exchange, run, make_approved_entry(version),
            (ingest := factories.make_ingest(dataset)), ArrivingFile.objects.create(ingest=ingest, position=0, name="a.dat", size=9), factories.make_job(project),
            PredictionRun.objects.create(project=project, version=version, dataset=dataset, job=factories.make_job(project, kind="predict")),
            Evaluation.objects.create(project=project, version=version, dataset=dataset),
            LabelImport.objects.create(dataset=dataset, file_name="t.csv", sha256="1" * 64, job=factories.make_job(project, kind="labels")),
            RecordAnnotation.objects.create(record=record, author=self.users["editor"], t0_s=0.5, text="x"),
            RecordLabel.objects.create(
                record=record, system="scp", code="AFIB", source=LabelSource.USER, author=self.users["editor"]
            ),
            SigningKey.objects.create(name="Other portal", public_key="ab" * 32),
            Transfer.objects.create(project=project, exchange=exchange, direction="push", remote_path="m", job=factories.make_job(project)),
        ]  # fmt: skip
        rows.append(
            DatasetMap.objects.create(
                dataset=dataset,
                basis="measures",
                with_umap=False,
                job=factories.make_job(project, kind="map", state=JobState.FAILED),
            )
        )
        self.rows = {type(row): row for row in rows}
        version = self.rows[ModelVersion]
        ModelAlias.objects.create(model=version.model, name="champion", version=version)
        run = self.rows[PredictionRun]
        self.rows[Prediction] = Prediction.objects.create(run=run, record=record, values=[0.9], predicted=["NORM"])

    def address(self, route: Route, model: type | None) -> str:
        """Return the route's path with ids of rows of the own project."""
        values = {
            "project": self.own.pk, "user_id": self.users["viewer"].pk, "user": self.users["viewer"].pk, "membership": None, "ident": "EcgView",
            "kind": "roc", "component": "dash", "resource": "nothing.js", "name": "champion", "cpe2": "x", "path": "nothing.css", "pk": self.rows[model].pk if model else uuid.uuid4(),
        }  # fmt: skip
        text = route.pattern.replace("^", "").replace("$", "").replace("\\Z", "").replace("\\.", ".")
        for name in route.parameters:
            text = (
                re.sub(rf"<(?:\w+:)?{name}>", str(values[name]), text)
                if "(?P" not in text
                else _fill_regex(text, name, str(values[name]))
            )
        return "/" + text


def _fill_regex(text: str, name: str, value: str) -> str:
    start = text.index(f"(?P<{name}>")
    depth, end = 0, start
    for end in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            break
    return re.sub(rf"<(?:\w+:)?{name}>", value, text[:start] + value + text[end + 1 :])


def make_approved_entry(version: ModelVersion) -> CatalogueEntry:
    """Return an approved entry that is granted to nobody: only its own project sees it."""
    entry = CatalogueEntry.objects.create(version=version, shown={"prose": {"licence": "CC0"}})
    for entry.state in ("in_review", "approved"):
        entry.save()
    return entry


def body_of(route: Route, kind: str, world: World) -> dict[str, Any]:
    if kind == "dash":
        record = world.rows[Record]
        values = ["3x4+rhythm", 25, 10, "II", "none", "pink", "none", "original", "none", 10, "0", 0]
        names = [
            "layout",
            "speed",
            "gain",
            "rhythm",
            "band",
            "paper",
            "marks",
            "signal",
            "saliency",
            "window",
            "centred",
            "start",
        ]
        inputs = [{"id": "address", "property": "search", "value": f"?id={record.pk}"}]
        inputs += [{"id": name, "property": "value", "value": value} for name, value in zip(names, values)]
        inputs += [
            {"id": "scheme", "property": "data", "value": "light"},
            {"id": "detail", "property": "data", "value": None},
        ]
        outputs = [{"id": "ecg", "property": "figure"}, {"id": "told", "property": "children"}]
        return {
            "output": "..ecg.figure...told.children..",
            "outputs": outputs,
            "inputs": inputs,
            "state": [{"id": "zoom", "property": "data", "value": None}],
            "changedPropIds": [],
        }
    rows = world.rows
    return {
        "project": str(world.own.pk), "version": str(rows[ModelVersion].pk), "dataset": str(rows[Dataset].pk), "label_map": str(rows[LabelMap].pk),
        "record": str(rows[Record].pk), "name": "x", "system": "scp", "classes": ["NORM"], "reason": "r", "path": "m", "basis": "measures", "role": "viewer", "username": "nobody", "password": "x",
    }  # fmt: skip


def takes(cls: Any, name: str) -> Any:
    """Return what the OpenAPI document says that an action takes."""
    schema = getattr(getattr(cls, name), "kwargs", {}).get("schema")
    if schema is None:
        return getattr(cls, "serializer_class", None)
    described = schema()
    described.view = cls(request=None, kwargs={}, versioning_class=None)
    return described.get_request_serializer()


def has_fields(cls: Any, name: str) -> bool:
    """Whether the OpenAPI document states the fields of what an action takes."""
    stated = takes(cls, name)
    return isinstance(stated, type) and issubclass(stated, BaseSerializer)


def known(route: Route, method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return what of a body a call of REST knows."""
    cls, name = getattr(route.callback, "cls", None), getattr(route.callback, "actions", {}).get(method)
    if cls is None or name is None or method in ("get", "head", "delete"):
        return body
    stated = takes(cls, name)
    if isinstance(stated, dict):
        stated = next(iter(stated.values()))
    if isinstance(stated, dict):
        names = set(stated.get("properties", ()))
    elif isinstance(stated, type) and issubclass(stated, BaseSerializer):
        names = set(stated().fields)
    else:
        return body
    return {key: value for key, value in body.items() if key in names}


def status_of(client: Any, method: str, address: str, body: dict[str, Any]) -> int:
    return answered(client, method, address, json.dumps(body)).status_code


def answered(client: Any, method: str, address: str, body: str) -> Any:
    call = getattr(client, method)
    if method in ("get", "head"):
        return call(address)
    return call(address, body, content_type="application/json")


def bare(text: str) -> str:
    """Return an answer without what is new in each: tokens against forgery and nonces."""
    return re.sub(r'(csrfmiddlewaretoken" value|nonce)="[^"]+"|X-CSRFToken[^}]+', "", text)
