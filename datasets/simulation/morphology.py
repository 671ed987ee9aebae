"""Shape of one heartbeat as loops of the heart's dipole: sums of Gaussian waves in three dimensions.

After P. E. McSharry, G. D. Clifford, L. Tarassenko, L. A. Smith (IEEE Trans Biomed Eng 2003;50:289-294) and its
three-dimensional form by R. Sameni, G. D. Clifford, C. Jutten, M. B. Shamsollahi (EURASIP J Adv Signal Process
2007:43407). Vectors are in Frank axes (x left, y down, z back) and in millivolt as Dower's lead vectors take them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# A Gaussian falls to 5 % of its peak 2.448 standard deviations away from it.
EDGE = float(np.sqrt(2 * np.log(20)))
P_EDGE = 0.05
QRS_EDGE = 0.03


@dataclass(frozen=True)
class Waves:
    """Gaussian waves of one group (P, QRS or T): centres and widths in seconds, dipoles ``(waves, 3)`` in mV.

    ``rise_s`` and ``fall_s`` are the standard deviations before and after the centre.
    """

    centre_s: np.ndarray
    rise_s: np.ndarray
    fall_s: np.ndarray
    dipole_mv: np.ndarray

    def at(self, time_s: np.ndarray) -> np.ndarray:
        """Return the dipole ``(times, 3)`` at the given times."""
        offset = time_s[:, None] - self.centre_s
        width = np.where(offset < 0, self.rise_s, self.fall_s)
        return np.exp(-0.5 * (offset / width) ** 2) @ self.dipole_mv

    def stretched(self, factor: float) -> Waves:
        return replace(self, centre_s=self.centre_s * factor, rise_s=self.rise_s * factor, fall_s=self.fall_s * factor)

    def moved(self, by_s: float) -> Waves:
        return replace(self, centre_s=self.centre_s + by_s)

    def times(self, factor: float | np.ndarray) -> Waves:
        """Scale the dipoles: by one factor, by one per wave ``(waves, 1)``, or by a rotation ``(3, 3)``."""
        matrix = isinstance(factor, np.ndarray) and factor.shape == (3, 3)
        return replace(self, dipole_mv=self.dipole_mv @ factor.T if matrix else self.dipole_mv * factor)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Beat:
    """One kind of beat. P and QRS times count from the nominal R time; T is placed by the QT interval.

    st_mv: dipole of the ST segment. spike_mv: dipole of a pacing spike, or None.
    """

    p: Waves | None
    qrs: Waves
    t: Waves
    st_mv: np.ndarray
    pr_s: float
    qtc_s: float
    spike_mv: np.ndarray | None = None


def waves(*rows: tuple[float, float, tuple[float, float, float]]) -> Waves:
    """Build waves from rows of (centre in ms, standard deviation in ms, dipole in mV)."""
    centre = np.array([row[0] for row in rows]) / 1000
    width = np.array([row[1] for row in rows]) / 1000
    return Waves(centre, width, width.copy(), np.array([row[2] for row in rows], dtype=float))


# Onset, peak and offset in seconds.
Extent = tuple[float, float, float]
_GRID_S = np.arange(-400, 401) / 1000


def extent(group: Waves, edge: float, grid_s: np.ndarray = _GRID_S) -> Extent:
    """Return onset, peak and offset in seconds: where the dipole's length exceeds ``edge`` times its largest value."""
    length = np.linalg.norm(group.at(grid_s), axis=1)
    above = np.flatnonzero(length >= edge * length.max())
    return float(grid_s[above[0]]), float(grid_s[length.argmax()]), float(grid_s[above[-1]])


def with_qrs_duration(qrs: Waves, duration_s: float) -> Waves:
    """Stretch the QRS waves in time so that onset to offset is ``duration_s``, within 2 ms."""
    for _ in range(3):
        onset, _, offset = extent(qrs, QRS_EDGE)
        qrs = qrs.stretched(duration_s / (offset - onset))
    return qrs


def sokolow_lyon_mv(qrs: Waves, matrix: np.ndarray) -> float:
    """Return S(V1) + max(R(V5), R(V6)) in mV; ``matrix`` is the electrode matrix ``(9, 3)``."""
    chest = qrs.at(_GRID_S) @ matrix[3:].T
    return float(-chest[:, 0].min() + max(chest[:, 4].max(), chest[:, 5].max()))


