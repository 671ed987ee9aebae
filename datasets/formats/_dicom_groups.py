"""Multiplex groups of a DICOM waveform (PS3.3 C.10.9): samples to millivolt, leads by code, timeline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasets.formats._clinical import (
    CODED_LEADS,
    asked_leads,
    check_rate,
    check_size,
    distinct_leads,
    is_other_signal,
    known_lead,
    lead_name,
    millivolts_per,
    number,
    option_unit_mv,
    timeline,
)
from datasets.formats._g711 import A_LAW, MU_LAW
from datasets.formats.base import ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_GROUPS = 64
MAX_CHANNELS = 512
_KINDS = {
    ("SB", 8): "i1", ("UB", 8): "u1", ("MB", 8): "u1", ("AB", 8): "u1", ("SS", 16): "i2", ("US", 16): "u2", ("SL", 32): "i4", ("UL", 32): "u4",
    ("SV", 64): "i8", ("UV", 64): "u8",
}  # fmt: skip
# C.10.9.1.5: 8 bits on a logarithmic scale.
_COMPANDED = {"MB": ("mu-law", MU_LAW), "AB": ("A-law", A_LAW)}
# ISO/IEEE 11073-10101: a lead's potential is this plus the lead's number.
_POTENTIAL = 256
_UNSPECIFIED = re.compile(r"0|unspecified lead", re.IGNORECASE)
# Units of ISO/IEEE 11073-10101, by code and by name.
_MDC_VOLTS = {
    "266400": 1e3, "266418": 1.0, "266419": 1e-3, "266420": 1e-6,
    "VOLT": 1e3, "MILLI_VOLT": 1.0, "MICRO_VOLT": 1e-3, "NANO_VOLT": 1e-6,
}  # fmt: skip
_MEDIAN = re.compile(r"median|average|averaged|template|representative|\bbeat\b", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """One multiplex group, or several put on one timeline.

    signal_mv: float32 ``(leads, samples)``. offset_s: start after the begin of the acquisition.
    index: 1-based position in the file; channel_leads: lead of each channel in file order, None where dropped.
    """

    index: int
    label: str
    is_median: bool
    fs_hz: float
    samples: int
    offset_s: float
    leads: tuple[str, ...]
    signal_mv: np.ndarray
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    channel_leads: tuple[str | None, ...] = ()
    members: tuple[int, ...] = ()


def _code(item: Dataset, keyword: str) -> tuple[str, str, str]:
    """Return (value, scheme, meaning) of the first code of a code sequence; empty strings where there is none."""
    sequence = item.get(keyword)
    if not sequence:
        return "", "", ""
    code = sequence[0]
    return tuple(str(code.get(key, "") or "").strip() for key in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))  # type: ignore[return-value]


def channel_lead(channel: Dataset) -> str:
    """Return the lead of a channel by its code, the code's meaning or the label, in this order."""
    value, scheme, meaning = _code(channel, "ChannelSourceSequence")
    if re.fullmatch(r"131\d{3}", value):
        # The number of a lead in partition 2 of ISO/IEEE 11073-10101, of a lead or of the potential of one.
        value = f"2:{int(value) - (2 << 16)}"
    if (potential := re.fullmatch(r"2\s*:\s*(\d{3})", value)) and int(potential[1]) > _POTENTIAL:
        value = f"2:{int(potential[1]) - _POTENTIAL}"
    match = re.fullmatch(r"5\.6\.3-9-(\d{1,3})|2\s*:\s*(\d{1,3})|10\.\d+\.(\d{1,3})", value)
    if match:
        coded = CODED_LEADS.get(int(next(part for part in match.groups() if part)))
        if coded:
            return coded
    label = str(channel.get("ChannelLabel", "") or "").strip()
    texts = [text for text in (meaning, label) if text and not _UNSPECIFIED.fullmatch(text)]
    if value and not _UNSPECIFIED.fullmatch(value):
        # Codes of a manufacturer's own may be letters of a lead by chance: they count where nothing else is said.
        texts = [value, *texts] if scheme == "MDC" else texts or [value] * (known_lead(value) is not None)
    # The meaning may be no more than "ECG channel".
    known = next((text for text in texts if known_lead(text) is not None), None)
    return lead_name(known or next(iter(texts), ""))


