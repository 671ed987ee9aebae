"""Every address of the URLconf, for every role of its own and of a sibling project.

A route that states no access action, is not an administrator's, not Dash's, and is not in one of the two short lists of
``tests/route_table.py`` fails the test: nothing can be added without a decision about who may use it.
"""

from __future__ import annotations

import json
import re

from django.db import transaction
from django.test import Client

from datasets.models import Dataset, Record
from ecgportal.accounts.models import ApiToken
from ecgportal.accounts.services import token_create
from ecgportal.projects.access import Action
from tests.route_table import API_MODELS, expected, required, routes
from tests.route_world import answered, body_of, has_fields, known, status_of
from tests.route_world import client_factory as client_factory  # a fixture
from tests.route_world import world as world  # a fixture
from training.models import TrainingRun

ROLES = ("anonymous", "outsider", "viewer", "editor", "owner", "sibling viewer", "sibling editor", "sibling owner")
REFUSALS = {401, 403, 404}
# Static files of Dash components are the same for every signed-in user.
DASH_ASSETS = ("component-suites", "component-component-suites", "asset-redirect", "layout", "dependencies", "app-main")


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
                    status = status_of(
                        clients[role], method, address, known(route, method, body_of(route, kind, world))
                    )
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
                answer = answered(
                    client,
                    method,
                    address,
                    json.dumps(body_of(route, "dash" if route.name.endswith("update-component") else "api", world)),
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
            body = body_of(route, "api", world)
            calls = [(f"{address}?nosuchname=1", {})]
            if method in ("post", "put", "patch") and has_fields(cls, name):
                calls.append((address, {**body, "nosuchname": 1}))
            for there, sent in calls:
                if sent and any(part in address for part in FREE_BODIES):
                    continue
                with transaction.atomic():
                    answer = answered(client, method, there, json.dumps(sent))
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
