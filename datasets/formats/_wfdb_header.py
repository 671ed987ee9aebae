"""The header file of a WFDB record (header(5) of the WFDB Applications Guide), read tolerantly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ecgportal.errors import UnreadableFile

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_SIGNALS = 1024
MAX_SEGMENTS = 100_000
DEFAULT_FS_HZ = 250.0
# Format 0 describes a signal that a segment does not have.
FORMATS = frozenset((0, 8, 16, 24, 32, 61, 80, 160, 212, 310, 311, 508, 516, 524))

_RECORD = re.compile(r"[ \t]*([^\s/]+)(?:/(\d+))?[ \t]+(\d+)(?:[ \t]+(.*))?$")
_RATE = re.compile(r"(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)(?:/.*)?$")
_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?$")
_GAIN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)?(?:\(([+-]?\d+)(?:\.0*)?\))?(?:/(\S+))?$")
_START = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})(?:\.\d+)?[ \t]+(\d{1,2})/(\d{1,2})/(\d{4})\b")


class SignalSpec(NamedTuple):
    """One signal line. ``gain`` is digits per unit, None when the file does not calibrate the signal."""

    file: str
    fmt: int
    per_frame: int
    skew: int
    offset: int
    gain: float | None
    baseline: int
    unit: str
    initial: int
    checksum: int | None
    name: str


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header. ``n_frames`` None: not stated. ``segments``: ``(name, frames)`` of a multi-segment record."""

    name: str
    fs_hz: float
    n_frames: int | None
    recorded_at: str | None
    signals: tuple[SignalSpec, ...]
    segments: tuple[tuple[str, int], ...] | None
    comments: tuple[str, ...]
    states_rate: bool = True


@lru_cache(maxsize=4096)
def _format(token: str) -> tuple[int, int, int, int] | None:
    match = _FORMAT.match(token)
    if match is None or int(match[1]) not in FORMATS:
        return None
    return int(match[1]), int(match[2] or 1), int(match[3] or 0), int(match[4] or 0)


@lru_cache(maxsize=4096)
def _gain(token: str) -> tuple[float | None, int | None, str] | None:
    match = _GAIN.match(token)
    if match is None:
        return None
    gain = float(match[1]) if match[1] else 0.0
    baseline = int(match[2]) if match[2] else None
    # The guide: a gain of zero or none at all means an uncalibrated signal; without a unit it is millivolt.
    return gain or None, baseline, match[3] or "mV"


@lru_cache(maxsize=256)
def _record_line(line: str) -> tuple[str, int | None, int, float, int | None, str | None, bool] | None:
    match = _RECORD.match(line)
    if match is None:
        return None
    words = (match[4] or "").split()
    fs_hz, n_frames = DEFAULT_FS_HZ, None
    if words:
        rate = _RATE.match(words[0])
        if rate is None or len(words[0]) > 60:
            return None
        fs_hz = float(rate[1])
    if len(words) > 1 and words[1].isdecimal() and len(words[1]) <= 15:
        n_frames = int(words[1]) or None
    start = _START.search(match[4] or "")
    recorded_at = None
    if start is not None:
        # Only the guide's own order of time and date is believed: converters wrote the day of conversion otherwise.
        hour, minute, second, day, month, year = (int(part) for part in start.groups())
        if 1 <= month <= 12 and 1 <= day <= 31 and hour < 24:
            recorded_at = f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"
    name = match[1]
    if len(match[3]) > 6 or len(match[2] or "") > 7:
        return None
    return (
        name.removesuffix(".mat").removesuffix(".dat"),
        int(match[2]) if match[2] else None,
        int(match[3]),
        fs_hz,
        n_frames,
        recorded_at,
        bool(words),
    )


