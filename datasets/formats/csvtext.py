"""ECGs in text tables: CSV, TSV and columns between blanks; with or without header, time column, units, preamble."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.ecg import Record, canonical_lead
from datasets.formats._arrays import Told, record_of
from datasets.formats._clinical import check_size, lead_name, millivolts_per, number, stem
from datasets.formats.base import HEAD_BYTES, MAX_VALUES, Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile

MAX_COLUMNS = 1_000_000
MAX_TEXT_BYTES = 256 * 1024 * 1024
_PREAMBLE_LINES = 100
_CHUNK_LINES = 4000
_SUFFIXES = (".csv", ".tsv", ".txt", ".asc", ".tab")
_DELIMITERS = (",", ";", "\t", None)
_GAPS = frozenset(("", "nan", "na", "n/a", "null", "none", "-"))
_TIME = re.compile(r"(time|zeit|t|sec|secs|seconds?|msec|ms|milliseconds?|elapsed)\b", re.IGNORECASE)
_INDEX = re.compile(r"(|index|idx|sample|samples|sample_?(number|no|index)|n|#|unnamed.*)$", re.IGNORECASE)
_UNIT = re.compile(
    r"^(.*?)[\s_]*[\(\[]\s*([^\)\]]+?)\s*[\)\]]\s*$|^(.*?)[\s_\-]+(nv|uv|µv|μv|mv|volts?|millivolts?|microvolts?|s|ms|us|sec)$",
    re.IGNORECASE,
)
_RATE = re.compile(
    r"(sampl\w*[\s_]*(rate|freq\w*)|\bfs\b|\bsfreq\b|abtastrate|frequency)[^0-9]*?(\d+(?:[.,]\d+)?)", re.IGNORECASE
)
_GAIN = re.compile(
    r"(gain|resolution|adu|lsb|digits?)\D*?(digits?|adu|lsb|counts?|units?|bits?)\s*(/|per)\s*(mv|millivolts?|uv|microvolts?)\D*(\d+(?:[.,]\d+)?(?:e[+-]?\d+)?)",
    re.IGNORECASE,
)
_STEP = re.compile(
    r"(nv|uv|µv|μv|mv|microvolts?|millivolts?)\s*(/|per)\s*(bit|lsb|digit|count|adu)\D*(\d+(?:[.,]\d+)?(?:e[+-]?\d+)?)",
    re.IGNORECASE,
)
_UNIT_LINE = re.compile(r"\bunits?\b\W+(nv|uv|µv|μv|mv|v|volts?|microvolts?|millivolts?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Layout:
    """How a table is written. start: number of the first line with samples. header: its column names or None."""

    delimiter: str | None
    comma: bool
    start: int
    width: int
    header: tuple[str, ...] | None
    preamble: tuple[str, ...]


def _sniff(head: bytes, name: str) -> bool:
    text = _decode(head)
    if text is None or text.lstrip()[:1] in ("<", "{", "["):
        return False
    whole = len(head) < HEAD_BYTES
    lines = text.splitlines()
    if not whole and len(lines) > 1:
        lines.pop()
    layout = _layout(lines, one_row=not whole)
    if layout is None:
        return False
    has_suffix = name.lower().endswith(_SUFFIXES)
    if layout.header is None:
        # Numbers alone may be anything; the name has to say that they are a table.
        return has_suffix and (layout.width > 1 or len(lines) - layout.start > 2)
    names = [_split_unit(column)[0] for column in layout.header]
    known = sum(_is_channel(column) for column in names)
    others = sum(not (_is_channel(column) or _TIME.match(column) or _INDEX.match(column)) for column in names)
    return known > 0 and known >= others


def _is_channel(name: str) -> bool:
    if re.fullmatch(r"\d+", name):
        return False
    return (
        canonical_lead(name) is not None
        or re.fullmatch(r"(ch|chan|channel|ecg|ekg|lead|signal)[\s_\-]*\d*", name, re.IGNORECASE) is not None
    )


def _read(source: Source, options: ReadOptions) -> ReadResult:
    text = _decode(read_bytes(source, MAX_TEXT_BYTES))
    if text is None:
        raise UnreadableFile(
            f"{source.name} holds NUL bytes, as no text file does. Export it again as text.", code="not_text"
        )
    end = text.find("\n", 0, 1_000_000)
    columns = max(text.count(d, 0, len(text) if end < 0 else end) for d in (",", ";", "\t")) + 1
    if columns > MAX_COLUMNS or (end < 0 and text.count(",") > MAX_COLUMNS):
        raise TooLarge(
            f"{source.name} has {columns} columns in its first line; at most {MAX_COLUMNS} are read. One row should be one moment.",
            code="too_many_columns",
        )
    lines = text.splitlines()
    layout = _layout(lines, one_row=True)
    if layout is None:
        raise UnreadableFile(f"{source.name} holds no table of numbers.", code="not_an_ecg")
    check_size(source.name, layout.width, len(lines) - layout.start)
    table = _numbers(source.name, lines, layout)
    del lines
    return ReadResult(((stem(source.name), _record(source.name, table, layout, options)),))


def _decode(data: bytes) -> str | None:
    """Return the text, or None when it holds NUL bytes (UTF-16 with a byte order mark aside)."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data[: len(data) // 2 * 2].decode("utf-16", "replace")
    elif b"\x00" in data:
        return None
    else:
        text = data.decode("utf-8-sig", "replace")
    return None if "\x00" in text else text


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is not None and '"' in line:
        return next(csv.reader([line], delimiter=delimiter), [])
    return line.split(delimiter)


