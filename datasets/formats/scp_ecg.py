"""SCP-ECG (EN 1064, ISO 11073-91064), sections 0 to 8, versions 1.0 to 3.0.

Check sums are checked where they are stated (not 0). Rhythm data may be plain or Huffman-coded, with first or second differences, with the
reference beat subtracted, and with reduced rate outside the QRS (bimodal compression).
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass, field, replace

import numpy as np

from datasets.ecg import Record
from datasets.formats._clinical import CODED_LEADS, check_rate, check_size, distinct_leads, finite_signal, stem
from datasets.formats._scp_huffman import Table, decode, read_tables, undo_differences
from datasets.formats._scp_meta import read_meta
from datasets.formats.base import Reader, ReadOptions, ReadResult, Source, read_bytes, reader
from ecgportal.errors import TooLarge, UnreadableFile

MAX_SCP_BYTES = 64 * 1024 * 1024
_MAX_BEATS = 10_000
# Lead lengths are 16-bit byte counts: twelve leads of Huffman data end well below this.
MAX_SCP_VALUES = 2_500_000
_SECTIONS = {
    0: "pointers", 1: "patient data", 2: "Huffman tables", 3: "leads", 4: "QRS positions", 5: "reference beat",
    6: "rhythm data", 7: "global measurements",
}  # fmt: skip
# Sections behind these belong to manufacturers, whose heads differ.
_LAST_STANDARD_SECTION = 11
# From here on the byte that announced bimodal compression is reserved.
_VERSION_WITHOUT_BIMODAL = 30


def _sniff(head: bytes, name: str) -> bool:
    if head[16:22] == b"SCPECG":
        return True
    if len(head) < 48:
        return False
    # Versions before 1.3 leave the mark out: section 0 then still points to itself at byte 7.
    section, length = struct.unpack_from("<HI", head, 8)
    own, own_length, own_index = struct.unpack_from("<HII", head, 22)
    return (
        section == 0
        and own == 0
        and own_index == 7
        and length == own_length
        and length >= 136
        and (length - 16) % 10 == 0
    )


@dataclass(frozen=True)
class Lead:
    """A lead of section 3: samples ``start`` to ``end``, counted from 1, at the rate of the restored signal."""

    name: str
    start: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.start + 1


@dataclass(frozen=True)
class Beats:
    """Section 4: reference beat and QRS positions, sample numbers from 1.

    subtracted: ``(first sample, fiducial, last sample)`` of every place where the reference beat was subtracted.
    protected: ``(first, last)`` sample of every zone that keeps the full rate.
    """

    length_ms: int = 0
    fiducial: int = 0
    subtracted: tuple[tuple[int, int, int], ...] = ()
    protected: tuple[tuple[int, int], ...] = field(default=())


def _damaged(name: str, section: int, why: str, code: str = "damaged_scp") -> UnreadableFile:
    label = f" ({_SECTIONS[section]})" if section in _SECTIONS else ""
    return UnreadableFile(f"{name}: section {section}{label} {why}. The file is damaged; export it again.", code=code)


def read_sections(name: str, data: bytes) -> dict[int, bytes]:
    """Return the data part of every section by its number, all check sums checked."""
    if len(data) < 6 + 16 + 120:
        raise _damaged(name, 0, f"is cut off: the file has {len(data)} bytes")
    checksum, size = struct.unpack_from("<HI", data)
    if size > len(data) or size < 142:
        raise _damaged(name, 0, f"announces a record of {size} bytes, but the file has {len(data)}")
    if checksum and binascii.crc_hqx(data[2:size], 0xFFFF) != checksum:
        bad = _first_bad_section(name, data[:size])
        where = (
            f" Section {bad}{f' ({_SECTIONS[bad]})' if bad in _SECTIONS else ''} is the changed part."
            if bad is not None
            else ""
        )
        raise UnreadableFile(
            f"{name}: the check sum of the file does not fit its content.{where} The file was changed or damaged; export it again.",
            code="wrong_checksum",
        )
    return {number: body for number, body, _ in _walk(name, data[:size])}


def _walk(name: str, data: bytes) -> list[tuple[int, bytes, bool]]:
    """Return (number, data part, check sum fits) of every section named by section 0."""
    (length,) = struct.unpack_from("<I", data, 10)
    if length < 16 or 6 + length > len(data):
        raise _damaged(name, 0, f"has a length of {length} bytes, past the end of the file", "section_past_end")
    found: list[tuple[int, bytes, bool]] = []
    seen: set[int] = set()
    for at in range(22, 6 + length - 9, 10):
        number, size, index = struct.unpack_from("<HII", data, at)
        if size == 0 or number == 0 or number > _LAST_STANDARD_SECTION or number in seen:
            continue
        seen.add(number)
        start = index - 1
        if size < 16 or start < 6 or start + size > len(data):
            raise _damaged(
                name, number, f"runs from byte {index} over {size} bytes, past the end of the file", "section_past_end"
            )
        own_sum, own_number, own_size = struct.unpack_from("<HHI", data, start)
        if own_number != number or own_size != size:
            raise _damaged(name, number, f"says in its own head that it is section {own_number} of {own_size} bytes")
        body = data[start : start + size]
        found.append((number, body[16:], own_sum in (0, binascii.crc_hqx(body[2:], 0xFFFF))))
    for number, _, fits in found:
        if not fits and number in _SECTIONS:
            raise _damaged(name, number, "does not fit its check sum", "wrong_checksum")
    return found


def _first_bad_section(name: str, data: bytes) -> int | None:
    """Return the number of the first section that does not fit its own check sum, if the directory can be read."""
    (length,) = struct.unpack_from("<I", data, 10)
    for at in range(22, min(6 + length, len(data)) - 9, 10):
        number, size, index = struct.unpack_from("<HII", data, at)
        start = index - 1
        if size >= 16 and 6 <= start and start + size <= len(data):
            (own_sum,) = struct.unpack_from("<H", data, start)
            if binascii.crc_hqx(data[start + 2 : start + size], 0xFFFF) != own_sum:
                return int(number)
    return None


def read_leads(name: str, data: bytes) -> tuple[list[Lead], bool]:
    """Return the leads of section 3 and whether the reference beat was subtracted."""
    if len(data) < 2 or len(data) < 2 + 9 * data[0] or data[0] == 0:
        raise _damaged(name, 3, f"announces {data[0] if data else 0} leads in {len(data)} bytes")
    leads = []
    for index in range(data[0]):
        start, end, code = struct.unpack_from("<IIB", data, 2 + 9 * index)
        # Some writers count from 0; the number of samples is the same either way.
        lead = Lead(CODED_LEADS.get(code, f"SCP lead {code}"), start, end)
        if lead.samples <= 0:
            raise _damaged(name, 3, f"gives lead {lead.name} the samples {start} to {end}")
        leads.append(lead)
    names = distinct_leads(name, [lead.name for lead in leads])
    leads = [replace(lead, name=label) for lead, label in zip(leads, names, strict=True)]
    first, last = min(lead.start for lead in leads), max(lead.end for lead in leads)
    check_size(name, len(leads), last - first + 1)
    if len(leads) * (last - first + 1) > MAX_SCP_VALUES:
        raise TooLarge(
            f"{name} announces {len(leads)} leads of {last - first + 1} samples; an SCP-ECG file may have at most "
            f"{MAX_SCP_VALUES} values. Split the recording."
        )
    return leads, bool(data[1] & 1)


def read_beats(name: str, data: bytes) -> Beats:
    """Return section 4."""
    if len(data) < 6:
        return Beats()
    length_ms, fiducial, count = struct.unpack_from("<HHH", data)
    if count > _MAX_BEATS or len(data) < 6 + 14 * count:
        raise _damaged(name, 4, f"announces {count} QRS complexes in {len(data)} bytes")
    subtracted = []
    for index in range(count):
        kind, first, middle, last = struct.unpack_from("<HIII", data, 6 + 14 * index)
        if kind == 0 and last >= first > 0:
            subtracted.append((first, middle, last))
    protected = []
    for at in range(6 + 14 * count, min(6 + 22 * count, len(data) - 7), 8):
        first, last = struct.unpack_from("<II", data, at)
        if last >= first > 0:
            protected.append((first, last))
    return Beats(length_ms, fiducial, tuple(subtracted), tuple(sorted(protected)))


@dataclass(frozen=True)
class Block:
    """Section 5 or 6: coded data per lead. unit_nv: nanovolt per digit; interval_us: microseconds per sample."""

    section: int
    unit_nv: int
    interval_us: int
    order: int
    bimodal: bool
    parts: tuple[bytes, ...]

    def samples(self, name: str, index: int, lead: str, tables: list[Table] | None, count: int) -> np.ndarray:
        """Return ``count`` stored values of one lead, differences undone."""
        what = f"lead {lead} in section {self.section}"
        if tables is None:
            held = len(self.parts[index]) // 2
            if held < count:
                raise _damaged(
                    name, self.section, f"announces {count} samples of lead {lead} but holds {held}", "short_waveform"
                )
            values = np.frombuffer(self.parts[index], "<i2", count).astype(np.int64)
        else:
            values = decode(name, what, self.parts[index], tables, count)
        return undo_differences(values, self.order)


def read_block(name: str, section: int, data: bytes, leads: int) -> Block:
    """Return section 5 or 6."""
    if len(data) < 6 + 2 * leads:
        raise _damaged(name, section, f"holds {len(data)} bytes, too few for {leads} leads")
    unit_nv, interval_us, order, bimodal = struct.unpack_from("<HHBB", data)
    sizes = struct.unpack_from(f"<{leads}H", data, 6)
    if order > 2 or unit_nv == 0 or interval_us == 0:
        raise _damaged(
            name, section, f"states {unit_nv} nV a digit, {interval_us} us a sample and differences of order {order}"
        )
    parts, at = [], 6 + 2 * leads
    for index, size in enumerate(sizes, start=1):
        if at + size > len(data):
            raise _damaged(name, section, f"ends inside lead number {index}", "short_waveform")
        parts.append(data[at : at + size])
        at += size
    return Block(section, unit_nv, interval_us, order, bool(bimodal), tuple(parts))


def stored_places(lead: Lead, factor: int, protected: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre (in samples from the lead's start) and the width of every value stored for a lead.

    Inside a protected zone every sample is stored; outside, one value stands for ``factor`` samples, counted from
    the end of the last zone, fewer before the next one.
    """
    inside = np.zeros(lead.samples, dtype=bool)
    for first, last in protected:
        inside[max(first - lead.start, 0) : max(last - lead.start + 1, 0)] = True
    edges = np.flatnonzero(np.diff(inside)) + 1
    centres, widths = [], []
    for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), lead.samples], strict=True):
        step = 1 if inside[begin] else factor
        starts = np.arange(begin, end, step)
        width = np.minimum(starts + step, end) - starts
        centres.append(starts + (width - 1) / 2)
        widths.append(width)
    return np.concatenate(centres), np.concatenate(widths)


