"""Annotations and labels that people set by hand. Whoever set one may remove it, and so may an owner of the project."""

from __future__ import annotations

import math
from typing import Any

from django.db import IntegrityError, transaction

from datasets.labels.table import SYSTEMS
from datasets.models import LabelSource, Record, RecordAnnotation, RecordLabel
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput, NotAllowed
from ecgportal.projects import access
from ecgportal.projects.models import Role

MAX_TEXT = 500
MAX_CODE = 120
# A record with more cannot be read on screen; it stops a script that runs wild.
MAX_ANNOTATIONS = 1000


@transaction.atomic
def annotation_add(
    *, actor: Any, record: Record, t0_s: float, text: str, t1_s: float | None = None, lead: str | None = None
) -> RecordAnnotation:
    """Mark a point (``t1_s`` None) or a span, in seconds from the record's start, in one lead or (None) in all.

    InvalidInput names each field that does not fit the record.
    """
    text, lead = text.strip(), lead or None
    problems = _time_problems(record, t0_s, t1_s)
    if lead is not None and lead not in record.leads:
        problems["lead"] = f"The record has the leads {', '.join(record.leads)}."
    if not text:
        problems["text"] = "Say what is to be seen there."
    elif len(text) > MAX_TEXT:
        problems["text"] = f"At most {MAX_TEXT} characters; these are {len(text)}."
    elif any(not ch.isprintable() and ch not in "\r\n\t" for ch in text):
        problems["text"] = "The text has characters that cannot be shown."
    if problems:
        raise InvalidInput("The annotation cannot be saved like this.", fields=problems)
    if RecordAnnotation.objects.filter(record=record).count() >= MAX_ANNOTATIONS:
        raise Conflict(
            f"{record.key} has {MAX_ANNOTATIONS} annotations already. Delete some first.", code="too_many_annotations"
        )
    row = RecordAnnotation.objects.create(record=record, author=actor, t0_s=t0_s, t1_s=t1_s, lead=lead, text=text)
    audit("record.annotated", record, actor=actor, project=record.dataset.project, changes=_where(row))
    return row


@transaction.atomic
def annotation_delete(*, actor: Any, annotation: RecordAnnotation) -> None:
    """Delete an annotation. NotAllowed unless the actor wrote it or owns the project."""
    record = annotation.record
    _require_author_or_owner(actor, record, annotation.author_id, "annotation")
    changes = _where(annotation)
    annotation.delete()
    audit("record.annotation_deleted", record, actor=actor, project=record.dataset.project, changes=changes)


@transaction.atomic
def label_add(*, actor: Any, record: Record, system: str, code: str) -> RecordLabel:
    """Set a label by hand. Conflict when the record bears it by hand already."""
    code = code.strip()
    problems = {}
    if system not in SYSTEMS:
        problems["system"] = f"Choose one of {', '.join(SYSTEMS)}."
    if not code:
        problems["code"] = "Give a code."
    elif len(code) > MAX_CODE or not code.isprintable():
        problems["code"] = f"At most {MAX_CODE} characters in one line."
    if problems:
        raise InvalidInput("The label cannot be set like this.", fields=problems)
    try:
        with transaction.atomic():
            row = RecordLabel.objects.create(
                record=record, system=system, code=code, source=LabelSource.USER, author=actor
            )
    except IntegrityError as error:
        raise Conflict(
            f"{record.key} bears the label {code} by hand already.",
            code="label_exists",
            fields={"code": "Set already."},
        ) from error
    changes = {"labels": 1, "system": system}
    audit("record.labelled", record, actor=actor, project=record.dataset.project, changes=changes)
    return row


@transaction.atomic
def label_delete(*, actor: Any, label: RecordLabel) -> None:
    """Remove a label that was set by hand. Conflict for one that a file or a table states; NotAllowed for another's."""
    record = label.record
    if label.source != LabelSource.USER:
        raise Conflict(
            f"The label {label.code} is {label.get_source_display()}; only labels set by hand can be removed.",
            code="label_of_source",
        )
    _require_author_or_owner(actor, record, label.author_id, "label")
    changes = {"labels": -1, "system": label.system}
    label.delete()
    audit("record.label_removed", record, actor=actor, project=record.dataset.project, changes=changes)


def may_remove(role: str | None, actor: Any, author_id: Any) -> bool:
    """Tell whether somebody may remove what ``author_id`` set."""
    return role == Role.OWNER or (role == Role.EDITOR and author_id is not None and author_id == actor.pk)


def _require_author_or_owner(actor: Any, record: Record, author_id: Any, noun: str) -> None:
    project = record.dataset.project
    if not may_remove(access.role_in(actor, project), actor, author_id):
        raise NotAllowed(
            f"Only who set this {noun}, or an owner of {project.name}, may delete it.", code="author_or_owner_needed"
        )


def _time_problems(record: Record, t0_s: float, t1_s: float | None) -> dict[str, str]:
    problems, last = {}, record.duration_s
    if not (math.isfinite(t0_s) and 0 <= t0_s <= last):
        problems["t0_s"] = f"Give a time from 0 to {last:g} s."
    if t1_s is not None:
        if not (math.isfinite(t1_s) and t1_s <= last):
            problems["t1_s"] = f"The record ends at {last:g} s."
        elif t1_s <= t0_s:
            problems["t1_s"] = "The end comes after the beginning. Leave it empty for a single point."
    return problems


def _where(row: RecordAnnotation) -> dict[str, Any]:
    """Return the place of an annotation for the trail; its text may speak of a person and stays out."""
    return {"t0_s": row.t0_s, "t1_s": row.t1_s, "lead": row.lead}
