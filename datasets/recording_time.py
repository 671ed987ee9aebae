"""When a record was made: read from what files and tables state, and moved away from the true date.

A time is the wall clock where the recording was made. Devices and tables name no zone as a rule; an offset that stands
there is left out, so that the time of day stays what the ward's clock showed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta

_FIRST_YEAR, _LAST_YEAR = 1900, 2300
# What programs write for "unknown": the starts of calendars of computers, and the start of an anonymous EDF+ file.
_UNKNOWN = frozenset(
    datetime.fromisoformat(text) for text in ("1900-01-01", "1970-01-01", "1980-01-01", "1985-01-01", "1904-01-01")
)
# Spreadsheet programs write 24.12.1999; day and month are told apart by the separator alone where both could be.
_DAY_FIRST = re.compile(r"(\d{1,2})([./])(\d{1,2})\2(\d{4})(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2}))?)?$")
_DIGITS = re.compile(r"(\d{4})(\d\d)(\d\d)(?:[ T]?(\d\d)(\d\d)(\d\d)?)?(?:\.\d+)?$")
_FEWEST_DAYS, _SPAN_DAYS = 400, 36_524


def parse(text: str | None) -> datetime | None:
    """Return a stated time as wall clock (marked UTC), to the second; None when it states none that can be used.

    Understood: ISO 8601 with or without time, ``YYYYMMDD`` and ``YYYYMMDDhhmmss``, ``24.12.1999 12:30``. With slashes the
    first number must be above 12 or the second one: 03/04/2020 could be two days.
    """
    found = _read((text or "").strip())
    if found is None:
        return None
    wall = found.replace(tzinfo=None, microsecond=0)
    if wall in _UNKNOWN or not _FIRST_YEAR <= wall.year <= _LAST_YEAR:
        return None
    return wall.replace(tzinfo=UTC)


def _read(text: str) -> datetime | None:
    try:
        if match := _DIGITS.fullmatch(text):
            year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
            return datetime(year, month, day, hour, minute, second)
        if match := _DAY_FIRST.fullmatch(text):
            first, mark, second, *rest = match.groups()
            day, month = int(first), int(second)
            if mark == "/" and day <= 12:
                if month <= 12 and day != month:
                    return None
                day, month = month, day
            year, hour, minute, seconds = (int(part or 0) for part in rest)
            return datetime(year, month, day, hour, minute, seconds)
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def text_of(time: datetime) -> str:
    """Return a time as ISO 8601 without a zone, to the second."""
    return time.replace(tzinfo=None).isoformat(timespec="seconds")


def _shift(key: bytes) -> timedelta:
    digest = hmac.new(key, b"dates", hashlib.sha256).digest()
    return timedelta(days=_FEWEST_DAYS + int.from_bytes(digest[:8], "big") % _SPAN_DAYS)


def shifted(time: datetime, key: bytes) -> datetime:
    """Return a time moved back by the secret number of whole days, one to about a hundred years, that ``key`` gives.

    Everything under one key moves alike: order, intervals and time of day stay; the date, weekday and season do not.
    """
    return time - _shift(key)


def apart(first: datetime, second: datetime) -> str:
    """Return how long after ``first`` (or before it) ``second`` is, in words."""
    gap = abs(second - first)
    if not gap:
        return "at the same time"
    number, unit = (gap.days, "day") if gap.days else (round(gap.total_seconds() / 60), "minute")
    if not gap.days and number >= 120:
        number, unit = round(number / 60), "hour"
    said = f"{number} {unit}{'' if number == 1 else 's'}" if number else "less than a minute"
    return f"{said} {'later' if second > first else 'earlier'}"
