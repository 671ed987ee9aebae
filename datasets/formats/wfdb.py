"""WFDB records: a header (.hea) with its signal files, of one or many segments.

Plain 16-bit signal files, PTB-XL's ``.dat`` and the ``.mat`` of the PhysioNet/CinC Challenges among them, are decoded
here; the other storage formats go through the ``wfdb`` package in a private folder, under names of our own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import check_size, millivolts_per, option_unit_mv
from datasets.formats._wfdb_channels import UNCALIBRATED, Channel, Choice, choose_channels
from datasets.formats._wfdb_header import (
    MAX_HEADER_BYTES,
    Header,
    SignalSpec,
    looks_like_header,
    parse_header,
)
from datasets.formats._wfdb_notes import Annotation, Statements, read_annotations
from datasets.formats._wfdb_signals import SignalFile, behind_matrix_header, frames_that_fit
from datasets.formats.base import HEAD_BYTES, Part, Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile

_USUAL_HEADER_BYTES = 16 * 1024
_LONG_VALUES = 20_000_000
MAX_ANNOTATION_BYTES = 16 * 1024 * 1024

# Annotators of beats and waves on PhysioNet beside the reference, those who were checked by people first.
_ANNOTATORS = ("ATR", "ecg", "ari", "man", "q1c", "qrs", "pu0", "wqrs", "pu", "ann")

#: The files beside the header by name, and what of the signal files among them was read.
Used = dict[str, list[Part]]

_SIGNAL_FILE = re.compile(r".+\.(dat|mat|xyz|d\d{1,2})$", re.IGNORECASE)
_GEORGIA = re.compile(r"E\d{5}$")


def is_signal_file_name(name: str) -> bool:
    """Tell whether a file's name is that of a WFDB signal file, which says nothing without its header."""
    return _SIGNAL_FILE.match(PurePosixPath(name).name) is not None


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of the record. ``header`` None: a gap."""

    start: int
    frames: int
    header: Header | None
    source: Source


def _sniff(head: bytes, name: str) -> bool:
    if b"\x00" in head:
        return False
    text = head.decode("utf-8", "replace")
    return looks_like_header(text, whole=len(head) < HEAD_BYTES)


def _read(source: Source, options: ReadOptions) -> ReadResult:
    used: Used = {}
    notes: list[str] = []
    header = _header(source)
    if not header.states_rate:
        header = replace(header, fs_hz=options.fs_hz or header.fs_hz)
        notes.append(
            f"The header states no sampling rate; {header.fs_hz:g} Hz "
            + ("were given." if options.fs_hz else "is what the WFDB guide lays down then.")
        )
    if not 0 < header.fs_hz < 1e6:
        raise UnreadableFile(
            f"{source.name} states a sampling rate of {header.fs_hz:g} Hz. Correct the header.", code="bad_rate"
        )
    if header.segments is None:
        header = _georgia_gain(header, notes)
        choice = choose_channels(source.name, header.signals, options)
        segment = _Segment(0, header.n_frames or _frames_from_size(source, header, used), header, source)
        per_frame = _common_rate(header.signals, choice, notes)
        signal = _segment_signal(segment, choice.channels, per_frame, options, used, notes)
    else:
        layout, segments = _segments(source, header, used)
        choice = choose_channels(source.name, layout, options, in_segments=True)
        specs = [spec for part in segments if part.header for spec in part.header.signals]
        per_frame = _common_rate(specs, choice, notes)
        signal = _joined(source.name, segments, choice.channels, per_frame, options, used, notes)
    said = Statements(header.comments)
    meta = RecordMeta(
        subject=said.subject,
        age=said.age,
        sex=said.sex,
        labels=said.labels,
        annotations=_annotations(source, header.fs_hz, choice, used, notes),
        dropped_channels=choice.dropped,
        recorded_at=header.recorded_at,
        notes=tuple(notes),
    )
    record = Record(signal, header.fs_hz * per_frame, choice.leads, meta=meta)
    parts = {name: tuple(found) for name, found in used.items() if found}
    return ReadResult(((_key(source.name), record),), tuple(used), parts)


def _key(name: str) -> str:
    bare = name.rpartition("/")[2]
    return bare[:-4] if bare.lower().endswith(".hea") else bare


def _header(source: Source) -> Header:
    with source.open() as stream:
        data = stream.read(_USUAL_HEADER_BYTES)
        if len(data) == _USUAL_HEADER_BYTES:
            data += stream.read(MAX_HEADER_BYTES + 1 - len(data))
    if len(data) > MAX_HEADER_BYTES:
        raise TooLarge(f"{source.name} is larger than any WFDB header ({MAX_HEADER_BYTES // 1024} KB).")
    return parse_header(data.decode("utf-8", "replace"), source.name)


def _georgia_gain(header: Header, notes: list[str]) -> Header:
    """Correct the gain of the first Georgia release (CinC 2020): 4880/mV was printed, 1000/mV is meant.

    The later releases carry the same samples under 1000/mV; with 4880 every wave would be a fifth of its size.
    """
    if (
        not header.signals
        or header.signals[0].gain != 4880
        or not _GEORGIA.match(header.name)
        or any(spec.gain != 4880 for spec in header.signals)
    ):
        return header
    notes.append(
        "The header states 4880 digits per mV, a known mistake of the first Georgia release of CinC 2020; "
        "1000 digits per mV were used, as in the later releases of the same samples."
    )
    signals = tuple(spec._replace(gain=1000.0) for spec in header.signals)
    return replace(header, signals=signals)


def _common_rate(specs: Sequence[SignalSpec], choice: Choice, notes: list[str]) -> int:
    """Return the samples per frame that all ECG signals share; 1 when they differ (the faster ones are averaged)."""
    if all(spec.per_frame == 1 for spec in specs):
        return 1
    names = {channel.source for channel in choice.channels.values()}
    specs = [spec for spec in specs if spec.fmt != 0 and spec.name in names]
    found = {spec.per_frame for spec in specs}
    if len(found) == 1:
        return found.pop()
    faster = sorted({spec.name for spec in specs if spec.per_frame > 1})
    if faster:
        notes.append(f"Sampled faster than the other leads and averaged to their rate: {', '.join(faster)}.")
    return 1


def _segments(source: Source, header: Header, used: Used) -> tuple[tuple[SignalSpec, ...], list[_Segment]]:
    """Resolve the segments of a multi-segment record; the first entry of a variable layout describes the signals."""
    assert header.segments is not None
    layout: tuple[SignalSpec, ...] | None = None
    segments: list[_Segment] = []
    start = 0
    parsed: dict[str, tuple[Header, Source]] = {}
    for position, (name, frames) in enumerate(header.segments):
        if name == "~":
            segments.append(_Segment(start, frames, None, source))
            start += frames
            continue
        if name not in parsed:
            companion = _companion(source, f"{name}.hea", used)
            parsed[name] = (_header(companion), companion)
        inner, companion = parsed[name]
        if inner.segments is not None:
            raise UnreadableFile(
                f"{companion.name} is a segment of {source.name} and has segments itself.", code="bad_header"
            )
        if position == 0 and frames == 0:
            layout = inner.signals
            continue
        if inner.states_rate and inner.fs_hz != header.fs_hz:
            raise UnreadableFile(
                f"{companion.name} runs at {inner.fs_hz:g} Hz, its record {source.name} at {header.fs_hz:g} Hz.",
                code="bad_rate",
            )
        if frames:
            segments.append(_Segment(start, frames, inner, companion))
        start += frames
    if not any(segment.header for segment in segments):
        raise UnreadableFile(f"{source.name} lists no segment with samples.", code="no_signal")
    if layout is None:
        layout = next(segment.header.signals for segment in segments if segment.header)
    return layout, segments


def _joined(
    name: str,
    segments: Sequence[_Segment],
    channels: dict[int, Channel],
    per_frame: int,
    options: ReadOptions,
    used: Used,
    notes: list[str],
) -> np.ndarray:
    """Put the segments of a record side by side; what no segment holds is NaN."""
    frames = segments[-1].start + segments[-1].frames
    check_size(name, len(channels), frames * per_frame)
    recorded = sum(segment.frames for segment in segments if segment.header is not None)
    if frames * per_frame * len(channels) > _LONG_VALUES and frames > 100 * recorded:
        raise TooLarge(
            f"{name} consists of gaps: {recorded} of {frames} samples are recorded. Cut the record to its segments."
        )
    signal = np.full((len(channels), frames * per_frame), np.nan, dtype=np.float32)
    for segment in segments:
        if segment.header is None:
            continue
        here: dict[int, Channel] = {}
        rows = []
        for row, channel in enumerate(channels.values()):
            for index, spec in enumerate(segment.header.signals):
                if spec.name == channel.source and spec.fmt != 0 and index not in here:
                    factor = millivolts_per(spec.unit)
                    here[index] = Channel(channel.lead, channel.source, channel.factor_mv if factor is None else factor)
                    rows.append((index, row))
                    break
        if not here:
            continue
        rows.sort()
        here = dict(sorted(here.items()))
        part = _segment_signal(segment, here, per_frame, options, used, notes)
        first = segment.start * per_frame
        signal[[row for _, row in rows], first : first + part.shape[1]] = part
    return signal


def _segment_signal(
    segment: _Segment,
    channels: dict[int, Channel],
    per_frame: int,
    options: ReadOptions,
    used: Used,
    notes: list[str],
) -> np.ndarray:
    """Return one segment's ECG signals in millivolt, float32 ``(channels, frames * per_frame)``."""
    header = segment.header
    assert header is not None
    specs = _calibrated(segment.source.name, header.signals, channels, options)
    parts = []
    first = 0
    while first < len(specs):
        file = specs[first].file
        last = first + 1
        while last < len(specs) and specs[last].file == file:
            last += 1
        wanted = [i for i in range(first, last) if i in channels]
        if wanted:
            companion = _companion(segment.source, file, used)
            group = behind_matrix_header(companion, specs[first:last], segment.frames, notes)
            stored = SignalFile(segment.source, companion, group, segment.frames)
            factors = [channels[i].factor_mv for i in wanted]
            parts.append(stored.millivolt([i - first for i in wanted], factors, per_frame, notes))
            used[companion.name].append(stored.part)
        first = last
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _calibrated(
    name: str, specs: tuple[SignalSpec, ...], channels: dict[int, Channel], options: ReadOptions
) -> tuple[SignalSpec, ...]:
    """Fill gains that the header leaves out with the user's answer; ask when there is none."""
    if all(spec.gain is not None for spec in specs):
        return specs
    if options.unit is None and any(specs[i].gain is None for i in channels):
        raise NeedsAnswer(
            f"{name} does not say how many digits are one millivolt.",
            fields={"unit": UNCALIBRATED},
        )
    per_mv = 1 / option_unit_mv(options.unit or "200/mV")
    return tuple(spec if spec.gain is not None else spec._replace(gain=per_mv, unit="mV") for spec in specs)


