"""How a table in a text file is written: where the samples begin, how cells and decimals are written, and what heads them.

What the columns mean is decided in :mod:`datasets.formats.csvtext`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.ecg import canonical_lead
from datasets.formats._clinical import millivolts_per, number
from datasets.formats._textcells import GAPS, TIME_UNITS, cells_of, is_channel, is_moment, is_number, split_unit

_PREAMBLE_LINES = 100
_DELIMITERS = (",", ";", "\t", "|", None)
_CLOCK_FORM = re.compile(r"[hmsfdy.:/\- ]*(hh?:mm|mm?:ss)[hmsfdy.:/\- ]*", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    start: number of the first line with samples. width: columns, row names not counted. header: column names with
    the unit that a row of its own states, or None. preamble: the lines above. moment: the column that holds times of
    day. named: rows begin with the name of their lead. texts: columns of words, which are passed over.
    """

    delimiter: str | None
    comma: bool
    start: int
    width: int
    header: tuple[str, ...] | None
    preamble: tuple[str, ...]
    moment: int | None = None
    named: bool = False
    texts: tuple[int, ...] = ()


def find_layout(lines: Sequence[str], *, one_row: bool) -> Layout | None:
    """Find where the samples begin and how cells and decimals are written; None when there is no table of numbers."""
    for start in range(min(len(lines), _PREAMBLE_LINES)):
        if not lines[start].strip():
            continue
        for delimiter in _DELIMITERS:
            if delimiter is not None and delimiter not in lines[start]:
                continue
            if delimiter == "," and _is_one_column_of_decimal_commas(lines, start):
                continue
            for comma in (False, True):
                if comma and not any("," in line for line in lines[start : start + 5]):
                    continue
                # Decimal commas in a comma-separated table stand between quotation marks.
                if comma and delimiter == "," and '"' not in lines[start]:
                    continue
                found = _numeric_rows(lines, start, delimiter, comma, one_row)
                if found is not None:
                    return _with_header(lines, start, found, delimiter, comma)
    return _with_texts(lines)


def _with_texts(lines: Sequence[str]) -> Layout | None:
    """Find a table in which some columns hold words (labels of beats, a name), by a header that names a lead.

    The lead's own column holds numbers.
    """
    for start in range(1, min(len(lines), _PREAMBLE_LINES)):
        for delimiter in (d for d in _DELIMITERS if d is not None and d in lines[start]):
            try:
                rows = [cells_of(line, delimiter) for line in lines[start : start + 5] if line.strip()]
                width = len(rows[0]) if rows else 0
                header = _header_cells(lines, start - 1, start, width, delimiter)
            except csv.Error:
                continue
            if header is None or width < 2 or len(rows) < 2 or any(len(row) != width for row in rows):
                continue
            comma = delimiter != "," and any(re.fullmatch(r"\s*-?\d+,\d+\s*", cell) for cell in rows[0])
            numbers = [all(is_number(row[at], comma) for row in rows) for at in range(width)]
            leads = [at for at, name in enumerate(header) if canonical_lead(split_unit(name)[0]) is not None]
            if not leads or not all(numbers[at] for at in leads):
                continue
            odd = [at for at in range(width) if not numbers[at]]
            moment = next((at for at in odd if all(is_moment(row[at]) for row in rows)), None)
            texts = tuple(at for at in odd if at != moment)
            found = _with_header(lines, start, (width, moment, False), delimiter, comma)
            return replace(found, texts=texts) if found.header is not None and found.start == start else None
    return None


def _is_one_column_of_decimal_commas(lines: Sequence[str], start: int) -> bool:
    """Tell ``-12,043`` from two columns: whole numbers have no leading zeros, and lines above are cut at semicolons."""
    rows = [re.fullmatch(r"\s*[+-]?\d+,(\d+)\s*", line) for line in lines[start : start + 200] if line.strip()]
    if len(rows) < 2 or not all(rows):
        return False
    fractions = [row[1] for row in rows if row is not None]
    above = lines[max(0, start - 20) : start]
    return any(len(part) > 1 and part[0] == "0" for part in fractions) or any(";" in line for line in above)


