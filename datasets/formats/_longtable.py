"""Tables with one sample a row and the lead's name in a column of its own, as data frames are melted."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from datasets.ecg import canonical_lead
from datasets.formats._clinical import check_size, millivolts_per
from datasets.formats._textcells import TIME_UNITS, cells_of, split_unit
from ecgportal.errors import UnreadableFile

_LEAD = re.compile(r"(lead|channel|signal)(?:[\s_]*name)?|variable|ableitung|derivation|导联|誘導", re.IGNORECASE)
_VALUE = re.compile(
    r"(values?|amplitudes?|voltages?|samples?[\s_]*values?|signal|ecg|potential|wert|spannung|y)$", re.IGNORECASE
)
_MOMENT = re.compile(
    r"(time|times?[\s_]*stamp|t|zeit|temps|sample|samples?[\s_]*(no|number|index)|index|n)$", re.IGNORECASE
)
_DELIMITERS = (",", ";", "\t", "|")


def _columns(lines: Sequence[str]) -> tuple[str, int, int, int | None] | None:
    """Return (delimiter, column of leads, of values, of times or None) when a table has one sample a row; else None."""
    rows = [line for line in lines[:12] if line.strip()]
    if len(rows) < 3:
        return None
    for delimiter in (d for d in _DELIMITERS if d in rows[0]):
        try:
            header, *cells = [[cell.strip() for cell in cells_of(row, delimiter)] for row in rows[:4]]
        except csv.Error:
            return None
        if not 2 <= len(header) <= 4 or any(len(row) != len(header) for row in cells):
            continue
        titles = [split_unit(cell) for cell in header]
        lead = next((at for at, (title, _) in enumerate(titles) if _LEAD.fullmatch(title)), None)
        if lead is None or any(canonical_lead(row[lead]) is None for row in cells):
            continue
        value = next(
            (
                at
                for at, (title, unit) in enumerate(titles)
                if at != lead and (_VALUE.match(title) or millivolts_per(unit or title) is not None)
            ),
            None,
        )
        moment = next(
            (at for at, (title, _) in enumerate(titles) if at not in (lead, value) and _MOMENT.match(title)), None
        )
        if value is not None:
            return delimiter, lead, value, moment
    return None


def is_long_table(lines: Sequence[str]) -> bool:
    """Tell whether every row of a table is one sample of one lead, which stands in it by name."""
    return _columns(lines) is not None


def widened(name: str, lines: Sequence[str]) -> list[str]:
    """Return the lines of the same table with one column a lead, its times first.

    UnreadableFile where the leads do not share their times or lengths.
    """
    found = _columns(lines)
    assert found is not None
    delimiter, lead, value, moment = found
    lines = [line for line in lines if line.strip()]
    header = [cell.strip() for cell in cells_of(lines[0], delimiter)]
    values: dict[str, list[str]] = {}
    times: dict[str, list[str]] = {}
    check_size(name, 1, len(lines))
    for number, line in enumerate(lines[1:], start=2):
        row = cells_of(line, delimiter)
        if len(row) != len(header):
            raise UnreadableFile(
                f"{name} has {len(row)} values in line {number}, but {len(header)} in the first.", code="ragged_table"
            )
        values.setdefault(row[lead].strip(), []).append(row[value])
        times.setdefault(row[lead].strip(), []).append(row[moment] if moment is not None else "")
    first, *others = values
    for other in others:
        if len(values[other]) != len(values[first]) or times[other] != times[first]:
            raise UnreadableFile(
                f"{name} has one sample a row, but {other} and {first} are not at the same moments "
                f"({len(values[other])} and {len(values[first])} samples). Export one column a lead.",
                code="bad_shape",
            )
    title, unit = split_unit(header[value])
    unit = unit or (title if millivolts_per(title) is not None else None)
    names = [f"{key} ({unit})" if unit else key for key in values]
    clock = [] if moment is None else [_clock_title(header[moment])]
    columns = ([times[first]] if moment is not None else []) + list(values.values())
    return [delimiter.join([*clock, *names]), *map(delimiter.join, zip(*columns, strict=True))]


def _clock_title(title: str) -> str:
    bare, unit = split_unit(title)
    return f"{bare} ({unit})" if unit and unit.lower() in TIME_UNITS else bare
