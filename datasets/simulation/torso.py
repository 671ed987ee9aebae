"""From the heart's dipole to nine electrodes and from there to twelve leads.

Axes are Frank's: x to the patient's left, y to the feet, z to the back. The lead vectors are Dower's
(G. E. Dower, H. B. Machado, J. A. Osborne, "On deriving the electrocardiogram from vectorcardiographic
leads", Clin Cardiol 1980;3:87-95), the forward counterpart of the inverse matrix of Edenbrandt and Pahlm
(J Electrocardiol 1988;21:361-367). Leads are formed from electrode potentials as an electrocardiograph
forms them, so Einthoven's and Goldberger's equations hold for every signal, noise and cable fault included.
"""

from __future__ import annotations

import numpy as np

ELECTRODES: tuple[str, ...] = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
CHEST: tuple[str, ...] = ELECTRODES[3:]

_DOWER = {
    "I": (0.632, -0.235, 0.059),
    "II": (0.235, 1.066, -0.132),
    "V1": (-0.515, 0.157, -0.917),
    "V2": (0.044, 0.164, -1.387),
    "V3": (0.882, 0.098, -1.277),
    "V4": (1.213, 0.127, -0.601),
    "V5": (1.125, 0.127, -0.086),
    "V6": (0.831, 0.076, 0.230),
}


def electrode_matrix() -> np.ndarray:
    """Return the potentials of the nine electrodes per unit dipole, float64 ``(9, 3)``.

    The reference is Wilson's central terminal, so RA + LA + LL = 0.
    """
    i, ii = np.array(_DOWER["I"]), np.array(_DOWER["II"])
    limbs = [-(i + ii) / 3, (2 * i - ii) / 3, (2 * ii - i) / 3]
    return np.array(limbs + [np.array(_DOWER[name]) for name in CHEST])


def leads_from_electrodes(potentials: np.ndarray) -> np.ndarray:
    """Return the twelve leads, float32 ``(12, samples)`` mV, of electrode potentials ``(9, samples)`` mV.

    The eight independent leads are rounded to 1 uV, as a digital electrocardiograph stores them; III and the
    augmented leads are computed from the rounded I and II.
    """
    ra, la, ll = potentials[:3]
    terminal = (ra + la + ll) / 3
    independent = np.concatenate([[la - ra, ll - ra], potentials[3:] - terminal])
    independent = (np.rint(independent * 1000) / 1000).astype(np.float32)
    i, ii = independent[0], independent[1]
    derived = np.stack([ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2])
    return np.concatenate([independent[:2], derived, independent[2:]])


def rotation(angles_rad: np.ndarray) -> np.ndarray:
    """Return the rotation matrix ``(3, 3)`` about x, then y, then z by the three angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles_rad), np.sin(angles_rad)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
