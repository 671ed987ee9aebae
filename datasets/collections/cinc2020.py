"""The six databases of the PhysioNet/CinC Challenge 2020 (Alday et al. 2020), SNOMED CT codes in the headers."""

from __future__ import annotations

from datasets.collections._challenge import OF_2021, databases, site_of
from datasets.collections.base import Collection, Folder, collection, has_suffix


def _recognises(folder: Folder) -> bool:
    found = databases(folder)
    return bool(found) and found != {"cpsc_2018"} and not found & set(OF_2021)


collection(
    Collection(
        name="cinc2020",
        title="CinC Challenge 2020",
        about="43,101 12-lead ECGs of six databases from four countries, with SNOMED CT codes.",
        licence="CC BY 4.0",
        home="https://physionet.org/content/challenge-2020/",
        label_map="CinC 2021 scored",
        recognises=_recognises,
        holds=has_suffix(".hea", ".mat"),
        site_of=site_of,
        physionet="challenge-2020/1.0.2",
        fetches=lambda name: name.startswith("training/"),
    )
)
