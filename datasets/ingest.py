"""From uploaded files to records: unpack, read side by side, store in batches. Safe to start again after a crash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count

from datasets import ecg, importing, label_jobs, uploading
from datasets.collections.base import Collection
from datasets.formats import archive
from datasets.models import Ingest, Outcome
from datasets.reading import Answer, FileTask, Spool, refused, row_of
from datasets.reading_pool import Batch, ReadingPool, read_here
from datasets.reading_worker import identity_of, options_of
from datasets.storing import Store
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import PortalError
from ecgportal.jobs.models import TERMINAL
from ecgportal.projects.services import pseudonym_key

if TYPE_CHECKING:
    from ecgportal.jobs.context import JobContext

_TASK = 64
# How far the job is when it begins and ends to read.
_START, _END = 0.05, 0.94
# Below this it takes longer to start other processes than to read the files.
_FEW_FILES, _FEW_BYTES = 40, 40_000_000
_LARGE_BYTES = 8_000_000


@dataclass
class Upload:
    """The files of an upload after unpacking, by relative name."""

    index: dict[str, Path] = field(default_factory=dict)
    refused: list[Answer] = field(default_factory=list)


def unpack(files: list[dict[str, str]], folder: Path) -> Upload:
    """Open archives into ``folder`` and index all files by their names. An archive's members stand under its own name's
    stem only where two archives hold the same names."""
    upload = Upload()
    inner_folder = folder / "members"
    # What an attempt before this one unpacked.
    shutil.rmtree(inner_folder, ignore_errors=True)
    inner_folder.mkdir()
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
            upload.refused.append(refused(entry["name"], error.code, error.message))
            continue
        prefix = PurePosixPath(entry["name"]).stem
        clash = any(name in upload.index for name, _ in result.files)
        for name, member in result.files:
            upload.index[f"{prefix}/{name}" if clash else name] = member
        upload.refused += [refused(f"{entry['name']}: {name}", code, message) for name, code, message in result.refused]
    return upload


def _free(name: str, taken: dict[str, Path]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        path = PurePosixPath(name)
        candidate, number = str(path.with_name(f"{path.stem}-{number}{path.suffix}")), number + 1
    return candidate


class Plan:
    """Which files are read in which order: WFDB records of segments, other headers, and then what none of them names."""

    def __init__(self, upload: Upload, done: set[str], shown: Callable[[str], str]):
        self.index = upload.index
        self.done = done
        self._shown = shown
        shown_as = {shown(name): name for name in self.index}
        self.claimed: set[str] = set()
        # The keys of records that an earlier attempt stored, by the file of many records that they came from.
        self._parts: dict[str, list[str]] = {}
        for name in done:
            file, colon, key = name.partition(": ")
            if colon and file in shown_as:
                self._parts.setdefault(shown_as[file], []).append(key)

    def phases(self) -> Iterator[Iterator[list[FileTask]]]:
        """Yield the tasks phase by phase. What a phase claims must be known before the next one is begun."""
        headers = sorted(name for name in self.index if name.lower().endswith(".hea"))
        masters = [name for name in headers if _has_segments(self.index[name])]
        segmented = set(masters)
        yield self._tasks(masters)
        yield self._tasks([name for name in headers if name not in segmented])
        yield self._tasks(sorted(name for name in self.index if not name.lower().endswith(".hea")))

    def _tasks(self, names: list[str]) -> Iterator[list[FileTask]]:
        waiting: list[FileTask] = []
        for name in names:
            if name in self.claimed or self._shown(name) in self.done:
                continue
            task = FileTask(name, tuple(self._parts.get(name, ())))
            if not name.lower().endswith(".hea") and self.index[name].stat().st_size > _LARGE_BYTES:
                # Large files are read by themselves, collections of many records in parts.
                task.may_split = True
                if waiting:
                    yield waiting
                yield [task]
                waiting = []
                continue
            waiting.append(task)
            if len(waiting) == _TASK:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def claim(self, answers: list[Answer]) -> None:
        """Note which files were read together with another one; each is named by the first that did."""
        for answer in answers:
            if answer["kind"] == "taken":
                new = [name for name in answer["companions"] if name in self.index and name not in self.claimed]
                self.claimed.update(new)
                answer["claimed"] = new


def _has_segments(header: Path) -> bool:
    """Tell whether a WFDB header's record line names several segments (``name/segments``)."""
    with header.open("rb") as stream:
        head = stream.read(2048)
    line = next((line for line in head.splitlines() if line.strip() and not line.lstrip().startswith(b"#")), b"")
    return b"/" in line.split(b" ")[0]


def _workers() -> int:
    return min(settings.READERS or len(os.sched_getaffinity(0)), 16)


