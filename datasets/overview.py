"""What a project's first page tells about its datasets."""

from __future__ import annotations

from collections.abc import Iterator

from django.urls import reverse

from datasets.models import Dataset, Record
from ecgportal.projects.models import Project
from ecgportal.projects.overview import Figure, register


@register
def figures(project: Project) -> Iterator[Figure]:
    datasets = reverse("datasets:list", kwargs={"project": project.pk})
    yield Figure(
        "Datasets", Dataset.objects.filter(project=project).count(), datasets, order=10, step="Create a dataset",
        step_text="Begin with the data: create a dataset and upload ECG files to it.",
        step_url=reverse("datasets:create", kwargs={"project": project.pk}),
    )  # fmt: skip
    yield Figure(
        "Records", Record.objects.filter(dataset__project=project).count(), datasets, order=11, step="Open the datasets",
        step_text="The datasets are empty: upload ECG files to one of them.", step_url=datasets,
    )  # fmt: skip
