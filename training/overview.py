"""What a project's first page tells about its training runs."""

from __future__ import annotations

from collections.abc import Iterator

from django.urls import reverse

from ecgportal.projects.models import Project
from ecgportal.projects.overview import Figure, register
from training.models import TrainingRun


@register
def figures(project: Project) -> Iterator[Figure]:
    yield Figure(
        "Training runs", TrainingRun.objects.filter(project=project).count(), reverse("training:list", kwargs={"project": project.pk}),
        order=20, step="Train a model", step_text="The data is here: train a network on a labelled dataset.",
        step_url=reverse("training:create", kwargs={"project": project.pk}),
    )  # fmt: skip
