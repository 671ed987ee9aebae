"""MIMIC-IV-ECG (Gow et al. 2023), with the ICD-10 labels of MIMIC-IV-ECG-Ext-ICD (Strodthoff et al. 2024) where they lie
beside it."""

from __future__ import annotations

from datasets.collections.base import Collection, Folder, Row, Table, collection
from datasets.formats._clinical import statement_labels

# The lines of the electrocardiograph's own report.
_REPORTS = tuple(f"report_{number}" for number in range(18))


def _statements(row: Row) -> Row:
    """Bring the report's lines into the first one's cell; what is no statement of a device's vocabulary could be free text and is left out."""
    labels, _ = statement_labels(row.get(name, "") for name in _REPORTS)
    return {
        "study_id": row.get("study_id", ""),
        _REPORTS[0]: "; ".join(label.code.replace(";", ",") for label in labels),
    }


def _recognises(folder: Folder) -> bool:
    return folder.has("files") and folder.has("record_list.csv")


def _by_study(row: Row) -> Row:
    # Older releases call the fold ``fold``; the study's number is the name of its files.
    return {**row, "strat_fold": row.get("strat_fold") or row.get("fold") or ""}


collection(
    Collection(
        name="mimic_iv_ecg",
        title="MIMIC-IV-ECG",
        about="800,035 12-lead ECGs of 10 s from 161,352 patients, with the device's statements; with ICD-10 codes of the stay where records_w_diag_icd10.csv lies beside.",
        licence="ODbL 1.0 (ECGs); the ICD-10 labels need PhysioNet's credentialed access",
        home="https://physionet.org/content/mimic-iv-ecg/",
        label_map="Rhythm and conduction",
        recognises=_recognises,
        holds=lambda folder, name: name.startswith("files/") and name.endswith((".hea", ".dat")),
        tables=(
            Table(
                names=("record_list.csv",),
                columns=("subject_id", "study_id", "ecg_time"),
                # The publishers moved the dates of each patient on their own: intervals within one patient are true.
                mapping={"record": "study_id", "subject": "subject_id", "recorded_at": "ecg_time", "labels": []},
            ),
            Table(
                names=("machine_measurements.csv",),
                columns=("study_id", *_REPORTS),
                mapping={"record": "study_id", "labels": [{"column": _REPORTS[0], "kind": "codes", "system": "name"}]},
                row=_statements,
            ),
            Table(
                names=("records_w_diag_icd10.csv", "mimic-iv-ecg-ext-icd/records_w_diag_icd10.csv"),
                columns=("study_id", "subject_id", "all_diag_all", "gender", "age", "fold", "strat_fold"),
                mapping={
                    "record": "study_id",
                    "labels": [{"column": "all_diag_all", "kind": "codes", "system": "icd10"}],
                    "subject": "subject_id",
                    "age": "age",
                    "sex": "gender",
                    "fold": "strat_fold",
                },
                row=_by_study,
            ),
        ),
        site_of=lambda name: "BIDMC",
        physionet="mimic-iv-ecg/1.0",
        fetches=lambda name: (
            name.startswith("files/") or name in ("record_list.csv", "machine_measurements.csv", "LICENSE.txt")
        ),
    )
)
