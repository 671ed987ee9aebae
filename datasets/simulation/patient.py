"""What stays with a patient: body, heart's position, and the shape of the beats under given conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from datasets.simulation import morphology as m
from datasets.simulation.conditions import CONDITIONS
from datasets.simulation.torso import electrode_matrix, rotation


@dataclass(frozen=True, eq=False)
class Patient:
    """One simulated person.

    seed: everything about the person follows from it. matrix: potentials of the nine electrodes per unit dipole
    ``(9, 3)``, Dower's with a person's own deviations. angles_rad: turn of the heart about x, y, z.
    """

    subject: str
    seed: int
    age: float
    sex: str
    matrix: np.ndarray
    angles_rad: np.ndarray


def draw_patient(seed: int, conditions: tuple[str, ...], subject: str) -> Patient:
    """Draw a person in whom the conditions are plausible; the same arguments give the same person."""
    rng = np.random.default_rng([seed, 1])
    low = max(CONDITIONS[name].ages[0] for name in conditions)
    high = max(min(CONDITIONS[name].ages[1] for name in conditions), low + 5)
    age = float(rng.integers(low, high + 1))
    matrix = electrode_matrix()
    matrix[3:] *= 1 + 0.06 * np.clip(rng.standard_normal((6, 1)), -2, 2)
    matrix[3:] += 0.03 * np.clip(rng.standard_normal((6, 3)), -2, 2)
    # The axis turns leftward with age (about 2 degrees in 10 years).
    frontal_deg = np.clip(-8 - 0.2 * (age - 50) + 9 * rng.standard_normal(), -32, 22)
    other_deg = np.clip(4 * rng.standard_normal(2), -8, 8)
    angles = np.deg2rad([other_deg[0], other_deg[1], frontal_deg])
    return Patient(subject, seed, age, "male" if rng.random() < 0.52 else "female", matrix, angles)


_QRS = {
    "LBBB": (m.LBBB_QRS, (0.130, 0.170)),
    "RBBB": (m.RBBB_QRS, (0.125, 0.160)),
    "IRBBB": (m.IRBBB_QRS, (0.102, 0.116)),
    "LAFB": (m.LAFB_QRS, (0.090, 0.110)),
    "PACE": (m.PACED_QRS, (0.140, 0.185)),
    "OLD_ASMI": (m.OLD_ASMI_QRS, (0.086, 0.106)),
    "OLD_IMI": (m.OLD_IMI_QRS, (0.090, 0.108)),
}
_NORMAL_DURATION_S = (0.078, 0.104)


def _qrs(patient: Patient, conditions: tuple[str, ...], rng: np.random.Generator) -> m.Waves:
    shape = next((name for name in _QRS if name in conditions), "")
    qrs, duration = _QRS.get(shape, (m.NORMAL_QRS, _NORMAL_DURATION_S))
    # Axis and vector are the criterion in these: the heart's position may only shade them.
    turn = patient.angles_rad * (0.3 if shape in ("LAFB", "OLD_IMI", "PACE", "LBBB", "RBBB", "IRBBB") else 1.0)
    qrs = qrs.times(rotation(turn)).times(1 + 0.08 * np.clip(rng.standard_normal((len(qrs.centre_s), 1)), -2, 2))
    qrs = m.with_qrs_duration(qrs, rng.uniform(*duration))
    if "LVH" in conditions:
        wanted, grows = rng.uniform(3.8, 5.2), np.arange(len(qrs.centre_s))[:, None] > 0
        for _ in range(12):
            factor = wanted / m.sokolow_lyon_mv(qrs, patient.matrix)
            qrs = qrs.times(np.where(grows, factor, 1.0))
        return qrs
    if shape in ("", "LAFB", "IRBBB", "OLD_IMI", "OLD_ASMI"):
        wanted = np.clip(2.2 + 0.4 * rng.standard_normal() - 0.008 * (patient.age - 50), 1.3, 3.1)
        return qrs.times(wanted / m.sokolow_lyon_mv(qrs, patient.matrix))
    return qrs.times(rng.uniform(0.85, 1.15))


def _injury(patient: Patient, conditions: tuple[str, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the dipoles of ST segment and T wave, in mV ``(3,)`` each."""
    st, t = np.zeros(3), np.array(m.NORMAL_T) * rng.uniform(0.75, 1.2)
    limbs, chest = patient.matrix[:3], patient.matrix[3:]
    if "LBBB" in conditions or "PACE" in conditions:
        up = 0.25 if "PACE" in conditions else -0.02
        return np.array([-0.09, 0.2 * up, -0.09]), np.array([-0.32, up, -0.30]) * rng.uniform(0.9, 1.2)
    if "RBBB" in conditions:
        t[2] = 0.13
    if "LVH" in conditions and rng.random() < 0.6:
        st, t = np.array([-0.08, -0.02, -0.06]), np.array([-0.22, -0.06, -0.16]) * rng.uniform(0.8, 1.3)
    if "STE_ANT" in conditions:
        direction = np.array([0.14, -0.13, -0.27])
        v1, v2, v3, v4 = (chest @ direction)[:4]
        scale = max(0.13 / v1, 0.27 / v2, 0.27 / v3, 0.13 / v4) * rng.uniform(1.0, 1.6)
        st, t = direction * scale, direction * scale * 1.1 + np.array([0.15, 0.10, -0.05])
    elif "STE_INF" in conditions:
        direction = np.array([-0.06, 0.22, 0.03])
        ra, la, ll = limbs @ direction
        lead_ii, lead_iii, avf = ll - ra, ll - la, 1.5 * ll
        scale = max(0.14 / lead_ii, 0.14 / lead_iii, 0.14 / avf) * rng.uniform(1.0, 1.8)
        st, t = direction * scale, direction * scale * 1.1 + np.array([0.18, 0.05, -0.12])
    elif "STD" in conditions:
        st, t = np.array([-0.15, -0.11, 0.05]) * rng.uniform(0.9, 1.4), t * np.array([0.35, 0.35, 0.8])
    elif "OLD_ASMI" in conditions:
        t[2] = 0.20
    elif "OLD_IMI" in conditions:
        t[1] = -0.14
    return st, t


