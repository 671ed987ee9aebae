"""Cells of a table in a text file: where they are cut, and which are numbers, times of day, or names with a unit."""

from __future__ import annotations

import csv
import re
import unicodedata

from datasets.ecg import canonical_lead

GAPS = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "-"))
TIME_UNITS = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "sekunden": 1.0, "ms": 1e-3, "msec": 1e-3,
    "milliseconds": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6,
    "ns": 1e-9, "秒": 1.0, "毫秒": 1e-3, "ミリ秒": 1e-3, "微秒": 1e-6, "초": 1.0, "밀리초": 1e-3, "с": 1.0, "сек": 1.0, "мс": 1e-3,
}  # fmt: skip
_VOLTAGE = r"nv|uv|µv|μv|mv|volts?|millivolts?|microvolts?"
_UNIT = re.compile(
    r"^(.*?)[\s_]*[\(\[]\s*([^\)\]]+?)\s*[\)\]]\s*$"
    rf"|^(.*?)[\s_\-/,]+(?:in\s+)?({_VOLTAGE}|s|ms|us|ns|sec)$",
    re.IGNORECASE,
)
# A time of day or an elapsed time: hours, minutes and seconds with a fraction, or minutes and seconds.
CLOCK = re.compile(r"(?<![\d:.])(\d{1,3}):(\d{2})(?::(\d{2}))?([.,]\d{1,9}|:\d{3})?(?![\d:])")
_MOMENT = re.compile(r"[\w:./,+\-\[\]() ]{4,40}")
_LETTERS = re.compile(r"(T|Z|UTC|GMT|AM|PM|[A-Z][a-z]{2,8})")


def cells_of(line: str, delimiter: str | None) -> list[str]:
    if delimiter is not None and '"' in line:
        return next(csv.reader([line], delimiter=delimiter), [])
    if delimiter is None and line.strip()[:1] == '"' == line.strip()[-1:]:
        return [line.strip().strip('"')]
    if "'" in line:
        return [cell.strip().strip("'") for cell in line.split(delimiter)]
    return line.split(delimiter)


def split_unit(column: str) -> tuple[str, str | None]:
    """Split ``I (uV)``, ``time [s]``, ``II_mV``, ``V1/mV`` or ``V2 in mV`` into name and unit."""
    column = (column if column.isascii() else unicodedata.normalize("NFKC", column)).strip().strip("'\"").strip()
    match = _UNIT.match(column)
    if match is None:
        return column, None
    name, unit = (match[1], match[2]) if match[2] else (match[3], match[4])
    if canonical_lead(column) == "-aVR" != canonical_lead(name):
        # "aVR (neg)" states no unit.
        return column, None
    return name.strip(), unit.strip()


def is_channel(name: str) -> bool:
    """Tell whether a column's name is that of a lead or of a numbered ECG channel."""
    if re.fullmatch(r"\d+", name):
        return False
    return (
        canonical_lead(name) is not None
        or re.fullmatch(r"(ch|chan|channel|ecg|ekg|lead|signal)[\s_\-]*\d*", name, re.IGNORECASE) is not None
    )


def is_number(cell: str, comma: bool) -> bool:
    text = cell.strip()
    if comma:
        text = text.replace(",", ".", 1)
    try:
        float(text)
    except ValueError:
        return text.lower() in GAPS
    return "_" not in text


def is_moment(cell: str) -> bool:
    """Tell whether a cell is a time of day or an elapsed time, with or without a date."""
    text = cell.strip()
    if not _MOMENT.fullmatch(text) or CLOCK.search(text) is None:
        return False
    return not any(part.isalpha() for part in _LETTERS.sub("", text))
