"""Further shapes of tables and containers: old encodings, melted tables, texts of recording programs, columns by name."""

from __future__ import annotations

import io
from collections.abc import Callable

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from datasets.ecg import LEADS_12, normalise
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile
from tests.datasets.formats.test_csv_variants import (
    FS_HZ,
    RATE,
    RATE_AND_UNIT,
    SIGNAL,
    TIMES_S,
    N,
    assert_is_signal,
    read,
    text_of,
)

ALL = ReadOptions(fs_hz=FS_HZ, unit="mV", lead_order=LEADS_12)


@pytest.mark.parametrize(
    ("encoding", "word", "time", "unit"),
    [
        ("gb18030", "导联", "时间", "毫秒"), ("cp932", "誘導", "時間", "ミリ秒"), ("euc_jp", "誘導", "時間", "ミリ秒"), ("big5", "導程", "時間", "毫秒"),
        ("cp949", "유도", "시간", "밀리초"), ("cp1251", "Отведение ", "Время", "мс"), ("koi8_r", "Отведение ", "Время", "мс"),
    ],
)  # fmt: skip
def test_headers_in_old_encodings(encoding: str, word: str, time: str, unit: str) -> None:
    names = [f"{word}{lead}" for lead in LEADS_12]
    assert_is_signal(read(text_of(names).encode(encoding), RATE_AND_UNIT))
    times = [str(1000 * at) for at in TIMES_S]
    header = [f"{time}({unit})", *(f"{name}(mV)" for name in names)]
    assert_is_signal(read(text_of(header, times).encode(encoding)))


def test_roman_numerals_of_east_asian_devices() -> None:
    header = ["Ⅰ", "Ⅱ", "Ⅲ", *LEADS_12[3:]]
    for encoding in ("cp932", "gb18030"):
        assert_is_signal(read(text_of(header).encode(encoding), RATE_AND_UNIT))


def test_other_letters_of_windows_stay() -> None:
    # The micro sign and what follows it are a letter in Chinese encodings.
    assert_is_signal(read(text_of([f"{lead} (µV)" for lead in LEADS_12], scale=1000).encode("cp1252"), RATE))


@pytest.mark.parametrize("unit", ["10uV", "10 µV", "0.01 mV/bit", "10 uV/LSB"])
def test_a_unit_may_be_a_multiple(unit: str) -> None:
    assert_is_signal(read(text_of([f"{lead} ({unit})" for lead in LEADS_12], scale=100), RATE))


@pytest.mark.parametrize("unit", ["milivoltios", "millivolt", "毫伏", "мВ"])
def test_units_of_other_languages(unit: str) -> None:
    assert_is_signal(read(text_of([f"{lead} ({unit})" for lead in LEADS_12]), RATE))


def melted(header: str, row: Callable[[int, int], str], by_lead: bool) -> str:
    order = (
        [(k, at) for k in range(12) for at in range(N)] if by_lead else [(k, at) for at in range(N) for k in range(12)]
    )
    return "\n".join([header, *(row(k, at) for k, at in order)]) + "\n"


@pytest.mark.parametrize("by_lead", [True, False])
def test_one_sample_a_row(by_lead: bool) -> None:
    with_time = melted("lead,time_s,mV", lambda k, at: f"{LEADS_12[k]},{TIMES_S[at]:g},{SIGNAL[k, at]}", by_lead)
    assert_is_signal(read(with_time))
    bare = melted("variable;value", lambda k, at: f"{LEADS_12[k]};{SIGNAL[k, at]}", by_lead)
    assert_is_signal(read(bare, RATE_AND_UNIT))
    with pytest.raises(NeedsAnswer) as asked:
        read(bare)
    assert set(asked.value.fields) == {"fs_hz", "unit"}


def test_melted_leads_of_other_moments_are_refused() -> None:
    text = melted("lead,time_s,mV", lambda k, at: f"{LEADS_12[k]},{TIMES_S[at] + k:g},{SIGNAL[k, at]}", True)
    with pytest.raises(UnreadableFile, match="not at the same moments"):
        read(text)


def test_a_row_of_lead_names_that_does_not_mention_the_index() -> None:
    assert_is_signal(read(text_of(LEADS_12, None).replace("\n", "\n", 1), RATE_AND_UNIT))
    lines = text_of(LEADS_12).splitlines()
    numbered = [lines[0], *(f"{at},{line}" for at, line in enumerate(lines[1:]))]
    assert_is_signal(read("\n".join(numbered), RATE_AND_UNIT))
    numbered_columns = ["," + ",".join(map(str, range(12))), *numbered[1:]]
    assert_is_signal(read("\n".join(numbered_columns), ALL))