def _is_number(cell: str, comma: bool) -> bool:
    text = cell.strip()
    if comma:
        text = text.replace(",", ".", 1)
    try:
        float(text)
    except ValueError:
        return text.lower() in _GAPS
    return "_" not in text


def _layout(lines: Sequence[str], *, one_row: bool) -> _Layout | None:
    """Find where the samples begin and how cells and decimals are written; None when there is no table of numbers."""
    limit = min(len(lines), _PREAMBLE_LINES)
    for start in range(limit):
        if not lines[start].strip():
            continue
        for delimiter in _DELIMITERS:
            for comma in (False, True):
                if comma and delimiter == ",":
                    # Decimal commas in a comma-separated table stand between quotation marks.
                    if '"' not in lines[start]:
                        continue
                width = _numeric_width(lines, start, delimiter, comma, one_row)
                if width:
                    return _with_header(lines, start, width, delimiter, comma)
    return None


def _numeric_width(lines: Sequence[str], start: int, delimiter: str | None, comma: bool, one_row: bool) -> int:
    """Return the number of columns when a table of numbers begins at ``start``, else 0."""
    try:
        rows = [_cells(line, delimiter) for line in lines[start : start + 5] if line.strip()]
    except csv.Error:
        return 0
    if len(rows) < (1 if one_row and len(lines) - start <= 1 else 2):
        return 0
    width = len(rows[0])
    if (width < 2 and delimiter is not None) or any(len(row) != width for row in rows):
        return 0
    sample = [cell for row in rows for cell in (row if width <= 2000 else row[:2000])]
    if not all(_is_number(cell, comma) for cell in sample) or all(cell.strip().lower() in _GAPS for cell in rows[0]):
        return 0
    if comma and not any("," in cell for cell in sample):
        return 0
    return width


def _with_header(lines: Sequence[str], start: int, width: int, delimiter: str | None, comma: bool) -> _Layout:
    header = None
    before = start
    previous = next((i for i in range(start - 1, -1, -1) if lines[i].strip()), None)
    if previous is not None:
        cells = [cell.strip() for cell in _cells(lines[previous].lstrip("#% "), delimiter)]
        if len(cells) == width - 1 and delimiter is not None and lines[previous].startswith(delimiter):
            cells = ["", *cells]
        if len(cells) == width - 1 and delimiter is not None and not _cells(lines[start], delimiter)[-1].strip():
            # The rows end with a delimiter that opens no column.
            cells.append("")
        if len(cells) == width and (width > 1 or _is_channel(_split_unit(cells[0])[0])):
            header, before = tuple(cells), previous
    first = [cell.strip() for cell in _cells(lines[start], delimiter)]
    if header is None and width > 1 and first == [str(i) for i in range(width)] and len(lines) - start > 3:
        # A header that merely numbers the columns, as pandas writes it.
        start += 1
    return _Layout(
        delimiter, comma, start, width, header, tuple(line[:1000] for line in lines[:before] if line.strip())
    )


def _numbers(name: str, lines: Sequence[str], layout: _Layout) -> np.ndarray:
    """Return the table, float64 ``(rows, columns)``; empty cells are NaN."""
    parts = list(_chunks(name, lines, layout))
    table = np.concatenate(parts) if parts else np.empty((0, layout.width))
    if np.isinf(table).any():
        raise UnreadableFile(f"{name} holds infinite values. The file is damaged.", code="not_a_number")
    return table


