"""Every registered collection: complete, told apart from the others, and its tables are ones that the label reader takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datasets.collections import registry
from datasets.collections.base import Folder
from datasets.formats.base import ReadOptions
from datasets.labels import builtin
from datasets.labels.table import ColumnMapping
from datasets.reading_worker import options_of
from tests.shared import needs_shared, shared_path

# Files of each layout as it is published, enough to be recognised; the empty ones only lend their names.
LAYOUTS: dict[str, list[str]] = {
    "ptbxl": ["ptbxl_database.csv", "records500/00000/00001_hr.hea", "records500/00000/00001_hr.dat", "records100/00000/00001_lr.hea"],
    "ludb": ["ludb.csv", "data/1.hea", "data/1.dat", "data/1.i", "data/1.avf"],
    "cpsc2018": ["A0001.mat", "A0002.mat", "REFERENCE.csv"],
    "cinc2020": ["training/georgia/g1/E00001.hea", "training/georgia/g1/E00001.mat", "training/ptb/g1/S0001.hea", "training/ptb/g1/S0001.mat"],
    "cinc2021": ["training/georgia/g1/E00001.hea", "training/georgia/g1/E00001.mat", "training/ningbo/g1/JS10647.hea", "training/ningbo/g1/JS10647.mat"],
    "chapman": ["WFDBRecords/01/010/JS00001.hea", "WFDBRecords/01/010/JS00001.mat"],
    "code15": ["exams.csv", "exams_part0.hdf5", "exams_part1.hdf5"],
    "sph": ["metadata.csv", "code.csv", "records/A00001.h5"],
    "mimic_iv_ecg": ["record_list.csv", "files/p1000/p10000032/s40689238/40689238.hea", "files/p1000/p10000032/s40689238/40689238.dat"],
}  # fmt: skip
OTHERS = {
    "the Challenge's copy of CPSC alone": ("cpsc2018", ["training/cpsc_2018/g1/A0001.hea", "training/cpsc_2018/g1/A0001.mat"]),
    "a flat part of the Challenge 2020": ("cinc2020", ["Q0001.hea", "Q0001.mat", "E00001.hea", "E00001.mat"]),
    "CPSC in three parts": ("cpsc2018", ["TrainingSet1/A0001.mat", "TrainingSet2/A2001.mat", "TrainingSet1/REFERENCE.csv"]),
    "Ningbo alone": ("chapman", ["JS10647.hea", "JS10647.mat"]),
    "somebody's WFDB files": (None, ["study/a.hea", "study/a.dat", "labels.csv"]),
    "an empty folder": (None, []),
}  # fmt: skip
NAMES = list(registry.known())


def lay(folder: Path, names: list[str]) -> Folder:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Folder(folder)


def test_the_collections_of_this_test_are_the_registered_ones() -> None:
    assert set(LAYOUTS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_layout_is_one_collection(name: str, tmp_path: Path) -> None:
    folder = lay(tmp_path, LAYOUTS[name])
    assert [entry.name for entry in registry.recognise(folder)] == [name]
    entry = registry.known()[name]
    held = [file for file in LAYOUTS[name] if entry.holds(folder, file)]
    assert held and not [file for file in held if file.endswith(".csv")]
    if name == "ptbxl":
        assert held == LAYOUTS["ptbxl"][1:3]


@pytest.mark.parametrize("case", OTHERS)
def test_other_layouts(case: str, tmp_path: Path) -> None:
    name, names = OTHERS[case]
    assert [entry.name for entry in registry.recognise(lay(tmp_path, names))] == ([name] if name else [])


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_complete(name: str) -> None:
    entry = registry.known()[name]
    assert re.fullmatch(r"[a-z0-9_]{3,40}", entry.name) and entry.title and entry.licence
    assert entry.about.endswith(".") and entry.home.startswith("https://")
    assert entry.label_map in {spec.name for spec in builtin.all_maps()}
    assert isinstance(options_of(entry.options), ReadOptions)
    if entry.physionet:
        assert re.fullmatch(r"[a-z0-9-]+/[0-9.]+", entry.physionet)
        assert entry.fetches is not None and not entry.fetches("../x")
    site = entry.site_of("files/x/A0001.hea") if entry.site_of else ""
    assert len(site) <= 80
    for table in entry.tables:
        known = set(ColumnMapping().to_dict())
        assert set(table.mapping) <= known and table.mapping["record"] in table.columns
        assert {column["column"] for column in table.mapping.get("labels", ())} <= set(table.columns)


def test_rows_are_read_as_the_publishers_mean_them(tmp_path: Path) -> None:
    def rows(name: str, text: str) -> list[dict[str, str]]:
        path = tmp_path / f"{name}.csv"
        path.write_text(text)
        return list(registry.known()[name].tables[-1].rows(path))

    assert rows("cpsc2018", "Recording,First_label,Second_label,Third_label\nA0001,5,,\nA0002,2,9,\n") == [
        {"Recording": "A0001", "First_label": "RBBB", "Second_label": "", "Third_label": ""},
        {"Recording": "A0002", "First_label": "AF", "Second_label": "STE", "Third_label": ""},
    ]
    (row,) = rows("sph", "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date\nA1,22;50+346,S1,55,M,5000,2020-03-04\n")
    assert row == {
        "ECG_ID": "A1",
        "AHA_Code": "22;50;50+346",
        "Patient_ID": "S1",
        "Age": "55",
        "Sex": "M",
        "Date": "2020-03-04",
    }
    (row,) = rows(
        "mimic_iv_ecg", "file_name,study_id,subject_id,all_diag_all,gender,age,fold,dod\nf,40,10,\"['I48']\",F,52,3,x\n"
    )
    assert row["strat_fold"] == "3" and "dod" not in row and "file_name" not in row


PARTS = ("ptbxl", "ludb", "cpsc2018", "cinc2021", "code15", "sph")


@needs_shared
@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_real_collection_is_recognised(name: str) -> None:
    folder = Folder(shared_path("ecg", "labelled", name))
    assert [entry.name for entry in registry.recognise(folder)] == [name]
