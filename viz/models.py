"""Two-dimensional maps of datasets, computed by a job and kept."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from datasets.models import Dataset, Record
from ecgportal.base_models import UUIDModel
from ecgportal.jobs.models import Job
from modelhub.models import ModelVersion


class Basis(models.TextChoices):
    MEASURES = "measures", "Rate, intervals, axis and amplitudes"
    SHAPE = "shape", "Shape of the median beat"
    MODEL = "model", "What a model sees (input of its last layer)"


class DatasetMap(UUIDModel):
    """Records of a dataset in the plane, by principal components (PCA) and, where asked for, by UMAP.

    explained: share of the variance along the two principal components. left_out: records that have no place.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="maps")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    job = models.OneToOneField(Job, on_delete=models.PROTECT, related_name="dataset_map")
    basis = models.CharField(max_length=10, choices=Basis.choices)
    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, null=True, related_name="maps")
    with_umap = models.BooleanField(default=True)
    explained = models.JSONField(default=list)
    left_out = models.PositiveIntegerField(default=0)

    project_path = "dataset__project"

    class Meta:
        ordering = ["-created_at", "id"]
        indexes = [models.Index(fields=["dataset", "-created_at"], name="map_of_dataset")]
        constraints = [
            models.CheckConstraint(condition=models.Q(basis__in=Basis.values), name="map_basis_known"),
            models.CheckConstraint(
                condition=models.Q(basis="model", version__isnull=False)
                | (~models.Q(basis="model") & models.Q(version__isnull=True)),
                name="map_version_iff_model",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_basis_display()}" + (f", {self.version}" if self.version else "")


class MapPoint(models.Model):
    """The place of one record on a map."""

    map = models.ForeignKey(DatasetMap, on_delete=models.CASCADE, related_name="points")
    record = models.ForeignKey(Record, on_delete=models.CASCADE, related_name="+")
    pca_x = models.FloatField()
    pca_y = models.FloatField()
    umap_x = models.FloatField(null=True)
    umap_y = models.FloatField(null=True)

    project_path = "map__dataset__project"

    class Meta:
        constraints = [models.UniqueConstraint(fields=["map", "record"], name="map_point_once")]

    def __str__(self) -> str:
        return f"{self.record_id} on {self.map_id}"
