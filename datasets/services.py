"""Write datasets, uploads, records and label maps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models import ProtectedError, Q

from datasets import tallies
from datasets.formats.base import MAX_FILE_BYTES
from datasets.models import Dataset, Ingest, LabelMap, OriginalFile
from ecgportal import storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, TooLarge
from ecgportal.jobs.models import OPEN
from ecgportal.jobs.services import enqueue
from ecgportal.validation import require_valid

MAX_UPLOAD_BYTES = 20 * MAX_FILE_BYTES
_UNITS = ("mV", "uV", "V", "nV")
_PER_MV = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?/mV")


@transaction.atomic
def dataset_create(*, actor: Any, project: Any, name: str, description: str = "") -> Dataset:
    """Create an empty dataset."""
    dataset = Dataset(project=project, name=name.strip(), description=description, created_by=actor)
    require_valid(dataset, "The dataset cannot be created like this.")
    dataset.save(force_insert=True)
    audit("dataset.created", dataset, actor=actor, project=project)
    return dataset


@transaction.atomic
def dataset_update(*, actor: Any, dataset: Dataset, name: str | None = None, description: str | None = None) -> Dataset:
    """Change the name or the description."""
    changes = {}
    for field, value in (("name", name), ("description", description)):
        if value is not None and getattr(dataset, field) != value.strip():
            changes[field] = [getattr(dataset, field), value.strip()]
            setattr(dataset, field, value.strip())
    if not changes:
        return dataset
    # The person who created it may be deleted by now.
    require_valid(dataset, "The dataset cannot be changed like this.", exclude=["created_by"])
    dataset.save()
    audit("dataset.changed", dataset, actor=actor, project=dataset.project, changes=changes)
    return dataset


def dataset_delete(*, actor: Any, dataset: Dataset) -> None:
    """Delete a dataset with all that belongs to it. Conflict while a training run refers to it."""
    dataset_id = dataset.pk
    with transaction.atomic():
        # Who uploads to it holds the upload and then the dataset.
        list(Ingest.objects.select_for_update(of=("self",)).filter(dataset=dataset_id).order_by("pk").values_list("pk"))
        dataset = Dataset.objects.select_for_update(of=("self",)).select_related("project").get(pk=dataset_id)
        project = dataset.project
        digests = list(OriginalFile.objects.filter(record__dataset=dataset).values_list("sha256", flat=True).distinct())
        digests += dataset.label_imports.values_list("sha256", flat=True)
        unread = dataset.ingests.filter(Q(is_open=True) | ~Q(waiting=[]) | Q(job__state__in=OPEN))
        uploads = dict(unread.values_list("pk", "job__state"))
        count = dataset.records.count()
        try:
            dataset.delete()
        except ProtectedError as error:
            raise Conflict(
                f"{dataset.name} is the data of a training run. Delete the run first.", code="dataset_in_use"
            ) from error
        dataset.pk = dataset_id
        tallies.forget(dataset_id)
        storage.release([f"signals/{dataset_id}/", f"prepared/{dataset_id}/", *(f"uploads/{pk}/" for pk in uploads)])
        storage.release_blobs(digests)
        audit("dataset.deleted", dataset, actor=actor, project=project, changes={"records": count})
    for kind in ("signals", "prepared", "writing"):
        storage.remove_area(kind, dataset_id, here_only=True)
    for pk, state in uploads.items():
        # A job that reads them now finds its upload gone and ends by itself.
        if state not in OPEN:
            storage.remove_area("uploads", pk, here_only=True)
    storage.drop_unused(digests)


def check_read_options(fs_hz: Any = None, unit: Any = None, lead_order: Any = None) -> dict[str, Any]:
    """Return the answers for files that do not say their rate, unit or lead order; InvalidInput names a wrong one."""
    options: dict[str, Any] = {}
    if fs_hz not in (None, ""):
        try:
            options["fs_hz"] = float(fs_hz)
        except (TypeError, ValueError):
            options["fs_hz"] = -1.0
        if not 1 <= options["fs_hz"] <= 100_000:
            raise InvalidInput(
                "The sampling rate cannot be used.", fields={"fs_hz": "Give samples per second, from 1 to 100000."}
            )
    if unit:
        if unit not in _UNITS and not (isinstance(unit, str) and _PER_MV.fullmatch(unit) and float(unit[:-3]) > 0):
            raise InvalidInput(
                "The unit cannot be used.",
                fields={"unit": "Choose mV, uV, V, nV, or digits per millivolt such as 200/mV."},
            )
        options["unit"] = unit
    if lead_order:
        names = lead_order.split(",") if isinstance(lead_order, str) else lead_order
        is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
        names = [name.strip() for name in names] if is_list else []
        if not names or len(set(names)) != len(names) or not all(names):
            raise InvalidInput(
                "The lead order cannot be used.", fields={"lead_order": "Name each lead once, separated by commas."}
            )
        options["lead_order"] = names
    return options


def upload_receive(
    *, actor: Any, dataset: Dataset, files: Iterable[Any], options: dict[str, Any] | None = None
) -> Ingest:
    """Keep uploaded files (objects with ``name``, ``size`` and ``chunks()``) and start the job that reads them.

    Files lie under generated names; their own names are only shown. TooLarge before anything is kept.
    """
    files = list(files)
    if not files:
        raise InvalidInput("No file was sent.", fields={"files": "Choose at least one file."})
    total = sum(file.size or 0 for file in files)
    if total > MAX_UPLOAD_BYTES:
        raise TooLarge(
            f"The upload has {total / 1e9:.1f} GB; at most {MAX_UPLOAD_BYTES / 1e9:.0f} GB fit in one. Send it in parts."
        )
    ingest = Ingest(dataset=dataset, created_by=actor, options=options or {})
    folder = storage.area("uploads", ingest.pk)
    try:
        for number, file in enumerate(files):
            path = folder / f"{number:06d}"
            with path.open("wb") as stream:
                for chunk in file.chunks():
                    stream.write(chunk)
            ingest.files.append({"name": clean_name(file.name), "path": path.name, "size": path.stat().st_size})
        storage.keep_all([folder / entry["path"] for entry in ingest.files])
        return ingest_start(actor, ingest)
    except BaseException:
        storage.remove_area("uploads", ingest.pk)
        raise


def clean_name(name: str) -> str:
    """Return a relative name for showing and matching: no drive, no leading slash, no parent steps, no controls."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    text = "".join(
        ch
        for ch in "/".join(parts)
        if ch.isprintable() and ch not in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u202c"
    )
    return text[-300:] or "unnamed"


