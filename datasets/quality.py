"""Judge the technical quality of a record: per lead, and over all leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.beats import find_r_peaks
from datasets.ecg import LEADS_12, Record, derive_limb_leads
from datasets.preprocess._gaps import bridge
from datasets.preprocess._polyphase import resample
from datasets.running import median, quantile, running_max

LEAD_FLAGS: dict[str, str] = {
    "missing": "Nothing was recorded.",
    "gaps": "More than 1 % of the samples are missing.",
    "flat": "The lead stays within 5 uV for 2 s or longer.",
    "saturated": "The lead stays at its end of range for 0.2 s or longer.",
    "clipped": "Peaks are cut off at the same value.",
    "noisy": "The noise between the beats is above 0.04 mV.",
    "baseline_wander": "The baseline moves by more than 1 mV.",
}
RECORD_FLAGS: dict[str, str] = {
    "missing_leads": "At least one of the twelve leads is missing.",
    "limb_reversal_suspected": "The limb electrodes seem to be exchanged.",
    "limb_leads_inconsistent": "I, II and III contradict Einthoven's law.",
    "pacing_spikes": "There are pacing spikes.",
    "no_beats": "No QRS complexes were found.",
    "implausible_rate": "The heart rate is below 25 or above 300 per minute: the sampling rate may be wrong.",
    "implausible_amplitude": "The QRS is above 12 mV or below 0.05 mV: the unit may be wrong.",
}
_WORK_HZ, _FAST_HZ = 100.0, 250.0
_FLAT_MV, _FLAT_S = 0.005, 2.0
_NOISY_MV = 0.04
_HIGHEST_MV, _LOWEST_MV = 12.0, 0.05
_HIGHEST_BPM, _LOWEST_BPM = 300.0, 25.0
_UNUSABLE = {"missing", "flat", "saturated"}


@dataclass(frozen=True)
class LeadQuality:
    """One lead. sqi: signal quality index 0 to 1; noise_mv: noise between the beats; missing: share of samples."""

    lead: str
    flags: tuple[str, ...]
    sqi: float
    noise_mv: float
    missing: float


@dataclass(frozen=True)
class QualityReport:
    """Quality of a record.

    leads: one entry per recorded lead. flags: keys of ``RECORD_FLAGS``. score: 0 (unusable) to 1, the mean of the
    leads' indices where unusable and missing leads of the twelve count 0, halved when rate or amplitude are
    implausible. rate_bpm: mean heart rate or None. reversal: which electrodes seem exchanged (``RA-LA``, ``RA-LL``,
    ``RA-RL``) or None.
    """

    leads: tuple[LeadQuality, ...]
    flags: tuple[str, ...]
    score: float
    rate_bpm: float | None
    reversal: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, for storage."""
        leads = [{**vars(entry), "flags": list(entry.flags)} for entry in self.leads]
        return {**vars(self), "leads": leads, "flags": list(self.flags)}

    @property
    def lead_flags(self) -> dict[str, tuple[str, ...]]:
        """Flags by lead, of the leads that have any."""
        return {entry.lead: entry.flags for entry in self.leads if entry.flags}


def assess(record: Record) -> QualityReport:
    """Judge one record of any rate and length; leads beyond the twelve are judged too but do not count for the score."""
    signal = record.signal
    usable = np.where(np.isfinite(signal), signal, np.float32(np.nan))
    bridged, gaps = bridge(usable)
    missing = np.zeros(len(record.leads)) if gaps is None else gaps.mean(axis=1)
    slow = resample(bridged, record.fs_hz, _WORK_HZ)
    held = missing < 0.5
    peaks = np.zeros(0, np.int64)
    if held.all():
        peaks = find_r_peaks(bridged, record.fs_hz, slow)
    elif held.any():
        peaks = find_r_peaks(bridged[held], record.fs_hz, slow[held])
    noise = _noise_mv(bridged, record.fs_hz)
    sqi = _template_index(slow, peaks / record.fs_hz)
    flags = _lead_flags(bridged, record.fs_hz, missing, noise, slow)
    leads = tuple(
        LeadQuality(
            name,
            own,
            0.0 if _UNUSABLE & set(own) else round(float(sqi[row] * (1 - missing[row]) * _noise_weight(noise[row])), 3),
            round(float(noise[row]), 4),
            round(float(missing[row]), 4),
        )
        for row, (name, own) in enumerate(zip(record.leads, flags, strict=True))
    )
    live = np.array([not _UNUSABLE & set(own) for own in flags], dtype=bool)
    found, rate, reversal = _record_flags(record, bridged, slow, peaks, live)
    indices = {entry.lead: entry.sqi for entry in leads}
    counted = [indices.get(name, 0.0) for name in LEADS_12] if set(LEADS_12) & set(indices) else list(indices.values())
    score = float(np.mean(counted)) * (0.5 if any(flag.startswith("implausible") for flag in found) else 1.0)
    return QualityReport(leads, found, round(score, 3), rate, reversal)


