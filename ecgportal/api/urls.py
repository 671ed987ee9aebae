"""Addresses of the REST interface. Each app hands its resources over here."""

from __future__ import annotations

from django.urls import include, path
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.routers import DefaultRouter

from datasets.api import DatasetViewSet, LabelMapViewSet, RecordViewSet
from datasets.api_annotations import AnnotationViewSet, RecordLabelViewSet
from datasets.api_collections import CollectionViewSet, ImportViewSet
from datasets.api_ingests import IngestViewSet, UploadFileViewSet
from datasets.api_removing import SubjectViewSet
from ecgportal.accounts.api import TokenView, TokenViewSet, UserViewSet
from ecgportal.api.schema import SchemaView
from ecgportal.audit.api import AuditViewSet
from ecgportal.jobs.api import JobViewSet
from ecgportal.projects.api import ProjectsViewSet
from modelhub.api import ArchitectureView, ModelViewSet, PredictionViewSet, VersionViewSet
from modelhub.catalogue_api import CatalogueViewSet
from modelhub.exchange_api import ExchangeViewSet, SigningKeyViewSet
from training.api import EvaluationViewSet, TrainingRunViewSet
from viz.api import MapViewSet

router = DefaultRouter()
router.include_format_suffixes = False
for prefix, viewset in {
    "auth/tokens": TokenViewSet,
    "users": UserViewSet,
    "projects": ProjectsViewSet,
    "datasets": DatasetViewSet,
    "ingests": IngestViewSet,
    "upload-files": UploadFileViewSet,
    "collections": CollectionViewSet,
    "imports": ImportViewSet,
    "subjects": SubjectViewSet,
    "records": RecordViewSet,
    "annotations": AnnotationViewSet,
    "record-labels": RecordLabelViewSet,
    "label-maps": LabelMapViewSet,
    "models": ModelViewSet,
    "model-versions": VersionViewSet,
    "training-runs": TrainingRunViewSet,
    "predictions": PredictionViewSet,
    "evaluations": EvaluationViewSet,
    "exchanges": ExchangeViewSet,
    "signing-keys": SigningKeyViewSet,
    "catalogue": CatalogueViewSet,
    "dataset-maps": MapViewSet,
    "jobs": JobViewSet,
    "audit-events": AuditViewSet,
}.items():
    router.register(prefix, viewset, basename=prefix.replace("/", "-"))

urlpatterns = [
    path("auth/token/", TokenView.as_view(), name="token"),
    path("architectures/", ArchitectureView.as_view(), name="architectures"),
    path("schema/", SchemaView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("", include(router.urls)),
]
