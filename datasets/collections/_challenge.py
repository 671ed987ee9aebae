"""The databases of the PhysioNet/CinC Challenges 2020 and 2021, told apart by the names of their records."""

from __future__ import annotations

import re

from datasets.collections.base import Folder, stem

# The folders under ``training``, each with folders ``g1`` and so on, and the record names inside them (Reyna et al. 2021, table 1).
DATABASES = {
    "cpsc_2018": ("CPSC", re.compile(r"A\d{4}")),
    "cpsc_2018_extra": ("CPSC-Extra", re.compile(r"Q\d{4}")),
    "st_petersburg_incart": ("INCART", re.compile(r"I\d{4}")),
    "ptb": ("PTB", re.compile(r"S\d{4}")),
    "ptb-xl": ("PTB-XL", re.compile(r"HR\d{5}")),
    "georgia": ("Georgia", re.compile(r"E\d{5}")),
    "chapman_shaoxing": ("Chapman-Shaoxing", re.compile(r"JS\d{5}")),
    "ningbo": ("Ningbo", re.compile(r"JS\d{5}")),
}
OF_2021 = ("chapman_shaoxing", "ningbo")
_FIRST_OF_NINGBO = 10647


def site_of(name: str) -> str:
    """Return the database that a record comes from; empty for a name that none of them uses."""
    record = stem(name)
    if re.fullmatch(r"JS\d{5}", record):
        return "Ningbo" if int(record[2:]) >= _FIRST_OF_NINGBO else "Chapman-Shaoxing"
    return next((site for site, form in DATABASES.values() if form.fullmatch(record)), "")


def databases(folder: Folder) -> set[str]:
    """Return the databases of a folder: its folders (or those under ``training``), or the names of the headers in it."""
    found: set[str] = set()
    for place in (folder.sub("training"), folder):
        found |= {name for name in DATABASES if place.has(f"{name}/g1")}
    if found:
        return found
    for name in folder.names("*.hea"):
        fits = [key for key, (_, form) in DATABASES.items() if form.fullmatch(stem(name))]
        if not fits:
            return set()
        found |= set(fits[:1])
    return found
