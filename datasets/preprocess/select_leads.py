"""Choose leads and their order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from datasets.ecg import LEADS_12, canonical_lead
from datasets.preprocess.base import OutputSpec, Stage, Step, coerce_fields, meta, require, step


@step("select_leads")
@dataclass(frozen=True)
class SelectLeads(Step):
    """Keep the named leads in the named order; a lead that a record does not have becomes NaN and is noted.

    III, aVR, aVL and aVF are computed when I and II are there.
    """

    leads: tuple[str, ...] = field(default=LEADS_12, metadata=meta("Leads in the order of the output."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(bool(self.leads), "select_leads needs at least one lead.")
        for name in self.leads:
            require(canonical_lead(name) == name, f"{name!r} is not the canonical name of a lead, such as aVR or V1.")
        require(len(set(self.leads)) == len(self.leads), "select_leads names a lead twice.")

    def spec(self, spec: OutputSpec) -> OutputSpec:
        return replace(spec, leads=self.leads)

    def apply(self, stage: Stage) -> Stage:
        if stage.leads == self.leads:
            return stage
        signal = np.full((len(self.leads), stage.signal.shape[1]), np.nan, dtype=np.float32)
        mask = np.zeros(signal.shape, dtype=bool)
        row_of = {name: index for index, name in enumerate(stage.leads)}
        computed, missing = [], []
        for out, name in enumerate(self.leads):
            if name in row_of:
                signal[out], mask[out] = stage.signal[row_of[name]], stage.mask[row_of[name]]
            elif name in _LIMB and "I" in row_of and "II" in row_of:
                i, ii = row_of["I"], row_of["II"]
                of_i, of_ii = _LIMB[name]
                signal[out] = np.float32(of_i) * stage.signal[i] + np.float32(of_ii) * stage.signal[ii]
                mask[out] = stage.mask[i] & stage.mask[ii]
                computed.append(name)
            else:
                missing.append(name)
        notes = stage.notes
        if computed:
            notes += (f"Computed from I and II: {', '.join(computed)}.",)
        if missing:
            notes += (f"Not recorded: {', '.join(missing)}.",)
        return replace(stage, signal=signal, mask=mask, leads=self.leads, notes=notes)


# Einthoven and Goldberger as weights of I and II.
_LIMB = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
