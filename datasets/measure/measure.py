"""Rate, intervals, axes and wave boundaries of one record: a number, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from datasets.ecg import Record
from datasets.measure.beats import MedianBeat, PEvidence, dominant_beats, median_beat, p_evidence
from datasets.measure.delineate import Beat, delineate
from datasets.measure.detect import detect_r_peaks, filled, usable_leads
from datasets.measure.intervals import axis_degrees, corrected_qt, rr_statistics
from ecgportal.errors import InvalidInput

# Intervals are measured on at most this much signal from the start; rate and R peaks on all of it.
_DELINEATED_S = 60.0
_IRREGULAR = 0.15
# How alike the stretch before the QRS is to the one before it: above this the waves are taken for flutter waves.
_FLUTTER = 0.90
_STEPS = (
    ("p_on_s", "p", 0),
    ("p_peak_s", "p", 1),
    ("p_off_s", "p", 2),
    ("t_on_s", "t", 0),
    ("t_peak_s", "t", 1),
    ("t_off_s", "t", 2),
)


@dataclass(frozen=True)
class Measurements:
    """What could be measured; what could not is None and has a sentence in ``reasons`` under its field's name.

    heart_rate_bpm: 60 000 / mean RR. rr_ms: ``mean median sd rmssd min max`` in ms and ``n`` (intervals).
    pr_ms, qrs_ms, qt_ms, p_ms: medians over the beats of the dominant shape. qtc_ms: by formula.
    axis_deg: frontal axes of P, QRS and T in degrees, -180 to 180. r_peaks_s: seconds from the start.
    fiducials: one mapping a beat, seconds or None. median_beat: the dominant beat per lead.
    lead_used: a lead's name, or ``RMS of N leads``.
    """

    heart_rate_bpm: float | None = None
    rr_ms: dict[str, float] | None = None
    p_ms: float | None = None
    pr_ms: float | None = None
    qrs_ms: float | None = None
    qt_ms: float | None = None
    qtc_ms: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(corrected_qt(400, 1000)))
    axis_deg: dict[str, float | None] = field(default_factory=lambda: {"p": None, "qrs": None, "t": None})
    r_peaks_s: tuple[float, ...] = ()
    fiducials: tuple[dict[str, float | None], ...] = ()
    median_beat: dict[str, Any] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    method: str = ""
    lead_used: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; NaN in the median beat is None."""
        beat = self.median_beat
        if beat is not None:
            rows = np.round(beat["mv"].astype(np.float64), 3)
            beat = beat | {"mv": [[None if v != v else v for v in row] for row in rows.tolist()]}
        return {
            "heart_rate_bpm": self.heart_rate_bpm, "rr_ms": self.rr_ms, "p_ms": self.p_ms, "pr_ms": self.pr_ms,
            "qrs_ms": self.qrs_ms, "qt_ms": self.qt_ms, "qtc_ms": dict(self.qtc_ms), "axis_deg": dict(self.axis_deg),
            "r_peaks_s": list(self.r_peaks_s), "fiducials": [dict(beat_) for beat_ in self.fiducials], "median_beat": beat,
            "reasons": dict(self.reasons), "method": self.method, "lead_used": self.lead_used,
        }  # fmt: skip


def measure(record: Record, lead: str | None = None) -> Measurements:
    """Measure a record.

    lead: the lead on which waves are delineated; None takes all leads together (QRS on their spatial
    velocity, P and T on their RMS). R peaks always come from all leads. Signals are read as they
    are: no display filter, no resampling, times in seconds of the original signal.
    """
    if lead is not None and lead not in record.leads:
        raise InvalidInput(
            f"Lead {lead[:20]} is not in this record, which holds {', '.join(record.leads)}.",
            fields={"lead": "Choose a recorded lead."},
        )
    usable = usable_leads(record.signal)
    names = [name for name, good in zip(record.leads, usable, strict=True) if good]
    used = lead or (names[0] if len(names) == 1 else f"RMS of {len(names)} leads")
    empty = Measurements(method=_method(record, lead), lead_used=used)
    if not names:
        return _nothing(empty, "No lead carries a signal: every lead is flat or empty.")
    if lead is not None and lead not in names:
        return _nothing(empty, f"Lead {lead} carries no signal: it is flat or mostly empty.")
    peaks = detect_r_peaks(record.signal, record.fs_hz, usable)
    if peaks.size == 0:
        short = record.duration_s < 0.5 or record.fs_hz < 50
        return _nothing(
            empty,
            "The record is too short or too coarsely sampled." if short else "No R peak stands out of the signal.",
        )
    return _measured(record, lead, names, peaks, empty)


