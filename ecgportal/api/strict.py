"""Names that nobody knows are refused: a misspelt filter or field that is passed over gives an answer to another question."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from ecgportal.errors import InvalidInput


def only(given: Iterable[str], known: Collection[str], what: str = "field") -> None:
    """Raise InvalidInput (``unknown_name``) that names each of the names that is not known, and one like it."""
    unknown = sorted({str(name)[:80] for name in given if name not in known})
    if not unknown:
        return
    fields = {name: f"There is no such {what}.{_like(name, known)}" for name in unknown}
    offered = ", ".join(sorted(known)) or "none"
    raise InvalidInput(
        f"There is no {what} {', '.join(unknown)} here; there is: {offered}.", code="unknown_name", fields=fields
    )


def _like(name: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {found[0]}?" if found else ""


class StrictFields(serializers.Serializer):
    """A body with names that are none of its fields is refused. What can only be read may be sent back, and changes nothing."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            only(data, self.fields)
        return super().to_internal_value(data)


class StrictModelFields(StrictFields, serializers.ModelSerializer):
    """As :class:`StrictFields`, for a model."""


class StrictQuery(APIView):
    """Parameters in an address that the OpenAPI document does not name for it are refused."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.query_params:
            only(request.query_params, self._parameters(request), "parameter")

    def _parameters(self, request: Request) -> set[str]:
        name = getattr(self, "action", None) or str(request.method).lower()
        method = getattr(self, name, None)
        schema = getattr(method, "kwargs", {}).get("schema")
        stated: list[Any] = []
        if schema is not None:
            described = schema()
            described.view, described.method = self, request.method
            stated = described.get_override_parameters()
        names = {
            each.name
            for each in stated
            if isinstance(each, OpenApiParameter) and each.location == OpenApiParameter.QUERY
        }
        if request.method in ("GET", "HEAD"):
            names |= {"page", "page_size"}
            if request.query_params.get("format") == "json":
                # It is what comes anyway.
                names.add("format")
            if (filters := getattr(self, "filterset_class", None)) is not None:
                names |= set(filters.base_filters)
            names |= set(getattr(self, "filterset_fields", None) or ())
        return names
