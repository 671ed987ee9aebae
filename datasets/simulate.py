"""Simulated 12-lead ECGs with known conditions and known fiducial times.

A moving cardiac dipole (sum of Gaussian loops, ``simulation.morphology``) in a person's heart position is projected
on nine electrodes (``simulation.torso``), which form the leads. Heart rate varies with breath and baroreflex, the
heart turns with the breath, and beats differ a little. The same seed gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from datasets.ecg import LEADS_12, Record, RecordMeta, SourceLabel
from datasets.simulation import morphology as m
from datasets.simulation import rhythm as rhythms
from datasets.simulation.conditions import COMBINATIONS, CONDITIONS, check, labels
from datasets.simulation.disturbance import LeadFault, NoiseSpec, break_leads, electrode_noise, swap_electrodes
from datasets.simulation.patient import Patient, beats, draw_patient
from datasets.simulation.torso import leads_from_electrodes
from ecgportal.errors import InvalidInput

__all__ = ["CONDITIONS", "BeatFiducials", "LeadFault", "NoiseSpec", "SimulatedECG", "simulate", "simulate_dataset"]

_BEFORE_S, _AFTER_S = 0.50, 0.80


@dataclass(frozen=True)
class BeatFiducials:
    """Times of one beat's waves in seconds from the record's start; None where the beat has no such wave.

    kind: ``N`` (the record's own rhythm), ``A`` (early atrial), ``V`` (early ventricular). Onset and offset are where
    the length of the wave's own dipole passes 5 % (P, T) or 3 % (QRS) of its peak, which is what is seen over all
    leads together. Times before 0 or behind the end are kept: such a wave is only partly in the record.
    """

    kind: str
    p_onset_s: float | None
    p_peak_s: float | None
    p_offset_s: float | None
    qrs_onset_s: float
    qrs_peak_s: float
    qrs_offset_s: float
    t_onset_s: float
    t_peak_s: float
    t_offset_s: float


@dataclass(frozen=True, eq=False)
class SimulatedECG:
    """A simulated record with the truth about it.

    r_peaks_s: the QRS peaks inside the record, ``(beats,)`` seconds. ``labels``, ``age``, ``sex`` and ``subject``
    also stand in ``record.meta``. ``patient`` simulates further records of the same person.
    """

    record: Record
    conditions: tuple[str, ...]
    fiducials: tuple[BeatFiducials, ...]
    r_peaks_s: np.ndarray
    labels: tuple[SourceLabel, ...]
    age: float
    sex: str
    subject: str
    patient: Patient


@dataclass(frozen=True)
class _Placed:
    """One beat in time: its groups of waves relative to ``r_s``, and its ST segment from ``j_s`` to ``t_peak_s``."""

    kind: str
    r_s: float
    groups: tuple[m.Waves, ...]
    marks: tuple[m.Extent | None, m.Extent, m.Extent]
    st_mv: np.ndarray
    spike_mv: np.ndarray | None


def _place(
    shape: m.Beat, extents: tuple[m.Extent | None, m.Extent], kind: str, r_s: float, rr_s: float, vary: np.ndarray
) -> _Placed:
    """Put one beat at ``r_s``. ``extents`` are those of the shape's P and QRS; ``vary`` are 4 standard deviates."""
    qrs = shape.qrs.times(1 + 0.02 * vary[0])
    p_marks, qrs_marks = extents
    # QT at this interval: linear correction of the Framingham study (A. Sagie et al., Am J Cardiol 1992;70:797-801).
    qt = float(np.clip(shape.qtc_s + 0.154 * (rr_s - 1), 0.26, 0.60)) + 0.002 * vary[1]
    t = shape.t.stretched(qt / 0.400).times(1 + 0.03 * vary[2])
    t = t.moved(qrs_marks[0] + qt - m.EDGE * float(t.fall_s[0]))
    t_marks = (
        float(t.centre_s[0] - m.EDGE * t.rise_s[0]),
        float(t.centre_s[0]),
        float(t.centre_s[0] + m.EDGE * t.fall_s[0]),
    )
    if shape.p is None or p_marks is None:
        return _Placed(kind, r_s, (qrs, t), (None, qrs_marks, t_marks), shape.st_mv, shape.spike_mv)
    by_s = qrs_marks[0] - (shape.pr_s + 0.002 * vary[3]) - p_marks[0]
    p = shape.p.moved(by_s)
    moved = (p_marks[0] + by_s, p_marks[1] + by_s, p_marks[2] + by_s)
    return _Placed(kind, r_s, (p, qrs, t), (moved, qrs_marks, t_marks), shape.st_mv, shape.spike_mv)


def _dipole(placed: list[_Placed], time_s: np.ndarray, fs_hz: float) -> np.ndarray:
    """Return the ventricular and atrial dipole of all beats, ``(samples, 3)`` mV."""
    total = np.zeros((len(time_s), 3))
    for beat in placed:
        start = max(0, int(np.ceil((beat.r_s - _BEFORE_S) * fs_hz)))
        end = min(len(time_s), int((beat.r_s + _AFTER_S) * fs_hz) + 1)
        if start >= end:
            continue
        own = time_s[start:end] - beat.r_s
        for group in beat.groups:
            total[start:end] += group.at(own)
        if beat.st_mv.any():
            j_s, t_s = beat.marks[1][2], beat.marks[2][1]
            rise = 1 / (1 + np.exp(-np.clip((own - j_s + 0.012) / 0.004, -60, 60)))
            fall = 1 / (1 + np.exp(np.clip((own - t_s) / 0.022, -60, 60)))
            total[start:end] += (rise * fall)[:, None] * beat.st_mv
        if beat.spike_mv is not None:
            own_spike = own - (beat.marks[1][0] - 0.004)
            total[start:end] += np.exp(-0.5 * (own_spike / 0.0007) ** 2)[:, None] * beat.spike_mv
    return total


def _fiducials(placed: list[_Placed], duration_s: float) -> tuple[BeatFiducials, ...]:
    found = []
    for beat in placed:
        if 0 <= beat.r_s + beat.marks[1][1] < duration_s:
            p, qrs, t = (
                None if mark is None else [round(float(beat.r_s + at), 4) for at in mark] for mark in beat.marks
            )
            found.append(BeatFiducials(beat.kind, *(p or (None, None, None)), *(qrs or ()), *(t or ())))
    return tuple(found)


def _heart(
    names: tuple[str, ...], patient: Patient, rng: np.random.Generator, fs_hz: float, duration_s: float
) -> tuple[list[_Placed], np.ndarray]:
    """Draw the rhythm and the breath; returns the beats and the heart's dipole, ``(samples, 3)`` mV."""
    time_s = np.arange(round(duration_s * fs_hz)) / fs_hz
    shapes = beats(patient, names)
    respiration_hz = rng.uniform(0.18, 0.32)
    rhythm = rhythms.draw(names, rng, duration_s, respiration_hz)
    extents = {
        kind: (None if shape.p is None else m.extent(shape.p, m.P_EDGE), m.extent(shape.qrs, m.QRS_EDGE))
        for kind, shape in shapes.items()
    }
    placed = [
        _place(
            shapes[kind],
            extents[kind],
            kind,
            float(r_s),
            float(rr_s),
            np.clip(rng.standard_normal(4), -2.5, 2.5),
        )
        for r_s, kind, rr_s in zip(rhythm.times_s, rhythm.kinds, rhythm.rr_s, strict=True)
    ]
    dipole = _dipole(placed, time_s, fs_hz)
    atrial = rhythms.atrial_dipole(names, rhythm, time_s, rng)
    if atrial is not None:
        dipole += atrial
    breath = np.sin(2 * np.pi * respiration_hz * time_s + rng.uniform(0, 2 * np.pi))[:, None]
    axis = rng.standard_normal(3)
    dipole += np.deg2rad(2.5) * breath * np.cross(axis / np.linalg.norm(axis), dipole)
    dipole *= 1 + 0.03 * breath
    return placed, dipole


def simulate(
    conditions: str | Iterable[str],
    seed: int,
    *,
    fs_hz: float,
    duration_s: float = 10.0,
    noise: NoiseSpec | None = None,
    faults: Iterable[LeadFault] = (),
    patient: Patient | None = None,
) -> SimulatedECG:
    """Simulate one 12-lead ECG.

    Parameters
    ----------
    conditions: one name of ``CONDITIONS`` or several that go together; without a rhythm it is sinus rhythm.
    seed: non-negative; the same arguments give the same bytes.
    fs_hz, duration_s: sampling rate in hertz (50 to 4000) and length in seconds (1 to 3600).
    noise, faults: what is added at electrodes, leads and cables; nothing by default.
    patient: the person of an earlier record; a new one by default.

    Raises InvalidInput for unknown or contradictory conditions and for rates or lengths out of range.
    """
    names = check(conditions)
    faults = tuple(faults)
    if not 50 <= fs_hz <= 4000 or not 1 <= duration_s <= 3600 or seed < 0:
        raise InvalidInput(
            f"The simulator takes 50 to 4000 Hz, 1 to 3600 s and a seed of at least 0; "
            f"it was asked for {fs_hz} Hz, {duration_s} s and seed {seed}."
        )
    if patient is None:
        patient = draw_patient(seed, names, f"SIM-{seed:06d}")
    placed, dipole = _heart(names, patient, np.random.default_rng([seed, 3]), fs_hz, duration_s)
    potentials = patient.matrix @ dipole.T
    if noise is not None:
        potentials = potentials + electrode_noise(noise, len(dipole), fs_hz, np.random.default_rng([seed, 4]))
    signal = break_leads(leads_from_electrodes(swap_electrodes(potentials, faults)), fs_hz, faults)
    stated = labels(names)
    meta = RecordMeta(
        subject=patient.subject, age=patient.age, sex=patient.sex, labels=stated, device="ECG Portal simulator"
    )
    fiducials = _fiducials(placed, duration_s)
    return SimulatedECG(
        Record(signal, fs_hz, LEADS_12, meta=meta),
        names,
        fiducials,
        np.array([beat.qrs_peak_s for beat in fiducials]),
        stated,
        patient.age,
        patient.sex,
        patient.subject,
        patient,
    )


def _quotas(n: int) -> list[tuple[str, ...]]:
    """Return ``n`` sets of conditions by largest remainder, so that small datasets keep the mix."""
    shares = {(name,): entry.share for name, entry in CONDITIONS.items()} | COMBINATIONS
    exact = np.array(list(shares.values())) / sum(shares.values()) * n
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: n - counts.sum()]:
        counts[index] += 1
    return [names for names, count in zip(shares, counts, strict=True) for _ in range(count)]


