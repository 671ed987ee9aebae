"""Pages of the audit trail: of one project for its owners, of everything for administrators."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from ecgportal.audit import export, selectors
from ecgportal.audit.forms import AuditFilterForm
from ecgportal.audit.models import AuditEvent
from ecgportal.audit.trail import record
from ecgportal.projects.access import Action
from ecgportal.views import AdministratorView, ProjectView, paginate


def _listed(request: HttpRequest, events: QuerySet[AuditEvent]) -> dict[str, object]:
    form = AuditFilterForm(request.GET)
    page = paginate(request, selectors.filtered(events, form.values).order_by("-id"))
    for event in page:
        event.sentence = selectors.sentence(event)  # type: ignore[attr-defined]
    return {"filters": form, "page_obj": page, "is_filtered": bool(form.values)}


def _download(request: HttpRequest, events: QuerySet[AuditEvent], name: str) -> StreamingHttpResponse:
    chosen = selectors.filtered(events, AuditFilterForm(request.GET).values)
    return export.response(chosen, request.GET.get("format", "csv"), name)


class ProjectAuditView(ProjectView):
    needs = {"get": Action.AUDIT_VIEW}
    template = "audit/project.html"
    nav_active = "audit"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        return self.page(**_listed(request, AuditEvent.objects.filter(project_id=self.project.pk)))


class ProjectAuditExportView(ProjectView):
    needs = {"get": Action.AUDIT_VIEW}

    def get(self, request: HttpRequest, project: uuid.UUID) -> StreamingHttpResponse:
        response = _download(request, AuditEvent.objects.filter(project_id=self.project.pk), "audit-project")
        record("audit.exported", self.project, actor=request.user, project=self.project)
        return response


class AuditView(AdministratorView):
    template = "audit/all.html"
    nav_active = "audit-all"

    def get(self, request: HttpRequest) -> HttpResponse:
        return self.page(show_project=True, **_listed(request, AuditEvent.objects.all()))


class AuditExportView(AdministratorView):
    def get(self, request: HttpRequest) -> StreamingHttpResponse:
        response = _download(request, AuditEvent.objects.all(), "audit")
        record("audit.exported", actor=request.user)
        return response
