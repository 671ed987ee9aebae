"""Uploads in pieces: files arrive in any order and number, each goes on where it stopped, and then all are read.

An open upload is an ``Ingest`` without a job. Its files are declared by name and size (``ArrivingFile``) and lie under
numbers of ours in the upload's own folder. Bytes are written as they come, so memory does not grow with the file.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from django.db import transaction
from django.db.models import Count, F, Max, Q, QuerySet, Sum
from django.utils import timezone

from datasets.ingest_plan import Plan
from datasets.models import ArrivingFile, Dataset, Ingest, Outcome, Stage
from datasets.services import MAX_UPLOAD_BYTES, clean_name, ingest_start
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, NotFound, TooLarge
from ecgportal.jobs.services import enqueue

MAX_FILES = 200_000
MAX_DECLARED = 5000
MAX_PIECE_BYTES = 256_000_000
KEPT_DAYS = 14
_CHUNK = 1 << 20
_AT_A_TIME = 64
_SWEPT_AT_ONCE = 200


@transaction.atomic
def upload_open(*, actor: Any, dataset: Dataset, options: dict[str, Any] | None = None) -> Ingest:
    """Begin an upload to which files are sent one after another; nothing is read before ``upload_finish``."""
    ingest = Ingest(dataset=dataset, created_by=actor, options=options or {}, is_open=True)
    ingest.save(force_insert=True)
    audit("upload.opened", dataset, actor=actor, project=dataset.project, changes={"upload": str(ingest.pk)})
    return ingest


def open_uploads(dataset: Dataset, user: Any) -> QuerySet[Ingest]:
    """Return the user's uploads to a dataset that were begun and not finished, the newest first, with what has arrived."""
    return (
        Ingest.objects.filter(dataset=dataset, created_by=user, is_open=True)
        .annotate(
            declared=Count("arriving"), complete=Count("arriving", filter=Q(arriving__received=F("arriving__size"))),
            bytes_declared=Sum("arriving__size", default=0), bytes_received=Sum("arriving__received", default=0),
        ).order_by("-created_at")
    )  # fmt: skip


@transaction.atomic
def files_declare(*, ingest: Ingest, files: Sequence[tuple[str, int]]) -> list[ArrivingFile]:
    """Name the files that will come, each with its size in bytes; returns their rows in the same order.

    A file that was declared before with this size keeps what has arrived of it; with another size it begins anew.
    """
    ingest = _locked_open(ingest)
    if not files or len(files) > MAX_DECLARED:
        raise InvalidInput(
            "The list of files cannot be used.", fields={"files": f"Name 1 to {MAX_DECLARED} files in one call."}
        )
    wanted: dict[str, int] = {}
    for name, size in files:
        clean = clean_name(name)
        if wanted.setdefault(clean, size) != size or size < 0:
            raise InvalidInput(
                f"{clean} is named twice with different sizes.", fields={"files": "Name each file once."}
            )
    known = {row.name: row for row in ingest.arriving.filter(name__in=wanted)}
    for row in known.values():
        if row.size != wanted[row.name]:
            row.size, row.received, row.pieces = wanted[row.name], 0, []
            row.save(update_fields=["size", "received", "pieces"])
    last = ingest.arriving.aggregate(last=Max("position"))["last"]
    first = 0 if last is None else last + 1
    new = [name for name in wanted if name not in known]
    rows = [ArrivingFile(ingest=ingest, position=first + n, name=name, size=wanted[name]) for n, name in enumerate(new)]
    ArrivingFile.objects.bulk_create(rows, batch_size=2000)
    known |= {row.name: row for row in rows}
    sums = ingest.arriving.aggregate(n=Count("pk"), size=Sum("size"))
    if sums["size"] > MAX_UPLOAD_BYTES or sums["n"] > MAX_FILES:
        raise TooLarge(
            f"The upload would hold {sums['n']} files and {sums['size'] / 1e9:.1f} GB; at most {MAX_FILES} files and "
            f"{MAX_UPLOAD_BYTES / 1e9:.0f} GB fit in one. Send it in parts."
        )
    return [known[clean_name(name)] for name, _ in files]


