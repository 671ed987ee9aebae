"""Who asks for rows of a project that is not theirs is told nothing, and leaves an event in that project's audit trail."""

from __future__ import annotations

import json
import uuid

from django.db import transaction
from django.db.models import Max
from django_filters.rest_framework import UUIDFilter

from datasets.models import Ingest, LabelMap
from ecgportal.api.viewsets import ByIdFilterBackend, related_model
from ecgportal.audit.models import AuditEvent
from modelhub.models import PredictionRun
from tests import factories
from tests.route_table import expected, required, routes
from tests.route_world import answered, bare, body_of, known
from tests.route_world import client_factory as client_factory  # a fixture
from tests.route_world import world as world  # a fixture
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
        found = {}
        for pk in (str(row.pk), str(uuid.uuid4())):
            before = AuditEvent.objects.aggregate(last=Max("id"))["last"] or 0
            with transaction.atomic():
                answer = answered(client, "get", address + pk, "")
                events = AuditEvent.objects.filter(id__gt=before).values_list(
                    "action", "actor_id", "project_id", "object_id"
                )
                found[pk] = (answer.status_code, bare(answer.content.decode().replace(pk, "")), list(events))
                transaction.set_rollback(True)
        (status, text, told), nothing = found.values()
        if told != [("access.hidden", stranger.pk, world.own.pk, str(row.pk))] or (status, text, []) != nothing:
            wrong.append(f"{address} ({model.__name__}): {status}, {told}")
        if status != (404 if "from=" in address else 200):
            wrong.append(f"{address} ({model.__name__}): {status}")
    assert not wrong, "\n".join(wrong)
    assert len(asked) > 20
