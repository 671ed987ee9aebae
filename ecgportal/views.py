"""What every page of a project shares: the access action stands on the view, and rows are found through ``access``."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.core.paginator import Page, Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views import View

from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project

PAGE_SIZE = 50


class ProjectView(View):
    """A page inside a project. ``needs`` maps the HTTP method to the access action.

    The address carries ``project`` (its id), or ``pk`` of a row of ``model`` that leads to its project. Invisible
    things are 404, visible ones with too weak a role 403. ``self.project``, ``self.role`` and, with ``model``,
    ``self.object`` are there for the method.
    """

    needs: ClassVar[dict[str, Action]] = {}
    model: ClassVar[type[Model] | None] = None
    template: ClassVar[str] = ""
    nav_active: ClassVar[str] = ""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        method = (request.method or "GET").lower().replace("head", "get")
        if method not in self.needs:
            return self.http_method_not_allowed(request, *args, **kwargs)
        action = self.needs[method]
        if self.model is not None:
            self.object = access.get_or_404(self.rows(), request.user, action, pk=kwargs["pk"])
            self.project = access.project_of(self.object)
        else:
            self.project = access.get_or_404(Project.objects.all(), request.user, action, pk=kwargs["project"])
        self.role = access.role_in(request.user, self.project)
        return super().dispatch(request, *args, **kwargs)

    def rows(self) -> QuerySet[Any]:
        """Return the queryset of ``model`` in which the object is looked up; override to select related rows."""
        assert self.model is not None
        return self.model._default_manager.all()

    def allows(self, action: Action) -> bool:
        """Tell whether the user's role allows ``action``, for showing or hiding a control."""
        return action in access.ROLE_ALLOWS.get(self.role or "", frozenset())

    def earlier(self, rows: QuerySet[Any]) -> Any:
        """Return the row whose values the form begins with: the one of ``rows`` that ``?again=`` names, or None."""
        try:
            pk = uuid.UUID(self.request.GET.get("again", ""))
        except ValueError:
            return None
        found = rows.filter(pk=pk).first()
        if found is None:
            access.note_hidden(rows.model, self.request.user, pk=pk)
        return found

    def page(self, template: str | None = None, status: int = 200, **context: Any) -> HttpResponse:
        """Render a page with the project's context and ``can`` (``{{ can.DATA_EDIT }}`` and so on)."""
        can = {action.name: self.allows(action) for action in Action}
        base = {
            "project": self.project,
            "role": self.role,
            "can": can,
            "nav_active": self.nav_active,
            "object": getattr(self, "object", None),
        }
        return render(self.request, template or self.template, base | context, status=status)


class AdministratorView(View):
    """A page of the platform's administration. Everybody else gets 403 with a recorded refusal."""

    administrators_only: ClassVar[bool] = True
    nav_active: ClassVar[str] = ""
    template: ClassVar[str] = ""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        access.require_administrator(request.user)
        return super().dispatch(request, *args, **kwargs)

    def page(self, template: str | None = None, status: int = 200, **context: Any) -> HttpResponse:
        return render(
            self.request, template or self.template, {"nav_active": self.nav_active, **context}, status=status
        )


def paginate(
    request: HttpRequest, queryset: Any, size: int = PAGE_SIZE, paginator: type[Paginator[Any]] = Paginator
) -> Page[Any]:
    """Return the page that ``?page=`` asks for; the last one when it asks for too much."""
    return paginator(queryset, size).get_page(request.GET.get("page"))