def _measured(
    record: Record, lead: str | None, names: list[str], peaks: np.ndarray, empty: Measurements
) -> Measurements:
    fs_hz = record.fs_hz
    stop = min(record.n_samples, int(_DELINEATED_S * fs_hz))
    near = peaks[peaks < stop]
    x = filled(record.signal[[record.leads.index(name) for name in names], :stop])
    shown = x if lead is None else x[[names.index(lead)]]
    beats = delineate(shown, fs_hz, near)
    chosen, agreement = dominant_beats(x, fs_hz, beats)
    if _is_disorder(near.size, int(chosen.sum()), agreement, record.duration_s):
        return _nothing(empty, "The beats found do not resemble each other: noise, or no organised ventricular rhythm.")
    rr_ms = _intervals(record, peaks)
    main = [beat for beat, take in zip(beats, chosen, strict=True) if take]
    evidence = p_evidence(x, fs_hz, main)
    p_reason = _why_no_p(evidence, rr_ms)
    beats = _only_sure_p(beats, main, evidence, p_reason, fs_hz)
    main = [beat for beat, take in zip(beats, chosen, strict=True) if take]
    reasons: dict[str, str] = {}
    if evidence.repeats > _FLUTTER:
        # Flutter waves overlie the T wave: neither its end nor its axis is its own.
        beats = [replace(beat, t=None) for beat in beats]
        main = [replace(beat, t=None) for beat in main]
    made = _with_intervals(empty, main, fs_hz, p_reason, reasons)
    made = _with_rate(made, rr_ms, reasons)
    beat = median_beat(record.signal[:, :stop], fs_hz, beats, chosen)
    axes = _axes(record, made, main, beat, reasons)
    return replace(
        made,
        axis_deg=axes,
        r_peaks_s=tuple(np.round(peaks / fs_hz, 5).tolist()),
        fiducials=tuple(_fiducials(one, fs_hz) for one in beats),
        median_beat=_beat_json(record, beat, main) if beat else None,
        reasons=reasons,
    )


def _is_disorder(beats: int, alike: int, agreement: float, duration_s: float) -> bool:
    """Say whether the candidates are too unlike each other to be called beats.

    In the worst real records (paced and aberrant beats mixed) half of the beats are alike; in noise a third at most.
    """
    if beats <= 2:
        return alike < 2 and duration_s > 4
    return alike < 2 or (alike < 0.4 * beats and agreement < 0.5)


def _intervals(record: Record, peaks: np.ndarray) -> np.ndarray:
    """Return RR in ms, without intervals that span a gap of more than 0.3 s in every lead."""
    rr = np.diff(peaks) / record.fs_hz * 1000
    keep = np.ones(rr.size, dtype=bool)
    for k in range(rr.size):
        part = record.signal[:, peaks[k] : peaks[k + 1]]
        if not np.isfinite(part[0]).all():
            missing = ~np.isfinite(part).any(axis=0)
            keep[k] = missing.sum() <= 0.3 * record.fs_hz
    return rr[keep]


