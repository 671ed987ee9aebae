"""ECGs in text tables: CSV, TSV and columns between blanks; with or without header, time column, units, preamble.

A row is one moment as a rule; tables whose rows are leads are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datasets.ecg import LEADS_12, Record, canonical_lead
from datasets.formats._arrays import Told, record_of
from datasets.formats._clinical import check_size, lead_name, millivolts_per, number, stem
from datasets.formats._longtable import is_long_table, widened
from datasets.formats._textcells import TIME_UNITS, is_channel, split_unit
from datasets.formats._textdecoding import decode
from datasets.formats._textlayout import Layout, find_layout
from datasets.formats._textnumbers import Table, read_table
from datasets.formats.base import HEAD_BYTES, MAX_VALUES, Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile

MAX_COLUMNS = 1_000_000
# Named columns: no amplifier for ECGs has a tenth of them.
MAX_NAMED_COLUMNS = 4096
MAX_TEXT_BYTES = 256 * 1024 * 1024
_SUFFIXES = (".csv", ".tsv", ".txt", ".asc", ".tab")
_TIME = re.compile(
    r"(elapsed[\s_]*)?(time([\s_]*stamp)?|date[\s_]*time|date|zeit(stempel)?|uhrzeit|temps|tempo|tiempo|时间|時間|時刻|시간|время|t|sec|secs|seconds?|sekunden|msec|ms|"
    r"milliseconds?|elapsed)(?![a-z0-9])",
    re.IGNORECASE,
)
_UNIT_WORDS = {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}
_INDEX = re.compile(
    r"(|index|idx|samples?|samples?[\s_]*(number|no|nr|index|#)\.?|nr|n|#|unnamed.*|nseq)$", re.IGNORECASE
)
_RATE = re.compile(
    r"(sampl\w*[\s_]*(rate|freq\w*)|\bfs\b|\bsfreq\b|abtast(rate|frequenz)|messrate|采样\w*|取樣\w*|サンプル\w*|サンプリング\w*|샘플\w*|표본\w*|frequency|fr[ée]quence|"
    r"frequenza|frecuencia|frequ[êe]ncia|frekvens|frequentie|taxa de amostragem|частота)[^0-9]*?(\d+(?:[.,]\d+)?)",
    re.IGNORECASE,
)
_INTERVAL = re.compile(
    r"(sampl\w*[\s_]*(interval|period|time)|abtastintervall|time[\s_]*step|\bdt\b)[^0-9]*?(\d+(?:[.,]\d+)?(?:e-?\d+)?)\W*(ms|us|µs|μs|s|msec|sec)\b",
    re.IGNORECASE,
)
_NUMBER = r"(\d+(?:[.,]\d+)?(?:e[+-]?\d+)?)"
_VOLTAGE = r"(nv|uv|µv|μv|mv|microvolts?|millivolts?)\b"
_DIGIT = r"(?:digits?|adu|lsb|counts?|units?|bits?)"
_PER = r"\s*(?:/|\bper\b)\s*"
# Digits per voltage and voltage per digit, with the number in front or behind.
_GAINS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (rf"{_NUMBER}\s*{_DIGIT}{_PER}{_VOLTAGE}", rf"\b{_DIGIT}{_PER}{_VOLTAGE}\D*{_NUMBER}")
)
_STEPS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (rf"{_NUMBER}\s*{_VOLTAGE}{_PER}{_DIGIT}\b", rf"\b{_VOLTAGE}{_PER}{_DIGIT}\b\D*{_NUMBER}")
)
_UNIT_LINE = re.compile(
    r"\b(?:units?|单位|單位|単位|단위|einheit|unit[éeà]|unidade?|eenheid|enhe[td]|единица)\b[^\w/]+(nv|uv|µv|μv|mv|v|volts?|microvolts?|millivolts?)\b(?!\s*(?:/|per\b))",
    re.IGNORECASE,
)
_ECG_WORD = re.compile(
    r"ecg|ekg|lead|mlii|av[rlf]|ableitung|d[ée]riva|отведени|导联|導程|導聯|誘導|유도", re.IGNORECASE
)
_CLOCK_TITLE = re.compile(r"time[\s_]*stamp|\btime\b", re.IGNORECASE)
_LEAD_LINE = re.compile(
    r"\W*(?:lead|ableitung|d[ée]rivation|derivazione|derivaci[óo]n|deriva[çc][ãa]o|afleiding|avledning|отведение|导联|導程|誘導|유도|channel)\s*[,;:=\t]\s*(.{1,40})$",
    re.IGNORECASE,
)


def _sniff(head: bytes, name: str) -> bool:
    text = decode(head, whole=len(head) < HEAD_BYTES)
    if text is None or text.lstrip()[:1] in ("<", "{"):
        return False
    whole = len(head) < HEAD_BYTES
    has_suffix = name.lower().endswith(_SUFFIXES)
    lines = text.splitlines()
    if not whole and len(lines) > 1:
        lines.pop()
    # Lines of thousands of samples show only one in the first bytes.
    layout = find_layout(lines, one_row=not whole)
    if layout is None:
        return is_long_table(lines) or _has_long_named_rows(text) or (has_suffix and _has_numbered_header(text))
    if layout.named:
        return True
    if layout.header is None:
        # Numbers alone may be anything; the name has to say that they are a table.
        return has_suffix and (layout.width > 1 or len(lines) - layout.start > 2)
    names = [split_unit(column)[0] for column in layout.header]
    if is_long_table(lines):
        return True
    if layout.texts:
        # Tables of labels have columns of words, too, and findings are named like leads (AS, AI).
        return any(map(_is_surely_ecg, layout.header)) or sum(canonical_lead(n) in LEADS_12 for n in names) > 1
    known = sum(is_channel(column) for column in names)
    others = sum(not (is_channel(column) or _TIME.match(column) or _INDEX.match(column)) for column in names)
    # A line that describes the columns tells which of them is the ECG.
    is_described = any(line.lstrip("# ").startswith("{") for line in layout.preamble)
    is_sure = has_suffix and (is_described or any(map(_is_surely_ecg, layout.header)))
    return known > 0 and (known >= others or is_sure)


def _is_surely_ecg(column: str) -> bool:
    """Tell whether a column can be nothing but an ECG: a channel in a unit of voltage, or a lead by a word for it."""
    title, unit = split_unit(column)
    if unit is not None and millivolts_per(unit) is not None:
        return is_channel(title)
    return canonical_lead(title) is not None and _ECG_WORD.search(title) is not None


def _has_long_named_rows(text: str) -> bool:
    """Tell whether a header and a row that begins with a lead's name fill the first bytes alone."""
    lines = text.splitlines()
    found = (
        re.match(r"\s*[\"']?(?:lead|leads|ableitung|derivation|channel|name)?[\"']?([,;\t])", lines[0], re.IGNORECASE)
        if lines
        else None
    )
    return (
        found is not None
        and 2 <= len(lines) <= 3
        and canonical_lead(split_unit(lines[1].split(found[1])[0])[0]) is not None
    )


