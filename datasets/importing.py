"""Import known collections: where they lie on this machine, their start, and what their job does around the ingest."""

from __future__ import annotations

import csv
import io
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from django.conf import settings
from django.db import transaction

from datasets import labelling
from datasets.collections import download, registry
from datasets.collections.base import Collection, Folder
from datasets.models import Dataset, Ingest, LabelImport
from datasets.services import dataset_create
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import InvalidInput, PortalError
from ecgportal.jobs.services import enqueue

if TYPE_CHECKING:
    from ecgportal.jobs.context import JobContext

_DEPTH = 3
_MOST_FOLDERS = 2000
_TIMEOUT = httpx.Timeout(60.0, connect=15.0)


@dataclass(frozen=True)
class Place:
    """A collection that lies on this machine. folder: its address for services, ``<import root>/<folder inside it>``."""

    collection: Collection
    folder: str


def roots() -> dict[str, Path]:
    """Return the folders that an administrator allowed (``PORTAL_IMPORT_ROOTS``), each under a name of its own."""
    found: dict[str, Path] = {}
    for path in settings.IMPORT_ROOTS:
        name, number = path.name or "root", 2
        while name in found:
            name, number = f"{path.name}-{number}", number + 1
        found[name] = path
    return found


def path_of(folder: str) -> Path:
    """Return the path of an address; InvalidInput for anything that is not a folder inside an allowed one."""
    allowed = roots()
    name, _, rest = folder.strip().strip("/").partition("/")
    refused = InvalidInput(
        f"{folder[:200]!r} is no folder from which this portal may import.",
        fields={"folder": f"Give <root>/<folder>; roots: {', '.join(allowed) or 'none'} (PORTAL_IMPORT_ROOTS)."},
    )
    if name not in allowed or "\x00" in folder:
        raise refused
    base = allowed[name].resolve()
    path = (base / rest).resolve()
    if not path.is_relative_to(base) or not path.is_dir():
        raise refused
    return path


def places() -> list[Place]:
    """Return the known collections in the allowed folders, at most three folders deep, in the order of their addresses."""
    found: list[Place] = []
    for name, path in roots().items():
        waiting, seen = [(name, path.resolve(), 0)], 0
        while waiting and seen < _MOST_FOLDERS:
            address, folder, depth = waiting.pop(0)
            seen += 1
            here = registry.recognise(Folder(folder))
            found += [Place(entry, address) for entry in here]
            if not here and depth < _DEPTH:
                waiting += [(f"{address}/{sub.name}", sub, depth + 1) for sub in _folders(folder)]
    return found


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except OSError:
        return []
    return [folder / name for name in sorted(names)[:200]]


def downloadable() -> list[Collection]:
    """Return the collections that can be fetched from PhysioNet, where the portal may."""
    return [entry for entry in registry.known().values() if entry.physionet and settings.PHYSIONET_URL]


def collection_of(name: str) -> Collection:
    entry = registry.known().get(name)
    if entry is None:
        raise InvalidInput(
            f"There is no collection {name[:60]!r}.",
            fields={"collection": f"Choose one of {', '.join(registry.known())}."},
        )
    return entry


@transaction.atomic
def import_by_name(*, actor: Any, project: Any, collection: str, folder: str | None = None, name: str = "") -> Ingest:
    """Start an import into the project's dataset called ``name`` (by default as the collection), made where it is missing."""
    wanted = name.strip() or collection_of(collection).title
    dataset = Dataset.objects.filter(project=project, name__iexact=wanted).first()
    if dataset is None:
        dataset = dataset_create(actor=actor, project=project, name=wanted)
    return import_start(actor=actor, dataset=dataset, collection=collection, folder=folder)


