"""Who asks for rows of a project that is not theirs is told nothing, and leaves an event in that project's audit trail."""

from __future__ import annotations

import inspect
import json
import re
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django import forms
from django.conf import settings
from django.db import transaction
from django.db.models import Max
from django.urls import reverse
from django_filters.rest_framework import UUIDFilter
from rest_framework import serializers

from datasets.models import Dataset, Ingest, LabelMap, Record
from ecgportal.api.viewsets import ByIdFilterBackend, related_model
from ecgportal.audit.models import AuditEvent
from ecgportal.jobs.models import Job
from ecgportal.projects.models import Project
from modelhub.models import Exchange, Model, ModelVersion, PredictionRun
from tests import factories
from tests.route_table import API_MODELS, Route, expected, required, routes
from tests.route_world import answered, bare, body_of, known, takes
from tests.route_world import client_factory as client_factory  # a fixture
from tests.route_world import world as world  # a fixture
from training import rating
from training.models import Evaluation


def test_a_stranger_who_asks_for_a_row_gets_404_and_leaves_an_event_in_its_projects_trail(world, client_factory):
    """By every address of the URLconf that names a row, and by every method of it; for an id of nothing the answer is the same."""
    stranger = world.users["sibling owner"]
    client, wrong, checked = client_factory(stranger), [], 0
    for route in routes():
        for method, kind, action, model in required(route):
            is_asset = kind == "dash" and not route.name.endswith("update-component")
            if kind not in ("page", "api", "dash") or is_asset or expected(kind, action, "sibling owner") != {404}:
                continue
            address, body = world.address(route, model), json.dumps(known(route, method, body_of(route, kind, world)))
            row = world.rows[model] if model else world.own
            nothing = str(uuid.uuid4())
            found = {}
            for pk in (str(row.pk), nothing):
                with transaction.atomic():
                    before = AuditEvent.objects.aggregate(last=Max("id"))["last"] or 0
                    with transaction.atomic():
                        there, sent = address.replace(str(row.pk), pk), body.replace(str(row.pk), pk)
                        answer = answered(client, method, there, sent)
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
            if (status, bare(text), []) != (found[nothing][0], bare(found[nothing][1]), found[nothing][2]):
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
        found = [
            watched(partial(answered, client, "get", address + pk, ""), [pk]) for pk in (str(row.pk), str(uuid.uuid4()))
        ]
        ((status, text), told), nothing = found
        if told != [(stranger.pk, world.own.pk, str(row.pk))] or ((status, text), []) != nothing:
            wrong.append(f"{address} ({model.__name__}): {status}, {told}")
        if status != (404 if "from=" in address else 200):
            wrong.append(f"{address} ({model.__name__}): {status}")
    assert not wrong, "\n".join(wrong)
    assert len(asked) > 20


# Forms whose rows are hidden from nobody who sees them, and one that is shown but not read.
OPEN_CHOICES = {"PushForm exchange", "ShareForm projects", "CopyForm project"}
CHOICES = {
    "dataset": Dataset, "datasets": Dataset, "other": Dataset, "version": ModelVersion, "base_version": ModelVersion,
    "label_map": LabelMap, "map": LabelMap,
}  # fmt: skip


# What a body calls rows of other kinds.
NAMED = {"project": Project, "record": Record, "records": Record, "drop": Record, "keep": Record}