def simulate_dataset(
    n: int,
    seed: int,
    *,
    fs_hz: float = 500.0,
    duration_s: float = 10.0,
    noise: NoiseSpec | None = None,
) -> Iterator[SimulatedECG]:
    """Simulate ``n`` records with a clinic's mix of conditions, one after another.

    About one subject in five has two or three records of the same conditions. ``noise`` is that of every record; by
    default each record draws its own around ``NoiseSpec.clinical()``.
    """
    rng = np.random.default_rng([seed, 5])
    quotas = _quotas(n)
    order = [quotas[index] for index in rng.permutation(n)]
    often = Counter(order)
    waiting: dict[tuple[str, ...], tuple[Patient, int]] = {}
    for number, conditions in enumerate(order):
        names = check(conditions)
        patient, left = waiting.pop(names, (None, 0))
        if patient is None:
            patient = draw_patient(int(rng.integers(2**31)), names, f"SIM-{seed:03d}-{number:06d}")
            # A rare condition is spread over as many patients as it has records.
            left = int(rng.choice((0, 1, 2), p=(0.80, 0.14, 0.06))) if often[conditions] > 6 else 0
        if left:
            waiting[names] = (patient, left - 1)
        spec = noise
        if spec is None:
            quiet = float(rng.lognormal(0, 0.5))
            spec = NoiseSpec(0.06 * quiet, 0.003 * quiet, 50.0, 0.008 * quiet, 0.15 * quiet, 0.3, 0.002)
        yield simulate(names, int(rng.integers(2**31)), fs_hz=fs_hz, duration_s=duration_s, noise=spec, patient=patient)
