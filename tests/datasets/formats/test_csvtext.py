"""Text tables: the facts of shared files, the ways in which tables are written, and hostile input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datasets.ecg import LEADS_12, Record
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from ecgportal.errors import NeedsAnswer, PortalError, TooLarge, UnreadableFile
from tests.datasets.formats.clinical_tools import assert_same_signal, facts, shared_bytes
from tests.shared import needs_shared

MV = ReadOptions(fs_hz=500, unit="mV")
T = np.arange(60) / 500
SIGNAL = np.round(np.stack([np.sin(20 * T), np.cos(20 * T), 0.5 * np.sin(40 * T)]), 4)


def read(text: str | bytes, options: ReadOptions | None = MV, name: str = "x.csv") -> Record:
    data = text.encode() if isinstance(text, str) else text
    entry, result = registry.read(BytesSource(name, data), options)
    assert entry.name == "csv"
    ((key, record),) = result.records
    assert key == name.rpartition(".")[0]
    return record


def table(
    header: str | None = "I,II,V1", delimiter: str = ",", comma: bool = False, columns: list[np.ndarray] | None = None
) -> str:
    rows = np.stack([*(columns or []), *SIGNAL], axis=1)
    lines = [delimiter.join(f"{v:.6g}".replace(".", "," if comma else ".") for v in row) for row in rows]
    return "\n".join(([header] if header else []) + lines) + "\n"


@needs_shared
def test_preamble_with_rate_and_gain() -> None:
    name = "csv/ecg_12L_preamble.csv"
    expected = facts(name)
    record = read(shared_bytes(name), None, "ecg_12L_preamble.csv")
    assert record.leads == LEADS_12
    assert (record.fs_hz, record.n_samples, record.duration_s) == (expected["fs"], expected["n"], expected["seconds"])
    assert record.lead("I")[0] == pytest.approx(expected["lead_I_sample0_mV"], abs=1e-6)
    assert record.lead("II")[0] == pytest.approx(expected["lead_II_sample0_mV"], abs=1e-6)
    assert record.lead("II").max() == pytest.approx(expected["lead_II_max_mV"], abs=1e-4)


@needs_shared
@pytest.mark.parametrize(
    ("name", "number", "unit"), [("csv/reencoded_ludb2_mV.csv", 2, "mV"), ("csv/reencoded_ludb3_time_uV.csv", 3, "uV")]
)
def test_reencoded_ludb(name: str, number: int, unit: str) -> None:
    expected = facts(name)
    with pytest.raises(NeedsAnswer) as asked:
        read(shared_bytes(name), None)
    has_time = "time" in name
    assert set(asked.value.fields) == ({"unit"} if has_time else {"unit", "fs_hz"})
    assert asked.value.fields["unit"].startswith(f"Guess: {unit}.")
    assert has_time or asked.value.fields["fs_hz"].startswith("Guess: 500.")
    record = read(shared_bytes(name), ReadOptions(unit=unit, fs_hz=None if has_time else 500))
    assert (record.fs_hz, record.n_samples) == (expected["fs"], expected["n"])
    assert record.lead("I")[0] == pytest.approx(expected["lead_I_sample0_mV"], abs=expected["tolerance_mV"])
    assert record.lead("II").max() == pytest.approx(expected["lead_II_max_mV"], abs=expected["tolerance_mV"])
    assert record.lead("V1").min() == pytest.approx(expected["V1_min_mV"], abs=expected["tolerance_mV"])
    assert_same_signal(record, number, expected["tolerance_mV"])


@pytest.mark.parametrize(
    "text",
    [
        table(),
        table("I;II;V1", ";", comma=True),
        table("I\tII\tV1", "\t", comma=True),
        table("I II V1", " "),
        table("\ufeffI,II,V1"),
        table('"I","II","V1"'),
        table("I,II,V1").replace("\n", "\r\n"),
        table("Lead I,lead_ii,ECG V1"),
        "# exported by a device\n\n" + table(),
        "\n".join(
            ",".join(f'"{cell}"' for cell in line.replace(".", ",").split("|"))
            for line in table("I|II|V1", "|").splitlines()
        ),
    ],
)
def test_ways_to_write_the_same_table(text: str) -> None:
    record = read(text)
    assert record.leads == ("I", "II", "V1") and record.fs_hz == 500
    assert record.signal == pytest.approx(SIGNAL.astype(np.float32), abs=1e-6)


def test_utf_16_as_spreadsheets_save_it() -> None:
    assert read(table(delimiter="\t", header="I\tII\tV1").encode("utf-16")).n_samples == 60


@pytest.mark.parametrize(
    ("header", "scale", "fs"),
    [("time_s", 1, 500), ("Time (ms)", 1e3, 500), ("t[us]", 1e6, 500), ("time", 1, 500), ("time", 1e3, 500)],
)
def test_the_rate_follows_from_the_time_column(header: str, scale: float, fs: float) -> None:
    text = table(f"{header},I,II,V1", columns=[T * scale])
    record = read(text, ReadOptions(unit="mV", fs_hz=123))
    assert record.fs_hz == fs and record.leads == ("I", "II", "V1")


def test_missing_moments_become_gaps() -> None:
    lines = table("time_s,I,II,V1", columns=[T]).splitlines()
    record = read("\n".join(lines[:11] + lines[14:]))
    assert record.n_samples == 60 and np.isnan(record.signal[:, 10:13]).all()
    assert np.isfinite(record.signal[:, 13:]).all() and "3 moments" in record.meta.notes[-1]


@pytest.mark.parametrize("times", [T[::-1], np.r_[T[:30], T[:30]], T**1.4, np.full(60, np.nan)])
def test_a_time_column_that_cannot_be_is_refused(times: np.ndarray) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read(table("time_s,I,II,V1", columns=[times]))
    assert caught.value.code == "bad_time"


def test_units_in_the_header_win_over_the_answer() -> None:
    record = read(table("I (uV),II [mV],V1_mV"), ReadOptions(fs_hz=500, unit="V"))
    assert record.signal == pytest.approx((SIGNAL * [[1e-3], [1], [1]]).astype(np.float32), abs=1e-6)
    with pytest.raises(NeedsAnswer):
        read(table("I (uV),II,V1"), ReadOptions(fs_hz=500, unit="mV"))


@pytest.mark.parametrize(
    ("line", "factor"),
    [
        ("Gain (digit/millivolt): 200", 1 / 200),
        ("resolution 2.5 uV/bit", 2.5e-3),
        ("Gain,1000 units/mV", 1e-3),
        ("Units/mV: 200", 1 / 200),
        ("Gain: 200 adu/mV, 12 bit", 1 / 200),
        ("Unit: uV", 1e-3),
        # Two numbers, of which either may be meant, and none at all.
        ("Converter 16 bits per mV 200", None),
        ("Units: mV/LSB", None),
        ("Resolution: 5 uV", None),
        ("uV per LSB = 4.88", 4.88e-3),
    ],
)
def test_preambles(line: str, factor: float | None) -> None:
    text = f"Sampling Rate (Hz): 250\n{line}\n{table()}"
    if factor is None:
        with pytest.raises(NeedsAnswer):
            read(text, None)
        return
    record = read(text, None)
    assert record.fs_hz == 250
    assert record.signal == pytest.approx((SIGNAL * factor).astype(np.float32), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("lines", ["Unit: mV\nGain: 200 adu/mV", "Gain: 200 adu/mV\nUnit: mV"])
def test_a_unit_beside_a_gain_is_asked_about_where_the_values_may_be_digits(lines: str) -> None:
    head = f"Sampling Rate (Hz): 250\n{lines}\n"
    assert read(head + table(), None).signal == pytest.approx(SIGNAL.astype(np.float32), rel=1e-5)
    digits = "I,II,V1\n" + "\n".join(",".join(str(round(value * 200)) for value in row) for row in SIGNAL.T)
    with pytest.raises(NeedsAnswer) as asked:
        read(head + digits, None)
    assert asked.value.fields["unit"].startswith("Guess: 200/mV")


def test_other_columns_are_dropped_and_named() -> None:
    record = read(table("I,II,spo2"))
    assert record.leads == ("I", "II") and record.meta.dropped_channels == ("spo2",)


def test_row_counters_are_left_out() -> None:
    counter = np.arange(60.0)
    assert read(table(",I,II,V1", columns=[counter])).leads == ("I", "II", "V1")
    assert read(table("sample,I,II,V1", columns=[counter])).leads == ("I", "II", "V1")
    unnamed = read(table(None, columns=[counter]), ReadOptions(500, "mV", ("I", "II", "V1")))
    assert unnamed.signal.shape == (3, 60)


def test_a_table_without_header_asks_for_the_leads() -> None:
    with pytest.raises(NeedsAnswer) as asked:
        read(table(None))
    assert set(asked.value.fields) == {"lead_order"}
    assert read("0,1,2\n" + table(None), ReadOptions(500, "mV", ("I", "II", "V1"))).n_samples == 60


def test_leads_in_rows() -> None:
    text = "\n".join(",".join(f"{v:.4f}" for v in row) for row in SIGNAL)
    record = read(text, ReadOptions(500, "mV", ("I", "II", "V1")))
    assert record.signal == pytest.approx(SIGNAL.astype(np.float32), abs=1e-4)


def test_a_delimiter_at_the_end_of_every_row_opens_no_column() -> None:
    rows = table(None).replace("\n", ",\n")
    for text in ("I,II,V1\n" + rows, "I,II,V1,\n" + rows):
        assert read(text).leads == ("I", "II", "V1")
    assert read(rows, ReadOptions(500, "mV", ("I", "II", "V1"))).n_samples == 60


def test_empty_cells_are_gaps() -> None:
    record = read("I,II\n1,\nnan,2\n3,NA\n")
    assert np.array_equal(record.signal, np.array([[1, np.nan, 3], [np.nan, 2, np.nan]], np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("I,II\n1,2\n3,4\n5,6\n7,8\n9,10\n1,2,3\n1,1\n", "ragged_table"),
        ("I,II\n" + "1,2\n" * 9 + "3", "truncated"),
        ("I,II\n" + "1,2\n" * 9 + "x,2\n1,2\n", "not_a_number"),
        ("I,II\n" + "1,2\n" * 9 + "inf,2\n1,2\n", "not_a_number"),
        ("I;II\n" + "1,5;2,5\n" * 9 + "1.5;2.5\n1,5;2,5\n", "mixed_decimals"),
        ("I,I\n" + "1,2\n" * 9, "lead_named_twice"),
    ],
)
def test_damaged_tables_name_their_place(text: str, code: str) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read(text)
    assert caught.value.code == code and "x.csv" in caught.value.message


def test_ten_million_columns_and_nul_bytes_are_refused_with_a_sentence() -> None:
    reader = registry.readers()["csv"]
    with pytest.raises(TooLarge) as caught:
        reader.read(BytesSource("x.csv", b"1," * 10_000_000 + b"1\n"), MV)
    assert caught.value.code == "too_many_columns"
    with pytest.raises(UnreadableFile) as refused:
        reader.read(BytesSource("x.csv", b"I,II\n1,\x002\n"), MV)
    assert refused.value.code == "not_text"


def test_thousands_of_named_columns_are_refused_before_their_names_are_looked_at() -> None:
    rows = [",".join(["I (mV)", *map(str, range(50_000))])] + [",".join(["1"] * 50_001)] * 3
    with pytest.raises(TooLarge, match="50001 columns") as caught:
        registry.readers()["csv"].read(BytesSource("x.csv", "\n".join(rows).encode()), ReadOptions())
    assert caught.value.code == "too_many_columns"


def test_formulas_are_text_and_no_number() -> None:
    with pytest.raises(PortalError):
        read("I,II\n" + "1,2\n" * 5 + '=HYPERLINK("x"),2\n' + "1,2\n" * 5)


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, (30, 3), elements=st.floats(-9, 9, width=16)),
    st.sampled_from([",", ";", "\t", " "]),
    st.booleans(),
)
def test_writing_and_reading_gives_the_samples(values: np.ndarray, delimiter: str, comma: bool) -> None:
    comma = comma and delimiter != ","
    lines = [delimiter.join(f"{v:.5f}".replace(".", "," if comma else ".") for v in row) for row in values]
    record = read("\n".join([delimiter.join(("I", "II", "V6")), *lines]) + "\n")
    assert record.signal == pytest.approx(values.T.astype(np.float32), abs=1e-5)
