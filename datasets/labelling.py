"""Label tables: kept, matched to records row by row, and stored."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.db import transaction

from datasets.identity import pseudonym, site_name
from datasets.labels import table as tables
from datasets.models import Dataset, LabelImport, LabelSource, Record, RecordLabel, Sex, Subject
from datasets.services import clean_name, drop_unused_blobs, hold_blobs
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, PortalError, TooLarge
from ecgportal.jobs.services import enqueue
from ecgportal.projects.services import pseudonym_key
from ecgportal.secrets import encrypt

if TYPE_CHECKING:
    from ecgportal.jobs.context import JobContext

_MAX_TABLE_BYTES = 500_000_000
_REPORTED_ROWS = 2000
_SHOWN_ROWS = 8
CHECKED_ROWS = 1000


@transaction.atomic
def import_keep(*, actor: Any, dataset: Dataset, file: Any) -> LabelImport:
    """Keep a label table. It waits for ``import_begin``, so that its columns can be looked at first."""
    if file.size > _MAX_TABLE_BYTES:
        raise TooLarge(
            f"The label table has {file.size / 1e6:.0f} MB; at most {_MAX_TABLE_BYTES / 1e6:.0f} MB can be read."
        )
    hold_blobs()
    sha256, size = storage.put(file.file if hasattr(file, "file") else file)
    row = LabelImport(dataset=dataset, created_by=actor, file_name=clean_name(file.name), sha256=sha256)
    row.save(force_insert=True)
    audit(
        "upload.received",
        dataset,
        actor=actor,
        project=dataset.project,
        changes={"label_table": row.file_name, "bytes": size},
    )
    return row


@transaction.atomic
def import_begin(*, actor: Any, label_import: LabelImport, mapping: dict[str, Any] | None = None) -> LabelImport:
    """Start the job that reads a kept table. ``mapping`` overrides what the header tells; Conflict when it was started."""
    row = LabelImport.objects.select_for_update(of=("self",)).select_related("dataset__project").get(pk=label_import.pk)
    if row.job_id is not None:
        raise Conflict(
            f"{row.file_name} was read already. Upload the table again to read it in another way.",
            code="already_started",
        )
    row.mapping = mapping or {}
    row.job = enqueue(
        "labels",
        actor=actor,
        project=row.dataset.project,
        payload={"label_import": str(row.pk)},
        title=f"Read labels from {row.file_name[-80:]}",
    )
    row.save(update_fields=["mapping", "job"])
    return row


@transaction.atomic
def import_start(*, actor: Any, dataset: Dataset, file: Any, mapping: dict[str, Any] | None = None) -> LabelImport:
    """Keep a label table and start the job that reads it at once."""
    return import_begin(actor=actor, label_import=import_keep(actor=actor, dataset=dataset, file=file), mapping=mapping)


def import_discard(*, actor: Any, label_import: LabelImport) -> None:
    """Remove a kept table that was not read; Conflict when it was."""
    if label_import.job_id is not None:
        raise Conflict(
            f"{label_import.file_name} was read already; its labels belong to the records now.", code="already_started"
        )
    dataset, sha256 = label_import.dataset, label_import.sha256
    with transaction.atomic():
        label_import.delete()
        audit(
            "labels.discarded",
            dataset,
            actor=actor,
            project=dataset.project,
            changes={"label_table": label_import.file_name},
        )
    drop_unused_blobs([sha256])


def preview(data: bytes, name: str, mapping: dict[str, Any] | None = None, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a form shows of a table before it is read.

    columns, mapping (guessed, with ``mapping`` over it), the first rows, row_count; and of the first ``CHECKED_ROWS`` rows
    how many fit one of the record ``keys``, with the first problems. InvalidInput when the mapping cannot be used.
    """
    table = tables.read_table(data, name)
    chosen = tables.guess_mapping(table, overrides=mapping)
    found: dict[str, Any] = {
        "columns": list(table.columns), "rows": [list(row) for row in table.rows[:_SHOWN_ROWS]], "mapping": chosen.to_dict(),
        "row_count": len(table.rows), "checked": 0, "matched": 0, "problems": [],
    }  # fmt: skip
    if chosen.record is None:
        return found
    rows = tables.apply(replace(table, rows=table.rows[:CHECKED_ROWS]), chosen)
    match = tables.match_keys(keys, rows)
    sentences = [
        f"Row {row.row_number}: {text}"
        for row in rows
        for text in (*row.problems, match.problems.get(row.row_number, ""))
        if text
    ]
    return {**found, "checked": len(rows), "matched": len(match.matched), "problems": sentences[:5]}


