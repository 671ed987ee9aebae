"""The audit context of each request, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.functional import SimpleLazyObject

from ecgportal import simultaneous
from ecgportal.api.errors import body
from ecgportal.audit import later
from ecgportal.audit.context import AuditContext, acting
from ecgportal.client_address import client_address
from ecgportal.errors import PortalError

_CHANNELS = (("/api/", "api"), ("/dash/", "dash"), ("/dav/", "webdav"))


class AuditContextMiddleware:
    """Everything that one request causes carries its address, channel and one correlation id, also what is written when it is answered."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        channel = next((name for prefix, name in _CHANNELS if request.path.startswith(prefix)), "web")
        address = client_address(
            request.META.get("REMOTE_ADDR", ""), request.META.get("HTTP_X_FORWARDED_FOR", ""), settings.TRUSTED_PROXIES
        )
        # REST finds out who sent a token after this.
        user = SimpleLazyObject(lambda: request.user)
        later.begin()
        with acting(AuditContext(channel=channel, address=address, user=user)):
            return self.get_response(request)


class UnkeptMiddleware:
    """No browser and no proxy keeps an answer whose view does not say for how long: pages and files tell of patients."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response


class StrangersMiddleware:
    """Refuses what nobody who is not signed in has to send, before it is read: forms put files on the disk as they come.

    Who sends a token is asked for it before the body is read (``rest_framework.views.APIView.initial``).
    """

    most_bytes = 1_000_000

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if len(length) < 7 or (length.isdecimal() and int(length) <= self.most_bytes):
            return self.get_response(request)
        is_api = request.path_info.startswith("/api/")
        has_token = is_api and request.headers.get("Authorization", "").lower().startswith("token ")
        # What serves WebDAV reads no body but a short one, and says itself whom it knows.
        if has_token or request.path_info.startswith("/dav/") or request.user.is_authenticated:
            return self.get_response(request)
        sentence = "This is more than the portal takes from somebody who is not signed in."
        if is_api:
            return JsonResponse(body("too_large", sentence), status=413)
        context = {"message": sentence, "needed_role": None, "code": "too_large", "status": 413}
        return render(request, "413.html", context, status=413)


class PortalErrorMiddleware:
    """Show a PortalError that a page raised as a page with its sentence and status."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        error = simultaneous.told(error) or error
        if not isinstance(error, PortalError):
            return None
        template = {403: "403.html", 404: "404.html", 413: "413.html"}.get(error.status, "400.html")
        context = {
            "message": error.message,
            "needed_role": getattr(error, "needed_role", None),
            "code": error.code,
            "status": error.status,
        }
        return render(request, template, context, status=error.status)
