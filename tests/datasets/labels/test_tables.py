"""Label tables: the tables of known collections, other ways to write them, and matching rows to records."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import SourceLabel
from datasets.labels import table as tables
from datasets.labels.table import (
    LabelColumn,
    RawTable,
    RowLabels,
    apply,
    guess_mapping,
    match_keys,
    read_table,
    safe_cell,
)
from ecgportal.errors import InvalidInput, PortalError, TooLarge, UnreadableFile
from tests.shared import needs_shared, shared_path


def rows_of(text: str | bytes, name: str = "labels.csv", **overrides: object) -> list[RowLabels]:
    table = read_table(text.encode() if isinstance(text, str) else text, name)
    return apply(table, guess_mapping(table, overrides=overrides or None))


def codes(row: RowLabels) -> list[tuple[str, str]]:
    return [(label.system, label.code) for label in row.labels]


def shared_rows(*parts: str) -> list[RowLabels]:
    return rows_of(shared_path("ecg", "labelled", *parts).read_bytes(), parts[-1])


@needs_shared
def test_ptbxl_database() -> None:
    rows = shared_rows("ptbxl", "ptbxl_database.csv")
    first = rows[0]
    assert first.labels == (
        SourceLabel("NORM", "scp", 1.0),
        SourceLabel("LVOLT", "scp", 0.0),
        SourceLabel("SR", "scp", 0.0),
    )
    assert (first.subject, first.age, first.sex, first.fold, first.site) == ("15709", 56.0, "female", 3, "0")
    with shared_path("ecg", "labelled", "labels_all.csv").open(newline="") as stream:
        known = {row["record"]: row for row in csv.DictReader(stream) if row["dataset"] == "ptbxl"}
    match = match_keys([f"{key}_hr" for key in known], rows)
    by_row = {row.row_number: row for row in rows}
    seen = set()
    for number, (key,) in match.matched.items():
        stated, row = known[key.removesuffix("_hr")], by_row[number]
        assert [f"{x.code}:{round(100 * x.likelihood)}" for x in row.labels] == stated["native"].split(";")
        assert row.sex == {"M": "male", "F": "female"}.get(stated["sex"])
        assert row.subject == stated["patient"]
        assert row.problems == ()
        seen.add(key)
    assert len(seen) == len(known) == 353 and match.unlabelled == ()


@needs_shared
def test_ptbxl_rows_find_both_rates_and_bare_ids() -> None:
    rows = shared_rows("ptbxl", "ptbxl_database.csv")[:1]
    for keys in (
        ["00001_hr"],
        ["00001_lr"],
        ["records500/00000/00001_hr", "records100/00000/00001_lr"],
        ["1"],
        ["00001"],
        ["00001_HR.hea"],
    ):
        assert match_keys([*keys, "00011_hr"], rows).matched == {1: tuple(keys)}


@needs_shared
def test_ludb_table() -> None:
    rows = shared_rows("ludb", "ludb.csv")
    assert (rows[0].record_key, rows[0].age, rows[0].sex) == ("2", 64.0, "male")
    assert ("name", "Left atrial hypertrophy") in codes(rows[0]) and ("name", "Left ventricular hypertrophy") in codes(
        rows[0]
    )
    assert all(row.problems == () for row in rows)
    assert {row.age for row in rows if row.age is not None and row.age >= 90} == {90.0}
    flutter = [row for row in rows if ("name", "Atrial flutter, typical") in codes(row)]
    assert len(flutter) == 2
    assert match_keys(["2", "3", "20"], rows[:2]).matched == {1: ("2",), 2: ("3",)}


@needs_shared
def test_sph_metadata() -> None:
    first = shared_rows("sph", "metadata.csv")[0]
    assert codes(first) == [("aha", "22"), ("aha", "23"), ("snomed", "426177001"), ("snomed", "427393009")]
    assert (first.record_key, first.subject, first.age, first.sex) == ("SPH00001.h5", "S00001", 55, "male")
    assert match_keys(["SPH00001"], [first]).matched == {1: ("SPH00001",)}


def test_the_three_column_table_of_file_label_and_icd() -> None:
    rows = rows_of("file_name,label,ICD-10\n00001_hr.dat,Atrial fibrillation,I48.91\nsub/A2.mat,Normal ECG,\n")
    assert codes(rows[0]) == [("name", "Atrial fibrillation"), ("icd10", "I48.91")]
    assert codes(rows[1]) == [("name", "Normal ECG")]
    assert match_keys(["00001_hr", "A2"], rows).matched == {1: ("00001_hr",), 2: ("A2",)}


def test_code15_exams() -> None:
    text = (
        "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file\n"
        "1169160,38,True,40.16,False,True,False,False,False,False,523632,False,2.1,False,exams_part13.hdf5\n"
        "270272,58,False,50.1,True,False,False,False,False,True,125585,,,False,exams_part0.hdf5\n"
    )
    rows = rows_of(text)
    assert codes(rows[0]) == [("name", "RBBB")] and codes(rows[1]) == [("name", "1dAVb"), ("name", "AF")]
    assert (rows[0].sex, rows[1].sex, rows[1].subject) == ("male", "female", "125585")
    assert match_keys(["code_15_270272"], rows).matched == {2: ("code_15_270272",)}


def test_mimic_icd_lists_are_parsed_as_literals() -> None:
    text = "file_name,study_id,subject_id,all_diag_all,strat_fold,gender,age\nfiles/p1/s40/40689238,40689238,10000032,\"['I48', 'Z950']\",4,F,52\n"
    (row,) = rows_of(text)
    assert codes(row) == [("icd10", "I48"), ("icd10", "Z950")]
    assert (row.subject, row.fold, row.sex) == ("10000032", 4, "female")
    assert match_keys(["40689238"], [row]).matched == {1: ("40689238",)}


def test_cpsc_reference_with_three_label_columns() -> None:
    assert codes(rows_of("Recording,First_label,Second_label,Third_label\nA0001,5,,\nA0002,1,3,\n")[1]) == [
        ("name", "1"),
        ("name", "3"),
    ]


def test_a_table_without_header() -> None:
    rows = rows_of("A00001,N\nA00002,A\nA00003,O\n")
    assert [(row.record_key, row.labels[0].code) for row in rows] == [("A00001", "N"), ("A00002", "A"), ("A00003", "O")]


def test_long_tables_with_likelihood() -> None:
    rows = rows_of("record;label;likelihood\nr1;AFIB;80\nr1;LVH;35\nr2;NORM;100\n")
    assert [row.labels[0].likelihood for row in rows] == [0.8, 0.35, 1.0]
    match = match_keys(["r1", "r2"], rows)
    assert match.matched == {1: ("r1",), 2: ("r1",), 3: ("r2",)} and match.problems == {}


def test_values_that_make_no_sense_are_reported_row_by_row() -> None:
    rows = rows_of("record,AF,sex,age,fold\nr1,1,0,-4,x\nr2,maybe,f,200,1\nr3,0,1,35,2.5\n" + "r4,0,m,30,1\n" * 9)
    assert [len(row.problems) for row in rows] == [3, 2, 2] + [0] * 9
    assert rows[0].sex is None and "not explained" in " ".join(rows[0].problems)
    explained = rows_of("record,AF,sex\nr1,1,0\nr2,0,1\n", sex_codes={"0": "female", "1": "male"})
    assert [row.sex for row in explained] == ["female", "male"]


def test_ragged_rows_are_reported() -> None:
    rows = rows_of("record,label\nr1,AFIB\nr2,NORM,SR\n")
    assert rows[0].problems == () and "3 cells" in rows[1].problems[0]


def test_xlsx_and_json_say_the_same_as_csv() -> None:
    book = openpyxl.Workbook()
    for line in (["file_name", "label", "age"], ["1.hea", "AFIB;LVH", 56.0], ["2.hea", "NORM", None]):
        book.active.append(line)
    buffer = io.BytesIO()
    book.save(buffer)
    objects = [
        {"file_name": "1.hea", "label": ["AFIB", "LVH"], "age": 56},
        {"file_name": "2.hea", "label": "NORM", "age": None},
    ]
    columns = {"file_name": ["1.hea", "2.hea"], "label": [["AFIB", "LVH"], "NORM"], "age": [56, None]}
    keyed = {"1.hea": {"label": ["AFIB", "LVH"], "age": 56}, "2.hea": {"label": "NORM"}}
    plain = rows_of("file_name,label,age\n1.hea,AFIB|LVH,56\n2.hea,NORM,\n")
    assert [codes(row) for row in plain] == [[("scp", "AFIB"), ("scp", "LVH")], [("scp", "NORM")]]
    for data, name in (
        (buffer.getvalue(), "x.xlsx"),
        *((json.dumps(v).encode(), "x.json") for v in (objects, columns, keyed)),
    ):
        rows = rows_of(data, name)
        assert [(r.record_key, codes(r), r.age) for r in rows] == [(r.record_key, codes(r), r.age) for r in plain]
    assert codes(rows_of(json.dumps({"a": ["AFIB"], "b": ["NORM", "SR"]}), "x.json")[1]) == [
        ("scp", "NORM"),
        ("scp", "SR"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding: str) -> None:
    assert rows_of("record;label\nr1;Rhythmusstörung\n".encode(encoding))[0].labels[0].code == "Rhythmusstörung"


def test_weighted_codes_in_one_cell() -> None:
    (row,) = rows_of("record,native\nr1,NORM:100;LVOLT:0;SR:0\n")
    assert [(label.code, label.likelihood) for label in row.labels] == [("NORM", 1.0), ("LVOLT", 0.0), ("SR", 0.0)]


def test_a_mapping_goes_to_json_and_back_as_overrides() -> None:
    table = read_table(b"a,b,c\nr1,AFIB,1\nr2,NORM,2\n", "x.csv")
    chosen = {"record": "a", "labels": [{"column": "b", "kind": "codes", "system": "scp"}], "subject": "c"}
    mapping = guess_mapping(table, overrides=chosen)
    again = guess_mapping(table, overrides=json.loads(json.dumps(mapping.to_dict())))
    assert again == mapping and mapping.labels == (LabelColumn("b", "codes", "scp"),)
    assert apply(table, mapping)[1].subject == "2"
    for wrong in (
        {"record": "zzz"},
        {"labels": [{"column": "b", "kind": "x"}]},
        {"labels": [{"column": "b", "system": "x"}]},
        {"foo": 1},
    ):
        with pytest.raises(InvalidInput) as caught:
            guess_mapping(table, overrides=wrong)
        assert caught.value.fields
    with pytest.raises(InvalidInput):
        apply(table, tables.ColumnMapping())


def test_code_in_cells_is_never_run() -> None:
    cell = "{'x': __import__('os').system('touch /tmp/owned')}"
    (row,) = rows_of(f'ecg_id,scp_codes\n1,"{cell}"\n')
    assert all("__import__" in label.code for label in row.labels)
    deep = "[" * 90_000 + "]" * 9_999
    rows_of(f'ecg_id,scp_codes\n1,"{deep}"\n')


def row(number: int, key: str, *also: str) -> RowLabels:
    return RowLabels(number, key, (), also_keys=also)


def test_matching_reports_what_fits_none_or_several() -> None:
    match = match_keys(["a/1", "b/1", "c"], [row(1, "1"), row(2, "a/1.hea"), row(3, "zzz"), row(4, "")])
    assert match.matched == {2: ("a/1",)}
    assert (
        "fits 2 records" in match.problems[1] and "zzz" in match.problems[3] and "names no record" in match.problems[4]
    )
    assert match.unlabelled == ("b/1", "c")


def test_leading_zeros_do_not_join_different_records() -> None:
    match = match_keys(["1", "01", "10"], [row(1, "1"), row(2, "01"), row(3, "001"), row(4, "0010")])
    assert match.matched == {1: ("1",), 2: ("01",), 4: ("10",)} and "fits 2" in match.problems[3]


def test_a_prefix_before_a_number_must_be_the_only_one() -> None:
    assert match_keys(["code_15_270272"], [row(1, "270272")]).matched == {1: ("code_15_270272",)}
    assert 1 in match_keys(["a_270272", "b_270272"], [row(1, "270272")]).problems
    assert match_keys(["a_1270272"], [row(1, "270272")]).matched == {}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(alphabet="ab01_./", min_size=1, max_size=6), unique=True, max_size=12))
def test_every_record_matches_its_own_key(keys: list[str]) -> None:
    keys = [key for key in keys if key.strip()]
    match = match_keys(keys, [row(i, key) for i, key in enumerate(keys)])
    assert match.matched == {i: (key,) for i, key in enumerate(keys)}


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+cmd", "-cmd|x", "@SUM(1)", "\tx", "\rx", "\nx"])
def test_cells_are_no_formulas(text: str) -> None:
    assert safe_cell(text) == "'" + text


@pytest.mark.parametrize(
    ("value", "cell"), [(-0.5, "-0.5"), ("-1e-3", "-1e-3"), ("+5", "+5"), ("a=b", "a=b"), (None, ""), (3, "3")]
)
def test_other_cells_stay_as_they_are(value: object, cell: str) -> None:
    assert safe_cell(value) == cell


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_safe_cell_never_starts_a_formula(text: str) -> None:
    cell = safe_cell(text)
    if cell[:1] in tuple("=+-@\t\r\n"):
        float(cell)


@pytest.fixture
def wide_cells():
    """Raise the csv module's limit, as readers of published tables do for the whole process."""
    before = csv.field_size_limit(10_000_000)
    yield
    csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "x.csv"),
        (b"record,label\n", "x.csv"),
        (b"a,b\n\x00\x01,2\n", "x.csv"),
        (b"PK\x03\x04nothing", "x.xlsx"),
        (b'{"a": [1, 2', "x.json"),
        (b"[1, 2, 3]", "x.json"),
        (b"[" * 100_000, "x.json"),
        (b'record,label\nr1,"' + b"x" * 200_000 + b'"\n', "x.csv"),
    ],
)
def test_damaged_tables_are_refused_by_name(data: bytes, name: str, wide_cells: None) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read_table(data, name)
    assert caught.value.code == "bad_table" and name in caught.value.message


def test_limits() -> None:
    with pytest.raises(TooLarge):
        read_table(b"," * 10_000_000 + b"\n1\n", "x.csv")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(100_000_000))
    with pytest.raises(TooLarge):
        read_table(buffer.getvalue(), "x.xlsx")


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(alphabet="ab1,;\t\n\"'[]{}:.=", max_size=300).map(str.encode)))
def test_any_bytes_give_rows_or_an_error_of_ours(data: bytes) -> None:
    try:
        table = read_table(data, "x.csv")
        assert isinstance(table, RawTable)
        rows = apply(table, guess_mapping(table, overrides={"record": table.columns[0]}))
    except PortalError as error:
        assert error.message
        return
    assert len(rows) == len(table.rows)