def run(context: JobContext) -> dict[str, Any]:
    """The job: read the table, match its rows to records, store labels, subjects, age, sex, folds and sites."""
    row = LabelImport.objects.select_related("dataset__project", "created_by").get(pk=context.payload["label_import"])
    try:
        table, mapping, rows = _read(row)
    except PortalError:
        if not row.dataset.project.keeps_identifiers:
            # The table cannot be read again; what it says about persons must not stay.
            _put_clean(row, tables.RawTable((), ()))
        raise
    told, rows = _pseudonyms(row, rows)
    context.progress(0.3, f"{len(rows)} rows")
    records = {record.key: record for record in Record.objects.filter(dataset=row.dataset).select_related("subject")}
    match = tables.match_keys(list(records), rows)
    report: list[dict[str, Any]] = []
    taken = 0
    new_labels: list[RecordLabel] = []
    changed: list[Record] = []
    for item in rows:
        keys = match.matched.get(item.row_number, ())
        problem = match.problems.get(item.row_number, "")
        sentences = [*item.problems, *([problem] if problem else [])]
        for key in keys:
            record = records[key]
            new_labels += [
                RecordLabel(
                    record=record, system=x.system, code=x.code[:120], likelihood=x.likelihood, source=LabelSource.TABLE
                )
                for x in item.labels
            ]
            if _complete(record, item):
                changed.append(record)
        taken += bool(keys)
        if not keys or sentences:
            report.append(
                {
                    "row": item.row_number,
                    "record": item.record_key[:200],
                    "outcome": "taken" if keys else "unmatched",
                    "reason": " ".join(sentences),
                }
            )
    context.progress(0.6, "Storing")
    with transaction.atomic():
        touched = {label.record_id for label in new_labels} | {record.pk for record in changed}
        RecordLabel.objects.filter(record__in=touched, source=LabelSource.TABLE).delete()
        RecordLabel.objects.bulk_create(new_labels, ignore_conflicts=True, batch_size=2000)
        subjects = _subjects(
            row.dataset, told, {record.subject_wanted for record in changed if getattr(record, "subject_wanted", None)}
        )
        for record in changed:
            if wanted := getattr(record, "subject_wanted", None):
                record.subject = subjects[wanted]
            record.search_text = f"{record.key} {record.subject.key if record.subject else ''}".lower()
        Record.objects.bulk_update(changed, ["subject", "age", "sex", "fold", "site", "search_text"], batch_size=500)
        row.rows = report[:_REPORTED_ROWS]
        row.mapping = mapping.to_dict()
        row.save(update_fields=["rows", "mapping"])
        if not row.is_scrubbed and not row.dataset.project.keeps_identifiers:
            _put_clean(row, _needed(table, mapping, row))
        known_codes = tables.known_codes()
        unknown = sorted({x.code for item in rows for x in item.labels if (x.system, x.code) not in known_codes})
        result = {
            "rows": len(rows), "taken": taken, "unmatched": len(rows) - taken, "unknown_codes": unknown[:200],
            "labels": len(new_labels), "rows_with_reason": report[:200], "mapping": row.mapping,
            "ignored_columns": _ignored(table, mapping),
        }  # fmt: skip
        counts = {name: result[name] for name in ("rows", "taken", "unmatched", "labels")}
        audit("labels.imported", row.dataset, actor=row.created_by, project=row.dataset.project, changes=counts)
    return result


