"""Every address of the URLconf, for every role of its own and of a sibling project.

The table is made from the URLconf itself. A route that states no access action, is not an administrator's, not Dash's, and
is not in one of the two short lists below fails the test: nothing can be added without a decision about who may use it.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction
from django.db.models import Max
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django_filters.rest_framework import UUIDFilter
from rest_framework.serializers import BaseSerializer

from datasets.models import (
    ArrivingFile,
    Dataset,
    Ingest,
    LabelImport,
    LabelMap,
    LabelSource,
    Record,
    RecordAnnotation,
    RecordLabel,
    Subject,
)
from ecgportal import storage
from ecgportal.accounts.models import ApiToken
from ecgportal.accounts.services import token_create
from ecgportal.api.viewsets import ByIdFilterBackend, related_model
from ecgportal.audit.models import AuditEvent
from ecgportal.jobs.models import Job, JobState
from ecgportal.projects.access import ROLE_ALLOWS, Action
from ecgportal.projects.models import Project
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
from training.models import Evaluation, TrainingRun
from viz.models import DatasetMap

ROLES = ("anonymous", "outsider", "viewer", "editor", "owner", "sibling viewer", "sibling editor", "sibling owner")

# Open to everybody, signed in or not.
PUBLIC = {"healthz", "accounts:login", "accounts:logout", "token"}
# About the signed-in user alone, or the same for every signed-in user; no project's data.
PERSONAL = {
    "home", "help", "accounts:tokens", "accounts:token_delete", "accounts:password", "projects:list", "projects:create", "projects:roles",
    "architectures", "collections-list", "schema", "docs", "api-root", "auth-tokens-list", "auth-tokens-detail", "users-me", "projects-list",
    "catalogue", "catalogue_compare", "catalogue_copy", "catalogue_try", "exchanges-list", "exchanges-detail", "exchanges-models", "exchanges-push", "exchanges-pull", "exchanges-sync", "audit-events-list", "audit-events-export",
}  # fmt: skip


@dataclass(frozen=True)
class Route:
    pattern: str
    name: str
    callback: Any
    parameters: tuple[str, ...]


def routes() -> list[Route]:
    """Return all routes of the URLconf."""
    return list(_walk(get_resolver().url_patterns, "", ""))


def _walk(entries: Any, prefix: str, namespace: str) -> Any:
    for entry in entries:
        text = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from _walk(entry.url_patterns, text, inner)
        elif isinstance(entry, URLPattern):
            yield Route(
                text,
                namespace + (entry.name or ""),
                entry.callback,
                tuple(entry.pattern.converters) or tuple(entry.pattern.regex.groupindex),
            )


@pytest.fixture
def world(db, settings, tmp_path):
    return World()


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


API_MODELS = {
    "datasets": Dataset, "ingests": Ingest, "imports": Ingest, "upload-files": ArrivingFile, "subjects": Subject, "records": Record, "annotations": RecordAnnotation,
    "record-labels": RecordLabel, "label-maps": LabelMap, "models": Model, "model-versions": ModelVersion,
    "training-runs": TrainingRun, "predictions": PredictionRun, "evaluations": Evaluation, "jobs": Job, "projects": Project, "exchanges": Exchange,
    "signing-keys": SigningKey, "catalogue": CatalogueEntry, "dataset-maps": DatasetMap,
}  # fmt: skip


def required(route: Route) -> list[tuple[str, str, Action | str, type | None]]:
    """Return ``(method, kind, action, model)`` of each method of a route; AssertionError for a route without a decision."""
    callback = route.callback
    if route.name in PUBLIC:
        return [("get", "public", "public", None)]
    if getattr(callback, "is_dash_route", False):
        return [("post" if "update-component" in route.name else "get", "dash", Action.DATA_VIEW, Record)]
    view, cls = getattr(callback, "view_class", None), getattr(callback, "cls", None)
    if view is not None and getattr(view, "needs", None):
        return [(method, "page", action, view.model) for method, action in view.needs.items()]
    if view is not None and getattr(view, "administrators_only", False):
        return [("get" if hasattr(view, "get") else "post", "administrator", "administrator", None)]
    if view is not None and getattr(view, "tokens_only", False):
        return [("get", "token", "token", None)]
    if route.name in PERSONAL:
        return [("get", "personal", "personal", None)]
    if cls is not None and getattr(cls, "needs", None) and hasattr(callback, "actions"):
        model = API_MODELS[re.sub(r"^api/v1/\^?", "", route.pattern).split("/")[0]]
        found = []
        for method, name in callback.actions.items():
            if cls.needs.get(name) == "administrator":
                found.append((method, "api administrator", "administrator", model))
            elif name == "create":
                found.append((method, "api create", cls.needs.get(name, "personal"), None))
            elif not route.parameters:
                found.append((method, "api list" if name == "list" else "api create", cls.needs[name], None))
            else:
                found.append((method, "api", cls.needs[name], model))
        return found
    if cls is not None and hasattr(callback, "actions") and _is_administrators(cls):
        return [
            (method, "api administrator", "administrator", API_MODELS.get(route.name.split("-")[0]))
            for method in callback.actions
        ]
    raise AssertionError(f"{route.pattern} ({route.name}) does not say who may use it")


def _is_administrators(cls: Any) -> bool:
    return cls.__name__ in {"UserViewSet", "ExchangeViewSet"}


def expected(kind: str, action: Action | str, role: str) -> set[int] | None:
    """Return the statuses that a role must get; None for "allowed: anything but a refusal"."""
    if kind == "public":
        return None
    if kind == "token":
        # A session opens nothing here, whoever it belongs to.
        return {401}
    if role == "anonymous":
        return {401} if kind.startswith("api") or kind == "dash" else {302, 401}
    if kind == "personal":
        return None
    if kind in ("administrator", "api administrator"):
        return {403}
    if kind == "api list":
        return {200}
    if action == "personal":
        return None
    if role == "outsider" or role.startswith("sibling"):
        return {404, 422} if kind == "api create" else {404}
    return None if action in ROLE_ALLOWS[role] else {403}


REFUSALS = {401, 403, 404}
# Static files of Dash components are the same for every signed-in user.
DASH_ASSETS = ("component-suites", "component-component-suites", "asset-redirect", "layout", "dependencies", "app-main")


def _body(route: Route, kind: str, world: World) -> dict[str, Any]:
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


def _stated(cls: Any, name: str) -> Any:
    """Return what the OpenAPI document says that an action takes."""
    schema = getattr(getattr(cls, name), "kwargs", {}).get("schema")
    if schema is None:
        return getattr(cls, "serializer_class", None)
    described = schema()
    described.view = cls(request=None, kwargs={}, versioning_class=None)
    return described.get_request_serializer()


def _has_fields(cls: Any, name: str) -> bool:
    """Whether the OpenAPI document states the fields of what an action takes."""
    stated = _stated(cls, name)
    return isinstance(stated, type) and issubclass(stated, BaseSerializer)


def _known(route: Route, method: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return what of a body a call of REST knows."""
    cls, name = getattr(route.callback, "cls", None), getattr(route.callback, "actions", {}).get(method)
    if cls is None or name is None or method in ("get", "head", "delete"):
        return body
    stated = _stated(cls, name)
    if isinstance(stated, dict):
        stated = next(iter(stated.values()))
    if isinstance(stated, dict):
        names = set(stated.get("properties", ()))
    elif isinstance(stated, type) and issubclass(stated, BaseSerializer):
        names = set(stated().fields)
    else:
        return body
    return {key: value for key, value in body.items() if key in names}