def _channel_scale(
    name: str, what: str, channel: Dataset, options: ReadOptions, *, is_lead: bool
) -> tuple[float, float] | None:
    """Return (millivolt per digit, millivolt at digit 0), or None when the channel is not a voltage.

    is_lead: the channel is a known ECG lead, so that a unit which is no voltage is a question and not another signal.
    """
    sensitivity = number(channel.get("ChannelSensitivity"))
    value, _, meaning = _code(channel, "ChannelSensitivityUnitsSequence")
    unit = value or meaning
    if unit:
        # Some writers code the unit in a scheme of their own and name it in words.
        factor = _MDC_VOLTS.get(value) or millivolts_per(value) or millivolts_per(meaning)
        factor = factor or _MDC_VOLTS.get(meaning.upper().removeprefix("MDC_DIM_"))
        if factor is None and not is_lead:
            return None
    else:
        factor = None
    if factor is None and options.unit is not None:
        factor = option_unit_mv(options.unit)
        sensitivity = sensitivity if sensitivity is not None else 1.0
    if sensitivity is None or factor is None:
        raise NeedsAnswer(
            f"{name}: {what} does not say how many microvolt one digit is. State the unit.",
            fields={
                "unit": "Guess: uV. The file names no sensitivity or unit; uV is the usual unit of DICOM waveforms."
            },
        )
    correction = number(channel.get("ChannelSensitivityCorrectionFactor"))
    baseline = number(channel.get("ChannelBaseline"))
    # A factor of 0 is an empty field of some writers: no calibration would leave nothing of the signal.
    per_digit = sensitivity * (correction or 1.0) * factor
    if per_digit == 0:
        raise UnreadableFile(f"{name}: {what} states a sensitivity of 0. Export the recording again.", code="bad_scale")
    return per_digit, (baseline or 0.0) * factor


def _digits(name: str, index: int, item: Dataset, big_endian: bool) -> tuple[np.ndarray, int | None]:
    """Return the stored integers ``(samples, channels)`` and the padding value."""
    channels, samples = int(item.get("NumberOfWaveformChannels") or 0), int(item.get("NumberOfWaveformSamples") or 0)
    if not 0 < channels <= MAX_CHANNELS or samples <= 0:
        raise UnreadableFile(
            f"{name}: waveform group {index} states {channels} channels of {samples} samples. The file is damaged.",
            code="damaged_dicom",
        )
    check_size(name, channels, samples)
    bits = int(item.get("WaveformBitsAllocated") or 0)
    kind = str(item.get("WaveformSampleInterpretation", ""))
    if (kind, bits) not in _KINDS:
        raise UnreadableFile(
            f"{name}: waveform group {index} stores its samples as {kind or 'nothing stated'} with {bits} bits, "
            "which DICOM does not know. Export the recording with 8, 16 or 32 bit integers.",
            code="unknown_sample_kind",
        )
    dtype = np.dtype(_KINDS[kind, bits]).newbyteorder(">" if big_endian else "<")
    data = item.get("WaveformData")
    data = data if isinstance(data, bytes) else b""
    wanted = channels * samples * dtype.itemsize
    if len(data) < wanted:
        raise UnreadableFile(
            f"{name}: waveform group {index} announces {channels} channels of {samples} samples ({wanted} bytes) but "
            f"holds {len(data)} bytes. The file was cut off; send it again.",
            code="short_waveform",
        )
    digits = np.frombuffer(data, dtype, channels * samples).reshape(samples, channels)
    padding = item.get("WaveformPaddingValue")
    if isinstance(padding, bytes) and len(padding) >= dtype.itemsize:
        return digits, int(np.frombuffer(padding, dtype, 1)[0])
    return digits, int(padding) if isinstance(padding, int) else None


def _widen(values: np.ndarray, bits_stored: int) -> tuple[np.ndarray, bool]:
    """Return the samples of one channel with the sign of ``bits_stored`` bits, and whether the statement held.

    Writers differ in what they leave in the unused high bits: the sign (nothing to do) or zeros (the sign is
    put back). When the samples need more bits than stated, they are taken as they are.
    """
    allocated = values.dtype.itemsize * 8
    if not 1 < bits_stored < allocated or values.size == 0:
        return values, True
    low, high = int(values.min()), int(values.max())
    half = 1 << (bits_stored - 1)
    if values.dtype.kind == "u":
        return values, high < 2 * half
    if -half <= low and high < half:
        return values, True
    if low >= 0 and high < 2 * half:
        wide = values.astype(np.int64)
        return np.where(wide >= half, wide - 2 * half, wide), True
    return values, False


