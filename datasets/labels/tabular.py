"""Tables of text cells out of CSV, TSV, XLSX and JSON files, and cells that are safe to write back."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from typing import Any

from datasets.labels.cells import RECORD_NAMES, key_of
from ecgportal.errors import InvalidInput, TooLarge, UnreadableFile

MAX_BYTES = 512 * 1024 * 1024
MAX_ROWS = 2_000_000
MAX_COLUMNS = 4000
MAX_CELLS = 40_000_000
MAX_CELL_CHARS = 100_000
_MAX_SHEETS = 100
_DELIMITERS = (",", ";", "\t", "|")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class RawTable:
    """A table of text. ``rows`` are as long as ``columns``; ``ragged`` maps a row's index to its true number of cells; ``notes``
    are sentences on what was left out or joined. ``sheets``: of a workbook with several, the names of those that hold something;
    ``sheet``: the one that was asked for."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ragged: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sheets: tuple[str, ...] = ()
    sheet: str | None = None


def read_table(data: bytes, name: str, *, has_header: bool | None = None, sheet: str | None = None) -> RawTable:
    """Read a table of labels.

    data: the file's bytes. name: its name, for messages. has_header: None tells from the content whether the first
    row names the columns (CSV, TSV and XLSX; without names the columns are ``column 1``, ...). sheet: the one sheet of a
    workbook to read; None takes the first that holds a table, with all others of the same header.
    UnreadableFile (``bad_table``) or TooLarge says what is wrong.
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{name} is {len(data) / 1e6:.0f} MB; a table of labels may have {MAX_BYTES / 1e6:.0f} MB.")
    if data.startswith(b"PK\x03\x04"):
        book = _xlsx_rows(data, name, sheet)
        return replace(_table(book.rows, name, has_header), notes=book.notes, sheets=book.sheets, sheet=sheet or None)
    text = _text(data, name)
    if text.lstrip()[:1] in ("[", "{"):
        return _json_table(text, name)
    return _table(_csv_rows(text, name), name, has_header)


def safe_cell(value: object) -> str:
    """Return a cell for CSV and XLSX that no spreadsheet takes for a formula; numbers stay as they are.

    Text that begins with ``= + - @``, a tab or a line break gets an apostrophe in front (OWASP, CSV injection).
    """
    text = "" if value is None else str(value)
    if text.startswith(_FORMULA):
        try:
            float(text)
        except ValueError:
            return "'" + text
    return text


def _bad(name: str, reason: str) -> UnreadableFile:
    return UnreadableFile(
        f"{name} cannot be read as a table: {reason}. Save it as CSV with one header row and upload it again.",
        code="bad_table",
    )


def _text(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        # Spreadsheets of western Windows machines save in this code page.
        text = data.decode("cp1252", "replace")
    if "\x00" in text:
        raise _bad(name, "it holds NUL bytes, as no text file does")
    return text


def _csv_rows(text: str, name: str) -> list[list[str]]:
    first = text[: 64 * 1024].splitlines()
    lines = [line for line in first[:20] if line.strip()]
    if not lines:
        raise _bad(name, "it is empty")
    widest = max(line.count(d) for line in lines for d in _DELIMITERS)
    if widest > MAX_COLUMNS:
        raise TooLarge(
            f"{name} has more than {MAX_COLUMNS} columns; a table of labels has one row a record.",
            code="too_many_columns",
        )
    delimiter = max(_DELIMITERS, key=lambda d: _agreement(lines, d))
    rows: list[list[str]] = []
    cells = 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            cells += len(row)
            # The csv module has a limit of its own, which any other code of the process may have raised.
            if any(len(cell) > MAX_CELL_CHARS for cell in row):
                raise _bad(name, f"row {len(rows) + 1} has a cell of more than {MAX_CELL_CHARS:,} letters")
            if len(rows) > MAX_ROWS or cells > MAX_CELLS or len(row) > MAX_COLUMNS:
                raise TooLarge(f"{name} has too many rows or columns (at most {MAX_ROWS} rows and {MAX_CELLS} cells).")
            if any(cell.strip() for cell in row):
                rows.append(row)
    except csv.Error as error:
        raise _bad(name, f"row {len(rows) + 1} is damaged ({error})") from error
    return rows


def _agreement(lines: list[str], delimiter: str) -> tuple[float, int]:
    """Rate a delimiter: how many lines have as many cells as the first one, then how many cells that is."""
    try:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error:
        return 0.0, 0
    if not widths or widths[0] < 2:
        return 0.0, 0
    return sum(width == widths[0] for width in widths) / len(widths), widths[0]


@dataclass(frozen=True)
class _Book:
    rows: list[list[str]]
    notes: tuple[str, ...]
    sheets: tuple[str, ...]


def _xlsx_rows(data: bytes, name: str, wanted: str | None) -> _Book:
    """Return the rows of the wanted sheet, or of the first that holds a table with those of all sheets of the same header."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MAX_BYTES or unpacked > 200 * len(data) + 32 * 1024 * 1024:
            raise TooLarge(
                f"{name} unpacks to {unpacked / 1e6:.0f} MB, more than a table of labels has.", code="archive_bomb"
            )
        import openpyxl

        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        held: list[tuple[str, list[list[str]]]] = []
        for sheet in book.worksheets[:_MAX_SHEETS]:
            own = _sheet_rows(sheet, name, sum(len(row) for _, rows in held for row in rows))
            held += [(sheet.title, own)] if own else []
        book.close()
    except TooLarge:
        raise
    # openpyxl raises whatever its parsing runs into; all of it means a damaged workbook.
    except Exception as error:
        raise _bad(name, f"the workbook is damaged ({type(error).__name__})") from error
    titles = [title for title, _ in held]
    main = _main_sheet(held, wanted)
    alike = [title for title, rows in held if main and not wanted and title != main and rows[0] == dict(held)[main][0]]
    rows = [row for title, own in held if title == main or title in alike for row in own[title in alike :]]
    joined, left = len(alike), [] if wanted else [title for title in titles if title != main and title not in alike]
    notes = [f"{joined + 1} sheets of the same header were joined."] if joined else []
    if left:
        others = ", ".join(title[:40] for title in left[:5])
        notes.append(f"Sheets left out: {others}. Choose one of them to read it instead.")
    if wanted and wanted not in titles:
        raise InvalidInput(
            f"{name} has no sheet {wanted[:60]!r} that holds anything; its sheets are {', '.join(titles[:20])}.",
            fields={"sheet": f"Choose one of {', '.join(titles[:20])}."},
        )
    return _Book(rows, tuple(notes), tuple(titles) if len(titles) > 1 else ())


