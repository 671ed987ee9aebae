"""EDF, EDF+ and BDF: the ECG signals of a recording, its annotations, gaps of discontinuous files.

Other signals (EEG, respiration, oxygen) are dropped and named. Signals of different rates give a record each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from datasets.ecg import LEADS_12, Record, RecordMeta
from datasets.formats._clinical import (
    check_rate,
    check_size,
    distinct_leads,
    finite_signal,
    known_lead,
    lead_name,
    left_out_note,
    merely_numbered,
    millivolts_per,
    option_unit_mv,
    statement_labels,
    stem,
)
from datasets.formats._edf_header import (
    MAX_ANNOTATION_BYTES,
    MAX_ANNOTATIONS,
    Annotation,
    Header,
    Signal,
    read_annotations,
    read_header,
)
from datasets.formats.base import MAX_FILE_BYTES, Reader, ReadOptions, ReadResult, Source, reader
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile

# Values, gaps included, that a recording of a few moments may be spread over: 50 hours of one lead at 250 Hz.
_MOST_SPARSE_VALUES = 45_000_000
_BLOCK_BYTES = 16 * 1024 * 1024
_ECG_LABEL = re.compile(r"^(ECG|EKG)\b|^(ECG|EKG)[\d_ \-]", re.IGNORECASE)
# Names that are leads in an ECG file, but EEG electrodes, axes of motion or plain numbers elsewhere.
_DOUBTFUL = re.compile(r"^(C\d|[RLFXYZ]|\d|V[XYZ])$", re.IGNORECASE)
_OTHER_KINDS = re.compile(
    r"^(EEG|EOG|EMG|ERG|RESP|TEMP|SAO2|SPO2|PULSE|PLETH|PRESS|FLOW|LIGHT|SOUND|STATUS|EVENT|MARKER|ACC)", re.IGNORECASE
)
_EEG = re.compile(r"^(EEG|EOG|EMG|(FP|F|O|P|T|A|M)\d)", re.IGNORECASE)
_BEAT_WORDS = {"QRS": "qrs", "R": "qrs", "RPEAK": "qrs", "R-PEAK": "qrs", "BEAT": "beat"}
_WFDB_BEATS = frozenset("N L R B A a J S V r F e j n E / f Q ? + ~ |".split())


def _sniff(head: bytes, name: str) -> bool:
    if head[:8] == b"\xffBIOSEMI":
        return True
    return head[:8] == b"0       " and re.fullmatch(rb"\d{1,8} *", head[184:192]) is not None and len(head) >= 256


def _leads(name: str, signals: list[Signal], options: ReadOptions) -> dict[int, str]:
    """Return the lead name of every ECG signal by its place in ``signals``."""
    if options.lead_order is not None and not any(_is_named(signal.label) for signal in signals):
        if len(options.lead_order) != len(signals):
            raise NeedsAnswer(
                f"{name} holds {len(signals)} signals, but {len(options.lead_order)} lead names were given.",
                fields={
                    "lead_order": f"No guess: name the leads of the {len(signals)} signals in the order of the file."
                },
            )
        return {index: lead_name(label) for index, label in enumerate(options.lead_order)}
    labels = [_without_reference(signal.label) for signal in signals]
    sure = {known_lead(label) for label in labels if not _DOUBTFUL.match(label)}
    ecg_file = {"I", "II"} <= sure and not any(map(_EEG.match, labels))
    found: dict[int, str] = {}
    for index, label in enumerate(labels):
        if _ECG_LABEL.match(label):
            # Whether a hyphen divides or turns the lead over ("ECG -aVR") is known to the dictionary of leads.
            bare = re.sub(r"^(ECG|EKG)[ _\-:]*", "", label, flags=re.IGNORECASE)
            sure_of = ecg_file or not _DOUBTFUL.match(bare) or known_lead(bare) in ("X", "Y", "Z")
            found[index] = (
                lead_name(label) if sure_of and known_lead(bare) and known_lead(label) else signals[index].label
            )
        elif known_lead(label) and (ecg_file or not _DOUBTFUL.match(label)):
            found[index] = lead_name(label)
    if merely_numbered(list(found.values())):
        if options.lead_order is None or len(options.lead_order) != len(found):
            raise NeedsAnswer(
                f"{name} numbers its {len(found)} ECG signals and does not say which leads they are. Name them.",
                fields={"lead_order": _order_question(len(found))},
            )
        return dict(zip(found, map(lead_name, options.lead_order), strict=True))
    return found


def _without_reference(label: str) -> str:
    """Return a label without the electrode that monitors measure against (``aVR-Ref``)."""
    return re.sub(r"[ \-]+Ref$", "", label, flags=re.IGNORECASE)


def _is_named(label: str) -> bool:
    label = _without_reference(label)
    return bool(
        _ECG_LABEL.match(label) or _OTHER_KINDS.match(label) or (known_lead(label) and not _DOUBTFUL.match(label))
    )


def _scale(name: str, signal: Signal, options: ReadOptions) -> tuple[float, float] | None:
    """Return (millivolt per digit, millivolt at digit 0), or None when the signal is not a voltage."""
    factor = millivolts_per(signal.unit) if signal.unit else None
    if factor is not None:
        pass
    elif signal.unit and known_lead(re.sub(r"^(ECG|EKG)[ _\-:]+", "", _without_reference(signal.label))) is None:
        return None
    elif options.unit is not None:
        factor = option_unit_mv(options.unit)
    else:
        stated = f"its unit as {signal.unit!r}, which is no voltage" if signal.unit else "no unit"
        raise NeedsAnswer(
            f"{name}: signal {signal.label} states {stated}. State it.",
            fields={
                "unit": f"No guess: the physical range is {signal.physical[0]} to {signal.physical[1]}; mV and uV are usual."
            },
        )
    (low, high), (digital_low, digital_high) = signal.physical, signal.digital
    if (
        low is None
        or high is None
        or digital_low is None
        or digital_high is None
        or digital_high <= digital_low
        or low == high
    ):
        raise UnreadableFile(
            f"{name}: signal {signal.label} states the range {low} to {high} for the digits {digital_low} to {digital_high}, "
            "which is no scale. The file is damaged; export it again.",
            code="bad_scale",
        )
    per_digit = (high - low) / (digital_high - digital_low)
    return per_digit * factor, (low - digital_low * per_digit) * factor


def _blocks(name: str, stream: BinaryIO, header: Header) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first record, bytes ``(records, record_bytes)``) over the whole file."""
    size = header.record_bytes
    stream.seek(header.start)
    per_block = max(1, _BLOCK_BYTES // size)
    done = 0
    while done < header.records:
        count = min(per_block, header.records - done)
        raw = stream.read(count * size)
        if len(raw) < count * size:
            raise UnreadableFile(
                f"{name} announces {header.records} data records but holds {done + len(raw) // size}. "
                "The file was cut off; send it again.",
                code="short_waveform",
            )
        yield done, np.frombuffer(raw, np.uint8).reshape(count, size)
        done += count


def _digits(block: np.ndarray, signal: Signal, width: int) -> np.ndarray:
    """Return one signal's integers of a block, ``(records, samples)``."""
    part = np.ascontiguousarray(block[:, signal.offset * width : (signal.offset + signal.samples) * width])
    if width == 2:
        return part.view("<i2")
    triples = part.reshape(part.shape[0], signal.samples, 3).astype(np.int32)
    return triples[..., 0] | (triples[..., 1] << 8) | (((triples[..., 2] ^ 0x80) - 0x80) << 16)


def _clock(name: str, stream: BinaryIO, header: Header) -> tuple[list[float], list[Annotation]]:
    """Return the start of every data record in seconds, and all annotations."""
    lists = [signal for signal in header.signals if signal.is_annotation]
    starts = [index * header.record_s for index in range(header.records)]
    found: list[Annotation] = []
    if not lists:
        return starts, found
    if header.records * header.width * sum(signal.samples for signal in lists) > MAX_ANNOTATION_BYTES:
        raise TooLarge(
            f"{name} holds more than {MAX_ANNOTATION_BYTES // 2**20} MB of annotations. Split the recording."
        )
    for first, block in _blocks(name, stream, header):
        for row in range(block.shape[0]):
            for place, signal in enumerate(lists):
                raw = block[
                    row, signal.offset * header.width : (signal.offset + signal.samples) * header.width
                ].tobytes()
                start, annotations = read_annotations(raw)
                if place == 0 and start is not None:
                    starts[first + row] = start
                if len(found) < MAX_ANNOTATIONS:
                    found += annotations
    return starts, found


def _places(name: str, header: Header, starts: list[float], samples: int, fs_hz: float) -> tuple[np.ndarray, int]:
    """Return the first sample of every data record on the timeline, and the timeline's length."""
    if not header.discontinuous:
        return np.arange(header.records) * samples, header.records * samples
    begin = np.round((np.array(starts) - starts[0]) * fs_hz)
    if not np.isfinite(begin).all() or (np.diff(begin) < samples).any():
        raise UnreadableFile(
            f"{name} is discontinuous (EDF+D), but its data records overlap in time. The file is damaged; export it again.",
            code="damaged_edf",
        )
    length = float(begin[-1]) + samples
    check_size(name, 1, int(min(length, 1e15)))
    return begin.astype(np.int64), int(length)


def _marks(annotations: list[Annotation], start_s: float) -> tuple[list[tuple[float, str, str | None, str]], int]:
    """Return the annotations as marks, and how many texts were left out because they may name a person."""
    marks: list[tuple[float, str, str | None, str]] = []
    left_out = 0
    for annotation in annotations[:MAX_ANNOTATIONS]:
        text = annotation.text
        at = round(annotation.onset_s - start_s, 9)
        if text.upper() in _BEAT_WORDS:
            marks.append((at, _BEAT_WORDS[text.upper()], None, ""))
        elif text in _WFDB_BEATS:
            marks.append((at, text, None, ""))
        else:
            labels, hidden = statement_labels([text])
            left_out += hidden
            marks.append((at, "note", None, labels[0].code if labels else ""))
    return sorted(marks, key=lambda mark: mark[0]), left_out


def _record(
    source: Source,
    stream: BinaryIO,
    header: Header,
    chosen: list[tuple[Signal, str, tuple[float, float]]],
    starts: list[float],
) -> tuple[float, tuple[str, ...], np.ndarray]:
    """Return (rate, leads, signal in mV) of the signals of one rate."""
    samples = chosen[0][0].samples
    fs_hz = check_rate(source.name, samples / header.record_s)
    places, length = _places(source.name, header, starts, samples, fs_hz)
    check_size(source.name, len(chosen), length)
    recorded = header.records * samples
    if length * len(chosen) > max(_MOST_SPARSE_VALUES, 100 * recorded * len(chosen)):
        raise TooLarge(
            f"{source.name} consists of gaps: {recorded} of {length} samples are recorded. Cut the recording to its parts.",
            code="too_many_gaps",
        )
    out = np.full((len(chosen), length), np.nan, np.float32)
    for first, block in _blocks(source.name, stream, header):
        for row, (signal, _, (per_digit, at_zero)) in enumerate(chosen):
            millivolt = (_digits(block, signal, header.width) * per_digit + at_zero).astype(np.float32)
            if header.discontinuous:
                for index, piece in enumerate(millivolt):
                    place = int(places[first + index])
                    out[row, place : place + samples] = piece
            else:
                out[row, first * samples : first * samples + millivolt.size] = millivolt.ravel()
    return fs_hz, tuple(lead for _, lead, _ in chosen), out


def _choose(
    name: str, header: Header, options: ReadOptions
) -> tuple[list[tuple[Signal, str, tuple[float, float]]], list[str]]:
    """Return the ECG signals with lead and scale, and the names of the dropped ones."""
    signals = [signal for signal in header.signals if not signal.is_annotation]
    if signals and header.records > 0 and header.record_s == 0:
        raise UnreadableFile(
            f"{name} states that a data record lasts 0 s, so its signals have no sampling rate. Export it again.",
            code="no_rate",
        )
    if not signals or header.records == 0:
        raise UnreadableFile(
            f"{name} holds annotations but no signals. Send the file with the recording itself.", code="no_waveform"
        )
    leads = _leads(name, signals, options)
    chosen, dropped = [], []
    for index, signal in enumerate(signals):
        scale = _scale(name, signal, options) if index in leads and signal.samples > 0 else None
        if scale is None:
            dropped.append(signal.label or f"signal {index + 1}")
        else:
            chosen.append((signal, leads[index], scale))
    if chosen:
        return chosen, dropped
    labels = ", ".join(signal.label or "(no label)" for signal in signals[:20])
    if any(_is_named(signal.label) for signal in signals):
        raise UnreadableFile(f"{name} holds no ECG signal. Its signals are: {labels}.", code="no_ecg_channel")
    raise NeedsAnswer(
        f"{name} does not say which leads its {len(signals)} signals are ({labels}). Name them.",
        fields={"lead_order": _order_question(len(signals))},
    )


def _order_question(count: int) -> str:
    if count == len(LEADS_12):
        return f"Guess: {' '.join(LEADS_12)}. It is the usual order of 12 signals; the labels say nothing."
    return f"No guess: the labels of the {count} signals say nothing. Name them in the order of the file."


def _read(source: Source, options: ReadOptions) -> ReadResult:
    if source.size > MAX_FILE_BYTES:
        raise TooLarge(
            f"{source.name} is {source.size / 1e6:.0f} MB; a single file may have at most {MAX_FILE_BYTES / 1e6:.0f} MB. "
            "Split the recording or raise the limit on the server."
        )
    with source.open() as stream:
        header = read_header(source.name, stream, source.size)
        chosen, dropped = _choose(source.name, header, options)
        wanted = header.start + header.records * header.record_bytes
        if wanted > source.size:
            held = (source.size - header.start) // header.record_bytes
            raise UnreadableFile(
                f"{source.name} announces {header.records} data records but holds {held}. The file was cut off; send it again.",
                code="short_waveform",
            )
        starts, annotations = _clock(source.name, stream, header)
        marks, left_out = _marks(annotations, starts[0])
        notes = [*left_out_note(left_out)]
        surplus = (source.size - wanted) // header.record_bytes if header.record_bytes else 0
        if surplus > 0:
            notes.append(f"The file holds {surplus} data records more than its header announces; they were not read.")
        if header.unclosed:
            rest = source.size - wanted
            notes.append(
                f"The recording was not closed: its header does not state how many data records it has. The {header.records} whole ones "
                f"that the file holds were read{f', {rest} bytes behind them not' if rest else ''}; its end may be missing."
            )
        if header.discontinuous:
            notes.append("The recording has interruptions; they are kept as gaps.")
        names = distinct_leads(source.name, [lead for _, lead, _ in chosen])
        chosen = [(signal, lead, scale) for (signal, _, scale), lead in zip(chosen, names, strict=True)]
        rates = list(dict.fromkeys(signal.samples for signal, _, _ in chosen))
        if len(rates) > 1:
            notes.append("The leads were recorded at different rates; every rate gives a record of its own.")
        records = []
        for place, samples in enumerate(rates, start=1):
            same = [entry for entry in chosen if entry[0].samples == samples]
            fs_hz, leads, signal = _record(source, stream, header, same, starts)
            meta = RecordMeta(
                subject=header.subject,
                age=header.age,
                sex=header.sex,
                annotations=tuple(marks),
                dropped_channels=tuple(dropped),
                device=header.device,
                recorded_at=header.recorded_at,
                notes=tuple(notes),
            )
            key = stem(source.name) if len(rates) == 1 else f"{stem(source.name)}_{place}"
            records.append(
                (key, Record(signal=finite_signal(source.name, signal), fs_hz=fs_hz, leads=leads, meta=meta))
            )
    return ReadResult(tuple(records))


reader(Reader("edf", "EDF, EDF+, BDF", (".edf", ".bdf"), _sniff, _read))