def file_receive(*, file: ArrivingFile, offset: int, stream: BinaryIO) -> ArrivingFile:
    """Write the next piece of a file, from byte ``offset`` on; what arrived before a broken connection is kept.

    Conflict (``wrong_offset``) tells where the file stands when the piece does not join on, also when another piece for the same
    place ended first; TooLarge when it is longer than was declared.
    """
    if not file.ingest.is_open:
        raise Conflict("The upload is closed; its files are read already.", code="upload_closed")
    if offset != file.received:
        raise _stands(file, f"not at {offset}")
    # A file of its own until it counts: two pieces for the same place never write into each other.
    path = _path(file)
    piece = path.with_name(f"{path.name}.{offset}-{uuid.uuid4().hex[:12]}")
    at = offset
    try:
        with piece.open("wb") as target:
            while chunk := stream.read(_CHUNK):
                if at + len(chunk) > file.size or at + len(chunk) - offset > MAX_PIECE_BYTES:
                    raise TooLarge(
                        f"{file.name} was declared with {file.size} bytes, at most {MAX_PIECE_BYTES} of them in one piece; more came."
                    )
                target.write(chunk)
                at += len(chunk)
    finally:
        taken = _take_piece(file, offset, at, piece)
    if not taken:
        raise _stands(_arriving(file), "for another piece for the same place came first")
    file.received = at
    return file


def _stands(file: ArrivingFile, why: str) -> Conflict:
    return Conflict(
        f"{file.name} stands at byte {file.received}, {why}. Go on from there.", code="wrong_offset",
        fields={"received": str(file.received)},
    )  # fmt: skip


def _take_piece(file: ArrivingFile, offset: int, at: int, piece: Path) -> bool:
    """Join a piece on that holds the bytes from ``offset`` to ``at``. Two pieces for the same place: the one that ends first counts,
    the other is dropped (False)."""
    here, is_kept = ArrivingFile.objects.filter(pk=file.pk, received=offset, size=file.size), False
    try:
        if at == offset:
            return here.exists()
        if storage.shared() is not None:
            # The next piece may reach another host, so each stays an object of its own.
            storage.keep(piece)
        with transaction.atomic():
            row = here.select_for_update().first()
            if row is None:
                return False
            if storage.shared() is not None:
                row.pieces = [*row.pieces, piece.name]
            else:
                _join(_path(file), piece, offset)
            row.received = at
            row.save(update_fields=["received", "pieces"])
        is_kept = True
    finally:
        piece.unlink(missing_ok=True)
        if not is_kept and at > offset:
            storage.drop(piece)
    return True


def _join(path: Path, piece: Path, offset: int) -> None:
    """Put the bytes of a piece into a file from ``offset`` on; what lies behind belongs to nobody."""
    if offset == 0:
        piece.replace(path)
        return
    with piece.open("rb") as source, path.open("r+b") as target:
        target.seek(offset)
        target.truncate()
        shutil.copyfileobj(source, target, _CHUNK)