def beats(patient: Patient, conditions: tuple[str, ...]) -> dict[str, m.Beat]:
    """Return the person's beat shapes by kind (``N``, ``A``, ``V``); the same in all records of the person."""
    rng = np.random.default_rng([patient.seed, 2])
    qrs = _qrs(patient, conditions, rng)
    st, t_dipole = _injury(patient, conditions, rng)
    if "IAVB" in conditions:
        pr = rng.uniform(0.215, 0.310)
    else:
        pr = rng.uniform(0.125, 0.160) if "STACH" in conditions else rng.uniform(0.130, 0.190)
    qtc = np.clip(0.408 + (0.010 if patient.sex == "female" else 0.0) + 0.012 * rng.standard_normal(), 0.375, 0.440)
    wide = max(0.0, np.subtract(*m.extent(qrs, m.QRS_EDGE)[::-2]) - 0.105)
    has_p = not {"AF", "AFL", "PACE"} & set(conditions)
    p = m.NORMAL_P.times(rng.uniform(0.8, 1.3)).stretched(rng.uniform(0.85, 1.08)) if has_p else None
    spike = np.array([0.9, -1.2, 0.9]) * rng.uniform(0.8, 1.5) if "PACE" in conditions else None
    normal = m.Beat(p, qrs, m.t_wave(t_dipole), st, pr, float(qtc + 0.6 * wide), spike)
    atrial_p = m.ECTOPIC_P["low" if rng.random() < 0.5 else "left"]
    focus = "right" if rng.random() < 0.6 else "left"
    pvc = m.with_qrs_duration(m.PVC_QRS[focus].times(rng.uniform(0.9, 1.3)), rng.uniform(0.130, 0.175))
    main = pvc.dipole_mv[1]
    ventricular = m.Beat(None, pvc, m.t_wave(-0.38 * main), -0.08 * main, 0.0, float(qtc + 0.055))
    early = replace(normal, p=atrial_p, pr_s=pr + rng.uniform(-0.01, 0.02))
    return {"N": normal, "A": early, "V": ventricular}
