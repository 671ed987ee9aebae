"""Patient data (section 1) and global measurements (section 7) of SCP-ECG."""

from __future__ import annotations

import struct
from datetime import datetime

from datasets.ecg import RecordMeta
from datasets.formats._clinical import age_between, left_out_note, person_words, statement_labels

_AGE_YEARS = {1: 1.0, 2: 1 / 12, 3: 7 / 365.25, 4: 1 / 365.25, 5: 1 / 8766}
_SEX = {1: "male", 2: "female"}
# Marks of a value that was not measured, rejected or not computed.
_NOT_MEASURED = (29999, 29998, 19999, 999)


def _tags(data: bytes) -> dict[int, bytes]:
    """Return the first value of every tag of section 1."""
    tags: dict[int, bytes] = {}
    at = 0
    while at + 3 <= len(data) and data[at] != 255:
        (length,) = struct.unpack_from("<H", data, at + 1)
        tags.setdefault(data[at], data[at + 3 : at + 3 + length])
        at += 3 + length
    return tags


def _date(value: bytes, clock: bytes = b"") -> datetime | None:
    if len(value) < 4:
        return None
    year, month, day = struct.unpack_from("<HBB", value)
    hour, minute, second = tuple(clock[:3]) if len(clock) >= 3 else (0, 0, 0)
    try:
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def _text(value: bytes) -> str | None:
    text = value.split(b"\x00")[0].decode("latin-1").strip()
    return text if text and text.isprintable() else None


# Names, identifiers, places and people of section 1.
_IDENTIFYING = frozenset((0, 1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 23, 31))


def identifying_texts(data: bytes) -> list[str]:
    """Return the texts of a file's identifying fields; none where section 1 cannot be found."""
    for at in range(22, min(22 + 10 * 40, len(data) - 9), 10):
        number, size, index = struct.unpack_from("<HII", data, at)
        if number == 1 and size > 16:
            tags = _tags(data[index - 1 + 16 : index - 1 + size])
            return [text for tag in _IDENTIFYING if (text := _text(tags.get(tag, b"")))]
    return []


def _printed(data: bytes) -> dict[str, float]:
    """Return the measurements of the first reference beat and the mean RR and PP."""
    printed: dict[str, float] = {}
    if len(data) < 6:
        return printed
    rr, pp = struct.unpack_from("<HH", data, 2)
    for key, value in (("rr_ms", rr), ("pp_ms", pp)):
        if 0 < value < 10_000 and value not in _NOT_MEASURED[:3]:
            printed[key] = float(value)
    if data[0] == 0 or len(data) < 22:
        return printed
    p_on, p_off, qrs_on, qrs_off, t_off, p_axis, qrs_axis, t_axis = struct.unpack_from("<5H3h", data, 6)
    for key, begin, end in (
        ("p_ms", p_on, p_off),
        ("pr_ms", p_on, qrs_on),
        ("qrs_ms", qrs_on, qrs_off),
        ("qt_ms", qrs_on, t_off),
    ):
        if begin not in _NOT_MEASURED[:3] and end not in _NOT_MEASURED[:3] and 0 < end - begin < 5000:
            printed[key] = float(end - begin)
    for key, angle in (("p_axis_deg", p_axis), ("qrs_axis_deg", qrs_axis), ("t_axis_deg", t_axis)):
        if -360 <= angle <= 360:
            printed[key] = float(angle)
    printed |= _rates(data)
    return printed


def _rates(data: bytes) -> dict[str, float]:
    """Return the rates and QTc that follow the beats (16 bytes each), the pacing spikes and the QRS types."""
    at = 6 + 16 * data[0] + 10 * data[1]
    if len(data) < at + 2:
        return {}
    at += 2 + struct.unpack_from("<H", data, at)[0]
    if len(data) < at + 6:
        return {}
    values = zip(("heart_rate_bpm", "atrial_rate_bpm", "qtc_ms"), struct.unpack_from("<3H", data, at), strict=True)
    return {key: float(value) for key, value in values if 0 < value < 2000 and value not in _NOT_MEASURED}


# Whether it was confirmed, date and time, the number of statements; each has a number, a length and its text.
_STATEMENTS_HEAD = 9


def _statements(data: bytes) -> list[str]:
    """Return the device's statements of section 8 as they stand."""
    found: list[str] = []
    at = _STATEMENTS_HEAD
    for _ in range(data[_STATEMENTS_HEAD - 1] if len(data) >= _STATEMENTS_HEAD else 0):
        if at + 3 > len(data):
            break
        (length,) = struct.unpack_from("<H", data, at + 1)
        found.append(_text(data[at + 3 : at + 3 + length]) or "")
        at += 3 + length
    return found


def read_meta(patient: bytes, measurements: bytes, statements: bytes, notes: list[str]) -> RecordMeta:
    """Return the meta data of sections 1, 7 and 8 (data parts); names and addresses are passed over."""
    tags = _tags(patient)
    labels, left_out = statement_labels(
        _statements(statements), person_words(_text(tags.get(tag, b"")) for tag in _IDENTIFYING)
    )
    at = _date(tags.get(25, b""), tags.get(26, b""))
    age = None
    if len(tags.get(4, b"")) >= 3:
        value, unit = struct.unpack_from("<HB", tags[4])
        age = value * _AGE_YEARS[unit] if unit in _AGE_YEARS else None
    sex = tags.get(8, b"")
    # Tag 14: six numbers of one and two bytes, then six characters that name the model.
    model = _text(tags.get(14, b"")[8:14])
    return RecordMeta(
        subject=_text(tags.get(2, b"")),
        age=age if age is not None else age_between(_date(tags.get(5, b"")), at),
        sex=_SEX.get(sex[0]) if sex else None,
        labels=labels,
        printed=_printed(measurements),
        device=model,
        recorded_at=at.isoformat() if at else None,
        notes=(*notes, *left_out_note(left_out)),
    )
