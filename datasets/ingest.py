"""From uploaded files to records: unpack, read side by side on every host that has workers, store in batches.

The upload's own job plans the parts (:mod:`datasets.ingest_plan`), does them together with jobs of other hosts, and ends the
upload once. Each of them can be killed and started again at any point.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count

from datasets import announced, ecg, featuring, importing, ingest_sharing, label_jobs, uploading
from datasets.collections.base import Collection
from datasets.ingest_plan import PartLost, Plan, free_name, start_over_elsewhere
from datasets.models import Ingest, IngestPart, Outcome, Stage
from datasets.reading import Answer, Spool, row_of
from datasets.reading_pool import Batch, ReadingPool, Task, read_here
from datasets.reading_worker import identity_of, options_of
from datasets.storing import Store
from datasets.tidying import tidy_uploads
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import NotFound, PortalError, StorageFailed
from ecgportal.jobs.context import LeaseLost
from ecgportal.jobs.models import TERMINAL, Job
from ecgportal.projects.services import pseudonym_key

if TYPE_CHECKING:
    from ecgportal.jobs.context import JobContext

_MADE_AT_A_TIME = 64
# How far the job is when it begins and ends to read.
_START, _END = 0.05, 0.94
_LOOK_S = 0.3
_TELL_S = 0.5
# How long a job of another host waits for further parts.
_IDLE_S = 10.0


def _workers() -> int:
    return min(settings.READERS or len(os.sched_getaffinity(0)), 16)


def run(context: JobContext) -> dict[str, Any]:
    """The job: everything of one upload becomes an answer per file. Other hosts that have workers share the reading."""
    rows = Ingest.objects.select_related("dataset__project", "created_by", "job")
    ingest = rows.filter(pk=context.payload["ingest"]).first()
    if ingest is None:
        # Deleted with its dataset after the job was queued; whoever did that left the files to the job.
        storage.remove_area("uploads", context.payload["ingest"])
        raise NotFound("The dataset or the upload was deleted before its files were read.", code="upload_gone")
    _sweep()
    announced.remove_left(ingest.dataset_id)
    start_over_elsewhere(ingest)
    try:
        collection = _find(context, ingest) if ingest.source else None
        plan = Plan(ingest, collection[1] if collection else None)
        counts = _read(context, plan, collection)
        label_jobs.again(ingest)
        tables = importing.read_tables(context, ingest, *collection) if collection else []
    except StorageFailed:
        # The job goes on when the bucket answers again.
        raise
    except Exception:
        # The job has ended for good: nothing reads these files again.
        _give_up(ingest)
        raise
    with transaction.atomic():
        audit(
            "upload.ingested", ingest.dataset, actor=ingest.created_by, project=ingest.dataset.project, changes=counts
        )
    if not Ingest.objects.filter(pk=ingest.pk).exclude(waiting=[]).exists():
        storage.remove_area("uploads", ingest.pk)
    featuring.follow_upload(actor=ingest.created_by, dataset=ingest.dataset)
    return {"ingest": str(ingest.pk), **counts, **({"tables": tables} if collection else {})}


def run_share(context: JobContext) -> dict[str, Any]:
    """The job of another host: read parts of an upload as long as there are any, and leave the rest to the upload's own job."""
    ingest = Ingest.objects.select_related("dataset__project", "job").filter(pk=context.payload["ingest"]).first()
    if ingest is None:
        return {"records": 0}
    try:
        collection = importing.place(ingest) if ingest.source else None
    except PortalError:
        return {"records": 0, "reason": f"The folder {ingest.source['folder']} is not on this host."}
    plan = Plan(ingest, collection[1] if collection else None)
    store = Store(ingest, collection[0].site_of if collection else None)
    plan.release(context.job)
    idle_since = time.monotonic()
    try:
        with Reading(context, plan, store) as reading:
            while time.monotonic() - idle_since < _IDLE_S:
                ingest.refresh_from_db(fields=["stage"])
                if ingest.stage == Stage.READ or not Job.objects.unfinished().filter(pk=ingest.job_id).exists():
                    break
                if ingest.stage > Stage.NEW and reading.work():
                    idle_since = time.monotonic()
                context.progress(0.5, f"{store.n_new:,} records read")
                time.sleep(_LOOK_S)
    except PartLost:
        # The upload was cancelled or has failed.
        pass
    return {"records": store.n_new}


def _find(context: JobContext, ingest: Ingest) -> tuple[Collection, Path]:
    """Return a collection and its folder; it is downloaded once."""
    return importing.place(ingest) if ingest.stage > Stage.NEW else importing.bring(context, ingest)


def _give_up(ingest: Ingest) -> None:
    ingest_sharing.end(ingest)
    Plan(ingest).close(Stage.READ)
    uploading.give_up(ingest)