def _ask(client: Any, method: str, address: str, body: dict[str, Any]) -> int:
    return _answer(client, method, address, json.dumps(body)).status_code


def _answer(client: Any, method: str, address: str, body: str) -> Any:
    call = getattr(client, method)
    if method in ("get", "head"):
        return call(address)
    return call(address, body, content_type="application/json")


def test_every_route_of_every_role(world, client_factory, record_property):
    checked, wrong = 0, []
    clients = {role: client_factory(user) for role, user in world.users.items()}
    for route in routes():
        for method, kind, action, model in required(route):
            is_asset = kind == "dash" and not route.name.endswith("update-component")
            # Refused roles first: an allowed deletion would take the row away from those who ask after it.
            roles = sorted(ROLES, key=lambda role: expected(kind, action, role) is None)
            for role in roles:
                address = world.address(route, model)
                with transaction.atomic():
                    status = _ask(clients[role], method, address, _known(route, method, _body(route, kind, world)))
                    transaction.set_rollback(True)
                want = expected(kind, action, role) if not is_asset or role == "anonymous" else None
                checked += 1
                if want is None:
                    # Without a worker at hand the health check says 503, to everybody alike.
                    is_answer = status < 500 or (route.name == "healthz" and status == 503)
                    is_right = is_answer and (is_asset or kind in ("public", "personal") or status not in REFUSALS)
                    is_right = is_right or (status == 502 and "exchange" in route.name)
                else:
                    is_right = status in want
                if not is_right:
                    wrong.append(
                        f"{method.upper()} {address} ({route.name}) as {role}: {status}, not {sorted(want) if want else 'an answer'}"
                    )
    record_property("routes_times_roles", checked)
    print(f"\n{len(routes())} routes, {checked} combinations of route, method and role")
    assert not wrong, "\n".join(wrong)
    assert checked > 500


