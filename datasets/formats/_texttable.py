"""Tables in text files: where the samples begin, how cells and decimals are written, and the numbers themselves.

What the columns mean is decided in :mod:`datasets.formats.csvtext`.
"""

from __future__ import annotations

import csv
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.ecg import canonical_lead
from datasets.formats._clinical import millivolts_per, number
from datasets.formats.base import HEAD_BYTES
from ecgportal.errors import UnreadableFile

_PREAMBLE_LINES = 100
_CHUNK_LINES = 4000
_DELIMITERS = (",", ";", "\t", "|", None)
_GAPS = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "-"))
TIME_UNITS = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "sekunden": 1.0, "ms": 1e-3, "msec": 1e-3,
    "milliseconds": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6,
    "ns": 1e-9, "秒": 1.0, "毫秒": 1e-3, "ミリ秒": 1e-3, "微秒": 1e-6, "초": 1.0, "밀리초": 1e-3, "с": 1.0, "сек": 1.0, "мс": 1e-3,
}  # fmt: skip
# Encodings of one or two bytes that a table may be saved in, with words that only stand in one that is read right.
_OLD_ENCODINGS = (
    ("gb18030", "导联|時間|时间|毫伏|微伏|毫秒|心电|[ⅠⅡⅢ]"), ("cp932", "誘導|時間|時刻|心電|ミリ秒|電圧|[ⅠⅡⅢ]"), ("big5", "導程|導聯|時間|心電|毫伏|微伏|毫秒"),
    ("euc_jp", "誘導|時間|時刻|心電|ミリ秒|電圧"), ("cp949", "유도|시간|심전|전압"), ("cp1251", "(?i:отведени|время|частота|экг)"),
    ("koi8_r", "(?i:отведени|время|частота|экг)"),
)  # fmt: skip
_VOLTAGE = r"nv|uv|µv|μv|mv|volts?|millivolts?|microvolts?"
_UNIT = re.compile(
    r"^(.*?)[\s_]*[\(\[]\s*([^\)\]]+?)\s*[\)\]]\s*$"
    rf"|^(.*?)[\s_\-/,]+(?:in\s+)?({_VOLTAGE}|s|ms|us|ns|sec)$",
    re.IGNORECASE,
)
# A time of day or an elapsed time: hours, minutes and seconds with a fraction, or minutes and seconds.
_CLOCK = re.compile(r"(?<![\d:.])(\d{1,3}):(\d{2})(?::(\d{2}))?([.,]\d{1,9}|:\d{3})?(?![\d:])")
_MOMENT = re.compile(r"[\w:./,+\-\[\]() ]{4,40}")
_LETTERS = re.compile(r"(T|Z|UTC|GMT|AM|PM|[A-Z][a-z]{2,8})")
_HALF = re.compile(r"\b([AaPp])[Mm]\b")
_CLOCK_FORM = re.compile(r"[hmsfdy.:/\- ]*(hh?:mm|mm?:ss)[hmsfdy.:/\- ]*", re.IGNORECASE)
_DAY_S = 86_400.0

# The Japanese word for a lead in EUC-JP happens to be UTF-8, too.
_EUC_LEAD = "誘導".encode("euc_jp").decode("utf-8")


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


@dataclass(frozen=True)
class Table:
    """The numbers of a table, float64 ``(rows, columns)``, empty cells NaN; ``names`` of the rows where they have some.

    is_coarse: the times of day have no fractions, so that several rows share one.
    """

    values: np.ndarray
    names: tuple[str, ...] = ()
    is_coarse: bool = False