def _has_numbered_header(text: str) -> bool:
    """Tell whether a line ``lead,0,1,2,...`` fills the first bytes: each row is a lead then, as it is found on reading."""
    begin = r"\s*[\"']?(?:leads?|lead[ _]?names?|ableitung|derivation|channels?)[\"']?([,;\t])[\"']?t?0[\"']?\1[\"']?t?1[\"']?\1"
    return "\n" not in text and re.match(begin, text, re.IGNORECASE) is not None


def _read(source: Source, options: ReadOptions) -> ReadResult:
    text = decode(read_bytes(source, MAX_TEXT_BYTES))
    if text is None:
        raise UnreadableFile(
            f"{source.name} holds NUL bytes, as no text file does. Export it again as text.", code="not_text"
        )
    end = text.find("\n", 0, 1_000_000)
    columns = max(text.count(d, 0, len(text) if end < 0 else end) for d in (",", ";", "\t", "|")) + 1
    if columns > MAX_COLUMNS or (end < 0 and text.count(",") > MAX_COLUMNS):
        raise _too_wide(source.name, columns, MAX_COLUMNS)
    lines = text.splitlines()
    if is_long_table(lines):
        lines = widened(source.name, lines)
    layout = find_layout(lines, one_row=True)
    if layout is None:
        raise UnreadableFile(f"{source.name} holds no table of numbers.", code="not_an_ecg")
    _check_decimal_commas(source.name, lines, layout)
    check_size(source.name, layout.width, len(lines) - layout.start)
    table = read_table(source.name, lines, layout)
    del lines
    return ReadResult(((stem(source.name), _record(source.name, table, layout, options)),))


