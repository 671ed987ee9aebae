"""Delete records and persons with everything that was made of them, and decide about records that hold one signal twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Q, TextField, Value
from django.db.models.functions import Cast, Concat

from datasets import labelling, signals, twins
from datasets.models import Dataset, Ingest, IngestItem, LabelImport, OriginalFile, Record, Subject
from datasets.preparing import forget
from datasets.uses import forget_everywhere, runs_using
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput
from ecgportal.jobs.models import Job
from ecgportal.projects import access

MAX_DECIDED = 2000
_FORGOTTEN = "(deleted)"
# Within one upload's report names differ.
_FORGOTTEN_ITEM = Concat(Value("(deleted "), Cast("position", TextField()), Value(")"), output_field=TextField())


def records_delete(records: Sequence[Record], write: Any) -> list[str]:
    """Delete records of one dataset: rows, labels, predictions, original bytes, and their samples on the disk.

    ``write(runs)`` runs in the transaction of the deletion, after it, and records the event. Returns the ids of the training
    runs that had used a record. Subjects that are left without a record go, too.
    """
    ids = [record.pk for record in records]
    runs = runs_using(ids)
    digests = list(OriginalFile.objects.filter(record__in=ids).values_list("sha256", flat=True).distinct())
    subjects = {record.subject_id for record in records if record.subject_id}
    # Samples go first: whatever happens after it, they cannot be read any more.
    for record in records:
        signals.erase(record)
    made: list[Any] = []
    try:
        with transaction.atomic():
            made = signals.cut_out(records)
            Record.objects.filter(pk__in=ids).delete()
            if records:
                _forget_jobs(records[0].dataset.project_id, ids)
                forget_everywhere(records[0].dataset, ids)
            twins.drop(ids)
            Subject.objects.filter(pk__in=subjects, records__isnull=True).delete()
            storage.release_blobs(digests)
            write(runs)
    except BaseException:
        for pack in made:
            signals.discard(records[0].dataset_id, pack)
        raise
    for record in records:
        forget(record.dataset, record.pk)
    storage.drop_unused(digests)
    return runs


def _forget_jobs(project_id: uuid.UUID, ids: Sequence[uuid.UUID]) -> None:
    """Take what jobs about one record tell of it (its name, a model's answers, its labels) out of their rows."""
    about = Job.objects.filter(project=project_id, payload__record__in=[str(pk) for pk in ids])
    about.update(title="A record that was deleted", message="", error_message="", result={})


def record_delete(*, actor: Any, record: Record) -> None:
    """Delete one record and what was made of it."""

    def write(runs: list[str]) -> None:
        audit("record.deleted", record, actor=actor, project=record.dataset.project, changes={"training_runs": runs})

    records_delete([record], write)


def subject_delete(*, actor: Any, subject: Subject) -> dict[str, Any]:
    """Delete a person: every record with what was made of it, the names of their files, and their rows in kept label tables.

    The audit trail keeps the pseudonym. Returns how many records went and which training runs had used them; their models
    hold no samples and stay.
    """
    dataset = subject.dataset
    records = list(Record.objects.filter(subject=subject).select_related("dataset__project", "subject"))
    keys = [record.key for record in records]
    told = {"subject": subject.key, "records": len(records)}

    def write(runs: list[str]) -> None:
        Subject.objects.filter(pk=subject.pk).delete()
        audit("subject.deleted", dataset, actor=actor, project=dataset.project, changes={**told, "training_runs": runs})

    _forget_names(dataset, records)
    for row in LabelImport.objects.filter(dataset=dataset).select_related("dataset__project"):
        labelling.forget_rows(row, keys, subject.key)
    return {**told, "training_runs": records_delete(records, write)}


def _forget_names(dataset: Dataset, records: Sequence[Record]) -> None:
    """Take the names of the records' files out of the reports of uploads: a name may be the person's."""
    items = IngestItem.objects.filter(ingest__dataset=dataset)
    names = set(OriginalFile.objects.filter(record__in=records).values_list("name", flat=True))
    names |= {name.rpartition("/")[2] for name in items.filter(record__in=records).values_list("name", flat=True)}
    for ingest in Ingest.objects.filter(dataset=dataset):
        files = [
            {**entry, "name": _FORGOTTEN} if entry["name"].rpartition("/")[2] in names else entry
            for entry in ingest.files
        ]
        if files != ingest.files:
            Ingest.objects.filter(pk=ingest.pk).update(files=files)
    bare = Q()
    for name in names:
        bare |= Q(name=name) | Q(name__endswith=f"/{name}")
    items.filter(Q(record__in=records) | bare).update(name=_FORGOTTEN_ITEM, message="", asks={})


def twins_decide(*, actor: Any, dataset: Dataset, drop: Iterable[Any] = (), keep: Iterable[Any] = ()) -> int:
    """Decide about records that hold the same signal: drop some, and keep others for good. Returns how many were dropped.

    InvalidInput when a record has no twin, or when every record of one signal would be dropped.
    """
    dropped, kept = {_uuid(pk) for pk in drop}, {_uuid(pk) for pk in keep}
    if dropped & kept or len(dropped) + len(kept) > MAX_DECIDED:
        raise InvalidInput(
            "The decision cannot be used.",
            fields={"drop": f"Name each record once, at most {MAX_DECIDED} in one call."},
        )
    groups = [set(group.records) for group in twins.holding(dataset, dropped | kept)]
    if any(group <= dropped for group in groups):
        raise InvalidInput("Every record of one signal would be dropped.", fields={"drop": "Keep one of each."})
    if strange := (dropped | kept) - set().union(*groups):
        access.note_hidden(Record, actor, pk__in=strange)
        raise InvalidInput(
            f"{len(strange)} of the records hold no signal that another one holds, too.",
            fields={"drop": "Name records of the list of duplicates."},
        )
    records = list(Record.objects.filter(dataset=dataset, pk__in=dropped).select_related("dataset__project", "subject"))

    def write(runs: list[str]) -> None:
        Record.objects.filter(dataset=dataset, pk__in=kept).update(is_kept_twin=True)
        twins.settle(dataset, kept)
        audit(
            "dataset.twins_decided", dataset, actor=actor, project=dataset.project,
            changes={"dropped": sorted(r.key for r in records), "kept": len(kept), "training_runs": runs},
        )  # fmt: skip

    records_delete(records, write)
    return len(records)


def _uuid(value: Any) -> uuid.UUID:
    try:
        return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    except ValueError:
        raise InvalidInput("An id is not a UUID.", fields={"drop": "Give the ids of records."}) from None