def _may_be_row(cells: list[str], comma: bool) -> bool:
    """Tell quickly that a line is no row of samples: more than one of its first cells is no number."""
    return sum(not is_number(cell, comma) for cell in cells[:4]) < 2


def _numeric_rows(
    lines: Sequence[str], start: int, delimiter: str | None, comma: bool, one_row: bool
) -> tuple[int, int | None, bool] | None:
    """Return (width, column of times, rows are named) when a table of numbers begins at ``start``, else None."""
    try:
        if not _may_be_row(cells_of(lines[start], delimiter), comma):
            return None
        rows = [cells_of(line, delimiter) for line in lines[start : start + 5] if line.strip()]
    except csv.Error:
        return None
    if len(rows) < (1 if one_row and len(lines) - start <= 1 else 2):
        return None
    width = len(rows[0])
    if (width < 2 and delimiter is not None) or any(len(row) != width for row in rows):
        return None
    named = width > 2 and all(canonical_lead(split_unit(row[0])[0]) is not None for row in rows)
    if named:
        rows = [row[1:] for row in rows]
    rows = [row[:2000] for row in rows]
    odd = {at for row in rows for at, cell in enumerate(row) if not is_number(cell, comma)}
    if odd and (len(odd) > 1 or named or width < 2 or not all(is_moment(row[min(odd)]) for row in rows)):
        return None
    plain = [cell for row in rows for at, cell in enumerate(row) if at not in odd]
    if all(cell.strip().lower() in GAPS for cell in rows[0]) or (comma and not any("," in cell for cell in plain)):
        return None
    return width - named, min(odd, default=None), named


def _with_header(
    lines: Sequence[str], start: int, found: tuple[int, int | None, bool], delimiter: str | None, comma: bool
) -> Layout:
    width, moment, named = found
    header, before = None, start
    above = [i for i in range(start - 1, -1, -1) if lines[i].strip()][:2]
    names = [_header_cells(lines, i, start, width, delimiter) for i in above]
    if names and names[0] is not None and not named:
        if len(names) > 1 and names[1] is not None and _are_units(names[0]):
            header = tuple(_with_unit(title, unit) for title, unit in zip(names[1], names[0], strict=True))
            before = above[1]
        elif width > 1 or is_channel(split_unit(names[0][0])[0]):
            header, before = tuple(names[0]), above[0]
    first = [cell.strip() for cell in cells_of(lines[start], delimiter)]
    if not named and (listed := _listed_channels(lines[:start], width)) is not None:
        header, before = listed, start
        # AcqKnowledge counts each channel's samples in front of the first row.
        start += not first[0]
    elif header is None and not named:
        header = _described_columns(lines[:start], first)
    if (
        header is None
        and not named
        and width > 1
        and first in ([str(i) for i in range(width)], ["", *(str(i) for i in range(width - 1))])
        and len(lines) - start > 3
    ):
        # A header that merely numbers the columns, as pandas writes it.
        start += 1
    preamble = tuple(line[:1000] for line in lines[:before] if line.strip())
    return Layout(delimiter, comma, start, width, header, preamble, moment, named)


def _listed_channels(above: Sequence[str], width: int) -> tuple[str, ...] | None:
    """Return the columns that a text of LabChart (``ChannelTitle=``) or AcqKnowledge (a name and a unit a channel, after
    their number) lists above its table, the time first."""
    told = {line.split("\t")[0]: [cell.strip() for cell in line.split("\t")[1:]] for line in above if "=\t" in line}
    if titles := told.get("ChannelTitle="):
        units = told.get("UnitName=") or [cell.split()[-1] if cell else "" for cell in told.get("Range=", [])]
        units += [""] * (len(titles) - len(units))
        names = [_with_unit(title, "" if unit == "*" else unit) for title, unit in zip(titles, units, strict=False)]
        return ("time (s)", *names) if len(names) == width - 1 else None
    for at, line in enumerate(above):
        if (found := re.fullmatch(r"\s*(\d{1,2}) channels\s*", line)) and len(above) >= at + 2 + 2 * (
            n := int(found[1])
        ):
            names = [_with_unit(above[at + 1 + 2 * i].strip(), above[at + 2 + 2 * i].strip()) for i in range(n)]
            rest = _bare(re.split(r"[\t,;]", above[at + 1 + 2 * n])[0])
            clock = [f"time ({rest})" if rest.lower() in TIME_UNITS else rest]
            return next((tuple(c) for c in (clock + names, clock + names + [""], names) if len(c) == width), None)
    return None


