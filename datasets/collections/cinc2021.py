"""The databases of the PhysioNet/CinC Challenge 2021 (Reyna et al. 2021), SNOMED CT codes in the headers."""

from __future__ import annotations

from datasets.collections._challenge import OF_2021, databases, site_of
from datasets.collections.base import Collection, Folder, collection, has_suffix


def _recognises(folder: Folder) -> bool:
    found = databases(folder)
    # Records of Chapman, Shaoxing and Ningbo alone are a collection of their own.
    return bool(found & set(OF_2021)) and not found <= set(OF_2021)


collection(
    Collection(
        name="cinc2021",
        title="CinC Challenge 2021",
        about="88,253 12-lead ECGs of eight databases from three continents, with SNOMED CT codes.",
        licence="CC BY 4.0",
        home="https://physionet.org/content/challenge-2021/",
        label_map="CinC 2021 scored",
        recognises=_recognises,
        holds=has_suffix(".hea", ".mat"),
        site_of=site_of,
        physionet="challenge-2021/1.0.3",
        fetches=lambda name: name.startswith("training/"),
    )
)
