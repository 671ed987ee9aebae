"""Datasets, their records and labels, uploads, label maps and recipes."""

from datasets.models.data import (
    Dataset,
    DatasetTally,
    OriginalFile,
    PreparedSet,
    Record,
    RecordFeatures,
    Sex,
    Subject,
    TwinGroup,
)
from datasets.models.labels import LabelImport, LabelMap, LabelSource, RecordAnnotation, RecordLabel
from datasets.models.uploads import ArrivingFile, Ingest, IngestItem, IngestPart, Outcome, Stage

__all__ = [
    "ArrivingFile",
    "Dataset",
    "DatasetTally",
    "Ingest",
    "IngestItem",
    "IngestPart",
    "LabelImport",
    "LabelMap",
    "LabelSource",
    "OriginalFile",
    "Outcome",
    "PreparedSet",
    "Record",
    "RecordAnnotation",
    "RecordFeatures",
    "RecordLabel",
    "Sex",
    "Stage",
    "Subject",
    "TwinGroup",
]