class Reading:
    """How this process reads parts: by processes of its own, or itself where there is little to read. Use as a context."""

    def __init__(self, context: JobContext, plan: Plan, store: Store, tell: Callable[[], None] = lambda: None):
        self._context, self._plan, self._store, self._tell = context, plan, store, tell
        project = plan.ingest.dataset.project
        self._identity = {"key": pseudonym_key(project).hex(), "keeps": project.keeps_identifiers}
        # Leftovers of an attempt before this one may still be referred to; they go with the upload.
        self._spool = plan.folder / "spool" / f"{context.job.pk}-{context.attempt}"
        self._pool: ReadingPool | None = None

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._pool is not None:
            self._pool.__exit__(*exc)

    def work(self) -> int:
        """Do parts of the present stage until none is free; returns how many it were. PartLost when the upload has ended."""
        count = 0
        self._spool.mkdir(parents=True, exist_ok=True)
        for batch in self._batches():
            self._store.write(batch, batch.key)
            count += batch.is_last
            self._tell()
        return count

    def _parts(self) -> Iterator[Task]:
        while not _gives_way(self._context) and (taken := self._plan.take(self._context.job)) is not None:
            yield taken, taken.tasks()

    def _batches(self) -> Iterator[Batch]:
        check, plan = self._context.raise_if_stopping, self._plan
        # After a crash the files are read by processes that may die without harm.
        if self._pool is None and not self._context.is_resumed and plan.is_small():
            index, options = dict(plan.index().files()), options_of(plan.ingest.options)
            return read_here(self._parts(), index, options, self._spool, check, identity_of(self._identity))
        if self._pool is None:
            self._pool = ReadingPool(
                _workers(), plan.index(), plan.ingest.options, self._spool, settings.READER_MEMORY_BYTES,
                identity=self._identity,
            )  # fmt: skip
        self._pool.index = plan.index()
        return self._pool.run(self._parts(), check)


def _read(context: JobContext, plan: Plan, collection: tuple[Collection, Path] | None) -> dict[str, Any]:
    """Read all files, whoever does it, and return how many came to which outcome."""
    ingest = plan.ingest
    if ingest.stage == Stage.READ:
        uploading.drop_read(ingest)
        return outcome_counts(ingest)
    store = Store(ingest, collection[0].site_of if collection else None)
    plan.release(context.job)
    if ingest.stage == Stage.NEW:
        context.progress(0.01, "Looking at the files")
        files = importing.files(*collection) if collection else _sent(context, ingest)
        plan.begin(files, lambda answers: store.write(Batch(answers, None)))
    _read_parts(context, plan, store)
    shares = plan.shares()
    ingest_sharing.end(ingest)
    if collection is None:
        store.learn(plan.told())
        uploading.keep_waiting(plan, store.shown)
    else:
        plan.close(Stage.READ)
    counts = outcome_counts(ingest)
    return {**counts, **({"hosts": shares} if len(shares) > 1 else {})}


def _read_parts(context: JobContext, plan: Plan, store: Store) -> None:
    """Go from stage to stage until all files are read, here or elsewhere."""
    others = ingest_sharing.Others(context, plan)
    told = 0.0

    def tell() -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_S:
            told = time.monotonic()
            others.ask()
            context.report(*_progress(plan))
        context.raise_if_stopping()

    with Reading(context, plan, store, tell) as reading:
        while True:
            try:
                reading.work()
            except PartLost:
                raise LeaseLost from None
            if _gives_way(context):
                context.give_way()
            if plan.is_whole():
                if not plan.go_on():
                    return
                others.ask(is_new=True)
            else:
                # Another process holds the rest; should it die, its parts are free again.
                tell()
                context.stopping.wait(_LOOK_S)


def _gives_way(context: JobContext) -> bool:
    """Tell whether others shall have their turn. With a bucket the next turn may be another host's, which would begin anew."""
    return storage.shared() is None and context.must_give_way


def _progress(plan: Plan) -> tuple[float, str]:
    if plan.ingest.stage == Stage.ARCHIVES:
        return _START / 2, "Unpacking"
    total = max(len(plan.index()), 1)
    done = min(plan.n_done(), total)
    return _START + (_END - _START) * done / total, f"{done:,} of {total:,} files"


def _sent(context: JobContext, ingest: Ingest) -> dict[str, Path]:
    """Return the files to read by name: all that were sent, or those that waited for an answer."""
    folder, files = storage.area("uploads", ingest.pk), {}
    entries = uploading.answered(ingest) if context.payload.get("waiting") else ingest.files
    uploading.bring(ingest, entries, context.raise_if_stopping)
    for entry in entries:
        files[free_name(entry["name"], files)] = folder / entry["path"]
    return files


def _sweep() -> None:
    """Remove the files of uploads whose job ended without doing it, and what was stored for batches that were never
    committed."""
    tidy_uploads()
    announced.remove_left()
    ended = Ingest.objects.filter(job__state__in=TERMINAL, waiting=[]).values_list("pk", flat=True)
    found = {path.name for path in storage.area("uploads").iterdir() if path.is_dir()}
    if (store := storage.shared()) is not None:
        found |= store.folders("uploads/")
    for pk in ended.filter(pk__in=[name for name in found if len(name) == 36]):
        storage.remove_area("uploads", pk)
    IngestPart.objects.filter(ingest__job__state__in=TERMINAL).delete()


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
        if len(waiting) == _MADE_AT_A_TIME:
            write()
    if waiting:
        write()
    storage.remove_area("uploads", ingest.pk)


def outcome_counts(ingest: Ingest) -> dict[str, int]:
    found = dict(ingest.items.values_list("outcome").annotate(n=Count("id")).values_list("outcome", "n"))
    return {outcome: found.get(outcome, 0) for outcome in Outcome.values}