def run(context: JobContext) -> dict[str, Any]:
    """The job: everything of one upload becomes an answer per file."""
    ingest = Ingest.objects.select_related("dataset__project", "created_by").get(pk=context.payload["ingest"])
    _sweep()
    try:
        collection = importing.bring(context, ingest) if ingest.source else None
        counts = _run(context, ingest, collection)
        label_jobs.again(ingest)
        tables = importing.read_tables(context, ingest, *collection) if collection else []
    except Exception:
        # The job has ended for good: nothing reads these files again.
        storage.remove_area("uploads", ingest.pk)
        Ingest.objects.filter(pk=ingest.pk).update(waiting=[])
        raise
    with transaction.atomic():
        audit(
            "upload.ingested", ingest.dataset, actor=ingest.created_by, project=ingest.dataset.project, changes=counts
        )
    if not Ingest.objects.filter(pk=ingest.pk).exclude(waiting=[]).exists():
        storage.remove_area("uploads", ingest.pk)
    return {"ingest": str(ingest.pk), **counts, **({"tables": tables} if collection else {})}


def _run(context: JobContext, ingest: Ingest, collection: tuple[Collection, Path] | None) -> dict[str, int]:
    folder = storage.area("uploads", ingest.pk)
    if collection is None:
        context.progress(0.01, "Unpacking")
        sent = [
            entry for entry in _sent(context, ingest) if not context.is_resumed or (folder / entry["path"]).exists()
        ]
        upload, site_of = unpack(sent, folder), None
    else:
        upload, site_of = Upload(importing.files(*collection)), collection[0].site_of
    context.progress(_START, f"{len(upload.index)} files")
    store = Store(ingest, site_of)
    store.write(Batch(upload.refused, None))
    spool = folder / "spool"
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir()
    plan = Plan(upload, store.done, store.shown)
    total = max(len(upload.index), 1)
    few = len(upload.index) <= _FEW_FILES and sum(path.stat().st_size for path in upload.index.values()) <= _FEW_BYTES
    identity = {"key": pseudonym_key(ingest.dataset.project).hex(), "keeps": ingest.dataset.project.keeps_identifiers}
    with ExitStack() as stack:
        # After a crash the files are read by processes that may die without harm.
        pool = None
        if not few or context.is_resumed:
            pool = stack.enter_context(
                ReadingPool(
                    _workers(), upload.index, ingest.options, spool, settings.READER_MEMORY_BYTES, identity=identity
                )
            )
        for phase in plan.phases():
            if pool is not None:
                batches = pool.run(phase, context.raise_if_stopping)
            else:
                batches = read_here(
                    phase,
                    upload.index,
                    options_of(ingest.options),
                    spool,
                    context.raise_if_stopping,
                    identity_of(identity),
                )
            for batch in batches:
                plan.claim(batch.answers)
                store.write(batch)
                done = min(len(store.done), total)
                context.progress(_START + (_END - _START) * done / total, f"{done} of {total} files")
    if collection is None:
        uploading.keep_waiting(ingest, upload.index, store.shown)
    return outcome_counts(ingest)


def _sent(context: JobContext, ingest: Ingest) -> list[dict[str, Any]]:
    """Return the files to read: all that were sent, or those that waited for an answer. What an attempt before this one had
    finished with is not there any more."""
    return ingest.waiting if context.payload.get("waiting") else ingest.files


def _sweep() -> None:
    """Remove the files of uploads whose job ended without doing it, and of those that were given up."""
    uploading.sweep()
    ended = Ingest.objects.filter(job__state__in=TERMINAL, waiting=[]).values_list("pk", flat=True)
    folders = [path for path in storage.area("uploads").iterdir() if path.is_dir()]
    names = {str(pk) for pk in ended.filter(pk__in=[path.name for path in folders if len(path.name) == 36])}
    for path in folders:
        if path.name in names:
            storage.remove_area("uploads", path.name)


def add_records(ingest: Ingest, format_name: str, records: Iterator[tuple[str, ecg.Record]]) -> None:
    """Store records that come from no file, under their keys."""
    store = Store(ingest)
    folder = storage.area("uploads", ingest.pk)
    waiting: list[tuple[str, ecg.Record]] = []

    def write() -> None:
        spool = Spool(folder / "made.f32")
        answers: list[Answer] = [
            {"kind": "taken", "name": key, "format": format_name, "many": False, "originals": [], "companions": [], "records": [row_of(key, record, spool)]}
            for key, record in waiting
        ]  # fmt: skip
        spool.close()
        store.write(Batch(answers, spool.path))
        waiting.clear()

    for pair in records:
        waiting.append(pair)
        if len(waiting) == _TASK:
            write()
    if waiting:
        write()
    storage.remove_area("uploads", ingest.pk)


def outcome_counts(ingest: Ingest) -> dict[str, int]:
    found = dict(ingest.items.values_list("outcome").annotate(n=Count("id")).values_list("outcome", "n"))
    return {outcome: found.get(outcome, 0) for outcome in Outcome.values}
