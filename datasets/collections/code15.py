"""CODE-15% (Ribeiro et al. 2021): parts of HDF5 files with exams.csv, or one MATLAB file an exam."""

from __future__ import annotations

from datasets.collections.base import Collection, Folder, Table, all_named, collection
from datasets.ecg import LEADS_12

_FLAGS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")


def _recognises(folder: Folder) -> bool:
    parts = bool(folder.names("exams_part*.hdf5")) and folder.has("exams.csv")
    return parts or all_named(folder, "*.mat", r"code_15_\d+")


def _holds(folder: Folder, name: str) -> bool:
    bare = name.rpartition("/")[2]
    return (bare.startswith("exams_part") and bare.endswith(".hdf5")) or (
        bare.startswith("code_15_") and bare.endswith(".mat")
    )


collection(
    Collection(
        name="code15",
        title="CODE-15%",
        about="345,779 12-lead ECGs of 7 to 10 s from 233,770 patients in Minas Gerais, with six abnormalities.",
        licence="CC BY 4.0",
        home="https://doi.org/10.5281/zenodo.4916206",
        label_map="Rhythm and conduction",
        recognises=_recognises,
        holds=_holds,
        tables=(
            Table(
                names=("exams.csv",),
                columns=("exam_id", "age", "is_male", "patient_id", *_FLAGS, "normal_ecg"),
                mapping={
                    "record": "exam_id",
                    "labels": [
                        *({"column": name, "kind": "flag", "system": "name", "code": name} for name in _FLAGS),
                        {"column": "normal_ecg", "kind": "flag", "system": "name", "code": "Normal ECG"},
                    ],
                    "subject": "patient_id",
                    "age": "age",
                    "sex": "is_male",
                    "sex_codes": {"true": "male", "false": "female", "1": "male", "0": "female"},
                },
            ),
        ),
        options={"fs_hz": 400.0, "unit": "mV", "lead_order": list(LEADS_12)},
        site_of=lambda name: "CODE",
    )
)