def _noise_weight(noise_mv: float) -> float:
    return float(1 / (1 + (noise_mv / (2 * _NOISY_MV)) ** 2))


def _noise_mv(signal: np.ndarray, fs_hz: float) -> np.ndarray:
    """Estimate each lead's noise above about 20 Hz from the median curvature over 4 ms, which beats hardly move."""
    step = max(1, round(0.004 * fs_hz))
    if signal.shape[1] < 2 * step + 3:
        return np.zeros(signal.shape[0])
    count = signal.shape[1] - 2 * step
    # A thousand places tell the median to a few per cent.
    thin = max(1, count // 1000)
    first, middle, last = (signal[:, at : at + count : thin] for at in (0, step, 2 * step))
    bend = np.abs(first - 2 * middle + last)
    place = bend.shape[1] // 2
    return np.partition(bend, place, axis=1)[:, place] / (0.6745 * np.sqrt(6))


def _cells(signal: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return minima and maxima of consecutive cells of ``width`` samples."""
    count = max(1, signal.shape[1] // width)
    part = signal[:, : count * width].reshape(signal.shape[0], count, -1)
    return part.min(axis=2), part.max(axis=2)


def _lead_flags(
    signal: np.ndarray, fs_hz: float, missing: np.ndarray, noise: np.ndarray, slow: np.ndarray
) -> list[tuple[str, ...]]:
    low, high = _cells(signal, max(1, round(fs_hz / 4)))
    span = min(round(_FLAT_S * 4), low.shape[1])
    reach = np.lib.stride_tricks.sliding_window_view
    flat = (reach(high, span, axis=1).max(axis=2) - reach(low, span, axis=1).min(axis=2)).min(axis=1) < _FLAT_MV
    second = max(1, min(round(_WORK_HZ), slow.shape[1]))
    count = slow.shape[1] // second
    level = median(slow[:, : count * second].reshape(slow.shape[0], count, second)[:, :, ::4])
    wander = np.ptp(level, axis=1) > 1.0
    found: list[tuple[str, ...]] = []
    for row in range(signal.shape[0]):
        own: list[str] = []
        if missing[row] == 1:
            found.append(("missing",))
            continue
        if missing[row] > 0.01:
            own.append("gaps")
        if flat[row]:
            own.append("flat")
        elif missing[row] < 0.5:
            own += _end_of_range(signal[row], fs_hz)
        if noise[row] > _NOISY_MV:
            own.append("noisy")
        if wander[row]:
            own.append("baseline_wander")
        found.append(tuple(own))
    return found


def _end_of_range(lead: np.ndarray, fs_hz: float) -> list[str]:
    """Return ``saturated`` or ``clipped`` for a lead that keeps its largest or smallest value for several samples.

    A rounded wave also keeps its top for some milliseconds; a cut one gets there and leaves by a step.
    """
    for end, sign in ((lead.max(), 1), (lead.min(), -1)):
        near = np.float32(float(end) - sign * 1e-6 * max(abs(float(end)), 1.0))
        held = lead >= near if sign > 0 else lead <= near
        if np.count_nonzero(held) < 3:
            continue
        places = np.flatnonzero(held)
        cuts = np.flatnonzero(np.diff(places) > 1)
        starts, ends = places[np.r_[0, cuts + 1]], places[np.r_[cuts, len(places) - 1]]
        lengths = ends - starts + 1
        if lengths.max() >= 0.2 * fs_hz:
            return ["saturated"]
        long = lengths >= max(3, round(0.008 * fs_hz))
        before, after = np.maximum(starts - 1, 0), np.minimum(ends + 1, len(lead) - 1)
        steps = np.maximum(sign * (end - lead[before]), sign * (end - lead[after]))
        if (long & (steps > 0.02 * max(1.0, 500 / fs_hz))).sum() >= 2:
            return ["clipped"]
    return []


def _windows(slow: np.ndarray, times_s: np.ndarray, before_s: float, after_s: float) -> np.ndarray:
    """Return the beats ``(leads, beats, samples)`` at 100 Hz that lie whole in the record."""
    before, after = round(before_s * _WORK_HZ), round(after_s * _WORK_HZ)
    places = np.rint(times_s * _WORK_HZ).astype(int)
    places = places[(places >= before) & (places + after <= slow.shape[1])]
    return slow[:, places[:, None] + np.arange(-before, after)]


def _template_index(slow: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return per lead how well its beats agree, 0 to 1.

    Correlation of each beat with the median beat, as in C. Orphanidou et al. (IEEE J Biomed Health Inform
    2015;19:832-838); a lead in which the beats are small is good when they differ by little in absolute terms.
    Without two whole beats the index is 0.5: nothing speaks for or against the lead.
    """
    beats = _windows(slow, times_s, 0.25, 0.40)
    if beats.shape[1] < 2:
        return np.full(slow.shape[0], 0.5 if slow.shape[1] < 3 * _WORK_HZ else 0.0)
    beats = beats - beats.mean(axis=2, keepdims=True)
    model = median(beats, axis=1)
    size = np.sqrt(np.square(beats).sum(axis=2) * np.square(model).sum(axis=1)[:, None])
    alike = np.einsum("lbs,ls->lb", beats, model) / np.maximum(size, 1e-9)
    rest = np.sqrt(np.square(beats - model[:, None]).mean(axis=2))
    per_beat = np.maximum(alike, 1 - rest / 0.1)
    return np.clip(median(per_beat), 0, 1)


def _record_flags(
    record: Record, signal: np.ndarray, slow: np.ndarray, peaks: np.ndarray, live: np.ndarray
) -> tuple[tuple[str, ...], float | None, str | None]:
    flags, rate, reversal = [], None, None
    lively = signal if live.all() else signal[live]
    present = {name for name, ok in zip(record.leads, live, strict=True) if ok}
    if not set(LEADS_12) <= set(derive_limb_leads(record).leads) or not set(LEADS_12) & set(record.leads) <= present:
        flags.append("missing_leads")
    if len(peaks) >= 2:
        rate = 60 * record.fs_hz * (len(peaks) - 1) / float(peaks[-1] - peaks[0])
        hidden = _hidden_rate(lively, record.fs_hz) if live.any() else None
        rate = rate if hidden is None else hidden
    elif record.duration_s >= 4 and live.any():
        rate = _hidden_rate(lively, record.fs_hz)
        flags += ["no_beats"] if not len(peaks) and rate is None else []
    if (rate is not None and not _LOWEST_BPM <= rate <= _HIGHEST_BPM) or (len(peaks) == 1 and record.duration_s > 6):
        flags.append("implausible_rate")
    # When all leads look flat, but are not constant, the unit may be a thousand times too large.
    tiny = not live.any() and float(np.ptp(signal, axis=1).max(initial=0)) > 0
    if tiny or (live.any() and _implausible_amplitude(slow[live], peaks / record.fs_hz)):
        flags.append("implausible_amplitude")
    if _pacing_spikes(lively, record.fs_hz, len(peaks)):
        flags.append("pacing_spikes")
    rows = {name: slow[row] for row, name in enumerate(record.leads) if live[row]}
    if {"I", "II", "III"} <= set(rows):
        error = np.abs(rows["III"] - (rows["II"] - rows["I"]))
        size = quantile(np.abs(np.stack([rows["I"], rows["II"], rows["III"]])), 0.99)
        if quantile(error, 0.95) > max(0.15, 0.4 * size):
            flags.append("limb_leads_inconsistent")
    reversal = _reversal(rows, peaks / record.fs_hz)
    if reversal:
        flags.append("limb_reversal_suspected")
    ordered = tuple(name for name in RECORD_FLAGS if name in flags)
    return ordered, None if rate is None else round(rate, 1), reversal


def _hidden_rate(signal: np.ndarray, fs_hz: float) -> float | None:
    """Return a rate of 300 to 1000 per minute when the leads' steepness repeats so fast, else None.

    A QRS detector cannot see such rates because of its refractory time; they come from a wrong sampling rate.
    """
    # Four leads tell the rate as well as twelve.
    few = signal[:: -(-len(signal) // 4)]
    steep = np.abs(np.diff(resample(few, fs_hz, _FAST_HZ), axis=1))
    # Over 20 ms the hum of the mains is level.
    steep = np.convolve(
        (steep / np.maximum(steep.mean(axis=1, keepdims=True), 1e-6)).mean(axis=0), np.ones(5) / 5, "same"
    )
    steep = steep - steep.mean()
    if len(steep) < 150 or not steep.any():
        return None
    power = float(steep @ steep) / len(steep)
    # Padded with zeros, so that the ends do not meet.
    size = 1 << (len(steep) + 101).bit_length()
    sums = np.fft.irfft(np.abs(np.fft.rfft(steep, size)) ** 2, size)[:101]
    alike = sums / (len(steep) - np.arange(101)) / power
    best = 15 + int(alike[15:50].argmax())
    # A true period shows again at its double, and stands out from what lies before it.
    if alike[best] > 0.5 and alike[2 * best - 2 : 2 * best + 3].max() > 0.4 and alike[:best].min() < 0.2:
        return 60 * _FAST_HZ / best
    return None


def _implausible_amplitude(slow: np.ndarray, times_s: np.ndarray) -> bool:
    beats = _windows(slow, times_s, 0.08, 0.08)
    if beats.shape[1]:
        heights = median(beats.max(axis=2) - beats.min(axis=2))
    else:
        heights = np.quantile(slow, 0.995, axis=1) - np.quantile(slow, 0.005, axis=1)
    return bool(heights.max() > _HIGHEST_MV or heights.max() < _LOWEST_MV)


def _pacing_spikes(signal: np.ndarray, fs_hz: float, beats: int) -> bool:
    """Return whether there are repeated spikes of a few milliseconds that stand alone.

    A spike's curvature over 2 ms, mean of the leads, is above 0.1 mV and five times that of everything from 10 to 50 ms
    beside it; a QRS is never so alone. Below 240 samples per second spikes cannot be told.
    """
    step, near, far = max(1, round(0.002 * fs_hz)), round(0.010 * fs_hz), round(0.050 * fs_hz)
    count = signal.shape[1] - 2 * step
    if fs_hz < 240 or not len(signal) or count < fs_hz or beats < 2:
        return False
    bend = np.abs(signal[:, :count] - 2 * signal[:, step : step + count] + signal[:, 2 * step :]).mean(axis=0)
    top = (bend > 0.1) & (bend == running_max(bend, 2 * round(0.075 * fs_hz) + 1))
    spikes = 0
    for place in np.flatnonzero(top)[:2000].tolist():
        ring = np.concatenate([bend[max(0, place - far) : max(0, place - near)], bend[place + near + 1 : place + far]])
        spikes += len(ring) >= far and bend[place] > 5 * ring.max()
    return spikes >= max(3, 0.4 * beats)


def _reversal(rows: dict[str, np.ndarray], times_s: np.ndarray) -> str | None:
    """Return which limb electrodes seem exchanged, from the median beat's P wave and QRS.

    RA-LA: P and QRS of I are upside down against V6. RA-LL: P and QRS of II are, and the QRS of aVR is upright. RA-RL:
    II is a near flat line beside a normal I. Without P waves only RA-RL is seen; an exchange of LA and LL cannot be told
    from a normal variant by one record and is not looked for.
    """
    if not {"I", "II", "V6"} <= set(rows) or len(times_s) < 2:
        return None
    slow = np.stack([rows["I"], rows["II"], rows["V6"]])
    beats = _windows(slow, times_s, 0.25, 0.15)
    if beats.shape[1] < 2:
        return None
    i, ii, v6 = median(beats - median(beats)[:, :, None], axis=1)
    qrs = slice(19, 32)
    if np.ptp(ii[qrs]) < 0.06 and np.ptp(i[qrs]) > 0.3:
        return "RA-RL"
    if _p_area(v6) < 0.003:
        return None
    net_avr = -(i + ii)[qrs].sum()
    if _p_area(ii) < -0.015 and _discordant(ii[qrs], v6[qrs]) and net_avr > 0:
        return "RA-LL"
    if _p_area(i) < -0.004 and _discordant(i[qrs], v6[qrs]):
        return "RA-LA"
    return None


def _discordant(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether a QRS points down and runs against another one."""
    size = float(np.linalg.norm(first) * np.linalg.norm(second)) + 1e-9
    return bool(first.sum() < 0 and float(first @ second) < -0.5 * size)


def _p_area(beat: np.ndarray) -> float:
    """Return the mean height in mV of what lies 250 to 80 ms before the QRS peak over the line between its ends."""
    part = beat[:17]
    line = np.linspace(part[:2].mean(), part[-2:].mean(), len(part))
    return float((part - line).mean())
