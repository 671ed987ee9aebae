"""What comes between heart and file: noise at the electrodes, and faults of leads and cables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.ecg import LEADS_12
from datasets.simulation.torso import ELECTRODES
from ecgportal.errors import InvalidInput

_FAULTS = ("flat", "clipped", "missing", "gap", "swapped")


@dataclass(frozen=True)
class NoiseSpec:
    """Noise at each electrode; 0 switches a kind off. A lead shows the noise of every electrode it is made of.

    baseline_mv: peak of the wander below 0.5 Hz. mains_mv: peak of the hum at ``mains_hz`` with its third harmonic.
    muscle_mv: standard deviation of the muscle noise (20 to 150 Hz). motion_mv: peak of electrode motion artefacts,
    ``motion_per_min`` of them on every electrode. white_mv: standard deviation of amplifier noise.
    """

    baseline_mv: float = 0.0
    mains_mv: float = 0.0
    mains_hz: float = 50.0
    muscle_mv: float = 0.0
    motion_mv: float = 0.0
    motion_per_min: float = 2.0
    white_mv: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value >= 0):
                raise InvalidInput(f"The noise's {name} must be a number of at least 0, not {value}.")

    @classmethod
    def clinical(cls) -> NoiseSpec:
        """Return the noise of a resting ECG that was recorded with care."""
        return cls(baseline_mv=0.05, mains_mv=0.003, muscle_mv=0.008, white_mv=0.002)

    @classmethod
    def bad(cls) -> NoiseSpec:
        """Return the noise of an ECG that should be recorded again."""
        return cls(baseline_mv=0.6, mains_mv=0.08, muscle_mv=0.12, motion_mv=1.0, motion_per_min=12.0, white_mv=0.01)


@dataclass(frozen=True)
class LeadFault:
    """One fault.

    kind: ``flat`` (a lead shows 0), ``clipped`` (a lead is cut at ``level_mv`` both ways), ``missing`` (a lead is NaN
    throughout), ``gap`` (a lead is NaN from ``start_s`` to ``end_s``), ``swapped`` (two electrodes are exchanged).
    where: the lead, or for ``swapped`` two of RA LA LL V1..V6 joined by a hyphen, as ``RA-LA``.
    ``flat`` and ``clipped`` also keep to ``start_s``..``end_s`` when given.
    """

    kind: str
    where: str
    start_s: float = 0.0
    end_s: float = float("inf")
    level_mv: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in _FAULTS:
            raise InvalidInput(f"There is no lead fault {self.kind!r}; choose one of {', '.join(_FAULTS)}.")
        names = self.where.split("-") if self.kind == "swapped" else [self.where]
        known = ELECTRODES if self.kind == "swapped" else LEADS_12
        if any(name not in known for name in names) or len(names) != (2 if self.kind == "swapped" else 1):
            raise InvalidInput(f"A {self.kind} fault cannot lie at {self.where!r}; the places are {', '.join(known)}.")


def _shaped(rng: np.random.Generator, samples: int, fs_hz: float, low_hz: float, high_hz: float) -> np.ndarray:
    """Return Gaussian noise ``(9, samples)`` of standard deviation 1 in a band."""
    frequency = np.fft.rfftfreq(samples, 1 / fs_hz)
    band = (frequency >= low_hz) & (frequency <= min(high_hz, 0.45 * fs_hz))
    spectrum = np.zeros((len(ELECTRODES), len(frequency)), dtype=complex)
    count = int(band.sum())
    if count == 0:
        return np.zeros((len(ELECTRODES), samples))
    spectrum[:, band] = rng.standard_normal((len(ELECTRODES), count)) + 1j * rng.standard_normal(
        (len(ELECTRODES), count)
    )
    noise = np.fft.irfft(spectrum, samples, axis=1)
    return noise / np.maximum(noise.std(axis=1, keepdims=True), 1e-12)


def electrode_noise(spec: NoiseSpec, samples: int, fs_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Return the noise ``(9, samples)`` in mV that is added to the electrode potentials."""
    total = np.zeros((len(ELECTRODES), samples))
    time_s = np.arange(samples) / fs_hz
    if spec.baseline_mv:
        # Lowest bin of short records is above 0.5 Hz: sines are drawn instead of a shaped spectrum.
        for _ in range(3):
            rate, phase = rng.uniform(0.05, 0.45), rng.uniform(0, 2 * np.pi, (len(ELECTRODES), 1))
            size = spec.baseline_mv * rng.uniform(0.1, 0.5, (len(ELECTRODES), 1))
            total += size * np.sin(2 * np.pi * rate * time_s + phase)
    if spec.mains_mv and spec.mains_hz < 0.5 * fs_hz:
        size = spec.mains_mv * rng.uniform(0.3, 1.0, (len(ELECTRODES), 1))
        phase = 2 * np.pi * spec.mains_hz * time_s + rng.uniform(0, 2 * np.pi)
        total += size * np.sin(phase)
        if 3 * spec.mains_hz < 0.5 * fs_hz:
            total += 0.15 * size * np.sin(3 * phase)
    if spec.muscle_mv:
        total += spec.muscle_mv * _shaped(rng, samples, fs_hz, 20.0, 150.0)
    if spec.motion_mv and spec.motion_per_min:
        for electrode in range(len(ELECTRODES)):
            for _ in range(int(rng.poisson(spec.motion_per_min * samples / fs_hz / 60))):
                start, decay = rng.uniform(0, samples / fs_hz), rng.uniform(0.15, 0.6)
                size = spec.motion_mv * rng.uniform(0.3, 1.0) * rng.choice((-1, 1))
                after = np.maximum(time_s - start, 0)
                total[electrode] += size * (after > 0) * (1 - np.exp(-after / 0.03)) * np.exp(-after / decay)
    if spec.white_mv:
        total += spec.white_mv * rng.standard_normal(total.shape)
    return total


def swap_electrodes(potentials: np.ndarray, faults: tuple[LeadFault, ...]) -> np.ndarray:
    """Return the potentials with the electrodes of every ``swapped`` fault exchanged."""
    order = list(range(len(ELECTRODES)))
    for fault in faults:
        if fault.kind == "swapped":
            first, second = (ELECTRODES.index(name) for name in fault.where.split("-"))
            order[first], order[second] = order[second], order[first]
    return potentials[order]


def break_leads(signal: np.ndarray, fs_hz: float, faults: tuple[LeadFault, ...]) -> np.ndarray:
    """Apply the faults of single leads to a signal ``(12, samples)`` in mV."""
    signal = signal.copy()
    for fault in faults:
        if fault.kind == "swapped":
            continue
        start = max(0, int(np.ceil(fault.start_s * fs_hz)))
        end = signal.shape[1] if fault.end_s == float("inf") else int(np.ceil(fault.end_s * fs_hz))
        row = signal[LEADS_12.index(fault.where), start:end]
        if fault.kind == "flat":
            row[:] = 0.0
        elif fault.kind == "clipped":
            np.clip(row, -fault.level_mv, fault.level_mv, out=row)
        elif fault.kind == "gap":
            row[:] = np.nan
        else:
            signal[LEADS_12.index(fault.where)] = np.nan
    return signal
