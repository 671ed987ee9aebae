"""MFER, the Medical waveform Format Encoding Rules (ISO 22077-1): tags with a length and content, samples in frames.

What a tag states holds until it is stated again, for all channels or, inside a channel's own block, for that channel.
A frame holds, for each of its sequences, a block of samples of every channel, one channel after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from datasets.ecg import Record, RecordMeta
from datasets.formats._clinical import (
    CODED_LEADS,
    age_between,
    asked_leads,
    check_rate,
    check_size,
    distinct_leads,
    finite_signal,
    lead_name,
    option_unit_mv,
    stem,
)
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import NeedsAnswer, UnreadableFile

_ZERO, _ORDER, _CHARACTERS, _BLOCK, _CHANNELS, _SEQUENCES = 0x00, 0x01, 0x03, 0x04, 0x05, 0x06
_KIND, _LEAD, _TYPE, _INTERVAL, _RESOLUTION, _OFFSET, _COMPRESSION = 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E
_NULL, _DEVICE, _SAMPLES, _CHANNEL, _PREAMBLE, _END = 0x12, 0x17, 0x1E, 0x3F, 0x40, 0x80
_NAME, _SUBJECT, _AGE, _SEX, _TIME = 0x81, 0x82, 0x83, 0x84, 0x85
_KNOWN_TAGS = frozenset(range(0x00, 0x1F)) | {0x3F, 0x40, 0x41, 0x42, 0x43, 0x44, 0x67} | set(range(0x80, 0x8A))

_TYPES = {0: "i2", 1: "u2", 2: "i4", 3: "u1", 5: "i1", 6: "u4", 7: "f4", 8: "f8"}
_HERTZ, _SECONDS, _VOLT = 0, 1, 0
_USUAL_HZ = 1000.0
_MAX_CHANNELS, _MAX_TAGS = 64, 100_000
# Code pages by the names that the character code tag gives.
_CODE_PAGES = {"SHIFT": "shift_jis", "SJIS": "shift_jis", "EUC": "euc_jp", "UTF": "utf-8", "GB": "gb18030", "2022": "iso2022_jp"}  # fmt: skip


@dataclass(frozen=True)
class _Channel:
    """What is stated of a channel. interval_hz, per_digit_mv: None where nothing is stated; 0 for another quantity."""

    block: int = 1
    kind: str = "i2"
    interval_hz: float | None = None
    per_digit_mv: float | None = None
    null: float | None = None
    offset: float = 0.0
    lead: str | None = None


@dataclass
class _Frame:
    """The samples of one frame by channel, digits, and what was stated of them."""

    kind: int
    channels: list[tuple[_Channel, np.ndarray]]

    def layout(self) -> tuple[object, ...]:
        return (self.kind, *(channel for channel, _ in self.channels))


@dataclass
class _State:
    """What the tags of a file have stated so far."""

    name: str
    order: str = ">"
    count: int = 1
    sequences: int | None = None
    kind: int = 0
    common: _Channel = field(default_factory=_Channel)
    own: dict[int, _Channel] = field(default_factory=dict)
    frames: list[_Frame] = field(default_factory=list)
    texts: dict[int, bytes] = field(default_factory=dict)

    def number(self, raw: bytes, signed: bool = False) -> int:
        return int.from_bytes(raw, "big" if self.order == ">" else "little", signed=signed)


def _damaged(name: str, why: str) -> UnreadableFile:
    return UnreadableFile(f"{name} is a damaged MFER file: {why}. Export it again.", code="damaged_mfer")


def _sniff(head: bytes, name: str) -> bool:
    if head[:1] == b"\x40" and head[2:5] == b"MFR":
        return True
    # The preamble may be missing; then the tags have to make sense and the name has to say it.
    return name.lower().endswith((".mwf", ".mfer")) and _begins_with_tags(head)


def _begins_with_tags(head: bytes) -> bool:
    """Tell whether at least four known tags follow one another, sampling or channels among them."""
    at, seen = 0, set[int]()
    while at + 2 <= len(head) and head[at] in _KNOWN_TAGS and head[at + 1] < 0x80 and len(seen) < 16:
        seen.add(head[at])
        at += 2 + head[at + 1]
    return len(seen) >= 4 and bool(seen & {_INTERVAL, _CHANNELS, _BLOCK, _KIND})


def _length(data: bytes, at: int, name: str) -> tuple[int | None, int]:
    """Return a content's length (None: it ends with two zeros) and where it begins."""
    if at >= len(data):
        raise _damaged(name, "it ends inside a tag")
    first = data[at]
    if first < 0x80:
        return first, at + 1
    if first == 0x80:
        return None, at + 1
    width = first & 0x7F
    if width > 4 or at + 1 + width > len(data):
        raise _damaged(name, f"a tag at byte {at} states a length of {width} bytes")
    return int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width


