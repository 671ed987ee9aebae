"""PTB-XL (Wagner et al. 2020): SCP-ECG statements with likelihoods, ten stratified folds."""

from __future__ import annotations

from datasets.collections.base import Collection, Folder, Row, Table, collection

# Columns of bare abbreviations, which are stored with what they speak of.
_IN_WORDS = {"heart_axis": "axis", "infarction_stadium1": "infarction", "infarction_stadium2": "infarction"}


def _in_words(row: Row) -> Row:
    """Write ``MID`` of the column heart_axis as ``axis MID``, and ``Stadium II`` as ``infarction Stadium II``."""
    told = {
        name: f"{what} {text}"
        for name, what in _IN_WORDS.items()
        if (text := row.get(name, "").strip()) and text.casefold() != "unknown"
    }
    return {**row, **{name: told.get(name, "") for name in _IN_WORDS if name in row}}


def _holds(folder: Folder, name: str) -> bool:
    # Every ECG is published at 500 and at 100 Hz; the finer one is taken, the other where it is alone.
    wanted = "records500/" if folder.has("records500") else "records100/"
    return name.startswith(wanted) and name.endswith((".hea", ".dat"))


collection(
    Collection(
        name="ptbxl",
        title="PTB-XL",
        about="21,799 clinical 12-lead ECGs of 10 s from 18,869 patients, with SCP-ECG statements and ten folds by patient.",
        licence="CC BY 4.0",
        home="https://physionet.org/content/ptb-xl/",
        label_map="PTB-XL superclass",
        recognises=lambda folder: (
            folder.has("ptbxl_database.csv") and (folder.has("records500") or folder.has("records100"))
        ),
        holds=_holds,
        tables=(
            Table(
                names=("ptbxl_database.csv",),
                columns=(
                    "ecg_id",
                    "patient_id",
                    "age",
                    "sex",
                    "site",
                    "recording_date",
                    "scp_codes",
                    "strat_fold",
                    "filename_lr",
                    "filename_hr",
                    *_IN_WORDS,
                ),
                mapping={
                    "record": "filename_hr",
                    "also_record": ["filename_lr"],
                    "labels": [
                        {"column": "scp_codes", "kind": "codes", "system": "scp"},
                        *({"column": name, "kind": "codes", "system": "name"} for name in _IN_WORDS),
                    ],
                    "subject": "patient_id",
                    "age": "age",
                    "sex": "sex",
                    "sex_codes": {"0": "male", "1": "female"},
                    "fold": "strat_fold",
                    "site": "site",
                    "recorded_at": "recording_date",
                },
                row=_in_words,
            ),
        ),
        physionet="ptb-xl/1.0.3",
        fetches=lambda name: (
            name.startswith("records500/") or name in ("ptbxl_database.csv", "scp_statements.csv", "LICENSE.txt")
        ),
    )
)