def test_a_form_that_names_a_foreign_row_is_refused_and_leaves_an_event_in_that_projects_trail(
    world, client_factory, monkeypatch: pytest.MonkeyPatch
):
    """By every choice of rows of every form that some page reads; for ids of nothing the answer is the same."""
    read: dict[str, type] = {}
    full_clean = forms.BaseForm.full_clean

    def noted(form: forms.BaseForm) -> None:
        for name, field in form.fields.items() if form.is_bound else ():
            if isinstance(field, forms.ModelChoiceField) and f"{type(form).__name__} {name}" not in OPEN_CHOICES:
                read[f"{type(form).__name__} {name}"] = field.queryset.model
        full_clean(form)

    monkeypatch.setattr(forms.BaseForm, "full_clean", noted)
    user, tried, wrong = world.users["owner"], set(), []
    client, foreign = client_factory(user), rows_of_sibling(world)
    rows = {name: str(foreign[model].pk) for name, model in CHOICES.items()}
    nothing = {name: str(uuid.uuid4()) for name in CHOICES}
    for route in routes():
        for method, kind, _, model in required(route):
            if method not in ("get", "post") or kind not in ("page", "personal") or not has_forms(route):
                continue
            address = world.address(route, model or API_MODELS.get(route.pattern.split("/")[0]))
            # What is everybody's is read by either method.
            for way in {method, "post"} if kind == "personal" else {method}:
                read.clear()
                answer, events = sent(client, way, address, rows)
                if not read:
                    continue
                tried |= set(read)
                expected_events = {(user.pk, world.sibling.pk, str(foreign[of].pk)) for of in read.values()}
                if not expected_events <= set(events):
                    wrong.append(f"{way.upper()} {address} ({', '.join(read)}): {events}")
                if (answer, []) != sent(client, way, address, nothing):
                    wrong.append(f"{way.upper()} {address}: another answer than for ids of nothing")
    assert not wrong, "\n".join(wrong)
    assert len(tried) == choices_of_rows() - len(OPEN_CHOICES), sorted(tried)


def has_forms(route: Route) -> bool:
    """Whether the source of a route's view speaks of a form: the other pages need not be asked."""
    view = getattr(route.callback, "view_class", object)
    return any("Form(" in inspect.getsource(cls) for cls in view.__mro__[:-1])


def sent(client, way: str, address: str, values: dict[str, str]) -> tuple[tuple[int, str], list[tuple]]:
    """Send ids in the address and in the body; what comes back is that of ``watched``."""
    # What the last page left to be said on the next one.
    client.cookies.pop("messages", None)
    there = f"{address}?{urlencode(values)}"
    return watched(lambda: client.post(there, values) if way == "post" else client.get(there), values.values())


def watched(ask: Callable[[], Any], ids: Iterable[str]) -> tuple[tuple[int, str], list[tuple]]:
    """Ask, and take back what it changed; return the answer without the ids and the events of what was hidden."""
    before = AuditEvent.objects.aggregate(last=Max("id"))["last"] or 0
    with transaction.atomic():
        answer = ask()
        events = AuditEvent.objects.filter(id__gt=before, action="access.hidden")
        told = list(events.values_list("actor_id", "project_id", "object_id"))
        transaction.set_rollback(True)
    text = bare((b"".join(answer) if answer.streaming else answer.content).decode(errors="replace"))
    for value in ids:
        text = text.replace(value, "")
    return (answer.status_code, text), told


def rows_of_sibling(world) -> dict[type, object]:
    """Return a row of the sibling project for each kind that forms offer."""
    version = ModelVersion.objects.get(pk=world.rows[ModelVersion].pk)
    version.pk, version.model = uuid.uuid4(), Model.objects.create(project=world.sibling, name="Other net")
    version.save(force_insert=True)
    dataset = factories.make_dataset(world.sibling)
    return {
        Dataset: dataset,
        Record: factories.make_record(dataset),
        LabelMap: factories.make_label_map(world.sibling),
        ModelVersion: version,
        Project: world.sibling,
        PredictionRun: PredictionRun.objects.create(
            project=world.sibling,
            version=version,
            dataset=dataset,
            job=factories.make_job(world.sibling, kind="predict"),
        ),
        Job: factories.make_job(world.sibling, kind=rating.KIND),
    }


def choices_of_rows() -> int:
    """Return how many choices of rows the forms of all rooms state."""
    rooms = (Path(settings.BASE_DIR) / name for name in ("datasets", "modelhub", "training", "viz"))
    sources = (path.read_text() for room in rooms for path in room.glob("*forms*.py"))
    return sum(len(re.findall(r"(?<!class )\b\w*Rows?Field\(", text)) for text in sources)


