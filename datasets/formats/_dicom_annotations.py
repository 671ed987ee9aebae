"""Waveform annotations of a DICOM ECG (0040,B020): printed measurements, wave marks, statements."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets.formats._clinical import number
from datasets.formats._dicom_groups import Group

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_ANNOTATIONS = 200_000

# Measurement by the meaning of its concept code; SCPECG and MDC codes carry the same meanings.
_PRINTED = (
    (r"(ventricular |mean )?(heart|ventricular) rate.*", "heart_rate_bpm"), (r"atrial (heart )?rate.*", "atrial_rate_bpm"),
    (r"rr interval.*", "rr_ms"), (r"pp interval.*", "pp_ms"), (r"p[rq] (interval|duration).*", "pr_ms"),
    (r"qrs (duration|interval).*", "qrs_ms"), (r"qtc.*", "qtc_ms"), (r"qt (interval|duration).*", "qt_ms"),
    (r"p duration.*", "p_ms"), (r"p (wave )?axis.*", "p_axis_deg"),
    (r"(qrs|r)( wave| complex)? axis.*", "qrs_axis_deg"), (r"t (wave )?axis.*", "t_axis_deg"),
)  # fmt: skip
# MDC codes of CID 3227 to 3229 and TID 3713 by value, for files in another language.
_BY_CODE = {
    "2:16016": "heart_rate_bpm", "2:16020": "atrial_rate_bpm", "2:15872": "pr_ms", "2:16156": "qrs_ms",
    "2:16140": "pp_ms", "2:16160": "qt_ms", "2:15876": "qtc_ms", "2:16168": "rr_ms", "5.10.2.1-3": "rr_ms", "5.10.2.1-5": "pp_ms",
    "5.13.5-7": "pr_ms", "5.13.5-9": "qrs_ms", "5.13.5-11": "qt_ms", "5.10.2.5-5": "qtc_ms", "5.10.3-11": "p_axis_deg",
    "5.10.3-13": "qrs_axis_deg", "5.10.3-15": "t_axis_deg",
}  # fmt: skip
_MARKS = (
    (r"p[ -]?(wave )?onset", "p_onset"), (r"p[ -]?(wave )?(offset|end)", "p_offset"), (r"qrs[ -]?onset", "qrs_onset"),
    (r"qrs[ -]?(offset|end)", "qrs_offset"), (r"t[ -]?(wave )?onset", "t_onset"), (r"t[ -]?(wave )?(offset|end)", "t_offset"),
    (r"(fiducial point|r[ -]?peak|qrs( complex)?|r wave).*", "qrs"), (r"pace(r|maker)? (spike|pulse).*", "pace"),
)  # fmt: skip
_TIME_MS = {"ms": 1.0, "s": 1000.0, "us": 1e-3, "msec": 1.0}


@dataclass(frozen=True)
class Found:
    """What the annotations of a file say about one record."""

    printed: dict[str, float]
    marks: tuple[tuple[float, str, str | None, str], ...]
    statements: tuple[str, ...]


def _first_code(item: Dataset, keyword: str) -> tuple[str, str]:
    sequence = item.get(keyword)
    if not sequence:
        return "", ""
    return str(sequence[0].get("CodeValue", "") or ""), str(sequence[0].get("CodeMeaning", "") or "")


def _named(meaning: str, table: Sequence[tuple[str, str]]) -> str | None:
    text = meaning.strip().lower()
    return next((key for pattern, key in table if re.fullmatch(pattern, text)), None)


def _values(item: Dataset, keyword: str) -> list[float]:
    value = item.get(keyword)
    if value is None:
        return []
    many = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
    return [found for found in map(number, many) if found is not None]


def _measure(item: Dataset, printed: dict[str, float]) -> None:
    code, meaning = _first_code(item, "ConceptNameCodeSequence")
    key = _BY_CODE.get(code.replace(" ", "")) or _named(meaning, _PRINTED)
    value = _values(item, "NumericValue")
    if key is None or not value or key in printed:
        return
    unit, _ = _first_code(item, "MeasurementUnitsCodeSequence")
    measured = value[0] * _TIME_MS.get(unit.strip().lower(), 1.0) if key.endswith("_ms") else value[0]
    # A duration or rate of 0 is how devices print "not measured".
    if measured != 0 or key.endswith("_deg"):
        printed[key] = measured


def _marks(item: Dataset, used: Group, groups: Sequence[Group]) -> list[tuple[float, str, str | None, str]]:
    positions = _values(item, "ReferencedSamplePositions")
    offsets = _values(item, "ReferencedTimeOffsets")
    if not positions and not offsets:
        return []
    _, meaning = _first_code(item, "ConceptNameCodeSequence")
    symbol = _named(meaning, _MARKS)
    if symbol is None:
        return []
    channels = [int(value) for value in _values(item, "ReferencedWaveformChannels")]
    group_index = channels[0] if channels else used.index
    if group_index not in used.members:
        return []
    group = next(entry for entry in groups if entry.index == group_index)
    lead = None
    if len(channels) > 1 and 0 < channels[1] <= len(group.channel_leads):
        lead = group.channel_leads[channels[1] - 1]
    shift_s = group.offset_s - used.offset_s
    # Sample positions count from 1 (PS3.3 C.10.10.1.1); time offsets are milliseconds.
    times = [(position - 1) / group.fs_hz for position in positions] or [offset / 1000 for offset in offsets]
    return [(time + shift_s, symbol, lead, "") for time in times]


def annotations_of(dataset: Dataset, groups: Sequence[Group], used: Group) -> Found:
    """Return measurements, wave marks inside ``used`` and the free statements of a data set."""
    printed: dict[str, float] = {}
    marks: list[tuple[float, str, str | None, str]] = []
    statements: list[str] = []
    for item in list(dataset.get("WaveformAnnotationSequence") or [])[:MAX_ANNOTATIONS]:
        text = str(item.get("UnformattedTextValue", "") or "").strip()
        if text:
            statements.append(text)
            continue
        if "NumericValue" in item:
            _measure(item, printed)
        else:
            marks += _marks(item, used, groups)
    return Found(printed, tuple(sorted(marks, key=lambda mark: mark[0])), tuple(statements))