def decode(data: bytes, *, whole: bool = True) -> str | None:
    """Return the text of a file or, with ``whole`` False, of its beginning; None when it holds NUL bytes as no text does.

    UTF-8, UTF-16 with a byte order mark or with Latin letters, an East Asian or Cyrillic encoding that its words show, else
    Windows-1252.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data[: len(data) // 2 * 2].decode("utf-16", "replace")
    elif b"\x00" in data:
        order = _utf_16_order(data[:2000])
        if order is None:
            return None
        text = data[: len(data) // 2 * 2].decode(order, "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
            if _EUC_LEAD in text[:HEAD_BYTES]:
                text = data.decode("euc_jp", "replace")
        except UnicodeDecodeError as error:
            # A letter that the end of the beginning cuts in two is no reason to doubt the encoding.
            cut = not whole and error.start >= len(data) - 4
            text = data[: error.start].decode("utf-8-sig") if cut else data.decode(_old_encoding(data), "replace")
    return None if "\x00" in text else text


def _old_encoding(data: bytes) -> str:
    """Return the encoding of a text that is no UTF-8, by the words that it gives its first lines; else Windows-1252.

    Only the names of columns and what stands above a table are words, and it is them that a wrong encoding would spoil.
    """
    # Whole lines, so that no letter is cut in two.
    head = data[:HEAD_BYTES]
    head = head[: head.rfind(b"\n") + 1] or head
    for encoding, words in _OLD_ENCODINGS:
        try:
            text = head.decode(encoding)
        except UnicodeDecodeError:
            continue
        if re.search(words, text):
            return encoding
    return "cp1252"


def _utf_16_order(head: bytes) -> str | None:
    """Return the byte order of UTF-16 without a mark: digits, signs and Latin letters have a NUL for their other half."""
    even, odd = head[0::2], head[1::2]
    if not even.count(0) and odd.count(0) > 0.9 * len(odd):
        return "utf-16-le"
    if not odd.count(0) and even.count(0) > 0.9 * len(even):
        return "utf-16-be"
    return None


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


def _is_number(cell: str, comma: bool) -> bool:
    text = cell.strip()
    if comma:
        text = text.replace(",", ".", 1)
    try:
        float(text)
    except ValueError:
        return text.lower() in _GAPS
    return "_" not in text


def _is_moment(cell: str) -> bool:
    """Tell whether a cell is a time of day or an elapsed time, with or without a date."""
    text = cell.strip()
    if not _MOMENT.fullmatch(text) or _CLOCK.search(text) is None:
        return False
    return not any(part.isalpha() for part in _LETTERS.sub("", text))


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
            numbers = [all(_is_number(row[at], comma) for row in rows) for at in range(width)]
            leads = [at for at, name in enumerate(header) if canonical_lead(split_unit(name)[0]) is not None]
            if not leads or not all(numbers[at] for at in leads):
                continue
            odd = [at for at in range(width) if not numbers[at]]
            moment = next((at for at in odd if all(_is_moment(row[at]) for row in rows)), None)
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
    return sum(not _is_number(cell, comma) for cell in cells[:4]) < 2


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
    odd = {at for row in rows for at, cell in enumerate(row) if not _is_number(cell, comma)}
    if odd and (len(odd) > 1 or named or width < 2 or not all(_is_moment(row[min(odd)]) for row in rows)):
        return None
    plain = [cell for row in rows for at, cell in enumerate(row) if at not in odd]
    if all(cell.strip().lower() in _GAPS for cell in rows[0]) or (comma and not any("," in cell for cell in plain)):
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


def read_table(name: str, lines: Sequence[str], layout: Layout) -> Table:
    """Return the numbers below the header. UnreadableFile names the line that is none, or shorter than the others."""
    names: list[str] = []
    clock = _Clock()
    parts = list(_chunks(name, lines, layout, names, clock))
    values = np.concatenate(parts) if parts else np.empty((0, layout.width))
    if np.isinf(values).any():
        raise UnreadableFile(f"{name} holds infinite values. The file is damaged.", code="not_a_number")
    return Table(values, tuple(names), layout.moment is not None and not clock.has_fractions)


def _chunks(name: str, lines: Sequence[str], layout: Layout, names: list[str], clock: _Clock) -> Iterator[np.ndarray]:
    size = max(1, min(_CHUNK_LINES, 2_000_000 // layout.width))
    for first in range(layout.start, len(lines), size):
        cells: list[str] = []
        for offset, line in enumerate(lines[first : first + size]):
            if line.strip():
                row = cells_of(line, layout.delimiter)
                if layout.named:
                    names.append(row[0].strip())
                    row = row[1:]
                if len(row) != layout.width:
                    raise _ragged(name, len(row), first + offset, len(lines), layout)
                for text in layout.texts:
                    row[text] = "nan"
                if layout.moment is not None:
                    row[layout.moment] = clock.seconds(name, row[layout.moment], first + offset)
                cells += row
        if not cells:
            continue
        if layout.comma:
            if any("." in cell and "," not in cell for cell in _without(cells, layout)) and any(
                "," in c for c in cells
            ):
                raise UnreadableFile(
                    f"{name} writes decimals with commas and with points (near line {first + 1}). Export it with one of them.",
                    code="mixed_decimals",
                )
            cells = [cell.replace(",", ".") for cell in cells]
        yield _floats(name, cells, first, layout).reshape(-1, layout.width)


def _without(cells: list[str], layout: Layout) -> Iterator[str]:
    """Yield the cells that were written as numbers in the file."""
    return (cell for at, cell in enumerate(cells) if at % layout.width != layout.moment)


def _ragged(name: str, count: int, line: int, total: int, layout: Layout) -> UnreadableFile:
    if count < layout.width and line == total - 1:
        return UnreadableFile(
            f"{name} ends in the middle of line {line + 1}. The upload was cut short; upload it again.",
            code="truncated",
        )
    return UnreadableFile(
        f"{name} has {count} values in line {line + 1}, but {layout.width} in the lines before.", code="ragged_table"
    )


class _Clock:
    """Times of day as seconds from the first one's midnight on; a time before the last one lies on the next day."""

    def __init__(self) -> None:
        self.has_fractions = False
        self._last = 0.0
        self._days = 0

    def seconds(self, name: str, cell: str, line: int) -> str:
        found = _CLOCK.search(cell)
        if found is None:
            raise UnreadableFile(
                f"{name} holds {cell.strip()[:40]!r} in line {line + 1}, where a time of day is due.", code="bad_time"
            )
        whole, second, third, fraction = found.groups()
        at: float = 3600 * int(whole) + 60 * int(second) + int(third) if third else 60 * int(whole) + int(second)
        if fraction:
            self.has_fractions = True
            at += float("0." + fraction[1:])
        if half := _HALF.search(cell):
            at += _DAY_S / 2 * ((half[1] in "Pp") - (int(whole) == 12))
        # Only midnight takes a clock back by nearly a day; anything else is an error of its own.
        if at < self._last - _DAY_S / 2:
            self._days += 1
        self._last = at
        return repr(at + self._days * _DAY_S)


def _floats(name: str, cells: list[str], first: int, layout: Layout) -> np.ndarray:
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
