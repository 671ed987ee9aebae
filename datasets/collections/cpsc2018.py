"""CPSC 2018 (Liu et al. 2018), as first published (MATLAB and REFERENCE.csv) or as the Challenges published it again."""

from __future__ import annotations

from datasets.collections._challenge import databases
from datasets.collections.base import Collection, Folder, Row, Table, all_named, collection, has_suffix
from datasets.ecg import LEADS_12

# The classes of the challenge by their number in REFERENCE.csv.
_CLASSES = ("Normal", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")
_FORM = r"A\d{4}"


def _recognises(folder: Folder) -> bool:
    found = databases(folder)
    if found:
        return found == {"cpsc_2018"}
    first_release = all_named(folder, "*.mat", _FORM) or bool(folder.names("TrainingSet*"))
    return first_release or all_named(folder.sub("g1"), "*.hea", _FORM)


def _named(row: Row) -> Row:
    return {
        name: _CLASSES[int(cell) - 1] if name.endswith("_label") and cell in set("123456789") else cell
        for name, cell in row.items()
    }


collection(
    Collection(
        name="cpsc2018",
        title="CPSC 2018",
        about="6,877 12-lead ECGs of 6 to 60 s of the China Physiological Signal Challenge, with nine classes.",
        licence="CC BY 4.0 (as published again by the PhysioNet/CinC Challenges)",
        home="https://physionet.org/content/challenge-2021/",
        label_map="Rhythm and conduction",
        recognises=_recognises,
        holds=has_suffix(".hea", ".mat"),
        tables=(
            Table(
                names=("REFERENCE.csv", "TrainingSet1/REFERENCE.csv", "TrainingSet3/REFERENCE.csv"),
                columns=("Recording", "First_label", "Second_label", "Third_label"),
                mapping={
                    "record": "Recording",
                    "labels": [
                        {"column": f"{place}_label", "kind": "codes", "system": "name"}
                        for place in ("First", "Second", "Third")
                    ],
                },
                row=_named,
            ),
        ),
        options={"fs_hz": 500.0, "unit": "mV", "lead_order": list(LEADS_12)},
        site_of=lambda name: "CPSC",
        physionet="challenge-2021/1.0.3",
        fetches=lambda name: name.startswith("training/cpsc_2018/"),
    )
)
