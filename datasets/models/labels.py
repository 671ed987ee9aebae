"""Labels and marks of records, the tables they came in, and the maps that sort them into classes."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from datasets.models.data import Dataset, Record
from ecgportal.base_models import UUIDModel
from ecgportal.jobs.models import Job
from ecgportal.projects.models import Project


class LabelSource(models.TextChoices):
    FILE = "file", "stated in the ECG file"
    TABLE = "table", "label table"
    USER = "user", "annotated by a user"


class RecordLabel(UUIDModel):
    """A label as its source states it. ``system``: snomed, scp, icd10, aha or name."""

    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="labels")
    system = models.CharField(max_length=20)
    code = models.CharField(max_length=120)
    likelihood = models.FloatField(null=True)
    source = models.CharField(max_length=10, choices=LabelSource.choices)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    project_path = "record__dataset__project"

    class Meta:
        ordering = ["system", "code"]
        indexes = [models.Index(fields=["code", "record"], name="label_code")]
        constraints = [
            models.UniqueConstraint(fields=["record", "system", "code", "source"], name="label_once"),
            models.CheckConstraint(
                condition=models.Q(likelihood__isnull=True) | models.Q(likelihood__gte=0, likelihood__lte=1),
                name="label_likelihood_range",
            ),
            models.CheckConstraint(condition=models.Q(source__in=LabelSource.values), name="label_source_known"),
        ]

    def __str__(self) -> str:
        return self.code


class RecordAnnotation(UUIDModel):
    """What somebody marked in a record: a point (``t1_s`` empty) or a span, in seconds from the record's start, in one
    lead or (``lead`` empty) in all."""

    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="annotations")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    t0_s = models.FloatField()
    t1_s = models.FloatField(null=True, blank=True)
    lead = models.CharField(max_length=20, null=True, blank=True)  # noqa: DJ001 (empty text is no lead)
    text = models.CharField(max_length=500)

    project_path = "record__dataset__project"

    class Meta:
        ordering = ["t0_s", "id"]
        indexes = [models.Index(fields=["record", "t0_s"], name="annotation_of_record")]
        constraints = [
            models.CheckConstraint(condition=models.Q(t0_s__gte=0), name="annotation_starts_in_record"),
            models.CheckConstraint(
                condition=models.Q(t1_s__isnull=True) | models.Q(t1_s__gt=models.F("t0_s")),
                name="annotation_ends_later",
            ),
            models.CheckConstraint(condition=~models.Q(text=""), name="annotation_says_something"),
            models.CheckConstraint(condition=models.Q(lead__isnull=True) | ~models.Q(lead=""), name="annotation_lead"),
        ]

    def __str__(self) -> str:
        return f"annotation of {self.record.key}"


class LabelImport(UUIDModel):
    """One label table, its column mapping, and what was taken row by row.

    job: what reads it; a collection's import reads its tables itself. result: what was taken, as the job's result says it.
    is_scrubbed: the stored table holds the columns that were taken only, with pseudonyms for the subjects.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="label_imports")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    job = models.ForeignKey(Job, on_delete=models.PROTECT, null=True, related_name="label_imports")
    file_name = models.CharField(max_length=400)
    sha256 = models.CharField(max_length=64)
    is_scrubbed = models.BooleanField(default=False)
    mapping = models.JSONField(default=dict)
    rows = models.JSONField(default=list)
    result = models.JSONField(default=dict)

    project_path = "dataset__project"

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["dataset", "-created_at"], name="label_import_of_dataset")]

    def __str__(self) -> str:
        return self.file_name


class LabelMap(UUIDModel):
    """Codes of one or several systems to classes. ``project`` is empty for maps that the portal brings along.

    ``entries``: ``{code: {"class": name or null, "relation": "exact" | "broader" | "ambiguous" | "unmapped"}}``.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="+")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=120)
    version = models.PositiveIntegerField(default=1)
    system = models.CharField(max_length=60)
    classes = ArrayField(models.CharField(max_length=80))
    entries = models.JSONField(default=dict)
    frozen = models.BooleanField(default=False)

    project_path = "project"

    class Meta:
        ordering = ["name", "-version", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name", "version"], name="label_map_version", nulls_distinct=False
            ),
            models.CheckConstraint(condition=models.Q(classes__len__gt=0), name="label_map_has_classes"),
        ]

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"
