"""What some networks take beside the ECG: five features of the person, from age and sex."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

INPUT = "person"
N_FEATURES = 5
#: Training means of age / 100 and of the two sexes (Han et al. 2023), used for what is not known; the flags stay 1.
UNKNOWN = (0.6037, 0.4714, 0.5286, 1.0, 1.0)
_SEXES = {"F": (1.0, 0.0), "M": (0.0, 1.0)}


def person_features(ages: Sequence[float | None], sexes: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 ``(records, 5)``: age in centuries, female, male, two flags; and bool ``(records,)``, True where
    age or sex was imputed by the training means because it is not known. ages in years; sexes ``F``, ``M`` or neither."""
    rows = np.tile(np.array(UNKNOWN, dtype=np.float32), (len(ages), 1))
    imputed = np.zeros(len(ages), dtype=bool)
    for i, (age, sex) in enumerate(zip(ages, sexes, strict=True)):
        if age is None or not np.isfinite(age) or not 0 <= age <= 130:
            imputed[i] = True
        else:
            rows[i, 0] = age / 100
        if sex in _SEXES:
            rows[i, 1:3] = _SEXES[sex]
        else:
            imputed[i] = True
    return rows, imputed