def _why_no_p(evidence: PEvidence, rr_ms: np.ndarray) -> str | None:
    """Return why P waves must not be reported, or None when they may.

    The limits separate, on LUDB, sinus rhythms from fibrillation, flutter and dissociated rhythms.
    """
    if evidence.similarity < 0.75 or evidence.strength < 1.2:
        return "No P wave precedes the beats consistently (as in atrial fibrillation, flutter or dissociation, or under noise)."
    if evidence.repeats > _FLUTTER:
        return "Like waves follow each other without pause between the beats (as in atrial flutter), so none of them is a P wave."
    if evidence.share_found < 0.6:
        return "The waves before the QRS run into the T wave or into each other; no P wave stands alone."
    if evidence.spread_s > 0.020:
        return "The interval from P to QRS changes from beat to beat, so no single PR describes the record."
    if rr_ms.size >= 3:
        variation = float(np.sqrt(np.mean(np.diff(rr_ms) ** 2)) / rr_ms.mean())
        if variation > _IRREGULAR and evidence.strength < 5:
            return "The rhythm is irregular and the waves before the QRS are too uneven to be called P waves."
    return None


def _only_sure_p(
    beats: list[Beat], main: list[Beat], evidence: PEvidence, reason: str | None, fs_hz: float
) -> list[Beat]:
    """Keep a P wave only where the beat's own stretch looks like the others' and its PR lies within 60 ms of theirs."""
    if reason is not None:
        return [replace(beat, p=None) for beat in beats]
    usual = np.median([(b.qrs[0] - b.p[0]) / fs_hz for b in main if b.qrs and b.p])
    similar = {beat.r_peak: value for beat, value in zip(main, evidence.per_beat, strict=True)}
    out = []
    for beat in beats:
        sure = bool(
            beat.p
            and beat.qrs
            and similar.get(beat.r_peak, 0.0) >= 0.5
            and abs((beat.qrs[0] - beat.p[0]) / fs_hz - usual) <= 0.06
        )
        out.append(beat if sure else replace(beat, p=None))
    return out


def _with_intervals(
    made: Measurements, main: list[Beat], fs_hz: float, p_reason: str | None, reasons: dict[str, str]
) -> Measurements:
    def median_ms(values: list[int]) -> float | None:
        return round(float(np.median(values)) / fs_hz * 1000, 1) if values else None

    qrs = median_ms([b.qrs[1] - b.qrs[0] for b in main if b.qrs])
    t_share = sum(b.t is not None for b in main) / max(1, sum(b.qrs is not None for b in main))
    qt = median_ms([b.t[2] - b.qrs[0] for b in main if b.qrs and b.t]) if t_share >= 0.5 else None
    pr = median_ms([b.qrs[0] - b.p[0] for b in main if b.qrs and b.p])
    p = median_ms([b.p[2] - b.p[0] for b in main if b.p])
    if qrs is None:
        reasons["qrs_ms"] = "No beat lies completely inside the record."
    if qt is None:
        reasons["qt_ms"] = (
            "No beat lies completely inside the record."
            if qrs is None
            else "The T wave is too flat, or its end is hidden by other waves."
        )
    if pr is None:
        why = p_reason or "No P wave stands out before the beats."
        reasons["pr_ms"] = reasons["p_ms"] = why if qrs is not None else "No beat lies completely inside the record."
    return replace(made, p_ms=p, pr_ms=pr, qrs_ms=qrs, qt_ms=qt)


def _with_rate(made: Measurements, rr_ms: np.ndarray, reasons: dict[str, str]) -> Measurements:
    if rr_ms.size == 0:
        why = "A rate needs two beats without a gap between them; the record holds fewer."
        reasons["heart_rate_bpm"] = reasons["rr_ms"] = reasons["qtc_ms"] = why
        return made
    statistics = rr_statistics(rr_ms)
    qtc: dict[str, float | None] = dict(made.qtc_ms)
    if made.qt_ms is None:
        reasons["qtc_ms"] = "QT could not be measured."
    else:
        qtc = {name: round(value, 1) for name, value in corrected_qt(made.qt_ms, statistics["mean"]).items()}
    return replace(made, heart_rate_bpm=round(60_000 / statistics["mean"], 1), rr_ms=statistics, qtc_ms=qtc)