def files_receive(*, ingest: Ingest, files: Sequence[tuple[str, Any]]) -> list[ArrivingFile]:
    """Take whole files, ``(name, file with size and chunks())``: many small ones in one request. One that has arrived whole, also
    by another request meanwhile, stays as it is."""
    if len({clean_name(name) for name, _ in files}) < len(files):
        raise InvalidInput("Two files have the same name.", fields={"names": "Name each file once, with its folder."})
    rows = files_declare(ingest=ingest, files=[(name, file.size) for name, file in files])
    sent: dict[uuid.UUID, Path] = {}
    try:
        for row, (_, file) in zip(rows, files, strict=True):
            if row.received == row.size:
                continue
            path = _path(row)
            sent[row.pk] = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
            with sent[row.pk].open("wb") as target:
                for chunk in file.chunks():
                    target.write(chunk)
        with transaction.atomic():
            known = {row.pk: row for row in ingest.arriving.filter(pk__in=sent).order_by("pk").select_for_update()}
            if len(known) < len(sent):
                raise Conflict("The upload was closed or discarded while the files came.", code="upload_closed")
            rows = [known.get(row.pk, row) for row in rows]
            taken = [row for row in known.values() if row.received < row.size]
            for row in taken:
                if sent[row.pk].stat().st_size != row.size:
                    raise Conflict(f"{row.name} was named with another size while it came. Send it again.", code="busy")
                sent[row.pk].replace(_path(row))
                row.received, row.pieces = row.size, []
            # Who reads them fetches them from a bucket; another host may send other ones under the same numbers.
            storage.keep_all([_path(row) for row in taken])
            ArrivingFile.objects.bulk_update(taken, ["received", "pieces"], batch_size=1000)
    finally:
        for path in sent.values():
            path.unlink(missing_ok=True)
    for row in taken if storage.shared() is not None else ():
        _path(row).unlink(missing_ok=True)
    return rows


@transaction.atomic
def upload_finish(*, actor: Any, ingest: Ingest) -> Ingest:
    """Close an upload and start the job that reads it. Conflict while a file is not whole."""
    ingest = _locked_open(ingest)
    partial = ingest.arriving.filter(received__lt=F("size"))
    if count := partial.count():
        names = ", ".join(partial.values_list("name", flat=True)[:3])
        raise Conflict(
            f"{count} files are not whole yet: {names}. Send the rest of them first.", code="upload_incomplete"
        )
    rows = list(ingest.arriving.order_by("position"))
    if not rows:
        raise InvalidInput("The upload holds no file.", fields={"files": "Send at least one file."})
    for row in rows if storage.shared() is None else ():
        _path(row).touch()
    ingest.files = [
        {"name": row.name, "path": _path(row).name, "size": row.size, **({"pieces": row.pieces} if row.pieces else {})}
        for row in rows
    ]
    ingest.is_open = False
    ingest.arriving.all().delete()
    return ingest_start(actor, ingest)


def upload_discard(*, actor: Any, ingest: Ingest) -> None:
    """Remove an open upload and what has arrived of it."""
    with transaction.atomic():
        ingest = _locked_open(ingest)
        dataset, ingest_id = ingest.dataset, ingest.pk
        ingest.delete()
        storage.release_area("uploads", ingest_id)
        audit("upload.discarded", dataset, actor=actor, project=dataset.project, changes={"upload": str(ingest_id)})
    storage.remove_area("uploads", ingest_id)


@transaction.atomic
def upload_answer(
    *, actor: Any, ingest: Ingest, options: dict[str, Any], names: Collection[str] | None = None
) -> Ingest:
    """Read kept files of an upload again, now with answers for what they leave open. The answers stay with the files.

    names: of which files, as the upload's report shows them; the others wait on. None: of all.
    """
    ingest = Ingest.objects.select_for_update(of=("self",)).select_related("dataset__project", "job").get(pk=ingest.pk)
    if not options:
        raise InvalidInput("No answer was given.", fields={"fs_hz": "Give at least one of rate, unit and lead order."})
    if ingest.job is None or ingest.job.is_open:
        raise Conflict("The upload is being read; answer when that is done.", code="upload_busy")
    if not ingest.waiting:
        raise Conflict(
            f"No file of this upload waits for an answer, or they were kept for longer than {KEPT_DAYS} days. Send them again.",
            code="nothing_waits",
        )
    stems = None if names is None else {_stem(name) for name in names}
    chosen = [entry for entry in ingest.waiting if stems is None or _stem(entry["shown"]) in stems]
    if not chosen:
        raise Conflict("None of these files waits for an answer.", code="nothing_waits")
    # What was answered for other files alone must not slip into these.
    known = [entry.get("options", ingest.options) for entry in chosen]
    common = {name: value for name, value in known[0].items() if all(each.get(name) == value for each in known)}
    ids = {id(entry) for entry in chosen}
    ingest.waiting = [{**entry, "answered": id(entry) in ids} for entry in ingest.waiting]
    shown = [entry["shown"] for entry in chosen]
    ingest.items.filter(name__in=shown, outcome=Outcome.REFUSED).delete()
    ingest.options = {**common, **options}
    ingest.stage = Stage.NEW
    ingest.job = enqueue(
        "ingest", actor=actor, project=ingest.dataset.project, payload={"ingest": str(ingest.pk), "waiting": True},
        title=f"Read {len(shown):,} file{'' if len(shown) == 1 else 's'} of {ingest.dataset.name} again",
    )  # fmt: skip
    ingest.save(update_fields=["options", "stage", "job", "waiting"])
    audit(
        "upload.answered", ingest.dataset, actor=actor, project=ingest.dataset.project,
        changes={"files": len(shown), **options},
    )  # fmt: skip
    return ingest


