"""Headers and annotation lists of EDF, EDF+ and BDF (Kemp et al. 1992; Kemp and Olivan 2003; BioSemi)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from datasets.formats._clinical import age_between, number, sex
from ecgportal.errors import UnreadableFile

MAX_SIGNALS = 512
MAX_ANNOTATIONS = 200_000
MAX_ANNOTATION_BYTES = 64 * 1024 * 1024
_FIELDS = (
    ("label", 16), ("transducer", 80), ("unit", 8), ("physical_min", 8), ("physical_max", 8), ("digital_min", 8),
    ("digital_max", 8), ("prefilter", 80), ("samples", 8), ("reserved", 32),
)  # fmt: skip
_MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()


@dataclass(frozen=True)
class Signal:
    """One signal of a file. samples: values per data record; offset: its first value's place in a data record."""

    label: str
    unit: str
    physical: tuple[float | None, float | None]
    digital: tuple[float | None, float | None]
    samples: int
    offset: int

    @property
    def is_annotation(self) -> bool:
        return self.label in ("EDF Annotations", "BDF Annotations")


@dataclass(frozen=True)
class Header:
    """A file's header. width: bytes per value; start: byte of the first data record; record_s: its duration; records: of an
    ``unclosed`` file, which does not state it, the whole ones that it holds."""

    width: int
    start: int
    records: int
    record_s: float
    plus: bool
    discontinuous: bool
    signals: tuple[Signal, ...]
    subject: str | None
    sex: str | None
    age: float | None
    recorded_at: str | None
    device: str | None
    unclosed: bool = False

    @property
    def record_bytes(self) -> int:
        return self.width * sum(signal.samples for signal in self.signals)


def _damaged(name: str, why: str) -> UnreadableFile:
    return UnreadableFile(f"{name}: the EDF header {why}. The file is damaged; export it again.", code="damaged_edf")


def _text(raw: bytes) -> str:
    return raw.decode("latin-1").replace("\x00", " ").strip()


def _number(raw: bytes) -> float | None:
    """Return a number; software of some countries writes a decimal comma, which no field has for another purpose."""
    return number(_text(raw).replace(",", ".", 1))


def _whole(name: str, what: str, raw: bytes) -> int:
    text = _text(raw)
    if not re.fullmatch(r"[+-]?\d{1,8}", text):
        raise _damaged(name, f"states {what} as {text[:12]!r}")
    return int(text)


def read_header(name: str, stream: BinaryIO, size: int) -> Header:
    """Return the header of a file of ``size`` bytes, read from the start of the stream."""
    fixed = stream.read(256)
    if len(fixed) < 256:
        raise _damaged(name, f"is cut off after {len(fixed)} bytes")
    bdf = fixed[:1] == b"\xff"
    count = _whole(name, "the number of signals", fixed[252:256])
    records = _whole(name, "the number of data records", fixed[236:244])
    record_s = _number(fixed[244:252])
    if not 0 <= count <= MAX_SIGNALS:
        raise _damaged(name, f"announces {count} signals; at most {MAX_SIGNALS} are read")
    # -1 stands there while the file is written (EDF specification); it stays when the recorder was switched off meanwhile.
    unclosed = records == -1
    if records < -1:
        raise _damaged(name, f"states {records} data records, which cannot be")
    if record_s is None or record_s < 0:
        raise _damaged(name, f"states no duration of a data record ({_text(fixed[244:252])[:12]!r})")
    start = 256 * (count + 1)
    if _whole(name, "its own length", fixed[184:192]) != start or start > size:
        raise _damaged(name, f"does not have the {start} bytes that {count} signals need")
    signals = tuple(_signals(name, stream.read(256 * count), count))
    if unclosed:
        per_record = (3 if bdf else 2) * sum(signal.samples for signal in signals)
        records = (size - start) // per_record if per_record else 0
    reserved = _text(fixed[192:236])
    plus = reserved[:4] in ("EDF+", "BDF+")
    subject, gender, birth = _patient(_text(fixed[8:88]))
    at, device = _recording(fixed, plus)
    return Header(
        width=3 if bdf else 2,
        start=start,
        records=records,
        record_s=record_s,
        plus=plus,
        discontinuous=reserved[:5] in ("EDF+D", "BDF+D"),
        signals=signals,
        subject=subject,
        sex=gender,
        age=age_between(birth, at),
        recorded_at=at.isoformat() if at else None,
        device=device,
        unclosed=unclosed,
    )