def _main_sheet(held: Sequence[tuple[str, list[list[str]]]], wanted: str | None) -> str | None:
    """Return the sheet to read: the wanted one, else the first table that names records, else the first table."""
    if wanted:
        return next((title for title, _ in held if title == wanted), None)
    # A sheet of one column or one row is a remark.
    tables = [(title, rows) for title, rows in held if (len(rows) > 1 and len(rows[0]) > 1) or len(held) == 1]
    # A legend of codes may stand first.
    naming = [title for title, rows in tables if any(key_of(cell) in RECORD_NAMES for cell in rows[0])]
    return next(iter([*naming, *(title for title, _ in tables)]), None)


def _sheet_rows(sheet: Any, name: str, before: int) -> list[list[str]]:
    rows: list[list[str]] = []
    cells = before
    for values in sheet.iter_rows(values_only=True, max_col=MAX_COLUMNS):
        row = [_cell(value) for value in values]
        while row and not row[-1]:
            row.pop()
        cells += len(row)
        if len(rows) > MAX_ROWS or cells > MAX_CELLS:
            raise TooLarge(f"{name} has more than {MAX_ROWS} rows or {MAX_CELLS} cells.")
        if row:
            rows.append(row)
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        # A day is a datetime at midnight in a workbook.
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return "; ".join(_cell(entry) for entry in value)
    return str(value)


def _json_table(text: str, name: str) -> RawTable:
    """Read JSON: a list of objects, an object of columns, an object ``{record: labels or object}``, or one object a line."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise _bad(name, f"it begins like JSON but is not ({type(error).__name__})") from error
    if isinstance(content, dict):
        values = list(content.values())
        if values and all(isinstance(value, list) for value in values) and "record" not in content:
            lengths = {len(value) for value in values}
            heads = {key_of(column) for column in content}
            if len(lengths) == 1 and heads & {"filename", "record", "recordname", "ecgid", "label", "labels"}:
                content = [dict(zip(content, row)) for row in zip(*values)]
        if isinstance(content, dict):
            records = content.items()
            content = [{"record": key, **(v if isinstance(v, dict) else {"labels": v})} for key, v in records]
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise _bad(name, "its JSON is neither a list of objects nor an object of records")
    columns = list(dict.fromkeys(str(key) for entry in content for key in entry))
    if len(columns) > MAX_COLUMNS or len(content) > MAX_ROWS or len(columns) * len(content) > MAX_CELLS:
        raise TooLarge(f"{name} has more than {MAX_ROWS} rows, {MAX_COLUMNS} columns or {MAX_CELLS} cells.")
    rows = tuple(tuple(_cell(entry.get(column)) for column in columns) for entry in content)
    if not rows:
        raise _bad(name, "it holds no record")
    return RawTable(tuple(columns), rows)


def _table(rows: list[list[str]], name: str, has_header: bool | None) -> RawTable:
    if not rows:
        raise _bad(name, "it is empty")
    if has_header is None:
        has_header = not _is_data(rows)
    head = rows[0] if has_header else [""] * max(len(row) for row in rows[:100])
    body = rows[1:] if has_header else rows
    if not body:
        raise _bad(name, "it has a header row but no rows below it")
    columns: list[str] = []
    for index, cell in enumerate(head, start=1):
        column = " ".join(cell.split()) or f"column {index}"
        while column in columns:
            column += " (again)"
        columns.append(column)
    width = len(columns)
    ragged = {i: len(row) for i, row in enumerate(body) if len(row) > width and any(c.strip() for c in row[width:])}
    cells = tuple(tuple(cell.strip() for cell in row[:width]) + ("",) * (width - len(row)) for row in body)
    return RawTable(tuple(columns), cells, ragged)


def _is_data(rows: list[list[str]]) -> bool:
    """Tell whether the first row is data: its first cell is built like the ones below, with other digits."""
    if len(rows) < 3 or not rows[0] or not any(c.isdigit() for c in rows[0][0]):
        return False
    shapes = {re.sub(r"[0-9]+", "9", row[0].strip()) if row else "" for row in rows[:20]}
    return len(shapes) == 1
