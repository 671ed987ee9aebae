"""Display filters: pure, zero-phase, and off unless a viewer turns them on.

They change what is drawn, never the record, and a model never sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgportal.errors import InvalidInput

HIGH_PASS_HZ = (0.05, 0.15, 0.5, 0.67)
LOW_PASS_HZ = (40.0, 100.0, 150.0, 250.0)
NOTCH_HZ = (50.0, 60.0)

# Two passes of a second-order Butterworth give -3 dB at the named frequency when each is designed this much wider.
_TWO_PASSES = (2**0.5 - 1) ** 0.25

WARN_40_HZ = "Low-pass at 40 Hz: amplitudes, Q waves and the J point must not be judged on this view."


@dataclass(frozen=True)
class Filters:
    """What the view filters; None means that the stage is off.

    high_pass_hz: one of ``HIGH_PASS_HZ``; low_pass_hz: one of ``LOW_PASS_HZ``; notch_hz: 50 or 60.
    """

    high_pass_hz: float | None = None
    low_pass_hz: float | None = None
    notch_hz: float | None = None

    def __post_init__(self) -> None:
        stages = (
            ("high_pass_hz", self.high_pass_hz, HIGH_PASS_HZ),
            ("low_pass_hz", self.low_pass_hz, LOW_PASS_HZ),
            ("notch_hz", self.notch_hz, NOTCH_HZ),
        )
        for name, value, allowed in stages:
            if value is not None and value not in allowed:
                offered = ", ".join(f"{one:g}" for one in allowed)
                raise InvalidInput(
                    f"The display filter {name.replace('_hz', '').replace('_', '-')} offers {offered} Hz, not {value}.",
                    fields={name: f"Choose one of {offered} Hz."},
                )

    @property
    def is_on(self) -> bool:
        return any(value is not None for value in (self.high_pass_hz, self.low_pass_hz, self.notch_hz))

    def label(self, fs_hz: float) -> str:
        """Say the band in force, as it is printed on the figure."""
        if not self.is_on:
            return "no display filter"
        parts = []
        if self.high_pass_hz or self.low_pass_hz:
            low = f"{self.high_pass_hz:g}" if self.high_pass_hz else "as recorded"
            high = f"{self.low_pass_hz:g}" if self.low_pass_hz else f"{fs_hz / 2:g}"
            parts.append(f"{low}–{high} Hz")
        if self.notch_hz:
            parts.append(f"{self.notch_hz:g} Hz notch")
        skipped = self.skipped(fs_hz)
        return ", ".join(parts) + " (zero phase)" + (f"; {' and '.join(skipped)} not possible" if skipped else "")

    def skipped(self, fs_hz: float) -> list[str]:
        """Name the stages that a signal of this rate cannot carry (at or above its Nyquist frequency)."""
        out = []
        if self.low_pass_hz and self.low_pass_hz >= fs_hz / 2:
            out.append(f"low-pass {self.low_pass_hz:g} Hz")
        if self.notch_hz and self.notch_hz >= 0.98 * fs_hz / 2:
            out.append(f"notch {self.notch_hz:g} Hz")
        return out

    def warnings(self) -> list[str]:
        return [WARN_40_HZ] if self.low_pass_hz is not None and self.low_pass_hz <= 40 else []


def apply_filters(signal_mv: np.ndarray, fs_hz: float, filters: Filters) -> np.ndarray:
    """Return the filtered signal, shape ``(leads, samples)`` in millivolt, in the input's dtype.

    Butterworth of second order run forwards and backwards (zero phase) for both pass
    stages, -3 dB in all at the named frequency; a notch of Q = 30 likewise. NaN stays NaN: gaps are bridged linearly while
    filtering. Rows without samples, and signals shorter than 9 samples, come back unchanged.
    """
    if not filters.is_on or signal_mv.shape[-1] < 9:
        return signal_mv
    from scipy import signal as sps  # Slow to import; only pages that filter need it.

    stages = _sections(fs_hz, filters)
    out = np.array(signal_mv, dtype=np.float64)
    for row in out:
        gaps = ~np.isfinite(row)
        if gaps.all():
            continue
        if gaps.any():
            at = np.arange(row.size)
            row[gaps] = np.interp(at[gaps], at[~gaps], row[~gaps])
        level = float(np.median(row))
        filtered = row - level
        for sos, removes_level in stages:
            pad = min(row.size - 1, int(3 * fs_hz) if removes_level else int(0.5 * fs_hz))
            filtered = sps.sosfiltfilt(sos, filtered, padtype="odd", padlen=pad)
        # The median was taken out so that the edges start near zero; only a high-pass may drop it for good.
        row[:] = filtered if filters.high_pass_hz else filtered + level
        row[gaps] = np.nan
    return out.astype(signal_mv.dtype)


def _sections(fs_hz: float, filters: Filters) -> list[tuple[np.ndarray, bool]]:
    from scipy import signal as sps  # Slow to import; only pages that filter need it.

    nyquist = fs_hz / 2
    stages: list[tuple[np.ndarray, bool]] = []
    if filters.high_pass_hz:
        edge = filters.high_pass_hz * _TWO_PASSES / nyquist
        stages.append((sps.butter(2, edge, "highpass", output="sos"), True))
    if filters.low_pass_hz and filters.low_pass_hz < nyquist:
        edge = min(filters.low_pass_hz / _TWO_PASSES / nyquist, 0.99)
        stages.append((sps.butter(2, edge, "lowpass", output="sos"), False))
    if filters.notch_hz and filters.notch_hz < 0.98 * nyquist:
        b, a = sps.iirnotch(filters.notch_hz, 30, fs_hz)
        stages.append((sps.tf2sos(b, a), False))
    return stages
