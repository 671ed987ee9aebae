"""The start page and the health check."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ecgportal import version
from ecgportal.glossary import GROUPS, STEPS
from ecgportal.jobs import health
from ecgportal.jobs.models import Job
from ecgportal.projects import access, selectors
from ecgportal.projects.access import Action


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """My projects and the latest jobs in them."""
    jobs = access.visible(Job.objects.all(), request.user, Action.JOB_VIEW).select_related("project", "created_by")[:10]
    projects = selectors.mine(request.user).filter(archived_at=None)[:20]
    return render(request, "portal/home.html", {"projects": projects, "jobs": jobs, "nav_active": "home"})


@require_safe
def help_page(request: HttpRequest) -> HttpResponse:
    """The way from files to a shared model, and the terms that pages use."""
    return render(request, "portal/help.html", {"steps": STEPS, "groups": GROUPS, "nav_active": "help"})


@login_not_required
@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when every part answers; otherwise 503, with a sentence at each part that fails."""
    parts = health.report()
    is_well = all(answer == "ok" for answer in parts.values())
    body = {"status": "ok" if is_well else "failed", **parts, "version": version.VERSION}
    return JsonResponse(body, status=200 if is_well else 503)
