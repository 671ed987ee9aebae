"""From the labels of records to what a network is trained on and judged by."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from datasets.ecg import SourceLabel
from datasets.file_names import holds_pseudonym
from datasets.labels.maps import apply_map
from datasets.models import LabelMap, Record, RecordLabel
from datasets.recording_time import shifted
from datasets.selectors import spec_of
from ecgportal.projects.models import Project
from ecgportal.projects.services import pseudonym_key
from modelhub.contract import PRETRAINING

NUMERIC_TARGETS = ("age",)


@dataclass(frozen=True)
class Labelled:
    """One record with a known truth.

    group: the subject's key, or the record's own id without one. The same key in two datasets of a project is taken for
    the same person. recorded_at: on one line of time for all records of a run. age in years, sex F or M, empty where unknown.
    content: digest of the original; label: as the problem encodes it, None where nothing is known of a record that is learned
    from without labels. order: what the same file has in every portal, by which it comes among others when chance draws; empty
    in runs that go by the records' ids (``training.models.DrawnBy``).
    """

    record: uuid.UUID
    dataset: uuid.UUID
    key: str
    group: str
    fingerprint: str
    fold: int | None
    content: str
    label: Any
    classes: frozenset[str]
    site: str = ""
    age: float | None = None
    sex: str = ""
    recorded_at: datetime | None = None
    order: str = ""

    def truth(self, task: str, outputs: Sequence[str]) -> Any:
        """Return what is known of it as JSON, from which ``labelled_records`` makes the same again; None without labels."""
        if task == PRETRAINING:
            return None
        return self.label if task == "regression" else [name for name in outputs if name in self.classes]


def labels_of(records: QuerySet[Record]) -> dict[uuid.UUID, list[SourceLabel]]:
    """Return the labels of all records of a queryset in one query; records without labels are not in it."""
    found: dict[uuid.UUID, list[SourceLabel]] = defaultdict(list)
    rows = RecordLabel.objects.filter(record__in=records.order_by().values("pk"))
    for record, code, system, likelihood in rows.values_list("record", "code", "system", "likelihood"):
        found[record].append(SourceLabel(code, system, likelihood))
    return found


def labelled_records(
    records: QuerySet[Record], task: str, outputs: Sequence[str], label_map: LabelMap | None, target: str = "",
    truths: Mapping[uuid.UUID, Any] | None = None,
) -> list[Labelled]:  # fmt: skip
    """Return the records whose truth is known, in the order of their keys.

    For classes a record counts when the whole map gives it at least one class: a record whose codes the map does not
    know says nothing, not "none of them". A multi-class record with several classes counts for the first of the outputs
    that it has. Where two outputs of a binary task are told apart, a record with neither or both says nothing. Without labels (``pretraining``) every record counts, and the map
    only says which of them a later run would use. truths: what a run has kept of its records (``Labelled.truth``), which then
    goes before their labels.
    """
    rows = records.order_by("key", "id").values_list(
        "pk", "dataset", "key", "subject__key", "fingerprint", "fold", "site", "content_sha256", "sex", "age", "recorded_at",
        "has_shifted_time",
    )  # fmt: skip
    labels = labels_of(records) if label_map is not None and task != "regression" and truths is None else {}
    spec = spec_of(label_map) if label_map is not None else None
    found: list[Labelled] = []
    on_one_line = _time_line(records)
    for pk, dataset, key, subject, fingerprint, fold, site, content, sex, age, at, is_shifted in rows:
        label: Any
        present: list[str] = []
        if truths is not None:
            label = truths[pk]
            if task != "regression":
                present, label = label, label[:1] if task == "multiclass" else label
        elif task == "regression":
            label = {"age": age}[target]
            if label is None:
                continue
        elif spec is None:
            label = None
        else:
            given = apply_map(labels.get(pk, []), spec).classes
            present = [name for name in outputs if name in given]
            if task == PRETRAINING:
                label = present if given else None
            elif not given or _is_beside(task, outputs, present):
                continue
            else:
                label = present = present[:1] if task == "multiclass" else present
        group = f"s:{subject}" if subject else f"r:{pk}"
        time = on_one_line(at, is_shifted)
        found.append(
            Labelled(
                pk, dataset, key, group, fingerprint, fold, content, label, frozenset(present), site, age, sex, time,
                order_of(key, content, fingerprint),
            )
        )  # fmt: skip
    return found


def _is_beside(task: str, outputs: Sequence[str], present: Sequence[str]) -> bool:
    """Whether a record with these of the outputs has no place among them."""
    if task == "binary" and len(outputs) == 2:
        return len(present) != 1
    return task == "multiclass" and not present


def order_of(key: str, content: str, fingerprint: str) -> str:
    """Return what the same record has in every portal.

    The digest of its content covers its key inside a file of several; where the project hides that key, only the signal is
    the same everywhere. Records that came without a file are told apart by their signals, too.
    """
    return fingerprint if fingerprint and holds_pseudonym(key) else f"{content} {fingerprint}"


def drawn_alike(items: Iterable[Labelled]) -> list[Labelled]:
    """Return the records in an order that the same files and labels have in every portal."""
    return sorted(items, key=lambda item: (item.order, sorted(item.classes), item.key, item.record))


def _time_line(records: QuerySet[Record]) -> Callable[[datetime | None, bool], datetime | None]:
    """Return what brings times onto one line: where a project holds shifted and true times, the true ones are shifted, too."""
    timed = records.filter(recorded_at__isnull=False).order_by()
    if len(set(timed.values_list("has_shifted_time", flat=True).distinct())) < 2:
        return lambda at, is_shifted: at
    key = pseudonym_key(Project.objects.get(pk=timed.values_list("dataset__project", flat=True)[0]))
    return lambda at, is_shifted: at if at is None or is_shifted else shifted(at, key)


def division_digest(by_part: Mapping[str, Iterable[Labelled]]) -> str:
    """Return the SHA-256 over what the records have in every portal and their parts, whatever their order; empty for runs that
    are drawn by ids."""
    lines = sorted(f"{item.order}\t{part}" for part, items in by_part.items() for item in items)
    if not all(item.order for items in by_part.values() for item in items):
        return ""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def data_digest(items: Iterable[Labelled]) -> str:
    """Return the SHA-256 over the originals' digests and the truths, whatever their order: the same data and labels give
    the same digest in every project."""
    digest = hashlib.sha256()
    for line in sorted(f"{item.content}\t{item.label!r}" for item in items):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
