"""Chapman University, Shaoxing and Ningbo hospitals (Zheng et al. 2020, 2022), SNOMED CT codes in the headers."""

from __future__ import annotations

from datasets.collections._challenge import OF_2021, databases, site_of
from datasets.collections.base import Collection, Folder, collection, has_suffix


def _recognises(folder: Folder) -> bool:
    found = databases(folder)
    return folder.has("WFDBRecords") or (bool(found) and found <= set(OF_2021))


collection(
    Collection(
        name="chapman",
        title="Chapman-Shaoxing-Ningbo",
        about="45,152 12-lead ECGs of 10 s from two hospitals, with rhythms and conditions as SNOMED CT codes.",
        licence="CC BY 4.0",
        home="https://physionet.org/content/ecg-arrhythmia/",
        label_map="CinC 2021 scored",
        recognises=_recognises,
        holds=has_suffix(".hea", ".mat"),
        site_of=site_of,
        physionet="ecg-arrhythmia/1.0.0",
        fetches=lambda name: name.startswith("WFDBRecords/") or name == "LICENSE.txt",
    )
)
