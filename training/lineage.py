"""What a version, or one of those that it was fine-tuned from, has been trained on."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelhub.models import ModelVersion
from training.models import SplitMember, TrainingRun
from training.targets import Labelled


@dataclass
class Seen:
    """subjects: ``(dataset, group)`` of the labelled records; signals: their fingerprints."""

    records: set[uuid.UUID] = field(default_factory=set)
    subjects: set[tuple[uuid.UUID, str]] = field(default_factory=set)
    signals: set[str] = field(default_factory=set)

    def holds(self, item: Labelled) -> bool:
        """Return whether a record, its subject (of the same dataset) or its signal was trained on."""
        return (
            item.record in self.records
            or (item.dataset, item.group) in self.subjects
            or (bool(item.fingerprint) and item.fingerprint in self.signals)
        )


def seen_by(version: ModelVersion) -> Seen:
    """Return what the version and its parents in this portal were trained on; with folds, all of the data."""
    seen = Seen()
    current: ModelVersion | None = version
    while current is not None:
        run = TrainingRun.objects.filter(produced_version=current).first()
        if run is not None and run.split_id is not None:
            rows = SplitMember.objects.filter(split=run.split_id).exclude(group__part="test")
            for pk, dataset, subject, fingerprint in rows.values_list(
                "record_id", "record__dataset", "record__subject__key", "record__fingerprint"
            ):
                seen.records.add(pk)
                if subject:
                    seen.subjects.add((dataset, f"s:{subject}"))
                if fingerprint:
                    seen.signals.add(fingerprint)
        current = current.parent
    return seen


def unseen(items: Iterable[Labelled], version: ModelVersion) -> tuple[list[Labelled], int]:
    """Return the records that the version was not trained on in any way, and how many were left out."""
    seen = seen_by(version)
    rows = list(items)
    kept = [item for item in rows if not seen.holds(item)]
    return kept, len(rows) - len(kept)
