"""The table of the URLconf: what every address is, who may use it, and what a role must get from it.

It is made from the URLconf itself; what no view states stands in the two short lists below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from datasets.models import ArrivingFile, Dataset, Ingest, LabelMap, Record, RecordAnnotation, RecordLabel, Subject
from ecgportal.jobs.models import Job
from ecgportal.projects.access import ROLE_ALLOWS, Action
from ecgportal.projects.models import Project
from modelhub.models import CatalogueEntry, Exchange, Model, ModelVersion, PredictionRun, SigningKey
from training.models import Evaluation, TrainingRun
from viz.models import DatasetMap

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
