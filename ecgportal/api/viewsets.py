"""The base of every project-bound resource: which access action each method needs stands beside the method's name."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models import Model, QuerySet
from django_filters import rest_framework as filters
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.viewsets import GenericViewSet

from ecgportal.api.strict import StrictQuery
from ecgportal.errors import InvalidInput, NotFound
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project


class IsAdministrator(BasePermission):
    """Only administrators; the refusal is recorded and says so."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            return False
        access.require_administrator(request.user)
        return True


class TruthFilter(filters.TypedChoiceFilter):
    """``true`` or ``false``; anything else is refused, where a plain one would pass over it."""

    def __init__(self, **options: Any) -> None:
        words = ("true", "false", "True", "False", "1", "0")
        super().__init__(
            choices=[(word, word) for word in words], coerce=lambda word: word.lower() in ("true", "1"), **options
        )


class ByIdFilterSet(filters.FilterSet):
    """Filters by another resource take its id. One that is not there, or not visible, gives an empty list."""

    FILTER_DEFAULTS: ClassVar[dict[Any, Any]] = {
        **filters.FilterSet.FILTER_DEFAULTS,
        models.ForeignKey: {"filter_class": filters.UUIDFilter},
        models.OneToOneField: {"filter_class": filters.UUIDFilter},
        models.BooleanField: {"filter_class": TruthFilter},
    }


class ByIdFilterBackend(filters.DjangoFilterBackend):
    filterset_base = ByIdFilterSet


class ProjectViewSet(StrictQuery, GenericViewSet):
    """``needs`` maps each view method to the access action; a method that is missing there cannot be called.

    Rows are found through ``access`` only: invisible ones are 404, visible ones with too weak a role 403.
    """

    needs: ClassVar[dict[str, Action]] = {}
    filter_backends = [ByIdFilterBackend]
    filterset_class: Any = None
    filterset_fields: Any = None
    lookup_value_regex = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

    def needed(self) -> Action:
        return self.needs[self.action]

    def get_queryset(self) -> QuerySet[Any]:
        queryset = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return queryset.none()
        return access.visible(queryset, self.request.user, self.needs.get(self.action))

    def get_object(self) -> Any:
        return self.find(super().get_queryset(), self.kwargs[self.lookup_field])

    def find(self, queryset: QuerySet[Any], pk: Any) -> Any:
        """Return one visible row on which the current method is allowed."""
        return access.get_or_404(queryset, self.request.user, self.needed(), pk=as_uuid(pk))

    def paginate_queryset(self, queryset: Any) -> Any:
        page = super().paginate_queryset(queryset)
        if not page:
            self._note_hidden()
        return page

    def _note_hidden(self) -> None:
        """Have it recorded when a list is empty because it goes by rows of other projects. A list with rows costs no query for it."""
        filterset = ByIdFilterBackend().get_filterset(self.request, self.queryset, self)
        if filterset is None or not filterset.is_valid():
            return
        for name, entry in filterset.filters.items():
            if isinstance(entry, filters.UUIDFilter) and (value := filterset.form.cleaned_data.get(name)):
                access.note_hidden(
                    related_model(filterset.queryset.model, entry.field_name), self.request.user, pk=value
                )

    def project(self, pk: Any) -> Project:
        """Return the project that a request's body names."""
        return self.find(Project.objects.all(), pk)

    def related(self, queryset: QuerySet[Any], pk: Any, field: str) -> Model:
        """Return a row that a request's body refers to; InvalidInput names the field when it is not visible."""
        found = access.find(queryset, self.request.user, pk=as_uuid(pk, field))
        if found is None:
            raise InvalidInput(
                f"There is no such {queryset.model._meta.verbose_name}.",
                fields={field: "Not there, or not visible to you."},
            )
        return found


def related_model(model: Any, path: str) -> Any:
    """Return the model whose id a filter by ``path`` takes."""
    for part in path.split("__"):
        model = model._meta.get_field(part).related_model
    return model


def as_uuid(value: Any, field: str | None = None) -> uuid.UUID:
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    except ValueError:
        if field is None:
            raise NotFound("There is nothing with this id.") from None
        raise InvalidInput("An id is not a UUID.", fields={field: "Give the id of an existing row."}) from None
