"""Which file names are taken for a person's, and that all others stay as outside programs know them."""

from __future__ import annotations

import csv

import pytest

from datasets.file_names import FileNames, reads_as_person, stem_of
from tests.shared import needs_shared, shared_path

NAMES = FileNames(b"key of a project")


@pytest.mark.parametrize(
    "name",
    [
        "Mueller_Hans.xml", "Müller, Hans.dcm", "MUELLER^HANS.dcm", "O'Brien Mary 2.edf", "Quixworth-Zebulona_ECG.xml",
        "Mueller_1954-03-12.xml", "20190411_Mueller.xml", "MUELLER 12.03.1954.scp", "Smith_John_A_001.hea",
        "MUELLER_HANS_1950.xml", "MUELLER_HANS.xml", "SMITH^JOHN.dcm", "Smith^J.dcm", "Doe_John_19500101.edf", "DOE_JIM_1950.hea",
        "1950_DOE_JIM.csv", "MUELLER19500101.xml", "mueller_hans_19500101.xml", "DOE_19500101.mat", "GARCIA-LOPEZ_ANA_2.hea",
    ],
)  # fmt: skip
def test_names_of_persons_become_pseudonyms(name: str) -> None:
    shown = NAMES.shown(f"ward/{name}")
    folder, _, bare = shown.partition("/")
    assert folder == "ward" and stem_of(bare).startswith("F-") and len(stem_of(bare)) == 14
    assert bare.rpartition(".")[2] == name.rpartition(".")[2]
    assert NAMES.shown(shown) == shown and NAMES.pseudonym(name) == NAMES.pseudonym(name.upper())
    assert FileNames(b"key", keeps=True).shown(name) == name
    assert FileNames(b"another project").shown(name) != NAMES.shown(name)


@pytest.mark.parametrize(
    "name",
    [
        "00001_hr", "JS00001", "A0001", "case003", "rec00017", "code_15_270272", "s40689238", "40689238", "SPH00001", "HR06000",
        "100_3chan", "patient_17", "Patient_017", "ECG_20190411_0001", "ecg-2019-04-11", "Atrial_Fibrillation_3", "Normal_Sinus",
        "Study_Alpha", "E-07", "V1_V2", "b7f3c1de-1111-4c1e-9a5e-0a1b2c3d4e5f", "p10/s22/ecg", "Holter Recording", "I_II_III", "r0001",
        "LBBB_001", "STEMI_ANT_1", "Chapman_Shaoxing_2", "MUSE_Export_2019-04-11", "x.tar.gz", "test01_00s_frame", "silent", "F-ABCDEFGHIJKL",
        "MIT_BIH_100", "CPSC_EXTRA_1", "PTB_XL_2019", "ECG_REST_2020", "LBBB_LVH_1999", "AFIB_LVH_2001", "STUDY_BASELINE_2020",
        "rest_morning_12", "recording_20190411", "LAB_20190411", "ICU_WARD_3",
    ],
)  # fmt: skip
def test_other_names_stay(name: str) -> None:
    assert NAMES.shown(name) == name and NAMES.shown(f"{name}.hea") == f"{name}.hea"


def test_what_the_file_says_of_its_person_is_recognised_in_its_name() -> None:
    terms = ["Quixworth", "MRN7734199", "19370411", "Rhythm", "ab"]
    for name in ("quixworth.xml", "x_mrn7734199_1.xml", "ecg_1937-04-11.xml", "case quixworth 2.xml"):
        assert stem_of(NAMES.shown(name, terms)).startswith("F-"), name
    for name in ("rhythm_1.xml", "case003.xml", "ab.xml", "1937.xml"):
        assert NAMES.shown(name, terms) == name


def test_folders_are_looked_at_one_by_one() -> None:
    shown = NAMES.shown("2019/Mueller_Hans/rest.hea")
    assert shown == f"2019/{NAMES.pseudonym('Mueller_Hans')}/rest.hea"
    assert not reads_as_person("") and NAMES.shown("") == ""


@needs_shared
def test_no_name_of_the_shared_files_is_touched() -> None:
    for path in shared_path("ecg").rglob("*"):
        assert NAMES.shown(path.name) == path.name
    with shared_path("ecg", "labelled", "labels_all.csv").open(newline="") as stream:
        assert all(NAMES.shown(row["record"]) == row["record"] for row in csv.DictReader(stream))
