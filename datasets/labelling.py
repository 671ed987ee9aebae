"""Label tables: kept, matched to records row by row, and stored."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import replace
from typing import Any

from django.db import transaction

from datasets.file_names import FileNames
from datasets.identity import OLDEST_TOLD, Identity, pseudonym, site_name
from datasets.labels import table as tables
from datasets.labels.cells import number_in
from datasets.models import Dataset, LabelImport, LabelSource, Record, RecordLabel, Sex, Subject
from datasets.recording_time import shifted
from datasets.services import clean_name
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, PortalError, StorageFailed, TooLarge
from ecgportal.jobs.models import Job
from ecgportal.jobs.services import enqueue
from ecgportal.projects.services import pseudonym_key
from ecgportal.secrets import encrypt

_MAX_TABLE_BYTES = 500_000_000
_REPORTED_ROWS = 2000
_SHOWN_ROWS = 8
_IDS_A_QUERY = 5000
CHECKED_ROWS = 1000


@transaction.atomic
def import_keep(*, actor: Any, dataset: Dataset, file: Any) -> LabelImport:
    """Keep a label table. It waits for ``import_begin``, so that its columns can be looked at first."""
    if file.size > _MAX_TABLE_BYTES:
        raise TooLarge(
            f"The label table has {file.size / 1e6:.0f} MB; at most {_MAX_TABLE_BYTES / 1e6:.0f} MB can be read."
        )
    storage.hold_blobs()
    sha256, size = storage.put(file.file if hasattr(file, "file") else file)
    row = LabelImport(
        dataset=dataset, created_by=actor, file_name=names_of(dataset).shown(clean_name(file.name)), sha256=sha256
    )
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
def import_start(
    *, actor: Any, dataset: Dataset, file: Any, mapping: dict[str, Any] | None = None, sheet: str | None = None
) -> LabelImport:
    """Keep a label table and start the job that reads it at once. sheet: of a workbook, which may stand in ``mapping``, too."""
    if sheet:
        mapping = {**(mapping or {}), "sheet": sheet}
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
        storage.release_blobs([sha256])
        audit(
            "labels.discarded",
            dataset,
            actor=actor,
            project=dataset.project,
            changes={"label_table": label_import.file_name},
        )
    storage.drop_unused([sha256])


def preview(
    data: bytes, name: str, mapping: dict[str, Any] | None = None, keys: Collection[str] = (), names: FileNames | None = None
) -> dict[str, Any]:  # fmt: skip
    """Return what a form shows of a table before it is read. names: how the project shows names of files.

    columns, mapping (guessed, with ``mapping`` over it), the first rows, row_count; and of the first ``CHECKED_ROWS`` rows
    how many fit one of the record ``keys``, with the first problems. InvalidInput when the mapping cannot be used.
    """
    table = tables.read_table(data, name, sheet=tables.sheet_of(mapping))
    chosen = tables.guess_mapping(table, overrides=mapping)
    found: dict[str, Any] = {
        "columns": list(table.columns), "rows": [list(row) for row in table.rows[:_SHOWN_ROWS]], "mapping": chosen.to_dict(),
        "row_count": len(table.rows), "notes": list(table.notes), "sheets": list(table.sheets), "sheet": table.sheet or "", "checked": 0, "matched": 0, "problems": [],
    }  # fmt: skip
    if chosen.record is None:
        return found
    rows = tables.apply(replace(table, rows=table.rows[:CHECKED_ROWS]), chosen)
    if names is not None and not names.keeps:
        rows = _with_names(names, rows, frozenset(keys))
    match = tables.match_keys(keys, rows)
    sentences = [
        f"Row {row.row_number}: {text}"
        for row in rows
        for text in (*row.problems, match.problems.get(row.row_number, ""))
        if text
    ]
    return {**found, "checked": len(rows), "matched": len(match.matched), "problems": sentences[:5]}


def read(
    row: LabelImport, tell: Callable[[float, str], None] = lambda _, __: None, only: set[Any] | None = None
) -> dict[str, Any]:
    """Read a kept table, match its rows to records, and store labels, subjects, age, sex, folds and sites.

    only: touch these records alone; what the table did to others stays. Returns the whole table's result.
    """
    try:
        table, mapping, rows = _read(row)
    except StorageFailed:
        # The table is as it was; only the bucket does not answer.
        raise
    except PortalError:
        if not row.dataset.project.keeps_identifiers:
            # The table cannot be read again; what it says about persons must not stay.
            _put_clean(row, tables.RawTable((), ()))
        raise
    ids = dict(Record.objects.filter(dataset=row.dataset).order_by().values_list("key", "pk"))
    told, rows = _pseudonyms(row, rows, ids)
    tell(0.3, f"{len(rows)} rows")
    match = tables.match_keys(list(ids), rows)
    wanted = {ids[key] for keys in match.matched.values() for key in keys}
    records = _records(wanted if only is None else wanted & only)
    is_shifted = row.is_scrubbed or not row.dataset.project.keeps_identifiers
    labels: list[RecordLabel] = []
    changed: list[Record] = []
    for item in rows:
        for record in (records[ids[key]] for key in match.matched.get(item.row_number, ()) if ids[key] in records):
            labels += [
                RecordLabel(
                    record=record, system=x.system, code=x.code[:120], likelihood=x.likelihood, source=LabelSource.TABLE
                )
                for x in item.labels
            ]
            if _complete(record, item, is_shifted):
                changed.append(record)
    tell(0.6, "Storing")
    with transaction.atomic():
        if mapping.labels:
            # A table speaks for the code systems that it states: one of ICD codes leaves the statements of another alone.
            systems = {x.system for item in rows for x in item.labels} | {c.system for c in mapping.labels if c.system}
            RecordLabel.objects.filter(record__in=list(records), source=LabelSource.TABLE, system__in=systems).delete()
            RecordLabel.objects.bulk_create(labels, ignore_conflicts=True, batch_size=2000)
        _store_changes(row, told, changed)
        result = _report(row, table, mapping, rows, match)
        if not row.is_scrubbed and not row.dataset.project.keeps_identifiers:
            _put_clean(row, _needed(table, mapping, row, ids))
        counts = {name: result[name] for name in ("rows", "taken", "unmatched", "labels")}
        audit("labels.imported", row.dataset, actor=row.created_by, project=row.dataset.project, changes=counts)
    return result


def _records(ids: set[Any]) -> dict[Any, Record]:
    """Return records by id, a few thousand a query."""
    wanted, found = sorted(ids), {}
    for start in range(0, len(wanted), _IDS_A_QUERY):
        part = Record.objects.filter(pk__in=wanted[start : start + _IDS_A_QUERY]).select_related("subject")
        found |= {record.pk: record for record in part}
    return found


def _store_changes(row: LabelImport, told: dict[str, str], changed: list[Record]) -> None:
    wanted = {record.subject_wanted for record in changed if getattr(record, "subject_wanted", None)}  # type: ignore[attr-defined]
    subjects = _subjects(row.dataset, told, wanted)
    for record in changed:
        if key := getattr(record, "subject_wanted", None):
            record.subject = subjects[key]
        record.search_text = f"{record.key} {record.subject.key if record.subject else ''}".lower()
    fields = ["subject", "age", "sex", "fold", "site", "recorded_at", "has_shifted_time", "search_text"]
    Record.objects.bulk_update(changed, fields, batch_size=500)


def _report(
    row: LabelImport, table: tables.RawTable, mapping: tables.ColumnMapping, rows: list[tables.RowLabels], match: tables.Match
) -> dict[str, Any]:  # fmt: skip
    """Keep and return what became of each row, over the whole dataset."""
    report: list[dict[str, Any]] = []
    for item in rows:
        taken = item.row_number in match.matched
        sentences = [*item.problems, *filter(None, [match.problems.get(item.row_number, "")])]
        if not taken or sentences:
            report.append(
                {
                    "row": item.row_number,
                    "record": item.record_key[:200],
                    "outcome": "taken" if taken else "unmatched",
                    "reason": " ".join(sentences),
                }
            )
    known_codes = tables.known_codes()
    unknown = sorted({x.code for item in rows for x in item.labels if (x.system, x.code) not in known_codes})
    row.rows = report[:_REPORTED_ROWS]
    row.mapping = mapping.to_dict()
    row.result = {
        "rows": len(rows), "taken": len(match.matched), "unmatched": len(rows) - len(match.matched),
        "unknown_codes": unknown[:200],
        "labels": sum(len(item.labels) * len(match.matched.get(item.row_number, ())) for item in rows),
        "rows_with_reason": report[:200], "mapping": row.mapping, "ignored_columns": _ignored(table, mapping), "notes": list(table.notes),
    }  # fmt: skip
    row.save(update_fields=["rows", "mapping", "result"])
    return row.result


def forget_rows(row: LabelImport, keys: list[str], subject: str) -> None:
    """Take a person out of a kept table: the rows of their records (``keys``) and those that name the ``subject``."""
    try:
        table, mapping, rows = _read(row)
    except StorageFailed:
        raise
    except PortalError:
        # What cannot be read cannot be searched; nothing of it was ever taken.
        _put_clean(row, tables.RawTable((), ()))
        return
    every = dict.fromkeys(Record.objects.filter(dataset=row.dataset).order_by().values_list("key", flat=True))
    _, named = _pseudonyms(row, rows, every)
    match, gone = tables.match_keys(every, named), set(keys)
    out = {
        item.row_number for item in named if item.subject == subject or gone & set(match.matched.get(item.row_number, ()))
    }  # fmt: skip
    if not out:
        return
    row.rows = [entry for entry in row.rows if entry["row"] not in out]
    row.result = {**row.result, "rows_with_reason": row.rows[:200]} if row.result else {}
    row.save(update_fields=["rows", "result"])
    # The job's own copy of the result quotes rows, too.
    Job.objects.filter(pk=row.job_id, kind="labels").update(result=row.result)
    left = tuple(cells for number, cells in enumerate(table.rows, start=1) if number not in out)
    if row.dataset.project.keeps_identifiers:
        _put_clean(row, replace(table, rows=left), is_scrubbed=row.is_scrubbed)
    else:
        clean = replace(table, rows=left)
        _put_clean(row, clean if row.is_scrubbed else _needed(clean, mapping, row, every))


def _pseudonyms(
    row: LabelImport, rows: list[tables.RowLabels], keys: Container[str]
) -> tuple[dict[str, str], list[tables.RowLabels]]:
    """Put pseudonyms for the subjects, and for names of files that name a person. Returns what the source calls the subjects,
    by pseudonym, where the project keeps that."""
    key, keeps = pseudonym_key(row.dataset.project), row.dataset.project.keeps_identifiers
    if not keeps:
        rows = _with_names(FileNames(key), rows, keys)
    if row.is_scrubbed:
        return {}, rows
    subjects = {item.subject: pseudonym(key, item.subject) for item in rows if item.subject}
    told = {name: said for said, name in subjects.items()} if keeps else {}
    identity = Identity(key, keeps)
    return told, [
        replace(
            item,
            subject=subjects[item.subject] if item.subject else None,
            site=site_name(key, item.site, keeps) if item.site else None,
            age=identity.age(item.age),
            recorded_at=item.recorded_at if keeps or item.recorded_at is None else shifted(item.recorded_at, key),
        )
        for item in rows
    ]


def _with_names(names: FileNames, rows: list[tables.RowLabels], keys: Container[str]) -> list[tables.RowLabels]:
    return [
        replace(
            item,
            record_key=names.cell(item.record_key, keys),
            also_keys=tuple(names.cell(text, keys) for text in item.also_keys),
        )
        for item in rows
    ]


def names_of(dataset: Dataset) -> FileNames:
    """Return how a dataset's project shows the names of files."""
    return FileNames(pseudonym_key(dataset.project), dataset.project.keeps_identifiers)


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


