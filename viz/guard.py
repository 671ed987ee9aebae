"""Who may reach Dash: every route needs a signed-in user, callbacks need the CSRF token, and each callback loads its
object through the one permission check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import parse_qs

from dash.dependencies import Input
from dash.exceptions import PreventUpdate
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.decorators.csrf import csrf_protect

from ecgportal.api.viewsets import as_uuid
from ecgportal.errors import InvalidInput, NotAllowed, NotFound, StorageFailed
from ecgportal.projects import access
from ecgportal.projects.access import Action
from viz.dash_setup import libraries_version

_LIBRARIES = ("component-suites", "component-component-suites", "component-suites-build")
_VERSION = libraries_version()
# The mark that Dash gives the files it names in a page.
_VERSIONED = re.compile(r"\.v\d[\w.]*m\d+\.")
KNOWN_APPS = frozenset({"EcgView", "TrainingView", "EvaluationView", "MapView"})


def dash_guard(
    view: Callable[..., HttpResponseBase], *args: Any, name: str = "", **options: Any
) -> Callable[..., HttpResponseBase]:
    """Wrap a route of django-plotly-dash: 401 without sign-in, 404 for unknown apps and unused routes, CSRF on callbacks."""
    is_update = name == "update-component"
    # csrf_protect passes over views that are marked exempt, as the callback view is; the lambda hides the mark.
    protected = csrf_protect(lambda request, *a, **k: view(request, *a, **k)) if is_update else view

    @wraps(view)
    def inner(request: HttpRequest, *a: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return HttpResponse("Sign in first.", status=401)
        if name == "routes" or kwargs.get("ident") not in KNOWN_APPS:
            raise Http404
        if is_update and not _is_object(request):
            return JsonResponse(
                {"error": {"code": "bad_request", "message": "A callback is a JSON object.", "fields": {}}}, status=400
            )
        try:
            return _kept(protected(request, *a, **kwargs), name, request.path)
        except (NotFound, NotAllowed, InvalidInput, StorageFailed) as error:
            return JsonResponse(
                {"error": {"code": error.code, "message": error.message, "fields": error.fields}}, status=error.status
            )

    inner.csrf_exempt = is_update  # type: ignore[attr-defined]
    inner.login_required = False  # type: ignore[attr-defined]
    inner.is_dash_route = True  # type: ignore[attr-defined]
    return inner


def _kept(answer: HttpResponseBase, name: str, path: str) -> HttpResponseBase:
    """Let the browser keep what is the same for everybody: where the libraries lie for a day, the layout for a minute.

    Each visit would ask for a dozen of them again, before anything is drawn. The libraries themselves are kept for good,
    under an address that changes with their version.
    """
    if name in _LIBRARIES and answer.status_code == 302:
        answer["Location"] += f"?v={_VERSION}"
        # A part that is asked for later has no version in its own address.
        answer["Cache-Control"] = f"private, max-age={86400 if _VERSIONED.search(path) else 3600}"
    elif name in ("layout", "dependencies") and answer.status_code == 200:
        answer["Cache-Control"] = "private, max-age=60"
    return answer


def _is_object(request: HttpRequest) -> bool:
    if request.method != "POST":
        return False
    try:
        body = json.loads(request.body)
    except (ValueError, UnicodeDecodeError):
        return False
    return isinstance(body, dict) and isinstance(body.get("inputs"), list) and isinstance(body.get("output"), str)


def guarded_callback(
    app: Any, rows: Callable[[], QuerySet[Any]], action: Action, output: Any, *inputs: Any
) -> Callable[..., Any]:
    """Register a callback that gets, as its first argument, the row named in the frame's address (``?id=``).

    The address comes from the browser, so the row is loaded through ``access`` for the signed-in user at every call;
    a row that is not visible answers 404, one with too weak a role 403.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(address: str | None, *values: Any, **kwargs: Any) -> Any:
            wanted = parse_qs((address or "").lstrip("?")).get("id", [""])[0]
            if not wanted:
                raise PreventUpdate
            obj = access.get_or_404(rows(), kwargs["user"], action, pk=as_uuid(wanted))
            return function(obj, *values)

        checked.__name__ = function.__name__
        checked.guarded_by = action  # type: ignore[attr-defined]
        app.callback(output, [Input("address", "search"), *inputs])(checked)
        return function

    return register