def _axes(
    record: Record, made: Measurements, main: list[Beat], beat: MedianBeat | None, reasons: dict[str, str]
) -> dict[str, float | None]:
    out: dict[str, float | None] = {"p": None, "qrs": None, "t": None}
    if not {"I", "II"} <= set(record.leads) and not {"I", "aVF"} <= set(record.leads):
        for wave in out:
            reasons[f"axis_deg.{wave}"] = "An axis needs lead I and lead II or aVF; they were not recorded."
        return out
    offsets = _offsets(main, record.fs_hz)
    for wave in out:
        if beat is None or offsets.get(wave) is None:
            reasons[f"axis_deg.{wave}"] = f"The {wave.upper()} wave's boundaries could not be found."
            continue
        first, last = offsets[wave]  # type: ignore[misc]
        at = round(beat.before_s * record.fs_hz)
        degrees = axis_degrees(record.leads, beat.mv, max(0, at + first), at + last, wave)
        out[wave] = degrees
        if degrees is None:
            reasons[f"axis_deg.{wave}"] = f"The {wave.upper()} wave has no clear direction in the frontal plane."
    return out


def _offsets(main: list[Beat], fs_hz: float) -> dict[str, tuple[int, int] | None]:
    """Return each wave's median boundaries in samples from the R peak."""

    def median(pairs: list[tuple[int, int]]) -> tuple[int, int] | None:
        if not pairs:
            return None
        first, last = np.median(pairs, axis=0)
        return int(first), int(last)

    return {
        "p": median([(b.p[0] - b.r_peak, b.p[2] - b.r_peak) for b in main if b.p]),
        "qrs": median([(b.qrs[0] - b.r_peak, b.qrs[1] - b.r_peak) for b in main if b.qrs]),
        "t": median([(b.t[0] - b.r_peak, b.t[2] - b.r_peak) for b in main if b.t and b.t[0] is not None]),
    }


def _fiducials(beat: Beat, fs_hz: float) -> dict[str, float | None]:
    out: dict[str, float | None] = {"r_peak_s": round(beat.r_peak / fs_hz, 5)}
    out["qrs_on_s"] = round(beat.qrs[0] / fs_hz, 5) if beat.qrs else None
    out["qrs_off_s"] = round(beat.qrs[1] / fs_hz, 5) if beat.qrs else None
    for key, wave, place in _STEPS:
        found = getattr(beat, wave)
        out[key] = round(found[place] / fs_hz, 5) if found and found[place] is not None else None
    return out


def _beat_json(record: Record, beat: MedianBeat, main: list[Beat]) -> dict[str, Any]:
    """Describe the median beat; its fiducials are seconds from its R peak."""
    spans = _offsets(main, record.fs_hz)
    marks = {
        f"{wave}_{place}_s": round(span[k] / record.fs_hz, 5)
        for wave, span in spans.items()
        if span is not None
        for k, place in enumerate(("on", "off"))
    }
    return {
        "fs_hz": record.fs_hz, "before_s": round(beat.before_s, 5), "n_beats": beat.n_beats, "leads": list(record.leads),
        "mv": beat.mv, "fiducials_s": marks,
    }  # fmt: skip


def _method(record: Record, lead: str | None) -> str:
    where = f"lead {lead}" if lead else "the spatial velocity (QRS) and RMS (P, T) of all leads"
    part = f" Waves: first {_DELINEATED_S:g} s." if record.duration_s > _DELINEATED_S else ""
    return (
        f"R peaks by slope energy of all leads; wave boundaries by slope thresholds on {where} of the original signal; "
        f"intervals are medians over the beats of the dominant shape.{part}"
    )


def _nothing(empty: Measurements, why: str) -> Measurements:
    fields = (
        "heart_rate_bpm",
        "rr_ms",
        "p_ms",
        "pr_ms",
        "qrs_ms",
        "qt_ms",
        "qtc_ms",
        "axis_deg.p",
        "axis_deg.qrs",
        "axis_deg.t",
    )
    return replace(empty, reasons=dict.fromkeys(fields, why))