def _needed(
    table: tables.RawTable, mapping: tables.ColumnMapping, row: LabelImport, keys: Container[str]
) -> tables.RawTable:
    """Return the columns from which something was taken, with pseudonyms for subjects and for names of files that name them,
    and shifted times."""
    places = [place for place, column in enumerate(table.columns) if column in mapping.used]
    key = pseudonym_key(row.dataset.project)
    names, identity = FileNames(key), Identity(key)

    def cell(cells: Sequence[str], place: int) -> str:
        text = cells[place]
        if not text.strip():
            return text
        if table.columns[place] in (mapping.record, *mapping.also_record):
            return names.cell(text, keys)
        if table.columns[place] == mapping.site:
            return site_name(key, text)
        if table.columns[place] == mapping.age:
            years = number_in(text)
            return text if years is None or years <= OLDEST_TOLD else f"{OLDEST_TOLD:g}"
        if table.columns[place] == mapping.recorded_at:
            return identity.time(text) or ""
        return pseudonym(key, text) if table.columns[place] == mapping.subject else text

    return tables.RawTable(
        tuple(table.columns[place] for place in places),
        tuple(tuple(cell(cells, place) for place in places) for cells in table.rows),
    )


@transaction.atomic
def _put_clean(row: LabelImport, table: tables.RawTable, is_scrubbed: bool = True) -> None:
    """Replace the stored table by one without what is not needed."""
    sent = row.sha256
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    storage.hold_blobs()
    row.sha256, _ = storage.put_bytes(out.getvalue().encode())
    row.is_scrubbed = is_scrubbed
    row.save(update_fields=["sha256", "is_scrubbed"])
    storage.release_blobs([sent])
    transaction.on_commit(lambda: storage.drop_unused([sent]))