def _pseudonyms(row: LabelImport, rows: list[tables.RowLabels]) -> tuple[dict[str, str], list[tables.RowLabels]]:
    """Put pseudonyms for the subjects. Returns what the source calls them, by pseudonym, where the project keeps that."""
    if row.is_scrubbed:
        return {}, rows
    key, keeps = pseudonym_key(row.dataset.project), row.dataset.project.keeps_identifiers
    names = {item.subject: pseudonym(key, item.subject) for item in rows if item.subject}
    told = {name: said for said, name in names.items()} if keeps else {}
    return told, [
        replace(
            item,
            subject=names[item.subject] if item.subject else None,
            site=site_name(key, item.site, keeps) if item.site else None,
        )
        for item in rows
    ]


def _subjects(dataset: Dataset, told: dict[str, str], wanted: set[str]) -> dict[str, Subject]:
    """Return the dataset's subjects by key, made where they are missing."""
    known = {subject.key: subject for subject in Subject.objects.filter(dataset=dataset, key__in=wanted)}
    Subject.objects.bulk_create(
        [
            Subject(dataset=dataset, key=key, identifier_encrypted=encrypt(told[key]) if key in told else "")
            for key in sorted(wanted - set(known))
        ],
        ignore_conflicts=True,
        batch_size=2000,
    )
    return known | {
        subject.key: subject for subject in Subject.objects.filter(dataset=dataset, key__in=wanted - set(known))
    }


def _needed(table: tables.RawTable, mapping: tables.ColumnMapping, row: LabelImport) -> tables.RawTable:
    """Return the columns from which something was taken, with pseudonyms for the subjects."""
    places = [place for place, column in enumerate(table.columns) if column in mapping.used]
    key = pseudonym_key(row.dataset.project)

    def cell(cells: Sequence[str], place: int) -> str:
        text = cells[place]
        if not text.strip():
            return text
        if table.columns[place] == mapping.site:
            return site_name(key, text)
        return pseudonym(key, text) if table.columns[place] == mapping.subject else text

    return tables.RawTable(
        tuple(table.columns[place] for place in places),
        tuple(tuple(cell(cells, place) for place in places) for cells in table.rows),
    )


@transaction.atomic
def _put_clean(row: LabelImport, table: tables.RawTable) -> None:
    """Replace the stored table by one without what is not needed."""
    sent = row.sha256
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    hold_blobs()
    row.sha256, _ = storage.put_bytes(out.getvalue().encode())
    row.is_scrubbed = True
    row.save(update_fields=["sha256", "is_scrubbed"])
    transaction.on_commit(lambda: drop_unused_blobs([sent]))


def _read(row: LabelImport) -> tuple[tables.RawTable, tables.ColumnMapping, list[tables.RowLabels]]:
    """Return the table, what its columns mean, and its rows. PortalError names the file and the reason."""
    try:
        name = "table.csv" if row.is_scrubbed else row.file_name
        table = tables.read_table(storage.read_blob(row.sha256), name)
        mapping = tables.guess_mapping(table, overrides=row.mapping)
        rows = tables.apply(table, mapping)
        if not (mapping.labels or any(mapping.singles)):
            raise InvalidInput(
                f"No column of the table states labels; it has {', '.join(table.columns[:30])}.",
                fields={"labels": "Choose the columns that hold labels."},
            )
    except PortalError as error:
        if row.file_name in error.message:
            raise
        raise type(error)(f"{row.file_name}: {error.message}", code=error.code, fields=error.fields) from error
    return table, mapping, rows


def _ignored(table: tables.RawTable, mapping: tables.ColumnMapping) -> list[str]:
    """Return the columns from which nothing was taken."""
    return [column for column in table.columns if column not in mapping.used][:200]


def _complete(record: Record, item: Any) -> bool:
    """Take over what the table says about the person; returns whether anything changed."""
    changed = False
    if item.subject and (record.subject is None or record.subject.key != item.subject):
        record.subject_wanted = item.subject  # type: ignore[attr-defined]
        changed = True
    for name, value in (("age", item.age), ("sex", Sex.stored(item.sex)), ("fold", item.fold), ("site", item.site)):
        if value not in (None, "") and getattr(record, name) != value:
            setattr(record, name, value)
            changed = True
    return changed