def answered(ingest: Ingest) -> list[dict[str, Any]]:
    """Return those kept files of an upload that the last answer is for."""
    return [entry for entry in ingest.waiting if entry.get("answered", True)]


def _unanswered(ingest: Ingest) -> list[dict[str, Any]]:
    return [entry for entry in ingest.waiting if not entry.get("answered", True)]


def keep_waiting(plan: Plan, shown: Callable[[str], str]) -> None:
    """Keep those files of a read upload that need an answer, with the others of their record, and remove the rest.

    shown: how a name is shown in the upload's report; with the files their own names go, but for those that wait.
    """
    ingest = plan.ingest
    index = dict(plan.index().files())
    asked = ingest.items.filter(outcome=Outcome.REFUSED, code="needs_answer").values_list("name", flat=True)
    stems = {_stem(name) for name in asked}
    folder = storage.area("uploads", ingest.pk)
    kept, waiting = folder / "waiting", _unanswered(ingest)
    kept.mkdir(exist_ok=True)
    # Those that were kept before stay where they lie, so that the job can be started again at any point.
    number = max((int(path.name) for path in kept.iterdir() if path.name.isdigit()), default=-1)
    for name in sorted(name for name in index if _stem(shown(name)) in stems):
        target = index[name]
        if target.parent != kept:
            number += 1
            target = kept / f"{number:06d}"
            os.link(index[name], target)
        entry = {"name": name, "shown": shown(name), "path": f"waiting/{target.name}", "size": target.stat().st_size}
        waiting.append({**entry, "options": ingest.options})
    storage.keep_all([folder / entry["path"] for entry in waiting])
    with transaction.atomic():
        ingest.waiting = waiting
        ingest.files = [{**entry, "name": shown(entry["name"])} for entry in ingest.files]
        ingest.save(update_fields=["waiting", "files"])
        plan.close(Stage.READ)
    drop_read(ingest)


def give_up(ingest: Ingest) -> None:
    """Remove the files of an upload whose job ended without reading them, but for those that wait for an answer of their own."""
    row = Ingest.objects.filter(pk=ingest.pk).first()
    ingest.waiting = _unanswered(row) if row is not None else []
    Ingest.objects.filter(pk=ingest.pk).update(waiting=ingest.waiting)
    if ingest.waiting:
        drop_read(ingest)
    else:
        storage.remove_area("uploads", ingest.pk)


def drop_read(ingest: Ingest) -> None:
    """Remove the files of a read upload but for those that wait for an answer."""
    folder = storage.area("uploads", ingest.pk)
    needed = {folder / entry["path"] for entry in ingest.waiting}
    for path in [path for path in folder.rglob("*") if path.is_file() and path not in needed]:
        path.unlink(missing_ok=True)
    store = storage.shared()
    if store is not None and needed:
        keys = {storage.key_of(path) for path in needed}
        storage.release([found.key for found in store.list(f"{storage.key_of(folder)}/") if found.key not in keys])