def read_group(name: str, index: int, item: Dataset, options: ReadOptions, big_endian: bool = False) -> Group:
    """Return one multiplex group in millivolt; ``index`` is its 1-based position in the file.

    value = digit x sensitivity x correction factor + baseline (C.10.9.1.4); digits equal to the padding value
    become NaN.
    """
    if index > MAX_GROUPS:
        raise UnreadableFile(f"{name} holds more than {MAX_GROUPS} waveform groups.", code="damaged_dicom")
    label = " ".join(str(item.get("MultiplexGroupLabel", "") or "").split())[:64]
    derived = str(item.get("WaveformOriginality", "") or "").upper() == "DERIVED"
    fs_hz = check_rate(name, number(item.get("SamplingFrequency")))
    digits, padding = _digits(name, index, item, big_endian)
    law, values = _COMPANDED.get(str(item.get("WaveformSampleInterpretation", "")), ("", None))
    channels = item.get("ChannelDefinitionSequence") or []
    if len(channels) != digits.shape[1]:
        raise UnreadableFile(
            f"{name}: waveform group {index} announces {digits.shape[1]} channels but describes {len(channels)}. "
            "The file is damaged.",
            code="damaged_dicom",
        )
    # An original beat would be a contradiction, but a derived group may be a filtered rhythm.
    median = bool(_MEDIAN.search(label)) or (derived and digits.shape[0] < 2 * fs_hz)
    if median:
        empty = np.empty((0, digits.shape[0]), np.float32)
        return Group(index, label, True, fs_hz, digits.shape[0], 0.0, (), empty)
    rows, leads, dropped, notes = [], [], [], []
    channel_leads: list[str | None] = []
    for column, channel in enumerate(channels):
        lead = channel_lead(channel) or f"channel {column + 1}"
        what = f"channel {lead} of waveform group {index}"
        is_lead = known_lead(lead) is not None
        # Monitors give respiration in a unit of voltage, too.
        is_ecg = is_lead or not is_other_signal(lead)
        scale = _channel_scale(name, what, channel, options, is_lead=is_lead) if is_ecg else None
        channel_leads.append(lead if scale is not None else None)
        if scale is None:
            dropped.append(lead)
            continue
        row, remarks = _to_millivolt(digits[:, column], padding, channel, scale, lead, values)
        rows.append(row)
        leads.append(lead)
        notes += remarks
    if law:
        notes.append(
            f"Waveform group {index} is stored by the {law} of ITU-T G.711, 8 bits on a logarithmic scale: large deflections are "
            "coarser than small ones. The sensitivity was taken for the values of the recommendation's table; compare the size of the "
            "waves with a print."
        )
    leads = distinct_leads(name, asked_leads(name, leads, options))
    return Group(
        index=index,
        label=label,
        is_median=False,
        fs_hz=fs_hz,
        samples=digits.shape[0],
        offset_s=(number(item.get("MultiplexGroupTimeOffset")) or 0.0) / 1000,
        leads=tuple(leads),
        signal_mv=np.stack(rows) if rows else np.empty((0, digits.shape[0]), np.float32),
        dropped=tuple(dropped),
        notes=tuple(notes),
        channel_leads=tuple(channel_leads),
        members=(index,),
    )


def _to_millivolt(
    column: np.ndarray, padding: int | None, channel: Dataset, scale: tuple[float, float], lead: str, values: np.ndarray | None,
) -> tuple[np.ndarray, list[str]]:  # fmt: skip
    """Return the samples of one channel and what is to be said of them. values: of each stored code, where these are no numbers."""
    notes: list[str] = []
    padded = column == padding if padding is not None else None
    if padded is not None and not padded.any():
        padded = None
    stored = int(channel.get("WaveformBitsStored") or 0)
    recorded = column[~padded] if padded is not None else column
    widened, fits = _widen(recorded, stored) if values is None else (values[recorded], True)
    if not fits:
        notes.append(f"Lead {lead} states {stored} bits stored but its samples need more; they were taken as they are.")
    per_digit, at_zero = scale
    millivolt = (widened * per_digit + at_zero).astype(np.float32)
    if padded is not None:
        row = np.full(column.shape, np.nan, np.float32)
        row[~padded] = millivolt
        notes.append(f"Lead {lead} has {int(padded.sum())} padded samples, kept as a gap.")
        millivolt = row
    for key, unit in (("ChannelSampleSkew", "samples"), ("ChannelTimeSkew", "s"), ("ChannelOffset", "s")):
        skew = number(channel.get(key))
        if skew:
            notes.append(f"Lead {lead} is stated to be shifted in time by {skew:g} {unit}; the samples were not moved.")
    return millivolt, notes


def merge_groups(name: str, groups: Sequence[Group]) -> list[Group]:
    """Return the rhythm groups as few records as they make without a loss.

    Groups of one rate that bring other leads or other times (a printed page of 3 x 4 leads with a rhythm strip)
    go on one timeline, NaN where a lead was not recorded. A group with the same leads at another rate, or at a
    time when these leads are already there over their whole length, is a recording of its own.
    """
    ranked = sorted(groups, key=lambda g: (-g.samples / g.fs_hz, -len(g.leads), g.index))
    sets: list[list[Group]] = []
    for group in ranked:
        for members in sets:
            if members[0].fs_hz == group.fs_hz and any(set(m.leads) != set(group.leads) for m in members):
                members.append(group)
                break
        else:
            sets.append([group])
    merged = [members[0] if len(members) == 1 else _one_timeline(name, members) for members in sets]
    return sorted(merged, key=lambda g: min(g.members))


def _one_timeline(name: str, members: Sequence[Group]) -> Group:
    # The longest group comes first; shorter ones fill what it left open.
    leads, signal = timeline(name, members[0].fs_hz, [(m.offset_s, m.leads, m.signal_mv) for m in members])
    parts = ", ".join(f"{m.index} ({' '.join(m.leads)} from {m.offset_s:g} s)" for m in sorted(members, key=_index))
    note = f"Waveform groups {parts} were put on one timeline; leads are missing where they were not recorded."
    return replace(
        members[0],
        samples=signal.shape[1],
        offset_s=min(m.offset_s for m in members),
        leads=leads,
        signal_mv=signal,
        dropped=tuple(dict.fromkeys(text for m in members for text in m.dropped)),
        notes=(note, *(text for m in members for text in m.notes)),
        members=tuple(m.index for m in members),
    )


def _index(group: Group) -> int:
    return group.index
