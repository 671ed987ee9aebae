"""SPH, Shandong Provincial Hospital (Liu et al. 2022): HDF5 files, metadata.csv with AHA statements."""

from __future__ import annotations

from datasets.collections.base import Collection, Folder, Row, Table, collection, has_suffix
from datasets.ecg import LEADS_12


def _recognises(folder: Folder) -> bool:
    return folder.has("metadata.csv") and bool(folder.names("*.h5", 1) or folder.sub("records").names("*.h5", 1))


def _with_primary(row: Row) -> Row:
    """Write a statement with its modifier (``50+346``) beside the statement alone, which label maps know."""
    codes = []
    for code in (part.strip() for part in row.get("AHA_Code", "").split(";")):
        codes += [code.partition("+")[0], code] if "+" in code else [code]
    return {**row, "AHA_Code": ";".join(dict.fromkeys(code for code in codes if code))}


collection(
    Collection(
        name="sph",
        title="SPH",
        about="25,770 12-lead ECGs of 10 to 60 s from 24,666 patients of Shandong Provincial Hospital, with AHA statements.",
        licence="CC BY 4.0",
        home="https://doi.org/10.6084/m9.figshare.c.5779802",
        label_map="Rhythm and conduction",
        recognises=_recognises,
        holds=has_suffix(".h5"),
        tables=(
            Table(
                names=("metadata.csv",),
                columns=("ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex", "Date"),
                mapping={
                    "record": "ECG_ID",
                    "labels": [{"column": "AHA_Code", "kind": "codes", "system": "aha"}],
                    "subject": "Patient_ID",
                    "age": "Age",
                    "sex": "Sex",
                    "recorded_at": "Date",
                },
                row=_with_primary,
            ),
        ),
        options={"fs_hz": 500.0, "unit": "mV", "lead_order": list(LEADS_12)},
        site_of=lambda name: "SPH",
    )
)