def bring(ingest: Ingest, entries: Sequence[dict[str, Any]], check: Callable[[], None]) -> None:
    """See that the files of an upload lie on this host, fetched from the bucket and put together where they came in pieces.

    check: called in between, may raise. NotFound when one is nowhere.
    """
    folder, store = storage.area("uploads", ingest.pk), storage.shared()
    wanted: list[tuple[str, Path]] = []
    for entry in entries:
        path = folder / entry["path"]
        if (store is None and "pieces" not in entry) or (path.exists() and path.stat().st_size == entry["size"]):
            continue
        path.parent.mkdir(exist_ok=True)
        if "pieces" in entry:
            check()
            _put_together(path, entry)
        elif entry["size"] == 0:
            path.touch()
        else:
            wanted.append((storage.key_of(path), path))
    for start in range(0, len(wanted), _AT_A_TIME) if store is not None else ():
        check()
        if missing := store.fetch_all(wanted[start : start + _AT_A_TIME]):
            raise _lost(len(missing))


def _put_together(path: Path, entry: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as target:
        for name in entry["pieces"]:
            piece = path.with_name(name)
            if not storage.obtain(piece):
                raise _lost(1)
            with piece.open("rb") as source:
                shutil.copyfileobj(source, target, _CHUNK)
            piece.unlink()
    if part.stat().st_size != entry["size"]:
        raise _lost(1)
    part.replace(path)


def _lost(count: int) -> NotFound:
    return NotFound(
        f"{count} files of this upload are missing from {storage.shared() or 'the data folder'}. Send them again.",
        code="upload_lost",
    )


def sweep() -> None:
    """Give up open uploads and kept files that nobody has gone on with for a fortnight."""
    limit = timezone.now() - timedelta(days=KEPT_DAYS)
    is_old = Q(is_open=True, created_at__lt=limit) | (~Q(waiting=[]) & Q(job__finished_at__lt=limit))
    for pk in list(Ingest.objects.filter(is_old).values_list("pk", flat=True)[:_SWEPT_AT_ONCE]):
        with transaction.atomic():
            # Another host may be at it, and somebody may just have gone on.
            rows = Ingest.objects.filter(is_old, pk=pk).select_related("dataset__project")
            ingest = rows.select_for_update(of=("self",), skip_locked=True).first()
            if ingest is not None:
                _forget_files(ingest)
        if ingest is not None:
            storage.remove_area("uploads", pk)


def _forget_files(ingest: Ingest) -> None:
    dataset, upload = ingest.dataset, str(ingest.pk)
    if ingest.is_open:
        counts = ingest.arriving.aggregate(files=Count("pk"), bytes=Sum("received", default=0))
        ingest.delete()
    else:
        counts = {"files": len(ingest.waiting), "bytes": sum(entry["size"] for entry in ingest.waiting)}
        ingest.waiting = []
        ingest.save(update_fields=["waiting"])
    audit(
        "upload.given_up",
        dataset,
        project=dataset.project,
        changes={"upload": upload, **counts, "kept_days": KEPT_DAYS},
    )


def _locked_open(ingest: Ingest) -> Ingest:
    row = Ingest.objects.select_for_update(of=("self",)).select_related("dataset__project").get(pk=ingest.pk)
    if not row.is_open:
        raise Conflict("The upload is closed; its files are read already.", code="upload_closed")
    return row


def _arriving(file: ArrivingFile) -> ArrivingFile:
    row = ArrivingFile.objects.filter(pk=file.pk).first()
    if row is None:
        raise Conflict("The upload was closed or discarded while the file came.", code="upload_closed")
    return row


def _path(file: ArrivingFile) -> Path:
    return storage.area("uploads", file.ingest_id) / f"{file.position:06d}"


def _stem(name: str) -> str:
    folder, slash, bare = name.rpartition("/")
    return f"{folder}{slash}{bare.rpartition('.')[0] or bare}"