def _read(row: LabelImport) -> tuple[tables.RawTable, tables.ColumnMapping, list[tables.RowLabels]]:
    """Return the table, what its columns mean, and its rows. PortalError names the file and the reason."""
    try:
        name = "table.csv" if row.is_scrubbed else row.file_name
        table = tables.read_table(storage.read_blob(row.sha256), name, sheet=tables.sheet_of(row.mapping))
        mapping = tables.guess_mapping(table, overrides=row.mapping)
        rows = tables.apply(table, mapping)
        if not (mapping.labels or any(mapping.singles)):
            raise InvalidInput(
                f"No column of the table states labels; {tables.what_it_has(table)}",
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


def _complete(record: Record, item: Any, is_shifted: bool) -> bool:
    """Take over what the table says about the person and the time; returns whether anything changed."""
    changed = False
    if item.subject and (record.subject is None or record.subject.key != item.subject):
        record.subject_wanted = item.subject  # type: ignore[attr-defined]
        changed = True
    for name, value in (("age", item.age), ("sex", Sex.stored(item.sex)), ("fold", item.fold), ("site", item.site)):
        if value not in (None, "") and getattr(record, name) != value:
            setattr(record, name, value)
            changed = True
    told = item.recorded_at, is_shifted
    if item.recorded_at is not None and (record.recorded_at, record.has_shifted_time) != told:
        record.recorded_at, record.has_shifted_time = told
        changed = True
    return changed