def _frames_from_size(source: Source, header: Header, used: Used) -> int:
    """Return the number of frames when the header leaves it out: what the first signal file holds."""
    if not header.signals:
        raise UnreadableFile(f"{source.name} describes no signal.", code="no_signal")
    group = [spec for spec in header.signals if spec.file == header.signals[0].file]
    companion = _companion(source, group[0].file, used)
    frames = frames_that_fit(source, companion, group)
    used[companion.name].append(SignalFile(source, companion, group, frames).part)
    return frames


def _companion(source: Source, name: str, used: Used) -> Source:
    """Return a file beside the header; nothing outside the upload's folder can be reached."""
    # "./r.dat" lies beside the header, too.
    name = name.removeprefix("./")
    companion = source.companion(name)
    if companion is None:
        # Systems that do not tell capitals from small letters wrote such pairs.
        stem, dot, suffix = name.rpartition(".")
        variants = (name.lower(), name.upper(), f"{stem}{dot}{suffix.upper()}", f"{stem}{dot}{suffix.lower()}")
        companion = next(filter(None, map(source.companion, variants)), None)
    if companion is None:
        raise UnreadableFile(
            f"{source.name} needs the file {name!r}, which is not beside it. Upload both files of the record together.",
            code="signal_file_missing",
        )
    used.setdefault(companion.name, [])
    return companion


