"""Kinds of tables and codes that groups bring: ICD-9 and ICD-10 however written, workbooks of several sheets, JSON lines."""

from __future__ import annotations

import io
from datetime import datetime

import openpyxl
import pytest

from datasets.collections import registry
from datasets.ecg import SourceLabel
from datasets.labels.maps import LabelMapSpec, apply_map
from datasets.labels.table import apply, guess_mapping, read_table
from ecgportal.errors import InvalidInput, UnreadableFile


def workbook(**sheets: list[list[object]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def labels_of(data: bytes, name: str = "t.csv", **overrides) -> list[set[tuple[str, str]]]:
    table = read_table(data, name)
    return [
        {(x.system, x.code) for x in row.labels}
        for row in apply(table, guess_mapping(table, overrides=overrides or None))
    ]


@pytest.mark.parametrize(
    ("column", "cells", "system"),
    [
        ("ICD-10", ("I48", "I48.0", "I210"), "icd10"), ("icd", ("I480", "E119"), "icd10"), ("ICD-9", ("427.31", "42731"), "icd9"),
        ("icd_code", ("42731", "4139"), "icd9"), ("code", ("427.31", "410.9"), "icd9"), ("diagnosis", ("I48.0", "I21"), "icd10"),
    ],
)  # fmt: skip
def test_icd_codes_of_both_revisions_with_and_without_the_dot(column: str, cells: tuple[str, ...], system: str) -> None:
    lines = "".join(f"rec{number},{cell}\n" for number, cell in enumerate(cells))
    assert labels_of(f"record,{column}\n{lines}".encode()) == [{(system, cell)} for cell in cells]


def test_maps_find_icd_codes_however_they_are_written() -> None:
    for system, stated, written in (("icd10", "I480", "I48.0"), ("icd9", "427.31", "42731")):
        spec = LabelMapSpec("m", 1, system, ("AF",), {written: ("AF", "exact")})
        assert apply_map([SourceLabel(stated, system)], spec).classes == {"AF"}


def test_numbers_and_days_of_a_workbook_are_read_as_they_are_shown() -> None:
    rows = [
        ["record", "snomed", "recording_date", "patient_id"],
        ["a", 426783006.0, datetime(2019, 4, 11), 77.0],
        ["b", 164889003, datetime(2019, 4, 12, 8, 30), 78],
    ]
    table = read_table(workbook(labels=rows), "t.xlsx")
    assert table.rows == (("a", "426783006", "2019-04-11", "77"), ("b", "164889003", "2019-04-12 08:30:00", "78"))
    first, second = apply(table, guess_mapping(table))
    assert first.labels == (SourceLabel("426783006", "snomed"),) and second.recorded_at.hour == 8


def test_sheets_of_one_header_are_joined_and_others_are_named() -> None:
    data = workbook(
        About=[["Labels of ward 3"]], y2019=[["record", "label"], ["a", "AFIB"]], y2020=[["record", "label"], ["b", "NORM"]], Legend=[["code", "words", "x"], ["AFIB", "fibrillation", 1]],
    )  # fmt: skip
    table = read_table(data, "t.xlsx")
    assert table.columns == ("record", "label") and table.rows == (("a", "AFIB"), ("b", "NORM"))
    assert "2 sheets" in table.notes[0] and "About, Legend" in table.notes[1]


@pytest.mark.parametrize("legend", [["code", "meaning"], ["name", "meaning"]])
def test_a_legend_in_front_is_not_taken_for_the_table(legend: list[str]) -> None:
    book = workbook(Legend=[legend, ["NORM", "normal"]], Labels=[["file_name", "label"], ["a", "NORM"]])
    table = read_table(book, "book.xlsx")
    assert table.rows == (("a", "NORM"),) and "left out: Legend" in table.notes[0]


def test_a_legend_taken_for_the_table_is_refused_with_the_other_sheets() -> None:
    book = workbook(Legend=[["code", "meaning"], ["NORM", "normal"]], Labels=[["Ward 3", "label"], ["a", "NORM"]])
    table = read_table(book, "book.xlsx")
    with pytest.raises(InvalidInput, match="sheets of the workbook are Legend, Labels; choose the one"):
        apply(table, guess_mapping(table))
    chosen = read_table(book, "book.xlsx", sheet="Labels")
    mapping = guess_mapping(chosen, overrides={"record": "Ward 3"})
    assert [row.labels[0].code for row in apply(chosen, mapping)] == ["NORM"]


def test_one_sheet_can_be_chosen() -> None:
    data = workbook(
        Legend=[["code", "words"], ["AFIB", "fibrillation"]], labels=[["record", "label"], ["a", "AFIB"]], more=[["record", "label"], ["b", "NORM"]], empty=[],
    )  # fmt: skip
    guessed, chosen = read_table(data, "t.xlsx"), read_table(data, "t.xlsx", sheet="labels")
    assert guessed.rows == (("a", "AFIB"), ("b", "NORM")) and guessed.sheet is None
    assert guessed.sheets == chosen.sheets == ("Legend", "labels", "more")
    assert chosen.rows == (("a", "AFIB"),) and chosen.sheet == guess_mapping(chosen).sheet == "labels"
    assert guess_mapping(chosen, overrides=guess_mapping(chosen).to_dict()) == guess_mapping(chosen)
    for wrong in ("empty", "nowhere"):
        with pytest.raises(InvalidInput, match="its sheets are Legend, labels, more") as error:
            read_table(data, "t.xlsx", sheet=wrong)
        assert set(error.value.fields) == {"sheet"}
    assert read_table(workbook(only=[["record", "label"], ["a", "AFIB"]]), "t.xlsx").sheets == ()


def test_json_lines_are_a_table() -> None:
    data = b'{"record": "a", "labels": ["AFIB", "LVH"]}\n\n{"record": "b", "labels": "NORM", "age": 51}\n'
    assert labels_of(data, "t.jsonl") == [{("scp", "AFIB"), ("scp", "LVH")}, {("scp", "NORM")}]
    with pytest.raises(UnreadableFile, match="begins like JSON"):
        read_table(b'{"record": "a"}\n{"record": \n', "t.jsonl")


def test_a_huge_table_is_read_in_bounded_time_per_row() -> None:
    lines = "".join(f"rec{number:06d},NORM;SR,{number % 90}\n" for number in range(50_000))
    found = labels_of(f"record,label,age\n{lines}".encode())
    assert len(found) == 50_000 and found[-1] == {("scp", "NORM"), ("scp", "SR")}


def test_statements_of_mimic_and_words_of_ptbxl_become_labels(tmp_path) -> None:
    (_, measured, _) = registry.known()["mimic_iv_ecg"].tables
    path = tmp_path / "machine_measurements.csv"
    path.write_text(
        "subject_id,study_id,report_0,report_1,report_2\n1,7,Sinus rhythm,Left axis deviation,Confirmed by Dr Quixworth\n"
    )
    (row,) = measured.rows(path)
    assert row == {"study_id": "7", "report_0": "Sinus rhythm; Left axis deviation"}
    (database,) = registry.known()["ptbxl"].tables
    path.write_text(
        "ecg_id,filename_hr,scp_codes,heart_axis,infarction_stadium1,infarction_stadium2\n1,r/1_hr,\"{'NORM': 80.0}\",LAD,Stadium II-III,unknown\n"
    )
    (row,) = database.rows(path)
    assert (row["heart_axis"], row["infarction_stadium1"], row["infarction_stadium2"]) == (
        "axis LAD",
        "infarction Stadium II-III",
        "",
    )