def test_an_address_that_names_a_foreign_row_beside_its_own_leaves_an_event_in_that_projects_trail(
    world, client_factory
):
    own, rows = f"/projects/{world.own.pk}", world.rows
    asked = [
        ("get", f"{own}/training/new/", "dataset", Dataset),
        ("get", f"{own}/training/new/", "base", ModelVersion),
        ("get", f"{own}/training/new/", "label_map", LabelMap),
        ("post", f"{own}/training/new/", "rate_job", Job),
        ("get", f"{own}/predictions/", "version", ModelVersion),
        ("get", f"{own}/predictions/", "dataset", Dataset),
        ("get", f"{own}/evaluations/", "version", ModelVersion),
        ("get", f"{own}/evaluations/", "dataset", Dataset),
        ("post", f"{own}/exchanges/", "version", ModelVersion),
        ("get", f"/predictions/{rows[PredictionRun].pk}/", "label_map", LabelMap),
        ("get", f"/api/v1/predictions/{rows[PredictionRun].pk}/rows/", "label_map", LabelMap),
        ("get", f"/records/{rows[Record].pk}/", "prediction", PredictionRun),
        ("get", f"/records/{rows[Record].pk}/compare/", "recipe", ModelVersion),
    ]
    user = world.users["owner"]
    client, foreign = client_factory(user), rows_of_sibling(world)
    for way, address, name, model in asked:
        more = {"exchange": str(rows[Exchange].pk)} if "exchanges" in address else {}
        answer, events = sent(client, way, address, {name: str(foreign[model].pk), **more})
        assert events == [(user.pk, world.sibling.pk, str(foreign[model].pk))], f"{way} {address} {name}: {events}"
        assert (answer, []) == sent(client, way, address, {name: str(uuid.uuid4()), **more}), f"{way} {address} {name}"
    choice = {f"choice-{foreign[Record].pk}": "all"}
    _, events = sent(client, "post", reverse("datasets:twins", args=[rows[Dataset].pk]), choice)
    assert events == [(user.pk, world.sibling.pk, str(foreign[Record].pk))]


def test_a_body_of_rest_that_names_a_foreign_row_leaves_an_event_in_that_projects_trail(world, client_factory):
    """By every id of a row that the OpenAPI document says a call takes; for an id of nothing the answer is the same."""
    user, wrong, checked = world.users["owner"], [], 0
    client, foreign = client_factory(user), rows_of_sibling(world)
    for route in routes():
        for method, kind, _, model in required(route) if route.pattern.startswith("api/") else ():
            if method not in ("post", "put", "patch") or "administrator" in kind:
                continue
            address = world.address(route, model or API_MODELS.get(route.name.rpartition("-")[0]))
            for name, is_list in ids_taken(route.callback.cls, route.callback.actions.get(method, "")):
                row, body = foreign[NAMED.get(name) or CHOICES[name]], known(route, method, body_of(route, kind, world))
                if "basis" in body:
                    body["basis"] = "model"
                # What a call takes in its place.
                if name in ("datasets", "project"):
                    body.pop("dataset", None)
                found = []
                for pk in (str(row.pk), str(uuid.uuid4())):
                    text = json.dumps(body | {name: [pk] if is_list else pk})
                    ask = partial(answered, client, method, address, text)
                    found.append(watched(ask, [pk]))
                checked += 1
                (answer, told), nothing = found
                if told != [(user.pk, world.sibling.pk, str(row.pk))] or (answer, []) != nothing:
                    wrong.append(f"{method.upper()} {route.pattern} ({name}): {answer}, {told}; of nothing {nothing}")
    assert not wrong, "\n".join(wrong)
    assert checked > 35


def ids_taken(cls: type, action: str) -> list[tuple[str, bool]]:
    """Return the fields of an action's body that take the id of a row, and whether it is a list of them."""
    stated = takes(cls, action) if action else None
    if not (isinstance(stated, type) and issubclass(stated, serializers.BaseSerializer)):
        return []
    fields = {name: field for name, field in stated().fields.items() if not field.read_only}
    found = [(name, False) for name, field in fields.items() if isinstance(field, serializers.UUIDField)]
    lists = [name for name, field in fields.items() if isinstance(field, serializers.ListField)]
    return found + [(name, True) for name in lists if isinstance(fields[name].child, serializers.UUIDField)]