def _signals(name: str, raw: bytes, count: int) -> Iterator[Signal]:
    if len(raw) < 256 * count:
        raise _damaged(name, f"is cut off: it announces {count} signals")
    columns: dict[str, list[bytes]] = {}
    at = 0
    for key, width in _FIELDS:
        columns[key] = [raw[at + index * width : at + (index + 1) * width] for index in range(count)]
        at += width * count
    offset = 0
    for index in range(count):
        label = " ".join(_text(columns["label"][index]).split())
        samples = _whole(name, f"the samples of signal {label or index + 1}", columns["samples"][index])
        if samples < 0:
            raise _damaged(name, f"states {samples} samples of signal {label or index + 1}")
        low, high, digital_low, digital_high = (
            _number(columns[key][index]) for key in ("physical_min", "physical_max", "digital_min", "digital_max")
        )
        yield Signal(label, _text(columns["unit"][index]), (low, high), (digital_low, digital_high), samples, offset)
        offset += samples


def _date(text: str) -> datetime | None:
    match = re.fullmatch(r"(\d{1,2})-([A-Za-z]{3})-(\d{4})", text)
    if match is None or match[2].upper() not in _MONTHS:
        return None
    try:
        return datetime(int(match[3]), _MONTHS.index(match[2].upper()) + 1, int(match[1]))
    except ValueError:
        return None


def _patient(text: str) -> tuple[str | None, str | None, datetime | None]:
    """Return (code, sex, birth date) of an EDF+ patient field; a field of another form may be a name and gives nothing."""
    parts = text.split(" ")
    if len(parts) < 4 or parts[1] not in ("M", "F", "X") or (parts[2] != "X" and _date(parts[2]) is None):
        return None, None, None
    return (parts[0] if parts[0] != "X" else None), sex(parts[1]), _date(parts[2])


def _recording(fixed: bytes, plus: bool) -> tuple[datetime | None, str | None]:
    """Return the start and the equipment."""
    parts = _text(fixed[88:168]).split(" ")
    day = _date(parts[1]) if plus and len(parts) > 1 and parts[0] == "Startdate" else None
    device = parts[4] if plus and len(parts) > 4 and parts[4] != "X" else None
    date = re.fullmatch(r"(\d\d)\.(\d\d)\.(\d\d)", _text(fixed[168:176]))
    clock = re.fullmatch(r"(\d\d)\.(\d\d)\.(\d\d)", _text(fixed[176:184]))
    if day is None and date is not None:
        # Two digits of the year: 85 to 99 are 1985 to 1999 (EDF specification).
        year = int(date[3]) + (1900 if int(date[3]) >= 85 else 2000)
        try:
            day = datetime(year, int(date[2]), int(date[1]))
        except ValueError:
            day = None
    if day is not None and clock is not None and int(clock[1]) < 24 and int(clock[2]) < 60 and int(clock[3]) < 60:
        day = day.replace(hour=int(clock[1]), minute=int(clock[2]), second=int(clock[3]))
    return day, device


@dataclass(frozen=True)
class Annotation:
    """One annotation: onset in seconds after the start of the file's clock."""

    onset_s: float
    text: str


# An onset, a duration that is passed over, texts that each end with 0x14, and a zero byte at the end.
_ENTRY = re.compile(rb"([+-]\d{1,12}(?:\.\d{0,9})?)(?:\x15[\d.]{0,20})?\x14([^\x00]{0,4096})\x00")


def read_annotations(raw: bytes) -> tuple[float | None, list[Annotation]]:
    """Return the start of a data record (its time-keeping annotation) and the annotations of its list."""
    start: float | None = None
    found: list[Annotation] = []
    for match in _ENTRY.finditer(raw):
        onset = float(match[1])
        texts = match[2].split(b"\x14")
        if start is None and texts[0] == b"":
            start = onset
        found += [Annotation(onset, text.decode("utf-8", "replace").strip()) for text in texts if text.strip()]
        if len(found) > MAX_ANNOTATIONS:
            break
    return start, found