def _check_decimal_commas(name: str, lines: Sequence[str], layout: Layout) -> None:
    """Refuse a table in which the comma of a decimal is the comma between columns: every value is cut in two there."""
    above = next((line for line in reversed(lines[: layout.start]) if line.strip()), "")
    titles = [split_unit(cell)[0] for cell in above.split(",")]
    if (
        layout.delimiter == ","
        and layout.header is None
        and layout.width == 2 * len(titles)
        and any(map(is_channel, titles))
    ):
        raise UnreadableFile(
            f"{name} divides both its columns and its decimals by commas: {len(titles)} columns are named, every row has "
            f"{layout.width} numbers. Export it with semicolons between columns or with decimal points.",
            code="mixed_decimals",
        )


def _too_wide(name: str, columns: int, most: int) -> TooLarge:
    return TooLarge(
        f"{name} has {columns} columns in its first line; at most {most} are read. One row should be one moment.",
        code="too_many_columns",
    )


def _record(name: str, table: Table, layout: Layout, options: ReadOptions) -> Record:
    told = _preamble(layout.preamble)
    if layout.named:
        return _of_named_rows(name, table, told, options)
    if layout.header is None:
        return _without_header(name, table, layout, told, options)
    if len(layout.header) > MAX_NAMED_COLUMNS:
        raise _too_wide(name, len(layout.header), MAX_NAMED_COLUMNS)
    values, told, notes = _clocked(name, table, layout, told, options)
    factors: list[float | None] = []
    leads: list[str] = []
    columns: list[int] = []
    dropped: list[str] = []
    for index, column in enumerate(layout.header):
        title, unit = split_unit(column)
        known = canonical_lead(title) is not None
        is_clock = (unit or "").lower() in TIME_UNITS and _CLOCK_TITLE.search(title) is not None
        if not known and (index == layout.moment or is_clock or _TIME.match(title) or _INDEX.match(title)):
            continue
        factor = None if unit is None else millivolts_per(unit)
        if not known and (not is_channel(title) or (unit is not None and factor is None)):
            dropped.append(column)
            continue
        leads.append(lead_name(title))
        columns.append(index)
        factors.append(factor)
    if not columns:
        raise UnreadableFile(
            f"{name} has no column that is an ECG lead: {', '.join(layout.header[:20])}.", code="no_ecg_lead"
        )
    told = replace(told, leads=tuple(leads))
    if all(canonical_lead(lead) is None for lead in leads) and (len(leads) > 1 or options.lead_order):
        # Numbered channels name no electrode: it is asked for, as where there is no header.
        told = replace(told, leads=None)
    signal, told = _scaled(name, values[:, columns].T, factors, told)
    return _finished(record_of(name, signal, told, options), notes, dropped)


def _of_named_rows(name: str, table: Table, told: Told, options: ReadOptions) -> Record:
    """Return the record of a table with one lead a row, its name in front."""
    titles = [split_unit(row) for row in table.names]
    known = [canonical_lead(title) is not None for title, _ in titles]
    dropped = [row for row, is_lead in zip(table.names, known, strict=True) if not is_lead]
    kept = [title for title, is_lead in zip(titles, known, strict=True) if is_lead]
    values = table.values[known]
    if values.shape[1] > 1 and np.isnan(values[:, -1]).all():
        values = values[:, :-1]
    factors = [None if unit is None else millivolts_per(unit) for _, unit in kept]
    signal, told = _scaled(name, values, factors, replace(told, leads=tuple(lead_name(title) for title, _ in kept)))
    return _finished(record_of(name, signal, told, options), (), dropped)


def _scaled(name: str, signal: np.ndarray, factors: Sequence[float | None], told: Told) -> tuple[np.ndarray, Told]:
    """Bring leads to millivolt where their names state the units; ask where only some do."""
    if all(factor is not None for factor in factors):
        return signal * np.array(factors, dtype=np.float64)[:, None], replace(told, unit_mv=1.0)
    if any(factor is not None for factor in factors) and told.unit_mv is None:
        raise NeedsAnswer(
            f"{name} gives the unit of some columns only.",
            fields={
                "unit": "No guess: the columns may differ. Write the unit into the header of every column, as in I (uV)."
            },
        )
    return signal, told


def _without_header(name: str, table: Table, layout: Layout, told: Told, options: ReadOptions) -> Record:
    values, told, notes = _clocked(name, table, layout, told, options)
    if layout.moment is not None:
        values = np.delete(values, layout.moment, axis=1)
    elif told.fs_hz is None and _is_clock(values):
        values, fs_hz, more = _timed(name, values, 0, None)
        values, told = values[:, 1:], replace(told, fs_hz=fs_hz)
        notes = [*notes, *more, "The first column rises in even steps and was taken for the time."]
    if values.shape[1] > 1 and np.isnan(values[:, -1]).all():
        values = values[:, :-1]
    values = _without_counter(values)
    if values.shape[0] < values.shape[1]:
        values = values.T
    if told.leads is not None and values.shape[1] != len(told.leads):
        told = replace(told, leads=None)
    return _finished(record_of(name, values.T if told.leads else values, told, options), notes, ())


