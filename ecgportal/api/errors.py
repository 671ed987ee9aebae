"""One shape for every error: ``{"error": {"code", "message", "fields"}}``."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import DataError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from ecgportal import simultaneous
from ecgportal.errors import PortalError, TooLarge

_CODES = {
    400: "bad_request", 401: "not_signed_in", 403: "not_allowed", 404: "not_found", 405: "method_not_allowed",
    406: "not_acceptable", 409: "conflict", 413: "too_large", 415: "unsupported_media_type", 422: "invalid_input",
    429: "too_many_requests",
}  # fmt: skip


def body(code: str, message: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "fields": fields or {}}}


def _fields(detail: Any, prefix: str = "") -> dict[str, str]:
    """Flatten a serializer's errors to ``{dotted field: sentence}``."""
    if isinstance(detail, dict):
        found: dict[str, str] = {}
        for name, inner in detail.items():
            found |= _fields(inner, f"{prefix}.{name}" if prefix else str(name))
        return found
    if isinstance(detail, list) and any(isinstance(inner, dict) for inner in detail):
        found = {}
        for number, inner in enumerate(detail):
            found |= _fields(inner, f"{prefix}.{number}")
        return found
    text = " ".join(str(part) for part in detail) if isinstance(detail, list) else str(detail)
    return {prefix or "__all__": text} if text else {}


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler. Errors that the portal does not know stay exceptions (500, no details sent)."""
    if isinstance(error, RequestDataTooBig):
        error = TooLarge("The body of the request is too large. Send it in parts, or as a file.")
    error = simultaneous.told(error) or error
    if isinstance(error, PortalError):
        set_rollback()
        headers = {"Retry-After": "600"} if error.status == 429 else {}
        return Response(body(error.code, error.message, error.fields), status=error.status, headers=headers)
    if isinstance(error, DataError):
        # A NUL character or a number beyond the column's range; serializers catch most of them with their field.
        set_rollback()
        sentence = "A value cannot be stored: it holds a NUL character or is out of range."
        return Response(body("invalid_input", sentence), status=422)
    if isinstance(error, Http404):
        error = exceptions.NotFound("There is nothing at this address.")
    elif isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if not isinstance(error, exceptions.APIException):
        return None
    set_rollback()
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait))
    code = _CODES.get(error.status_code, "error")
    if isinstance(error, exceptions.ValidationError):
        return Response(body("invalid_input", "Some fields need another value.", _fields(error.detail)), status=400)
    return Response(body(code, str(error.detail)), status=error.status_code, headers=headers)