@transaction.atomic
def import_start(*, actor: Any, dataset: Dataset, collection: str, folder: str | None = None) -> Ingest:
    """Start the job that takes a collection with its labels into a dataset. Run again, it adds only what is new.

    folder: where it lies, as :func:`places` names it; None downloads it first. InvalidInput where that cannot be done.
    """
    entry = collection_of(collection)
    source: dict[str, Any] = {"collection": entry.name}
    if folder is not None:
        if entry not in registry.recognise(Folder(path_of(folder))):
            raise InvalidInput(
                f"The folder {folder} does not have the layout of {entry.title}.",
                fields={"folder": "Choose the folder in which the collection's own files lie."},
            )
        source["folder"] = folder
    elif entry in downloadable():
        source["download"] = True
    else:
        raise InvalidInput(
            f"{entry.title} cannot be downloaded by this portal. Fetch it from {entry.home} into an import folder.",
            fields={"folder": "Give the folder in which it lies."},
        )
    ingest = Ingest(dataset=dataset, created_by=actor, options=dict(entry.options), source=source)
    ingest.job = enqueue(
        "ingest", actor=actor, project=dataset.project, payload={"ingest": str(ingest.pk)},
        title=f"Import {entry.title} into {dataset.name}",
    )  # fmt: skip
    ingest.save(force_insert=True)
    audit("dataset.import_started", dataset, actor=actor, project=dataset.project, changes=source)
    return ingest


def place(ingest: Ingest) -> tuple[Collection, Path]:
    """Return an import's collection and its folder on this machine. InvalidInput where this host may not read it."""
    entry = collection_of(ingest.source["collection"])
    return entry, storage.downloads(entry.name) if ingest.source.get("download") else path_of(ingest.source["folder"])


def bring(context: JobContext, ingest: Ingest) -> tuple[Collection, Path]:
    """Return an import's collection and its folder on this machine; what has to be downloaded is there then."""
    entry, into = place(ingest)
    if not ingest.source.get("download"):
        return entry, into
    assert entry.physionet is not None and entry.fetches is not None

    def tell(done: int, total: int, name: str) -> None:
        if shutil.disk_usage(into).free < 1_000_000_000:
            raise PortalError(
                f"Less than 1 GB is free under {into}; the download of {entry.title} was stopped. Make room and start it again.",
                code="disk_full",
            )
        context.progress(0.4 * done / max(total, 1), f"Downloading {done + 1} of {total}: {name[-80:]}")

    with httpx.Client(timeout=_TIMEOUT, follow_redirects=False) as client:
        address = f"{settings.PHYSIONET_URL.rstrip('/')}/{entry.physionet}/"
        download.fetch(client, address, into, entry.fetches, tell)
    return entry, into


def files(entry: Collection, folder: Path) -> dict[str, Path]:
    """Return the files of a collection's records by relative name. Links are left out."""
    holds, found = partial(entry.holds, Folder(folder)), {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = Path(place).relative_to(folder).as_posix()
        for name in names:
            relative = name if prefix == "." else f"{prefix}/{name}"
            if holds(relative) and not os.path.islink(os.path.join(place, name)):
                found[relative] = Path(place, name)
    return found


def read_tables(context: JobContext, ingest: Ingest, entry: Collection, folder: Path) -> list[dict[str, Any]]:
    """Read the collection's label tables, those that are there; returns what each gave."""
    told = []
    for table in entry.tables:
        name = table.find(folder)
        if name is None:
            continue
        context.progress(0.95, f"Reading {name}")
        row = _keep(ingest, name, table.rows(folder / name), table.mapping)
        if row is None:
            continue
        result = labelling.read(row)
        told.append({"table": name, **{key: result[key] for key in ("rows", "taken", "unmatched", "labels")}})
    return told


@transaction.atomic
def _keep(ingest: Ingest, name: str, rows: Any, mapping: Any) -> LabelImport | None:
    """Store the kept columns of a table as a label table of the import; read again, it is the same row. None without rows."""
    out = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(out, list(row))
            writer.writeheader()
        writer.writerow(row)
    if writer is None:
        return None
    there = set(writer.fieldnames)
    mapping = {
        key: [column for column in value if column["column"] in there] if key == "labels" else value
        for key, value in mapping.items()
        if not isinstance(value, str) or value in there
    }
    storage.hold_blobs()
    sha256, _ = storage.put_bytes(out.getvalue().encode())
    kept, _ = LabelImport.objects.update_or_create(
        dataset=ingest.dataset, job=ingest.job, file_name=name,
        defaults={"created_by": ingest.created_by, "sha256": sha256, "mapping": mapping, "is_scrubbed": False},
    )  # fmt: skip
    kept.dataset = ingest.dataset
    return kept