@transaction.atomic
def ingest_start(actor: Any, ingest: Ingest) -> Ingest:
    """Store an upload whose files have all come, and start the job that reads it."""
    dataset = ingest.dataset
    ingest.job = enqueue(
        "ingest", actor=actor, project=dataset.project, payload={"ingest": str(ingest.pk)}, title=f"Take in {len(ingest.files):,} file{'' if len(ingest.files) == 1 else 's'} to {dataset.name}"
    )  # fmt: skip
    ingest.save()
    audit(
        "upload.received", dataset, actor=actor, project=dataset.project,
        changes={"files": len(ingest.files), "bytes": sum(f["size"] for f in ingest.files)},
    )  # fmt: skip
    return ingest


@transaction.atomic
def label_map_create(
    *, actor: Any, project: Any, name: str, system: str, classes: list[str], entries: dict[str, Any]
) -> LabelMap:
    """Create a label map, or its next version when the project has one of this name."""
    name = name.strip()
    last = LabelMap.objects.filter(project=project, name=name).order_by("-version").first()
    for code, entry in entries.items():
        if entry.get("class") is not None and entry["class"] not in classes:
            raise InvalidInput(
                f"The code {code} is mapped to {entry['class']}, which is not one of the classes.",
                fields={"entries": f"{code}: unknown class."},
            )
    label_map = LabelMap(
        project=project, created_by=actor, name=name, version=(last.version + 1 if last else 1), system=system, classes=classes, entries=entries
    )  # fmt: skip
    require_valid(label_map, "The label map cannot be saved like this.")
    label_map.save(force_insert=True)
    audit("label_map.created", label_map, actor=actor, project=project)
    return label_map
