"""What a project's first page tells about its models."""

from __future__ import annotations

from collections.abc import Iterator

from django.urls import reverse

from ecgportal.projects.models import Project
from ecgportal.projects.overview import Figure, register
from modelhub.models import Model


@register
def figures(project: Project) -> Iterator[Figure]:
    models = reverse("modelhub:list", kwargs={"project": project.pk})
    yield Figure("Models", Model.objects.filter(project=project).count(), models, order=30)