def _annotations(source: Source, fs_hz: float, choice: Choice, used: Used, notes: list[str]) -> tuple[Annotation, ...]:
    """Read the annotations beside the header: the reference ``.atr``, where there is none the first of the other annotators of beats;
    one file a lead as in LUDB (``.i`` to ``.v6``)."""
    stem = _key(source.name)
    found: list[Annotation] = []
    marks = choice.marks
    if source.companion(f"{stem}.atr") is None:
        other = next(
            (suffix for suffix in _ANNOTATORS if _is_annotation_file(source.companion(f"{stem}.{suffix}"))), None
        )
        if other is not None:
            marks = ((other, None), *marks)
        if other is not None and other != "ATR":
            notes.append(
                f"The annotations are those of the annotator {other!r}; there are no reference annotations (.atr)."
            )
    for suffix, lead in marks:
        companion = source.companion(f"{stem}.{suffix}")
        if companion is None:
            continue
        read = read_annotations(read_bytes(companion, MAX_ANNOTATION_BYTES), fs_hz, choice.by_number)
        used.setdefault(companion.name, [])
        found += read if lead is None else [(time, symbol, lead, note) for time, symbol, _, note in read]
    found.sort(key=lambda annotation: annotation[0])
    return tuple(found)


def _is_annotation_file(file: Source | None) -> bool:
    """Tell whether a file can be one of annotations: words of two bytes, the last of them zero. An ``.ecg`` may be SCP-ECG."""
    if file is None or not 2 <= file.size <= MAX_ANNOTATION_BYTES or file.size % 2:
        return False
    with file.open() as stream:
        if stream.read(22)[16:] == b"SCPECG":
            return False
        stream.seek(-2, io.SEEK_END)
        return stream.read(2) == b"\x00\x00"


reader(
    Reader(
        name="wfdb",
        title="WFDB record",
        suffixes=(".hea",),
        sniff=_sniff,
        read=_read,
    )
)