def _described_columns(above: Sequence[str], first: Sequence[str]) -> tuple[str, ...] | None:
    """Return the columns that a line of JSON above the table lists (OpenSignals), under the names of their sensors."""
    for line in above:
        text = line.lstrip("# ").strip()
        if not text.startswith("{") or '"column"' not in text or len(text) > 100_000:
            continue
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            continue
        for device in content.values():
            told = device if isinstance(device, dict) else {}
            columns, labels, sensors = (told.get(key) for key in ("column", "label", "sensor"))
            if not isinstance(columns, list) or not 0 <= len(first) - len(columns) <= 1 or any(first[len(columns) :]):
                continue
            sensor_of = {}
            if isinstance(labels, list) and isinstance(sensors, list) and len(labels) == len(sensors):
                sensor_of = dict(zip(map(str, labels), map(str, sensors), strict=True))
            names = [sensor_of.get(str(column), str(column)) for column in columns]
            return tuple(names + [""] * (len(first) - len(columns)))
    return None


def _header_cells(lines: Sequence[str], at: int, start: int, width: int, delimiter: str | None) -> list[str] | None:
    """Return the cells of a line above the table when they can name its columns, else None."""
    if width == 1 and delimiter is None:
        return [lines[at].strip()]
    cells = [cell.strip() for cell in cells_of(lines[at].lstrip("#% "), delimiter)]
    if len(cells) == width - 1 and delimiter is not None and lines[at].startswith(delimiter):
        cells = ["", *cells]
    if len(cells) == width - 1 and delimiter is not None and not cells_of(lines[start], delimiter)[-1].strip():
        # The rows end with a delimiter that opens no column.
        cells.append("")
    elif len(cells) == width - 1 and _has_steps(lines, start, delimiter) and all(map(is_channel, map(_title, cells))):
        # The rows begin with their number or time, which the line of lead names does not mention.
        cells = ["", *cells]
    return cells if len(cells) == width else None


def _title(cell: str) -> str:
    return split_unit(cell)[0]


def _has_steps(lines: Sequence[str], start: int, delimiter: str | None) -> bool:
    """Tell whether the first cells of the rows rise in even steps, as no lead does."""
    firsts = [number(cells_of(line, delimiter)[0]) for line in lines[start : start + 12] if line.strip()]
    if len(firsts) < 3 or None in firsts:
        return False
    steps = np.diff(np.array(firsts, dtype=np.float64))
    return bool((steps > 0).all() and np.ptp(steps) <= 0.6 * steps.min())


def _bare(cell: str) -> str:
    return cell.strip().strip("'\"").strip().strip("()[]").strip()


def _are_units(cells: Sequence[str]) -> bool:
    """Tell whether a line of cells names the units of the columns above it."""
    bare = [_bare(cell) for cell in cells]
    known = [
        millivolts_per(cell) is not None or cell.lower() in TIME_UNITS or _CLOCK_FORM.fullmatch(cell) is not None
        for cell in bare
    ]
    return any(known) and sum(known) > 0.5 * sum(cell != "" for cell in bare)


def _with_unit(title: str, unit: str) -> str:
    bare = _bare(unit)
    name, own = split_unit(title)
    return title if own is not None or not bare or _CLOCK_FORM.fullmatch(bare) else f"{name} ({bare})"
