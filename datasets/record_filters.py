"""By what records can be narrowed: one list for the page's form, REST, and the selection of a training run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from datasets.ecg import LEADS_12
from datasets.measure.features import FEATURES
from datasets.quality import LEAD_FLAGS, RECORD_FLAGS
from ecgportal.errors import InvalidInput

ANY_FLAG, NO_FLAG = "any", "none"
_FLAG = re.compile(rf"((lead|{'|'.join(LEADS_12)}):)?[a-z_]{{3,40}}")
LACKING = ("labels", "age", "sex", "subject", "site", "device", "time")


class BadFilter(InvalidInput):
    """A filter of a list has a value that cannot be used."""

    code, status = "bad_filter", 400


@dataclass(frozen=True)
class RecordFilter:
    """One filter. kind: ``text``, ``number`` or ``time``. lookup: how a number or time is compared in the database; empty
    where the text has a meaning of its own."""

    name: str
    kind: str
    title: str
    about: str
    lookup: str = ""


def _made() -> dict[str, RecordFilter]:
    found = [
        RecordFilter("search", "text", "Record or subject", "part of the record's key or of the subject's pseudonym"),
        RecordFilter("label", "text", "Label", "a code that a label states"),
        RecordFilter("format", "text", "Format", "the format of the file, such as wfdb", "format"),
        RecordFilter("sex", "text", "Sex", "F or M", "sex"),
        RecordFilter("subject", "text", "Subject", "the subject's pseudonym, whole", "subject__key"),
        RecordFilter(
            "quality", "text", "Quality",
            f"a flag of the record ({', '.join(RECORD_FLAGS)}); lead:<flag> for one that some lead bears ({', '.join(LEAD_FLAGS)}); "
            f"V1:<flag> for this lead; {ANY_FLAG} or {NO_FLAG} for records with any or no flag; several, separated by commas, all hold",
        ),
        RecordFilter(
            "missing", "text", "Missing",
            f"what is lacking: {', '.join(LACKING)}, or lead:V1 for a lead that was neither recorded nor computed; several, "
            "separated by commas, are all lacking",
        ),
        RecordFilter("site", "text", "Hospital", "the hospital or source, whole", "site"),
        RecordFilter("device", "text", "Device", "the device as the file names it, whole", "meta__device"),
        RecordFilter("fold", "number", "Fold", "the fold that the source gives", "fold"),
        RecordFilter("fs_hz", "number", "Rate (Hz)", "the file's sampling rate in hertz", "fs_hz"),
    ]  # fmt: skip
    for name, title, unit, field in (
        ("age", "Age", "years", "age"), ("duration", "Length", "s", "seconds"), ("quality", "Quality", "0 to 1", "quality_score"),
    ):  # fmt: skip
        found += _range(name, title, unit, field)
    for feature in FEATURES.values():
        found += _range(feature.name, feature.title, feature.unit, f"features__{feature.name}")
    at = "as YYYY-MM-DD or YYYY-MM-DDThh:mm:ss; in a project that keeps no identifiers, of the shifted time"
    found += [
        RecordFilter("recorded_from", "time", "Recorded from", f"recorded at or after this, {at}", "recorded_at__gte"),
        RecordFilter("recorded_to", "time", "Recorded to", f"recorded at or before this (a day counts whole), {at}", "recorded_at__lte"),
    ]  # fmt: skip
    return {each.name: each for each in found}


def _range(name: str, title: str, unit: str, field: str) -> list[RecordFilter]:
    return [
        RecordFilter(f"{name}_{end}", "number", f"{title} {word} ({unit})", f"{title.lower()} {about} ({unit})", f"{field}__{lookup}")
        for end, word, about, lookup in (("min", "from", "at least", "gte"), ("max", "to", "at most", "lte"))
    ]  # fmt: skip


FILTERS: dict[str, RecordFilter] = _made()


def asked(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters that ``params`` names with their values read; others and empty ones are left out.

    BadFilter names every filter whose value cannot be used.
    """
    found: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, entry in FILTERS.items():
        value = params.get(name)
        if value in (None, ""):
            continue
        try:
            found[name] = _READ[entry.kind](name, value)
        except ValueError as error:
            problems[name] = str(error)
    if problems:
        raise BadFilter(f"The records cannot be filtered like this: {' '.join(problems.values())}", fields=problems)
    return found


def _text(name: str, value: Any) -> Any:
    text = str(value).strip()
    if "\x00" in text or len(text) > 400:
        raise ValueError(f"{name} must be a text of at most 400 characters without NUL.")
    if name == "sex" and text not in ("F", "M"):
        raise ValueError(f"Sex is F or M, not {text[:20]!r}.")
    if name == "missing":
        parts = _parts(text)
        known = {*LACKING, *(f"lead:{lead}" for lead in LEADS_12)}
        if strange := [part for part in parts if part not in known]:
            raise ValueError(
                f"{strange[0][:40]!r} is nothing that can be missing; give {', '.join(LACKING)} or lead:V1."
            )
        return parts
    if name == "quality":
        parts = _parts(text)
        for part in parts:
            # Records may bear flags that an older version gave.
            if _FLAG.fullmatch(part) is None:
                known = ", ".join((*RECORD_FLAGS, ANY_FLAG, NO_FLAG, *(f"lead:{flag}" for flag in LEAD_FLAGS)))
                raise ValueError(f"There is no quality flag {part[:40]!r}; there are {known}.")
        return parts
    return text


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < 1e15 or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, not {str(value)[:40]!r}.")
    return number


def _time(name: str, value: Any) -> datetime:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} must be a day or a time such as 1999-12-24T12:30:00, not {text[:40]!r}.") from None
    if len(text) <= 10 and name.endswith("_to"):
        found += timedelta(days=1) - timedelta(microseconds=1)
    return found.replace(tzinfo=UTC)


_READ = {"text": _text, "number": _number, "time": _time}


def usable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return those filters of ``params`` whose values can be used, as they were given."""
    found = {}
    for name in FILTERS:
        try:
            if asked({name: params.get(name)}):
                found[name] = params[name]
        except BadFilter:
            continue
    return found