def test_a_stranger_who_asks_for_a_row_gets_404_and_leaves_an_event_in_its_projects_trail(world, client_factory):
    """By every address of the URLconf that names a row, and by every method of it; for an id of nothing the answer is the same."""
    stranger = world.users["sibling owner"]
    client, wrong, checked = client_factory(stranger), [], 0
    for route in routes():
        for method, kind, action, model in required(route):
            is_asset = kind == "dash" and not route.name.endswith("update-component")
            if kind not in ("page", "api", "dash") or is_asset or expected(kind, action, "sibling owner") != {404}:
                continue
            address, body = world.address(route, model), json.dumps(_known(route, method, _body(route, kind, world)))
            row = world.rows[model] if model else world.own
            nothing = str(uuid.uuid4())
            found = {}
            for pk in (str(row.pk), nothing):
                with transaction.atomic():
                    before = AuditEvent.objects.aggregate(last=Max("id"))["last"] or 0
                    with transaction.atomic():
                        there, sent = address.replace(str(row.pk), pk), body.replace(str(row.pk), pk)
                        answer = _answer(client, method, there, sent)
                    events = list(AuditEvent.objects.filter(id__gt=before))
                    found[pk] = (answer.status_code, answer.content.decode().replace(pk, ""), events)
                    transaction.set_rollback(True)
            checked += 1
            status, text, events = found[str(row.pk)]
            told = [
                (event.action, event.outcome, event.actor_id, event.project_id, event.object_id) for event in events
            ]
            if told != [("access.hidden", "refused", stranger.pk, world.own.pk, str(row.pk))]:
                wrong.append(f"{method.upper()} {address} ({route.name}): {told}")
            if (status, _bare(text), []) != (found[nothing][0], _bare(found[nothing][1]), found[nothing][2]):
                wrong.append(f"{method.upper()} {address} ({route.name}): another answer than for an id of nothing")
    print(f"\n{checked} combinations of route and method")
    assert not wrong, "\n".join(wrong)
    assert checked > 150


def test_a_list_by_a_foreign_id_is_empty_and_leaves_an_event_in_that_projects_trail(world, client_factory):
    """By every filter of REST that takes an id, and by every page that takes one in its query."""
    stranger, asked = world.users["sibling owner"], []
    for route in routes():
        cls, actions = getattr(route.callback, "cls", None), getattr(route.callback, "actions", {})
        if actions.get("get") != "list" or not hasattr(cls, "needs"):
            continue
        filterset = ByIdFilterBackend().get_filterset_class(cls(), cls.queryset)
        for name, entry in filterset.base_filters.items() if filterset else ():
            if isinstance(entry, UUIDFilter):
                model = related_model(cls.queryset.model, entry.field_name)
                asked.append((f"{world.address(route, None)}?{name}=", world.rows[model], model))
    dataset = factories.make_dataset(world.sibling)
    sibling = f"/projects/{world.sibling.pk}"
    asked += [
        (f"{sibling}/evaluations/compare/?evaluation=", world.rows[Evaluation], Evaluation),
        (f"{sibling}/evaluations/?again=", world.rows[Evaluation], Evaluation),
        (f"{sibling}/predictions/?again=", world.rows[PredictionRun], PredictionRun),
        (f"{sibling}/label-maps/new/?from=", world.rows[LabelMap], LabelMap),
        (f"/datasets/{dataset.pk}/upload/?again=", world.rows[Ingest], Ingest),
    ]
    client, wrong = client_factory(stranger), []
    for address, row, model in asked:
        found = {}
        for pk in (str(row.pk), str(uuid.uuid4())):
            before = AuditEvent.objects.aggregate(last=Max("id"))["last"] or 0
            with transaction.atomic():
                answer = _answer(client, "get", address + pk, "")
                events = AuditEvent.objects.filter(id__gt=before).values_list(
                    "action", "actor_id", "project_id", "object_id"
                )
                found[pk] = (answer.status_code, _bare(answer.content.decode().replace(pk, "")), list(events))
                transaction.set_rollback(True)
        (status, text, told), nothing = found.values()
        if told != [("access.hidden", stranger.pk, world.own.pk, str(row.pk))] or (status, text, []) != nothing:
            wrong.append(f"{address} ({model.__name__}): {status}, {told}")
        if status != (404 if "from=" in address else 200):
            wrong.append(f"{address} ({model.__name__}): {status}")
    assert not wrong, "\n".join(wrong)
    assert len(asked) > 20


def _bare(text: str) -> str:
    """Return an answer without what is new in each: tokens against forgery and nonces."""
    return re.sub(r'(csrfmiddlewaretoken" value|nonce)="[^"]+"|X-CSRFToken[^}]+', "", text)