@lru_cache(maxsize=8192)
def _steady(
    format_: str, calibration: str, zero: str, name: str
) -> tuple[int, int, int, int, float | None, int, str, str] | None:
    """Parse those fields of a signal line that the records of a collection share."""
    shape = _format(format_)
    gain = _gain(calibration) if calibration else (None, None, "mV")
    if shape is None or gain is None:
        return None
    try:
        baseline = int(zero) if gain[1] is None else gain[1]
    except ValueError:
        return None
    return (*shape, gain[0], baseline, gain[2], name.rstrip())


def _signal_line(line: str) -> SignalSpec | None:
    words = line.split(None, 8)
    count = len(words)
    if count < 2:
        return None
    if count < 9:
        # Fields that the line leaves out: no calibration, zero, no name.
        words += ("", "0", "0", "0", "0", "0", "")[count - 2 :]
    steady = _steady(words[1], words[2], words[4], words[8])
    if steady is None:
        return None
    try:
        initial, checksum = int(words[5]), int(words[6]) if count > 6 else None
    except ValueError:
        return None
    fmt, per_frame, skew, offset, gain, baseline, unit, name = steady
    return SignalSpec(words[0], fmt, per_frame, skew, offset, gain, baseline, unit, initial, checksum, name)


def looks_like_header(text: str, *, whole: bool) -> bool:
    """Tell whether the beginning of a file reads as a WFDB header: a record line, then a signal or segment line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not whole and len(lines) > 1:
        lines.pop()
    record = _record_line(lines[0]) if lines else None
    if record is None:
        return False
    if record[1] is not None:
        return len(lines) > 1 and len(lines[1].split()) == 2 and lines[1].split()[1].isdecimal()
    return len(lines) > 1 and _signal_line(lines[1]) is not None


def parse_header(text: str, file: str) -> Header:
    """Parse a header's text. UnreadableFile (``bad_header``) names the line that cannot be read."""
    lines: list[str] = []
    comments: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped:
            continue
        if stripped[0] == "#":
            comments.append(stripped[1:].strip())
        else:
            lines.append(stripped)
    if not lines:
        raise _bad(file, "it has no record line")
    record = _record_line(lines[0])
    if record is None:
        raise _bad(file, f"its record line {_quote(lines[0])} is not one of a WFDB header")
    name, n_segments, n_signals, fs_hz, n_frames, recorded_at, states_rate = record
    if n_segments is not None:
        segments = _segment_lines(lines[1:], n_segments, file)
        return Header(name, fs_hz, n_frames, recorded_at, (), segments, tuple(comments), states_rate)
    if n_signals > MAX_SIGNALS:
        raise _bad(file, f"it announces {n_signals} signals; at most {MAX_SIGNALS} are read")
    if len(lines) - 1 < n_signals:
        raise _bad(file, f"it announces {n_signals} signals but describes {len(lines) - 1}")
    signals = []
    for line in lines[1 : n_signals + 1]:
        spec = _signal_line(line)
        if spec is None:
            raise _bad(file, f"its signal line {_quote(line)} cannot be read")
        signals.append(spec)
    return Header(name, fs_hz, n_frames, recorded_at, tuple(signals), None, tuple(comments), states_rate)


def _segment_lines(lines: list[str], n_segments: int, file: str) -> tuple[tuple[str, int], ...]:
    if n_segments > MAX_SEGMENTS or len(lines) < n_segments:
        raise _bad(file, f"it announces {n_segments} segments but lists {len(lines)} (at most {MAX_SEGMENTS} are read)")
    segments = []
    for line in lines[:n_segments]:
        words = line.split()
        if len(words) < 2 or not words[1].isdecimal() or len(words[1]) > 15:
            raise _bad(file, f"its segment line {_quote(line)} cannot be read")
        segments.append((words[0], int(words[1])))
    return tuple(segments)


def _quote(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:77] + "...")


def _bad(file: str, reason: str) -> UnreadableFile:
    return UnreadableFile(
        f"{file} cannot be read as a WFDB header: {reason}. Correct the header or export the record again.",
        code="bad_header",
    )