def _clocked(
    name: str, table: Table, layout: Layout, told: Told, options: ReadOptions
) -> tuple[np.ndarray, Told, list[str]]:
    """Return the table in even steps, and the sampling rate by its time column where nothing above the table states one."""
    index, unit = layout.moment, "s"
    titles = [split_unit(column) for column in layout.header or ()]
    if index is not None:
        # A clock of the sensor in a stated unit is more even than times of day.
        index, unit = next(
            (
                (i, u)
                for i, (title, u) in enumerate(titles)
                if u is not None and u.lower() in TIME_UNITS and _CLOCK_TITLE.search(title) and i != layout.moment
            ),
            (index, unit),
        )
    if index is None:
        index, unit = next(
            (
                (i, u or "")
                for i, (title, u) in enumerate(titles)
                if canonical_lead(title) is None and _TIME.match(title)
            ),
            (None, ""),
        )
    if index is None or told.fs_hz is not None:
        return table.values, told, []
    if table.is_coarse and index == layout.moment:
        if options.fs_hz is None:
            raise NeedsAnswer(
                f"{name} gives its times in whole seconds, which do not tell the sampling rate.",
                fields={"fs_hz": _rate_by_seconds(table.values[:, index])},
            )
        return table.values, told, ["The times in whole seconds were passed over; the rate is the one that was given."]
    title = split_unit(layout.header[index])[0] if layout.header else ""
    if not unit and options.fs_hz is None and _counts(table.values[:, index]):
        raise NeedsAnswer(
            f"The column {title} of {name} counts rows or milliseconds; which of them it does not say.",
            fields={
                "fs_hz": "Guess: 1000. The column rises by one from row to row, which is 1000 Hz if it counts milliseconds."
            },
        )
    if not unit and _counts(table.values[:, index]):
        return table.values, told, []
    values, fs_hz, notes = _timed(name, table.values, index, unit)
    return values, replace(told, fs_hz=fs_hz), notes


def _rate_by_seconds(times: np.ndarray) -> str:
    """Return the guess of a rate from how many rows share a second."""
    _, counts = np.unique(times, return_counts=True)
    if len(counts) < 4:
        return f"No guess: {len(times)} rows lie in {len(counts)} seconds."
    rate = float(np.median(counts[1:-1]))
    return f"Guess: {rate:g}. So many rows share a second as a rule."


def _counts(values: np.ndarray) -> bool:
    """Tell whether a column merely counts the rows from 0 or 1 on."""
    return bool(values[0] in (0, 1) and np.array_equal(values, np.arange(len(values)) + values[0]))


def _finished(record: Record, notes: Sequence[str], dropped: Sequence[str]) -> Record:
    meta = replace(record.meta, notes=(*record.meta.notes, *notes), dropped_channels=tuple(dropped))
    return replace(record, meta=meta)


def _preamble(lines: Sequence[str]) -> Told:
    """Return what the lines above the table say: sampling rate, digits per millivolt, unit, the name of an only lead."""
    fs_hz, unit_mv, scale_mv, leads = None, None, None, None
    for line in lines:
        rate, interval, lead = _RATE.search(line), _INTERVAL.search(line), _LEAD_LINE.match(line)
        if rate is not None and fs_hz is None:
            fs_hz = number(rate[4].replace(",", "."))
            if fs_hz is not None and re.search(r"\bkhz\b", line, re.IGNORECASE):
                fs_hz *= 1000
        elif interval is not None and fs_hz is None and (step := number(interval[3].replace(",", "."))):
            fs_hz = round(1 / (step * TIME_UNITS[interval[4].lower()]), 6)
        if lead is not None and canonical_lead(title := re.split(r"[,;\t]", lead[1])[0].strip(" \"'")) is not None:
            leads = (lead_name(title),)
        if (found := _scale_of(line)) is not None and scale_mv is None:
            scale_mv = found
        elif found is None and unit_mv is None and (unit := _UNIT_LINE.search(line)) is not None:
            unit_mv = millivolts_per(unit[1])
    fs_hz = fs_hz if fs_hz and 1 <= fs_hz <= 100_000 else None
    if scale_mv and unit_mv is not None:
        # Only whole numbers can be digits; whether they are is asked for.
        return Told(fs_hz, unit_mv, leads, gain=("gain", round(1 / scale_mv, 6)))
    return Told(fs_hz, scale_mv or unit_mv if scale_mv != 0 else None, leads)