def test_nothing_is_changed_by_a_session_without_the_token_against_forgery(world):
    """On every address and by every method that writes; a script's token and its password are no cookies and need none."""
    client, wrong, checked = Client(enforce_csrf_checks=True, raise_request_exception=False), [], 0
    user = world.users["owner"]
    user.is_superuser = True
    user.save()
    client.force_login(user)
    for route in routes():
        methods = {method for method, *_ in required(route)} | {"post"}
        for method in sorted(methods - {"get", "head"}):
            address = world.address(route, API_MODELS.get(re.sub(r"^api/v1/\^?", "", route.pattern).split("/")[0]))
            if route.name == "token" or getattr(getattr(route.callback, "view_class", None), "tokens_only", False):
                continue
            with transaction.atomic():
                answer = _answer(
                    client,
                    method,
                    address,
                    json.dumps(_body(route, "dash" if route.name.endswith("update-component") else "api", world)),
                )
                transaction.set_rollback(True)
            checked += 1
            if answer.status_code not in (403, 405):
                wrong.append(f"{method.upper()} {address} ({route.name}): {answer.status_code}")
    assert not wrong, "\n".join(wrong)
    assert checked > 150


# A body whose fields the caller chooses, or none at all.
FREE_BODIES = ("card",)


def test_no_call_of_rest_passes_over_a_parameter_or_a_field_that_it_does_not_know(world, client_factory):
    user = world.users["owner"]
    user.is_superuser = True
    user.save()
    client, wrong, checked = client_factory(user), [], 0
    for route in routes():
        cls = getattr(route.callback, "cls", None)
        if cls is None or not route.pattern.startswith("api/") or route.name in ("schema", "docs", "api-root"):
            continue
        own = {method: method for method in ("get", "post", "put", "patch", "delete") if hasattr(cls, method)}
        actions = getattr(route.callback, "actions", None) or own
        resource = re.sub(r"^api/v1/\^?", "", route.pattern).split("/")[0]
        for method, name in list(actions.items()):
            if method == "head":
                # Known to a route once it was asked for; it has no body to look at.
                continue
            address = world.address(route, API_MODELS.get(resource))
            body = _body(route, "api", world)
            calls = [(f"{address}?nosuchname=1", {})]
            if method in ("post", "put", "patch") and _has_fields(cls, name):
                calls.append((address, {**body, "nosuchname": 1}))
            for there, sent in calls:
                if sent and any(part in address for part in FREE_BODIES):
                    continue
                with transaction.atomic():
                    answer = _answer(client, method, there, json.dumps(sent))
                    transaction.set_rollback(True)
                checked += 1
                fields = (
                    json.loads(answer.content or b"{}").get("error", {}).get("fields", {})
                    if answer.status_code >= 400
                    else {}
                )
                if answer.status_code not in (400, 404, 422) or (
                    answer.status_code != 404 and "nosuchname" not in fields
                ):
                    wrong.append(
                        f"{method.upper()} {there} ({route.name}): {answer.status_code} {answer.content[:200]!r}"
                    )
    print(f"\n{checked} calls")
    assert not wrong, "\n".join(wrong)
    assert checked > 150


def test_every_dash_callback_loads_its_object_through_the_permission_check():
    from viz.dash_apps import dataset_map, ecg, evaluation, training

    for app in (dataset_map.app, ecg.app, evaluation.app, training.app):
        callbacks = app._callback_sets
        assert callbacks
        for _, function in callbacks:
            assert getattr(function, "guarded_by", None) in Action


@pytest.fixture
def client_factory(db):
    def make(user: Any) -> Client:
        client = Client(raise_request_exception=False)
        if user is not None:
            client.force_login(user)
        return client

    return make


def test_an_administrator_gets_no_project_data(world, client_factory):
    client = client_factory(world.administrator)
    for row in (world.rows[Dataset], world.rows[Record], world.rows[TrainingRun]):
        name = {Dataset: "datasets", Record: "records", TrainingRun: "training-runs"}[type(row)]
        assert client.get(f"/api/v1/{name}/{row.pk}/").status_code == 404


def test_a_token_reaches_what_its_user_reaches_and_nothing_else(world, client_factory):
    dataset = world.rows[Dataset]
    for role, status in (("viewer", 200), ("sibling owner", 404)):
        _, key = token_create(user=world.users[role], name="t")
        answer = client_factory(None).get(f"/api/v1/datasets/{dataset.pk}/", headers={"Authorization": f"Token {key}"})
        assert answer.status_code == status
    ApiToken.objects.all().delete()
    assert client_factory(None).get("/api/v1/datasets/", headers={"Authorization": f"Token {key}"}).status_code == 401


def test_the_routes_are_many():
    assert len(routes()) > 80
    assert len({route.name for route in routes()}) > 60
