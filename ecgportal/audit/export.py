"""The audit trail as files: CSV for people, JSON for programs, FHIR R4 AuditEvent for archives of a hospital.

Each writer yields text, so that a long trail is never held whole.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.http import StreamingHttpResponse

from ecgportal.audit.models import AuditEvent
from ecgportal.audit.selectors import sentence
from ecgportal.errors import InvalidInput

MAX_ROWS = 200_000
_COLUMNS = (
    "sequence", "at", "actor_name", "actor_id", "actor_role", "action", "outcome", "object_type", "object_id", "object_label",
    "project_name", "project_id", "channel", "address", "correlation", "changes", "software", "hash",
)  # fmt: skip
# What a spreadsheet would take for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def _cells(event: AuditEvent) -> dict[str, str]:
    found = {name: getattr(event, name) for name in _COLUMNS}
    found["at"] = event.at.isoformat(timespec="microseconds")
    found["changes"] = json.dumps(event.changes, ensure_ascii=False, sort_keys=True)
    return {name: "" if value is None else str(value) for name, value in found.items()}


def as_csv(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Yield CSV lines; a cell that starts like a formula gets an apostrophe before it."""
    line = io.StringIO()
    writer = csv.writer(line)
    writer.writerow(_COLUMNS)
    for event in events:
        writer.writerow(["'" + cell if cell.startswith(_FORMULA) else cell for cell in _cells(event).values()])
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()


def as_json(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Yield a JSON list of the events with the columns of the CSV; ``changes`` is an object."""
    yield from _listed("[", "]", ({**_cells(event), "changes": event.changes} for event in events))


def as_fhir(events: Iterable[AuditEvent]) -> Iterator[str]:
    """Yield a FHIR R4 Bundle (type ``collection``) of AuditEvent resources (hl7.org/fhir/R4/auditevent.html)."""
    start = '{"resourceType":"Bundle","type":"collection","entry":['
    yield from _listed(start, "]}", ({"resource": fhir_resource(event)} for event in events))


def _listed(start: str, end: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield start
    for number, row in enumerate(rows):
        yield ("," if number else "") + json.dumps(row, ensure_ascii=False)
    yield end


_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
_OUTCOMES = {"success": "0", "failure": "4", "refused": "8"}
# By the verb's last word: what was done, as FHIR's action and as a step in the life of a record (ISO 21089).
_ACTIONS = {
    "C": ("originate", {"created", "added", "imported", "uploaded", "annotated", "copied", "pulled"}),
    "R": ("access", {"downloaded", "exported", "viewed", "published", "refused"}),
    "U": ("amend", {"changed", "set", "renamed", "moved", "archived", "accepted", "approved", "retired"}),
    "D": ("destroy", {"deleted", "removed"}),
}


def fhir_resource(event: AuditEvent) -> dict[str, Any]:
    """Return one event as a FHIR R4 AuditEvent."""
    verb = event.action.rpartition(".")[2]
    letter = next((letter for letter, (_, verbs) in _ACTIONS.items() if verb in verbs), "E")
    if event.action.startswith("session."):
        kind = {"system": _DCM, "code": "110114", "display": "User Authentication"}
    elif verb in ("downloaded", "exported"):
        kind = {"system": _DCM, "code": "110106", "display": "Export"}
    else:
        kind = {"system": _LIFECYCLE, "code": _ACTIONS[letter][0] if letter in _ACTIONS else "transform"}
    agent: dict[str, Any] = {
        "requestor": True,
        "who": {"display": event.actor_name or "unknown"},
        "altId": str(event.actor_id or ""),
        "role": [{"text": event.actor_role}] if event.actor_role else [],
        "network": {"address": event.address, "type": "2"} if event.address else {},
    }
    entity = {
        "what": {"identifier": {"value": event.object_id}} if event.object_id else {},
        "name": event.object_label,
        "type": {"system": "urn:ecg-portal:object", "code": event.object_type} if event.object_type else {},
        "detail": [{"type": name, "valueString": str(value)} for name, value in _details(event).items()],
    }
    return {
        "resourceType": "AuditEvent",
        "id": f"{event.sequence or event.pk}",
        "type": kind,
        "subtype": [{"system": "urn:ecg-portal:action", "code": event.action, "display": sentence(event)}],
        "action": letter,
        "recorded": event.at.isoformat(timespec="microseconds"),
        "outcome": _OUTCOMES[event.outcome],
        "agent": [_filled(agent)],
        "source": {"observer": {"display": f"ECG Portal {event.software}".strip()}},
        "entity": [_filled(entity)],
    }


def _details(event: AuditEvent) -> dict[str, Any]:
    changes = {name: json.dumps(value, ensure_ascii=False) for name, value in event.changes.items()}
    facts = {
        "channel": event.channel, "correlation": event.correlation, "hash": event.hash, "project": event.project_id or "",
    }  # fmt: skip
    return {name: value for name, value in {**changes, **facts}.items() if value != ""}


def _filled(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty: FHIR allows no empty elements."""
    return {name: value for name, value in content.items() if value not in ("", {}, [])}


_WRITERS: dict[str, tuple[Callable[[Iterable[AuditEvent]], Iterator[str]], str, str]] = {
    "csv": (as_csv, "text/csv; charset=utf-8", "csv"),
    "json": (as_json, "application/json; charset=utf-8", "json"),
    "fhir": (as_fhir, "application/fhir+json; charset=utf-8", "fhir.json"),
}
FORMATS = tuple(_WRITERS)


def response(events: Any, kind: str, name: str) -> StreamingHttpResponse:
    """Return the events (at most ``MAX_ROWS``, newest first) as a download; InvalidInput for an unknown format."""
    if kind not in _WRITERS:
        raise InvalidInput(f"There is no export format {kind!r}.", fields={"format": f"Choose {', '.join(FORMATS)}."})
    write, content_type, suffix = _WRITERS[kind]
    # Chosen now: the event of the export itself, written next, is not part of it.
    newest = events.order_by("-id").values_list("id", flat=True).first() or 0
    rows = events.filter(id__lte=newest).order_by("-id")[:MAX_ROWS].iterator(chunk_size=2000)
    return StreamingHttpResponse(
        write(rows),
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}.{suffix}"'},
    )