def test_a_time_column_without_a_header() -> None:
    text = text_of([], [f"{at:.3f}" for at in TIMES_S])
    record = read(text, ReadOptions(unit="mV", lead_order=LEADS_12))
    assert_is_signal(record)
    assert any("taken for the time" in note for note in record.meta.notes)


def test_long_numbered_rows_of_leads() -> None:
    signal = np.tile(SIGNAL, (1, 4))
    for first in ("lead", "Lead name"):
        head = ",".join([first, *map(str, range(signal.shape[1]))])
        rows = [",".join([lead, *map(str, row)]) for lead, row in zip(LEADS_12, signal.tolist(), strict=True)]
        record = read("\n".join([head, *rows]), RATE_AND_UNIT)
        assert record.leads == LEADS_12 and record.signal == pytest.approx(signal, abs=1e-5)


def test_commas_between_columns_and_in_decimals() -> None:
    with pytest.raises(UnreadableFile, match="decimals by commas") as error:
        read(text_of(LEADS_12, None, ",", ","), RATE_AND_UNIT)
    assert error.value.code == "mixed_decimals"


def test_a_line_of_a_preamble_is_no_line_of_units() -> None:
    text = "Messrate,512 Hertz\nAbleitung,Ableitung I\nEinheit,µV\n" + "".join(f"{100 + at},123\n" for at in range(N))
    with pytest.raises(UnreadableFile):
        read(text)


@pytest.mark.parametrize("units", ["Range=\t" + "\t".join(["10.000 mV"] * 12), "UnitName=\t" + "\t".join(["mV"] * 12)])
def test_text_of_labchart(units: str) -> None:
    above = [
        "Interval=\t0.002 s",
        "ExcelDateTime=\t4.5e4\t1/1/2024",
        "TimeFormat=\tStartOfBlock",
        "ChannelTitle=\t" + "\t".join(LEADS_12),
        units,
    ]
    rows = text_of([], [f"{at:.3f}" for at in TIMES_S], "\t")
    assert_is_signal(read("\n".join([*above, rows])))


def test_text_of_acqknowledge() -> None:
    above = ["ecg.acq", "2 msec/sample", "12 channels", *(line for lead in LEADS_12 for line in (f"ECG {lead}", "mV"))]
    above += ["msec\t" + "\t".join(f"CH{n}" for n in range(1, 13)) + "\t", "\t" + "\t".join([str(N)] * 12) + "\t"]
    rows = text_of([], [f"{1000 * at:g}" for at in TIMES_S], "\t").replace("\n", "\t\n")
    assert_is_signal(read("\n".join([*above, rows])))


TABLE = np.array([tuple(row) for row in SIGNAL.T.tolist()], dtype=[(lead, "f4") for lead in LEADS_12])


def containers() -> dict[str, bytes]:
    named, compound, strips, structs, cells = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(named, ecg=TABLE, fs=FS_HZ, unit="mV")
    with h5py.File(compound, "w") as file:
        file["ecg"] = TABLE
        file["ecg"].attrs.update({"fs": FS_HZ, "unit": "mV"})
    with h5py.File(strips, "w") as file:
        for lead, row in zip(LEADS_12, SIGNAL, strict=True):
            file[f"ecg_rest/strip_{lead}/instance_0"] = row
        file.attrs.update({"fs": FS_HZ, "unit": "mV"})
    patients = np.zeros(2, dtype=[("ecg", object), ("fs", object), ("unit", object)])
    patients[0], patients[1] = (SIGNAL, float(FS_HZ), "mV"), (SIGNAL + 1, float(FS_HZ), "mV")
    savemat(structs, {"patients": patients})
    cell = np.empty((1, 2), dtype=object)
    cell[0, 0], cell[0, 1] = SIGNAL, SIGNAL + 1
    savemat(cells, {"ecgs": cell, "fs": float(FS_HZ), "unit": "mV"})
    streams = {"a.npz": named, "a.h5": compound, "strips.h5": strips, "structs.mat": structs, "cells.mat": cells}
    return {name: stream.getvalue() for name, stream in streams.items()}


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "strips.h5", "structs.mat", "cells.mat"])
def test_columns_groups_structs_and_cells(name: str) -> None:
    records = registry.read(BytesSource(name, containers()[name]), ReadOptions(lead_order=LEADS_12))[1].records
    assert len(records) == (2 if name.endswith(".mat") else 1) and len({key for key, _ in records}) == len(records)
    assert_is_signal(normalise(records[0][1]))
    if len(records) > 1:
        assert records[1][1].signal == pytest.approx(SIGNAL + 1, abs=1e-5)