NORMAL_QRS = waves(
    (-24, 6.5, (-0.16, -0.02, -0.28)),
    (-10, 7.0, (0.35, 0.35, -0.38)),
    (2, 7.0, (0.95, 0.85, 0.15)),
    (14, 7.0, (0.40, 0.35, 0.78)),
    (27, 6.5, (-0.12, -0.10, 0.28)),
)
LBBB_QRS = waves(
    (-45, 12.0, (0.22, 0.15, 0.12)),
    (-10, 16.0, (0.80, 0.35, 0.75)),
    (30, 17.0, (0.85, 0.12, 0.70)),
    (60, 12.0, (0.25, -0.05, 0.25)),
)
RBBB_QRS = waves(
    (-24, 6.5, (-0.16, -0.02, -0.30)),
    (-10, 7.0, (0.35, 0.35, -0.34)),
    (2, 7.0, (0.90, 0.80, 0.20)),
    (14, 7.0, (0.35, 0.30, 0.62)),
    (52, 15.0, (-0.64, 0.05, -0.66)),
    (80, 14.0, (-0.24, 0.00, -0.20)),
)
IRBBB_QRS = waves(
    (-24, 6.5, (-0.16, -0.02, -0.28)),
    (-10, 7.0, (0.35, 0.35, -0.36)),
    (2, 7.0, (0.95, 0.85, 0.15)),
    (14, 7.0, (0.40, 0.35, 0.62)),
    (39, 8.0, (-0.36, 0.00, -0.42)),
)
LAFB_QRS = waves(
    (-26, 6.5, (-0.14, 0.30, -0.24)),
    (-7, 8.0, (0.50, -0.25, -0.12)),
    (9, 8.0, (0.85, -0.75, 0.40)),
    (25, 8.0, (0.22, -0.58, 0.55)),
)
OLD_ASMI_QRS = waves(
    (-26, 8.0, (0.05, -0.02, 0.42)),
    (-10, 8.0, (0.30, 0.35, 0.45)),
    (3, 7.0, (0.75, 0.70, 0.40)),
    (15, 7.0, (0.30, 0.25, 0.65)),
    (28, 6.5, (-0.10, -0.08, 0.25)),
)
OLD_IMI_QRS = waves(
    (-28, 9.0, (-0.02, -0.55, -0.26)),
    (-12, 8.0, (0.40, -0.35, -0.32)),
    (3, 7.0, (0.95, 0.45, 0.15)),
    (15, 7.0, (0.35, 0.42, 0.75)),
    (28, 6.5, (-0.10, 0.05, 0.25)),
)
PACED_QRS = waves(
    (-45, 14.0, (0.30, -0.25, 0.22)),
    (-5, 19.0, (0.75, -0.80, 0.75)),
    (38, 17.0, (0.60, -0.60, 0.60)),
)
PVC_QRS = {
    "right": waves((-35, 18.0, (0.45, 0.50, 0.40)), (10, 23.0, (0.95, 1.10, 0.95)), (58, 17.0, (-0.10, 0.25, 0.30))),
    "left": waves(
        (-35, 18.0, (-0.35, 0.45, -0.55)), (10, 23.0, (-0.70, 0.85, -1.15)), (58, 17.0, (-0.30, 0.10, -0.20))
    ),
}
NORMAL_P = waves((-16, 13.0, (0.03, 0.09, -0.06)), (16, 15.0, (0.09, 0.06, 0.03)))
ECTOPIC_P = {
    "low": waves((-14, 12.0, (0.04, -0.08, 0.03)), (14, 14.0, (0.05, -0.07, 0.01))),
    "left": waves((-14, 12.0, (-0.05, 0.06, -0.08)), (14, 14.0, (-0.05, 0.07, -0.05))),
}
NORMAL_T = (0.30, 0.25, -0.13)


def t_wave(dipole_mv: tuple[float, float, float] | np.ndarray) -> Waves:
    """Return a T wave, steeper behind its peak than before it, for a QT interval of 400 ms."""
    return Waves(np.zeros(1), np.array([0.050]), np.array([0.034]), np.asarray(dipole_mv, dtype=float)[None])