def _chunks(name: str, lines: Sequence[str], layout: _Layout) -> Iterator[np.ndarray]:
    size = max(1, min(_CHUNK_LINES, 2_000_000 // layout.width))
    for first in range(layout.start, len(lines), size):
        chunk = lines[first : first + size]
        cells: list[str] = []
        for offset, line in enumerate(chunk):
            if not line.strip():
                continue
            row = _cells(line, layout.delimiter)
            if len(row) != layout.width:
                if len(row) < layout.width and first + offset == len(lines) - 1:
                    raise UnreadableFile(
                        f"{name} ends in the middle of line {first + offset + 1}. The upload was cut short; upload it again.",
                        code="truncated",
                    )
                raise UnreadableFile(
                    f"{name} has {len(row)} values in line {first + offset + 1}, but {layout.width} in the lines before.",
                    code="ragged_table",
                )
            cells += row
        if not cells:
            continue
        if layout.comma:
            if any("." in cell and "," not in cell for cell in cells) and any("," in cell for cell in cells):
                raise UnreadableFile(
                    f"{name} writes decimals with commas and with points (near line {first + 1}). Export it with one of them.",
                    code="mixed_decimals",
                )
            cells = [cell.replace(",", ".") for cell in cells]
        yield _floats(name, cells, first, layout).reshape(-1, layout.width)


def _floats(name: str, cells: list[str], first: int, layout: _Layout) -> np.ndarray:
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        pass
    values = np.empty(len(cells))
    for index, cell in enumerate(cells):
        text = cell.strip()
        try:
            values[index] = math.nan if text.lower() in _GAPS else float(text)
        except ValueError:
            line, column = first + index // layout.width + 1, index % layout.width + 1
            raise UnreadableFile(
                f"{name} holds {text[:40]!r} where a number is due (about line {line}, column {column}).",
                code="not_a_number",
            ) from None
    return values


def _split_unit(column: str) -> tuple[str, str | None]:
    """Split ``I (uV)``, ``time [s]`` or ``II_mV`` into name and unit."""
    match = _UNIT.match(column.strip())
    if match is None:
        return column.strip(), None
    name, unit = (match[1], match[2]) if match[2] else (match[3], match[4])
    return name.strip(), unit.strip()


def _record(name: str, table: np.ndarray, layout: _Layout, options: ReadOptions) -> Record:
    told, notes = _preamble(layout.preamble)
    dropped: list[str] = []
    if layout.header is None:
        if table.shape[1] > 1 and np.isnan(table[:, -1]).all():
            table = table[:, :-1]
        table, told = _without_counter(table, told)
        if table.shape[0] < table.shape[1]:
            table = table.T
        return _finished(record_of(name, table, told, options), notes, dropped)
    factors: list[float | None] = []
    leads: list[str] = []
    columns: list[int] = []
    for index, column in enumerate(layout.header):
        title, unit = _split_unit(column)
        if canonical_lead(title) is None and _TIME.match(title):
            if told.fs_hz is None and not any(canonical_lead(t) and _TIME.match(t) for t in (title,)):
                table, fs_hz, note = _timed(name, table, index, unit)
                told = replace(told, fs_hz=fs_hz)
                notes += note
            continue
        if canonical_lead(title) is None and _INDEX.match(title):
            continue
        factor = None if unit is None else millivolts_per(unit)
        if canonical_lead(title) is None and (not _is_channel(title) or (unit is not None and factor is None)):
            dropped.append(column)
            continue
        leads.append(lead_name(title))
        columns.append(index)
        factors.append(factor)
    if not columns:
        raise UnreadableFile(
            f"{name} has no column that is an ECG lead: {', '.join(layout.header[:20])}.", code="no_ecg_lead"
        )
    signal = table[:, columns]
    if all(factor is not None for factor in factors):
        signal = signal * np.array(factors, dtype=np.float64)
        told = replace(told, unit_mv=1.0)
    elif any(factor is not None for factor in factors) and told.unit_mv is None:
        raise NeedsAnswer(
            f"{name} gives the unit of some columns only.",
            fields={"unit": "Write the unit into the header of every column, as in I (uV)."},
        )
    return _finished(record_of(name, signal.T, replace(told, leads=tuple(leads)), options), notes, dropped)


def _finished(record: Record, notes: Sequence[str], dropped: Sequence[str]) -> Record:
    meta = replace(record.meta, notes=(*record.meta.notes, *notes), dropped_channels=tuple(dropped))
    return replace(record, meta=meta)


def _preamble(lines: Sequence[str]) -> tuple[Told, list[str]]:
    """Return what the lines above the table say: sampling rate, digits per millivolt, unit."""
    fs_hz, unit_mv = None, None
    for line in lines:
        rate = _RATE.search(line)
        if rate is not None and fs_hz is None:
            fs_hz = number(rate[3].replace(",", "."))
            if fs_hz is not None and re.search(r"\bkhz\b", line, re.IGNORECASE):
                fs_hz *= 1000
        gain, step, unit = _GAIN.search(line), _STEP.search(line), _UNIT_LINE.search(line)
        if unit_mv is not None:
            continue
        if gain is not None and (value := number(gain[5].replace(",", "."))):
            unit_mv = (millivolts_per(gain[4]) or 1.0) / value
        elif step is not None and (value := number(step[4].replace(",", "."))):
            unit_mv = (millivolts_per(step[1]) or 1.0) * value
        elif unit is not None:
            unit_mv = millivolts_per(unit[1])
    return Told(fs_hz if fs_hz and 1 <= fs_hz <= 100_000 else None, unit_mv), []


def _without_counter(table: np.ndarray, told: Told) -> tuple[np.ndarray, Told]:
    """Leave out an unnamed first column that merely counts the rows."""
    if table.shape[1] > 1 and table.shape[0] > 20:
        first = table[:, 0]
        if np.array_equal(first, np.arange(len(first)) + first[0]) and first[0] in (0, 1):
            return table[:, 1:], told
    return table, told


_TIME_UNITS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "µs": 1e-6}  # fmt: skip


def _timed(name: str, table: np.ndarray, index: int, unit: str | None) -> tuple[np.ndarray, float, list[str]]:
    """Return the table in even steps, and the sampling rate that the time column states; missing moments are NaN."""
    time = table[:, index]
    steps = np.diff(time)
    if len(time) < 3 or not np.isfinite(time).all() or not (steps > 0).all():
        raise UnreadableFile(f"{name}: its time column does not rise from row to row.", code="bad_time")
    step = float(np.median(steps))
    notes: list[str] = []
    if (steps < 1.5 * step).all():
        # Written times are rounded; over the whole length the rounding is smallest.
        step = float((time[-1] - time[0]) / (len(time) - 1))
    seconds = _TIME_UNITS.get((unit or "").lower())
    if seconds is None:
        fits = [factor for factor in (1.0, 1e-3, 1e-6) if 20 <= 1 / (step * factor) <= 20_000]
        if len(fits) != 1:
            raise NeedsAnswer(
                f"{name} does not say the unit of its time column.",
                fields={
                    "fs_hz": f"Name the unit in the header, as in time (s), or remove the column and give the rate; its step is {step:g}."
                },
            )
        seconds = fits[0]
        notes.append(
            f"The time column was taken in {dict(zip((1.0, 1e-3, 1e-6), ('seconds', 'milliseconds', 'microseconds')))[seconds]}: no other unit gives a sampling rate of an ECG."
        )
    fs_hz = 1 / (step * seconds)
    if abs(fs_hz - round(fs_hz)) < 2e-3 * fs_hz and round(fs_hz) > 0:
        fs_hz = float(round(fs_hz))
    if not 1 <= fs_hz <= 100_000:
        raise UnreadableFile(
            f"{name}: its time column means {fs_hz:g} Hz, which is no rate of an ECG.", code="bad_time"
        )
    place = np.rint((time - time[0]) * seconds * fs_hz).astype(np.int64)
    if (np.diff(place) < 1).any() or np.abs((time - time[0]) * seconds * fs_hz - place).max() > 0.3:
        raise UnreadableFile(
            f"{name}: the steps of its time column are uneven. Resample the ECG to one rate first.", code="bad_time"
        )
    if place[-1] + 1 > len(place):
        total = int(place[-1]) + 1
        if total * table.shape[1] > min(MAX_VALUES, 100 * table.size):
            raise TooLarge(f"{name}: the gaps in its time column are longer than any recording.")
        even = np.full((total, table.shape[1]), np.nan)
        even[place] = table
        notes.append(f"{total - len(place)} moments are missing in the time column and stand as gaps.")
        table = even
    return table, fs_hz, notes


reader(Reader(name="csv", title="CSV or TSV table", suffixes=_SUFFIXES, sniff=_sniff, read=_read))
