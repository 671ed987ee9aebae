"""Errors that no view has seen (unknown address, bad host, a fault): JSON under ``/api/``, a page elsewhere."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.views import defaults

from ecgportal.api.errors import body

_PREFIX = "/api/"


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path_info.startswith(_PREFIX):
        return JsonResponse(body("bad_request", "The request cannot be read; see the log of the portal."), status=400)
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path_info.startswith(_PREFIX):
        return JsonResponse(body("not_allowed", "You may not do this."), status=403)
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path_info.startswith(_PREFIX):
        sentence = "There is nothing at this address. Addresses end with a slash; /api/v1/docs/ lists them."
        return JsonResponse(body("not_found", sentence), status=404)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponseBase:
    if request.path_info.startswith(_PREFIX):
        sentence = "The portal met an error that it did not expect. An operator finds the details in the log."
        return JsonResponse(body("internal_error", sentence), status=500)
    return defaults.server_error(request)