def _tags(data: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield (tag, number of the channel or -1, content) of a file or of a channel's block, up to its end."""
    at = 0
    for _ in range(_MAX_TAGS):
        while at < len(data) and data[at] == _ZERO:
            at += 1
        if at >= len(data) or data[at] == _END:
            return
        tag, channel = data[at], -1
        at += 1
        if tag == _CHANNEL:
            channel, at = _channel_number(data, at, name)
        size, at = _length(data, at, name)
        end = _end_of_block(data, at, tag, name) if size is None else at + size
        if end > len(data):
            raise UnreadableFile(
                f"{name} ends inside its {'samples' if tag == _SAMPLES else 'description'}: "
                f"{(size or 0)} bytes are announced, {len(data) - at} are there. The file was cut off; export it again.",
                code="short_waveform",
            )
        yield tag, channel, data[at:end]
        at = end
    raise _damaged(name, f"it has more than {_MAX_TAGS} tags")


def _end_of_block(data: bytes, at: int, tag: int, name: str) -> int:
    """Return where a channel's block without a stated length ends: two zeros stand there instead of a tag."""
    while tag == _CHANNEL and at + 1 < len(data):
        if data[at : at + 2] == b"\x00\x00":
            return at
        size, begin = _length(data, at + 1, name)
        if size is None:
            break
        at = begin + size
    raise _damaged(name, "the length of a tag is open")


def _channel_number(data: bytes, at: int, name: str) -> tuple[int, int]:
    """Return a channel's number, seven bits a byte, the most significant first, and where its block's length stands."""
    number = 0
    for _ in range(3):
        if at >= len(data):
            break
        number = number << 7 | data[at] & 0x7F
        at += 1
        if data[at - 1] < 0x80:
            return number, at
    raise _damaged(name, "the number of a channel does not end")


def _scaled(state: _State, raw: bytes) -> tuple[int, float]:
    """Return the unit's code and the number of a tag that states ``number x 10 ^ exponent`` of a unit."""
    if not 3 <= len(raw) <= 6:
        raise _damaged(state.name, f"a rate or resolution has {len(raw)} bytes")
    exponent = int.from_bytes(raw[1:2], "big", signed=True)
    # Neither a rate nor a resolution is negative, and 250 Hz stands in one byte.
    return raw[0], state.number(raw[2:]) * 10.0**exponent


def _stated(state: _State, channel: _Channel, tag: int, raw: bytes) -> _Channel:
    """Return a channel with what one tag states of it."""
    if tag == _BLOCK:
        return replace(channel, block=state.number(raw))
    if tag == _TYPE:
        code = state.number(raw)
        if code not in _TYPES:
            raise UnreadableFile(
                f"{state.name} stores its samples in the form number {code}; whole and floating-point numbers are read, status "
                "words and compressed samples are not. Export it uncompressed.",
                code="unknown_sample_kind",
            )
        return replace(channel, kind=_TYPES[code])
    if tag == _INTERVAL:
        unit, value = _scaled(state, raw)
        if unit not in (_HERTZ, _SECONDS) or not value:
            raise _damaged(state.name, "its sampling interval is no time")
        return replace(channel, interval_hz=round(value if unit == _HERTZ else 1 / value, 6))
    if tag == _RESOLUTION:
        unit, value = _scaled(state, raw)
        return replace(channel, per_digit_mv=value * 1000 if unit == _VOLT else 0.0)
    if tag in (_NULL, _OFFSET) and len(raw) == np.dtype(channel.kind).itemsize:
        value = float(np.frombuffer(raw, state.order + channel.kind)[0])
        return replace(channel, null=value) if tag == _NULL else replace(channel, offset=value)
    if tag == _LEAD:
        code = state.number(raw[:2])
        text = raw[2:].split(b"\x00")[0].decode("latin-1").strip()
        return replace(
            channel, lead=CODED_LEADS.get(code) or (lead_name(text) if text.isprintable() and text else None)
        )
    return channel


def _parse(data: bytes, name: str) -> _State:
    state = _State(name)
    for tag, number, raw in _tags(data, name):
        if tag == _ORDER:
            state.order = "<" if state.number(raw) else ">"
        elif tag == _CHANNELS:
            state.count = state.number(raw)
            state.own.clear()
            if not 1 <= state.count <= _MAX_CHANNELS:
                raise _damaged(name, f"it announces {state.count} channels; 1 to {_MAX_CHANNELS} are read")
        elif tag == _SEQUENCES:
            state.sequences = state.number(raw) or None
        elif tag == _KIND:
            state.kind = state.number(raw[:2])
        elif tag == _COMPRESSION and any(raw[:2]):
            raise UnreadableFile(
                f"{name} compresses its samples, which is not read. Export it uncompressed.", code="unknown_compression"
            )
        elif tag == _CHANNEL:
            channel = state.own.get(number, state.common)
            for inner, _, content in _tags(raw, name):
                channel = _stated(state, channel, inner, content)
            state.own[number] = channel
        elif tag == _SAMPLES:
            state.frames.append(_frame(state, raw))
        elif tag in (_CHARACTERS, _DEVICE, _NAME, _SUBJECT, _AGE, _SEX, _TIME):
            state.texts.setdefault(tag, raw)
        else:
            state.common = _stated(state, state.common, tag, raw)
            state.own = {key: _stated(state, own, tag, raw) for key, own in state.own.items()}
    return state


def _frame(state: _State, raw: bytes) -> _Frame:
    """Return the channels of a frame, digits."""
    channels = [state.own.get(number, state.common) for number in range(state.count)]
    if min(channel.block for channel in channels) < 1:
        raise _damaged(state.name, "it states blocks without samples")
    widths = [channel.block * np.dtype(channel.kind).itemsize for channel in channels]
    sequences = state.sequences or len(raw) // sum(widths)
    check_size(state.name, sum(channel.block for channel in channels), sequences)
    if sequences < 1 or sequences * sum(widths) > len(raw):
        raise UnreadableFile(
            f"{state.name} announces {sequences} x {sum(channel.block for channel in channels)} samples for a frame of {len(raw)} "
            "bytes. The file was cut off or is damaged; export it again.",
            code="short_waveform",
        )
    whole = np.frombuffer(raw, np.uint8, sequences * sum(widths)).reshape(sequences, sum(widths))
    found, at = [], 0
    for channel, width in zip(channels, widths, strict=True):
        part = np.ascontiguousarray(whole[:, at : at + width])
        found.append((channel, part.view(state.order + channel.kind).reshape(-1)))
        at += width
    return _Frame(state.kind, found)


def _joined(state: _State, notes: list[str]) -> list[tuple[_Channel, np.ndarray]]:
    """Return the channels with the samples of all frames of the largest layout, one behind the other."""
    layouts: dict[tuple[object, ...], list[_Frame]] = {}
    for frame in state.frames:
        layouts.setdefault(frame.layout(), []).append(frame)
    if not layouts:
        raise UnreadableFile(f"{state.name} holds no samples. Export it with its waveform.", code="no_waveform")
    frames = max(layouts.values(), key=lambda own: sum(digits.size for frame in own for _, digits in frame.channels))
    left_out = len(state.frames) - len(frames)
    if left_out:
        notes.append(f"Frames of another kind or with other channels were left out: {left_out}.")
    return [
        (channel, np.concatenate([frame.channels[at][1] for frame in frames]))
        for at, (channel, _) in enumerate(frames[0].channels)
    ]


def _signal(
    state: _State, options: ReadOptions, notes: list[str]
) -> tuple[float, list[str], np.ndarray, tuple[str, ...]]:
    """Return the rate, the leads, the signal in millivolt and the channels that were left out."""
    name, channels = state.name, _joined(state, notes)
    fields: dict[str, str] = {}
    if options.fs_hz is None and any(channel.interval_hz is None for channel, _ in channels):
        fields["fs_hz"] = f"Guess: {_USUAL_HZ:g}. The standard takes 1000 Hz where a file states no sampling interval."
    if options.unit is None and any(channel.per_digit_mv is None for channel, _ in channels):
        fields["unit"] = "No guess: electrocardiographs differ. Give <number>/mV, the digits of one millivolt."
    if fields:
        raise NeedsAnswer(f"{name} does not state its sampling interval or resolution.", fields=fields)
    parts: dict[tuple[float, int], list[tuple[str, np.ndarray]]] = {}
    dropped: list[str] = []
    for number, (channel, digits) in enumerate(channels, start=1):
        lead = channel.lead or f"channel {number}"
        if channel.per_digit_mv == 0.0:
            dropped.append(f"{lead} (no voltage)")
            continue
        per_digit = option_unit_mv(options.unit or "") if channel.per_digit_mv is None else channel.per_digit_mv
        row = digits.astype(np.float64) * per_digit
        if channel.null is not None:
            row[digits == channel.null] = np.nan
        if channel.offset:
            notes.append(f"{lead}: the file names an offset of {channel.offset:g}; it was neither taken off nor added.")
        rate = check_rate(name, channel.interval_hz if channel.interval_hz is not None else options.fs_hz)
        parts.setdefault((rate, digits.size), []).append((lead, row.astype(np.float32)))
    if not parts:
        raise UnreadableFile(f"{name} holds no voltage: {', '.join(dropped[:12])}.", code="no_ecg_lead")
    fs_hz, length = max(parts, key=lambda key: (len(parts[key]), key[1]))
    rows = parts.pop((fs_hz, length))
    dropped += [f"{lead} ({size} samples at {rate:g} Hz)" for (rate, size), own in parts.items() for lead, _ in own]
    check_size(name, len(rows), length)
    return fs_hz, [lead for lead, _ in rows], finite_signal(name, np.stack([row for _, row in rows])), tuple(dropped)


def _decoded(state: _State, tag: int) -> str | None:
    """Return a text by the character code that the file states."""
    raw = state.texts.get(tag, b"").split(b"\x00")[0]
    stated = state.texts.get(_CHARACTERS, b"").decode("latin-1").upper()
    page = next((page for word, page in _CODE_PAGES.items() if word in stated), "latin-1")
    return raw.decode(page, "replace").strip() or None


def _moment(state: _State, raw: bytes) -> datetime | None:
    """Return the date, and the time where there is one: year in two bytes, then one byte each."""
    if len(raw) < 4:
        return None
    try:
        return datetime(state.number(raw[:2]), raw[2], raw[3], *raw[4:7] if len(raw) >= 7 else ())
    except ValueError:
        return None


def _meta(state: _State, notes: list[str], dropped: tuple[str, ...]) -> RecordMeta:
    at = _moment(state, state.texts.get(_TIME, b""))
    ages = state.texts.get(_AGE, b"")
    # Years, days, then the birth date; unknown is all ones.
    years = float(ages[0]) if ages and 0 < ages[0] < 255 else None
    device = _decoded(state, _DEVICE)
    return RecordMeta(
        subject=_decoded(state, _SUBJECT),
        age=years if years is not None else age_between(_moment(state, ages[3:7]), at),
        sex={1: "male", 2: "female"}.get(state.number(state.texts.get(_SEX, b"\x00")[:1])),
        dropped_channels=dropped,
        # Maker and model; what follows is the machine's own number.
        device=" ".join(re.split(r"\^", device)[:2]).strip() or None if device else None,
        recorded_at=at.isoformat() if at else None,
        notes=tuple(notes),
    )


def identifying_texts(data: bytes) -> list[str]:
    """Return the texts of a file's identifying fields, as far as it can be read."""
    found: list[bytes] = []
    try:
        found += [raw for tag, _, raw in _tags(data, "") if tag in (_NAME, _SUBJECT)]
    except UnreadableFile:
        pass
    pages = ("ascii", "utf-8", "shift_jis", "euc_jp", "latin-1")
    return [
        text.replace("\x00", " ") for raw in found for page in pages if (text := raw.decode(page, "ignore").strip())
    ]


def _read(source: Source, options: ReadOptions) -> ReadResult:
    name = source.name
    state = _parse(read_bytes(source), name)
    notes: list[str] = []
    fs_hz, leads, signal, dropped = _signal(state, options, notes)
    names = distinct_leads(name, asked_leads(name, leads, options))
    record = Record(signal, fs_hz, tuple(names), meta=_meta(state, notes, dropped))
    return ReadResult(((stem(name), record),))


reader(Reader("mfer", "MFER", (".mwf", ".mfer"), _sniff, _read, tried_on_real_files=False))