def _reduced(name: str, leads: list[Lead], block: Block, reference: bytes, tables: list[Table] | None) -> list[Lead]:
    """Return the leads with their lengths at the rate of the rhythm data. reference: section 5.

    Some devices count section 3 at the rate of the reference beat and keep the rhythm at half or a quarter of it
    without any other sign; the amount of data tells.
    """
    beat_us = struct.unpack_from("<H", reference, 2)[0] if len(reference) >= 4 else 0
    factor = block.interval_us // beat_us if beat_us and block.interval_us % beat_us == 0 else 1

    def holds(count: int) -> bool:
        try:
            block.samples(name, 0, leads[0].name, tables, count)
        except UnreadableFile:
            return False
        return True

    stored = leads[0].samples // factor
    # Bits that fill up the last word may read as values.
    if factor not in (2, 3, 4) or holds(leads[0].samples) or not holds(stored) or holds(stored + 17):
        return leads
    starts = [(lead.start - 1) // factor + 1 for lead in leads]
    return [
        replace(lead, start=start, end=start + lead.samples // factor - 1)
        for lead, start in zip(leads, starts, strict=True)
    ]


def _rhythm(
    name: str, sections: dict[int, bytes], version: int, notes: list[str]
) -> tuple[float, tuple[str, ...], np.ndarray]:
    """Return (rate, leads, signal in mV)."""
    leads, subtracts = read_leads(name, sections[3])
    tables = read_tables(name, sections[2]) if 2 in sections else None
    block = read_block(name, 6, sections[6], len(leads))
    if version >= _VERSION_WITHOUT_BIMODAL:
        block = replace(block, bimodal=False)
    beats = read_beats(name, sections[4]) if 4 in sections else Beats()
    reference = read_block(name, 5, sections[5], len(leads)) if 5 in sections and (subtracts or block.bimodal) else None
    if reference is None:
        leads = _reduced(name, leads, block, sections.get(5, b""), tables)
    factor = 1
    if block.bimodal:
        if reference is None or 4 not in sections or block.interval_us % reference.interval_us:
            raise _damaged(
                name, 6, "is compressed bimodally, but its QRS zones or its reference beat are missing or do not fit"
            )
        factor = block.interval_us // reference.interval_us
        if not 1 <= factor <= 16:
            raise _damaged(name, 6, f"reduces the rate {factor} times, which no electrocardiograph does")
        notes.append(
            f"Outside the QRS complexes the file keeps every {factor}th value only; the samples between are interpolated."
        )
    if subtracts and reference is None:
        raise _damaged(name, 5, "is missing, though the reference beat was subtracted from the rhythm")
    interval_us = block.interval_us / factor
    first, last = min(lead.start for lead in leads), max(lead.end for lead in leads)
    signal = np.full((len(leads), last - first + 1), np.nan, np.float32)
    for index, lead in enumerate(leads):
        row = _restore(name, index, lead, block, tables, factor, beats)
        if subtracts and reference is not None:
            beat_samples = int(beats.length_ms * 1000 / reference.interval_us)
            check_size(name, len(leads) * 100, beat_samples)
            beat = reference.samples(name, index, lead.name, tables, beat_samples) * reference.unit_nv
            _add_beats(row, lead, beat, beats)
        signal[index, lead.start - first : lead.start - first + row.size] = row * 1e-6
    if subtracts:
        notes.append(f"The reference beat was added back at {len(beats.subtracted)} QRS complexes.")
    return check_rate(name, 1e6 / interval_us), tuple(lead.name for lead in leads), signal


def _restore(
    name: str, index: int, lead: Lead, block: Block, tables: list[Table] | None, factor: int, beats: Beats
) -> np.ndarray:
    """Return one lead's values at the full rate, in nanovolt."""
    if factor == 1:
        return block.samples(name, index, lead.name, tables, lead.samples) * float(block.unit_nv)
    centres, widths = stored_places(lead, factor, beats.protected)
    stored = block.samples(name, index, lead.name, tables, centres.size) * float(block.unit_nv)
    places = np.arange(lead.samples)
    row = np.interp(places, centres, stored)
    exact = centres[widths == 1].astype(np.int64)
    row[exact] = stored[widths == 1]
    return row


def _add_beats(row: np.ndarray, lead: Lead, beat: np.ndarray, beats: Beats) -> None:
    """Add the reference beat at every place where it was subtracted, fiducial on fiducial."""
    for first, middle, last in beats.subtracted:
        begin, end = max(first, lead.start), min(last, lead.end)
        source = begin - middle + beats.fiducial - 1
        if source < 0:
            begin, source = begin - source, 0
        count = min(end - begin + 1, beat.size - source)
        if count > 0:
            row[begin - lead.start : begin - lead.start + count] += beat[source : source + count]


def _read(source: Source, options: ReadOptions) -> ReadResult:
    name = source.name
    data = read_bytes(source, MAX_SCP_BYTES)
    sections = read_sections(name, data)
    missing = [number for number in (3, 6) if number not in sections]
    if missing:
        raise UnreadableFile(
            f"{name} is an SCP-ECG file without section {missing[0]} ({_SECTIONS[missing[0]]}): it holds no rhythm. "
            "Export the recording with its rhythm.",
            code="no_waveform",
        )
    notes: list[str] = []
    fs_hz, leads, signal = _rhythm(name, sections, data[15], notes)
    meta = read_meta(sections.get(1, b""), sections.get(7, b""), sections.get(8, b""), notes)
    return ReadResult(((stem(name), Record(signal=finite_signal(name, signal), fs_hz=fs_hz, leads=leads, meta=meta)),))


reader(Reader("scp_ecg", "SCP-ECG", (".scp", ".ecg"), _sniff, _read))