def _scale_of(line: str) -> float | None:
    """Return the millivolt of one digit that a line states; 0 where it is not clear, None where it states none."""
    found: set[float] = set()
    for patterns, is_step in ((_GAINS, False), (_STEPS, True)):
        for pattern, at_number, at_unit in zip(patterns, (1, 2), (2, 1), strict=True):
            match = pattern.search(line)
            # "200 adu/mV, 12 bit": what a comma divides from a number in front is another statement.
            if match is None or (found and "," in line[match.end(1) : match.start(2)]):
                continue
            value, unit_mv = number(match[at_number].replace(",", ".")), millivolts_per(match[at_unit]) or 1.0
            found.add(0.0 if not value else unit_mv * value if is_step else unit_mv / value)
    return None if not found else found.pop() if len(found) == 1 else 0.0


def _is_clock(table: np.ndarray) -> bool:
    """Tell whether an unnamed first column is a time: it rises in even steps that are no mere count, as no lead does."""
    if table.shape[1] < 2 or table.shape[0] < 20 or table.shape[0] < table.shape[1] or _counts(table[:, 0]):
        return False
    steps = np.diff(table[:, 0])
    if not np.isfinite(steps).all() or not (steps > 0).all():
        return False
    step = float(np.median(steps))
    fits = [unit for unit in (1.0, 1e-3, 1e-6, 1e-9) if 20 <= 1 / (step * unit) <= 20_000]
    return len(fits) == 1 and bool((np.abs(steps - step) <= 0.5 * step).all())


def _without_counter(table: np.ndarray) -> np.ndarray:
    """Leave out an unnamed first column that merely counts the rows."""
    if table.shape[1] > 1 and table.shape[0] > 20 and _counts(table[:, 0]):
        return table[:, 1:]
    return table


def _timed(name: str, table: np.ndarray, index: int, unit: str | None) -> tuple[np.ndarray, float, list[str]]:
    """Return the table in even steps, and the sampling rate that the time column states; missing moments are NaN."""
    # Spreadsheets write rows of empty cells behind the table.
    last = np.flatnonzero(~np.isnan(table).all(axis=1))
    table = table[: last[-1] + 1] if last.size else table
    time = table[:, index]
    steps = np.diff(time)
    if len(time) < 3 or not np.isfinite(time).all() or not (steps > 0).all():
        raise UnreadableFile(f"{name}: its time column does not rise from row to row.", code="bad_time")
    step = float(np.median(steps))
    notes: list[str] = []
    if (steps < 1.5 * step).all():
        # Written times are rounded; over the whole length the rounding is smallest.
        step = float((time[-1] - time[0]) / (len(time) - 1))
    else:
        step = float(steps[steps < 1.75 * step].mean())
    seconds = TIME_UNITS.get((unit or "").lower())
    if seconds is None:
        fits = [factor for factor in (1.0, 1e-3, 1e-6, 1e-9) if 20 <= 1 / (step * factor) <= 20_000]
        if len(fits) != 1:
            raise NeedsAnswer(
                f"{name} does not say the unit of its time column.",
                fields={
                    "fs_hz": f"No guess: name the unit in the header, as in time (s), or remove the column and give the rate; its step is {step:g}."
                },
            )
        seconds = fits[0]
        notes.append(
            f"The time column was taken in {_UNIT_WORDS[seconds]}: no other unit gives a sampling rate of an ECG."
        )
    fs_hz = 1 / (step * seconds)
    if abs(fs_hz - round(fs_hz)) < 2e-3 * fs_hz and round(fs_hz) > 0:
        fs_hz = float(round(fs_hz))
    if not 1 <= fs_hz <= 100_000:
        raise UnreadableFile(
            f"{name}: its time column means {fs_hz:g} Hz, which is no rate of an ECG.", code="bad_time"
        )
    phase = (time - time[0]) * seconds * fs_hz
    # Times that were cut off to whole milliseconds lie beside the even steps, half a rounding on the average.
    phase -= np.angle(np.mean(np.exp(2j * np.pi * phase))) / (2 * np.pi)
    place = np.rint(phase).astype(np.int64)
    uneven = np.abs(phase - place).max() > 0.3
    place -= place[0]
    if (np.diff(place) < 1).any() or uneven:
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
