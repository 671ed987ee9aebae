"""LUDB (Kalyakulina et al. 2020): cardiologists' findings in the headers, boundaries of the waves of every lead."""

from __future__ import annotations

import re

from datasets.collections.base import Collection, Folder, collection

_WAVES = r"data/\d+\.(hea|dat|i|ii|iii|av[rlf]|v[1-6])"


def _recognises(folder: Folder) -> bool:
    return folder.has("data/1.i") or (folder.has("ludb.csv") and folder.has("data"))


collection(
    Collection(
        name="ludb",
        title="LUDB",
        about="200 12-lead ECGs of 10 s, each of another person, with findings and the boundaries of P, QRS and T in every lead.",
        licence="ODC-By 1.0",
        home="https://physionet.org/content/ludb/",
        label_map="Rhythm and conduction",
        recognises=_recognises,
        # Findings, age and sex stand in the headers as they do in ludb.csv.
        holds=lambda folder, name: re.fullmatch(_WAVES, name) is not None,
        site_of=lambda name: "LUDB",
        physionet="ludb/1.0.1",
        fetches=lambda name: re.fullmatch(_WAVES, name) is not None or name in ("ludb.csv", "LICENSE.txt"),
    )
)
