"""From uploaded files to records: unpack, read, judge, store in batches. Safe to start again after a crash."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from django.db import connection, transaction
from django.db.models import Count

from datasets import ecg, signals
from datasets.fingerprint import fingerprint
from datasets.formats import archive, registry
from datasets.formats.archive import FileSource
from datasets.formats.base import ReadOptions
from datasets.formats.wfdb import is_signal_file_name
from datasets.models import (
    Dataset,
    Ingest,
    IngestItem,
    LabelSource,
    OriginalFile,
    Outcome,
    Record,
    RecordLabel,
    Sex,
    Subject,
)
from datasets.quality import assess
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import NeedsAnswer, PortalError, UnreadableFile

if TYPE_CHECKING:
    from ecgportal.jobs.context import JobContext

logger = logging.getLogger(__name__)

_BATCH = 64
_TABLE_SUFFIXES = {".csv", ".tsv", ".xlsx", ".json"}


@dataclass
class Taken:
    """One file that was read: its records and the files that they came from."""

    name: str
    format: str
    records: list[tuple[str, ecg.Record]]
    originals: list[tuple[str, Path]]
    companions: tuple[str, ...] = ()


@dataclass
class Refused:
    name: str
    code: str
    message: str


@dataclass
class Claimed:
    """A file that was read together with another one."""

    name: str


Answer = Taken | Refused | Claimed


@dataclass
class Upload:
    """The files of an upload after unpacking, by relative name."""

    index: dict[str, Path] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)


def unpack(files: list[dict[str, str]], folder: Path) -> Upload:
    """Open archives into ``folder`` and index all files by their names. An archive's members stand under its own name's
    stem only where two archives hold the same names."""
    upload = Upload()
    inner_folder = folder / "members"
    inner_folder.mkdir(exist_ok=True)
    for entry in files:
        path = folder / entry["path"]
        with path.open("rb") as stream:
            head = stream.read(4096)
        if not archive.is_archive(head, entry["name"]):
            upload.index[_free(entry["name"], upload.index)] = path
            continue
        try:
            result = archive.unpack(path, entry["name"], inner_folder, archive.ArchiveLimits())
        except PortalError as error:
            upload.refused.append(Refused(entry["name"], error.code, error.message))
            continue
        prefix = PurePosixPath(entry["name"]).stem
        clash = any(name in upload.index for name, _ in result.files)
        for name, member in result.files:
            upload.index[f"{prefix}/{name}" if clash else name] = member
        upload.refused += [Refused(f"{entry['name']}: {name}", code, message) for name, code, message in result.refused]
    return upload


def _free(name: str, taken: dict[str, Path]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        path = PurePosixPath(name)
        candidate, number = str(path.with_name(f"{path.stem}-{number}{path.suffix}")), number + 1
    return candidate


def read_all(upload: Upload, options: ReadOptions, skip: set[str]) -> Iterator[Answer]:
    """Read every file once; headers first, so that their signal files are known as companions."""
    claimed: set[str] = set()
    names = sorted(upload.index, key=lambda name: (not name.lower().endswith(".hea"), name))
    for name in names:
        if name in skip or name in claimed:
            continue
        answer = _read_one(name, upload.index, options)
        if isinstance(answer, Taken):
            claimed.update(answer.companions)
        yield answer
    for name in names:
        if name in claimed and name not in skip:
            yield Claimed(name)


def _read_one(name: str, index: dict[str, Path], options: ReadOptions) -> Answer:
    try:
        if is_signal_file_name(name) and f"{PurePosixPath(name).with_suffix('.hea')}" in index:
            header = PurePosixPath(name).with_suffix(".hea").name
            raise UnreadableFile(f"{name} was not taken because its header {header} could not be read; see there.", code="header_refused")
        source = FileSource(name, index[name], index)
        entry = registry.sniff(source)
        if entry is None:
            raise _unknown(name)
        result = entry.read(source, options)
        records = [(key, ecg.normalise(record)) for key, record in result.records]
    except NeedsAnswer as error:
        return Refused(name, error.code, f"{error.message} {' '.join(error.fields.values())}".strip())
    except PortalError as error:
        return Refused(name, error.code, error.message)
    except Exception:
        logger.exception("reading an uploaded file failed")
        return Refused(name, "reader_failed", f"{name} broke the reader of its format. It was left out; please report the file's format and device.")
    originals = [(other, index[other]) for other in (name, *result.companions)]
    return Taken(name, entry.name, records, originals, result.companions)


def _unknown(name: str) -> UnreadableFile:
    if is_signal_file_name(name):
        header = PurePosixPath(name).with_suffix(".hea").name
        return UnreadableFile(f"{name} is a signal file without its header. Upload it together with {header}.", code="header_missing")
    if PurePosixPath(name).suffix.lower() in _TABLE_SUFFIXES:
        return UnreadableFile(f"{name} holds no ECG. If it is a table of labels, upload it on the dataset's Labels page.", code="not_an_ecg")
    titles = ", ".join(entry.title for entry in registry.readers().values())
    return UnreadableFile(f"{name} is not an ECG in a format that the portal reads ({titles}).", code="not_an_ecg")


def content_digest(originals: Iterable[tuple[str, str, int]], key: str) -> str:
    """Return one digest over a record's original files (``(name, sha256, size)``) and its key inside them."""
    text = "\n".join(sorted(sha for _, sha, _ in originals)) + "\n" + key
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Write answers of one ingest in batches, each in one transaction with its pack file."""

    def __init__(self, ingest: Ingest):
        self.ingest = ingest
        self.dataset: Dataset = ingest.dataset
        self.position = ingest.items.count()
        self._waiting: list[Answer] = []

    def add(self, answer: Answer) -> None:
        self._waiting.append(answer)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        answers, self._waiting = self._waiting, []
        if not answers:
            return
        pack = None
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                # Two uploads to one dataset take turns here, so that the same file is stored once.
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [str(self.dataset.pk)])
                with signals.PackWriter(self.dataset.pk) as writer:
                    pack = writer.pack
                    stored = self._store(answers, writer)
        except BaseException:
            if pack is not None:
                signals.discard(self.dataset.pk, pack)
            raise
        if not stored:
            signals.discard(self.dataset.pk, pack)

    def _store(self, answers: list[Answer], writer: signals.PackWriter) -> int:
        items: list[IngestItem] = []
        stored = 0
        for answer in answers:
            if isinstance(answer, Refused):
                items.append(self._item(answer.name, Outcome.REFUSED, answer.code, answer.message))
            elif isinstance(answer, Claimed):
                items.append(self._item(answer.name, Outcome.COMPANION, "", "Read together with its header."))
            else:
                originals = [(name, *self._keep(path)) for name, path in answer.originals]
                for key, record in answer.records:
                    item, created = self._store_record(answer, key, record, originals, writer)
                    items.append(item)
                    stored += created
        IngestItem.objects.bulk_create(items)
        return stored

    def _keep(self, path: Path) -> tuple[str, int]:
        with path.open("rb") as stream:
            return storage.put(stream)

    def _item(self, name: str, outcome: str, code: str = "", message: str = "", record: Record | None = None) -> IngestItem:
        self.position += 1
        clean = name.replace("\x00", "")[:400]
        return IngestItem(
            ingest=self.ingest, position=self.position, name=clean, outcome=outcome, code=code,
            message=message.replace("\x00", ""), record=record,
        )  # fmt: skip

    def _store_record(
        self, answer: Taken, key: str, record: ecg.Record, originals: list[tuple[str, str, int]], writer: signals.PackWriter
    ) -> tuple[IngestItem, int]:
        name = answer.name if len(answer.records) == 1 else f"{answer.name}: {key}"
        digest = content_digest(originals, key if len(answer.records) > 1 or not originals else "")
        known = Record.objects.filter(dataset=self.dataset, content_sha256=digest).first()
        if known is not None:
            sentence = f"The same file is in the dataset already, as {known.key}."
            return self._item(name, Outcome.DUPLICATE, "same_content", sentence, known), 0
        row_key = self._free_key(answer.name, key)
        if row_key is None:
            sentence = f"The dataset has a record called {key} with other content. Rename the file, or delete that record first."
            return self._item(name, Outcome.REFUSED, "key_taken", sentence), 0
        row = self._row(answer, row_key, record, digest, writer)
        twin = Record.objects.filter(dataset=self.dataset, fingerprint=row.fingerprint).exclude(fingerprint="").first()
        row.save(force_insert=True)
        OriginalFile.objects.bulk_create(
            OriginalFile(record=row, name=PurePosixPath(n).name[:400], sha256=sha, size=size) for n, sha, size in originals
        )
        RecordLabel.objects.bulk_create(
            (RecordLabel(record=row, system=x.system, code=x.code[:120], likelihood=x.likelihood, source=LabelSource.FILE) for x in record.meta.labels),
            ignore_conflicts=True,
        )
        message = " ".join(record.meta.notes)
        if twin is not None:
            message = f"It holds the same signal as {twin.key}; a split keeps the two on one side. {message}".strip()
        return self._item(name, Outcome.ACCEPTED, "same_signal" if twin else "", message, row), 1

    def _free_key(self, name: str, key: str) -> str | None:
        path = str(PurePosixPath(name).with_suffix(""))
        for candidate in (key[-200:], path[-200:]):
            if not Record.objects.filter(dataset=self.dataset, key=candidate).exists():
                return candidate
        return None

    def _row(self, answer: Taken, key: str, record: ecg.Record, digest: str, writer: signals.PackWriter) -> Record:
        meta = record.meta
        subject = None
        if meta.subject:
            subject, _ = Subject.objects.get_or_create(dataset=self.dataset, key=meta.subject[:120])
        report = assess(record)
        return Record(
            dataset=self.dataset, subject=subject, key=key, format=answer.format, fs_hz=record.fs_hz,
            n_samples=record.n_samples, leads=list(record.leads), leads_computed=list(record.computed), age=meta.age,
            sex=Sex.stored(meta.sex), quality=report.to_json(), quality_score=report.score, content_sha256=digest,
            fingerprint=fingerprint(record) or "", pack=writer.pack, offset=writer.add(record.signal),
            meta={
                "printed": meta.printed, "annotations": [list(row) for row in meta.annotations[:20_000]],
                "dropped_channels": list(meta.dropped_channels), "device": meta.device, "notes": list(meta.notes),
            },
            search_text=f"{key} {meta.subject or ''}".lower(),
        )  # fmt: skip


def run(context: JobContext) -> dict[str, Any]:
    """The job: everything of one upload becomes an answer per file."""
    ingest = Ingest.objects.select_related("dataset__project", "created_by").get(pk=context.payload["ingest"])
    folder = storage.area("uploads", ingest.pk)
    options = ReadOptions(
        fs_hz=ingest.options.get("fs_hz"), unit=ingest.options.get("unit"),
        lead_order=tuple(ingest.options["lead_order"]) if ingest.options.get("lead_order") else None,
    )  # fmt: skip
    context.progress(0.01, "Unpacking")
    upload = unpack(ingest.files, folder)
    done = set(ingest.items.values_list("name", flat=True))
    store = Store(ingest)
    for refusal in upload.refused:
        if refusal.name not in done:
            store.add(refusal)
    total = max(len(upload.index), 1)
    for number, answer in enumerate(read_all(upload, options, done), start=1):
        store.add(answer)
        context.progress(0.02 + 0.97 * min(number / total, 1.0), f"{number} of {total} files")
    store.flush()
    counts = outcome_counts(ingest)
    with transaction.atomic():
        audit("upload.ingested", ingest.dataset, actor=ingest.created_by, project=ingest.dataset.project, changes=counts)
    storage.remove_area("uploads", ingest.pk)
    return {"ingest": str(ingest.pk), **counts}


def outcome_counts(ingest: Ingest) -> dict[str, int]:
    found = dict(ingest.items.values_list("outcome").annotate(n=Count("id")).values_list("outcome", "n"))
    return {outcome: found.get(outcome, 0) for outcome in Outcome.values}
