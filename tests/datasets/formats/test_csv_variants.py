"""Text tables as spreadsheets, acquisition programs, watches and public viewers write them, made here cell by cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest

from datasets.ecg import LEADS_12, Record, normalise
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile

N, FS_HZ = 600, 500
_rng = np.random.default_rng(3)
_one, _two = _rng.normal(0, 0.3, N), _rng.normal(0, 0.4, N)
SIGNAL = np.round(
    np.vstack(
        [_one, _two, _two - _one, -(_one + _two) / 2, _one - _two / 2, _two - _one / 2, _rng.normal(0, 0.5, (6, N))]
    ),
    3,
)
TIMES_S = np.arange(N) / FS_HZ
BEGIN = datetime(2024, 1, 2, 23, 59, 59, 500_000)
MV_NAMES = [f"{lead} (mV)" for lead in LEADS_12]
RATE = ReadOptions(fs_hz=FS_HZ)
RATE_AND_UNIT = ReadOptions(fs_hz=FS_HZ, unit="mV")


def text_of(
    header: Sequence[str],
    first: Sequence[str] | None = None,
    delimiter: str = ",",
    decimal: str = ".",
    scale: float = 1,
) -> str:
    """Return a table with one moment a row, written cell by cell."""
    lines = [delimiter.join(header)] if header else []
    for at, row in enumerate((SIGNAL.T * scale).round(3).tolist()):
        cells = [str(value).replace(".", decimal) for value in row]
        lines.append(delimiter.join([first[at], *cells] if first else cells))
    return "\n".join(lines) + "\n"


def read(data: str | bytes, options: ReadOptions | None = None) -> Record:
    raw = data.encode() if isinstance(data, str) else data
    ((_, record),) = registry.read(BytesSource("x.csv", raw), options)[1].records
    return record


def assert_is_signal(record: Record) -> None:
    assert record.leads == LEADS_12 and record.fs_hz == FS_HZ
    assert record.signal == pytest.approx(SIGNAL.astype(np.float32), abs=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [
        "Lead {}", "lead_{}", "ECG {}", "EKG {}", "MDC_ECG_LEAD_{}", "Ableitung {}", "Derivation {}", "'{}'", '"{}"', "{} ",
        "{}/mV", "{} in mV", "{}_mV", "{}[mV]", "Lead {} (mV)", '"{}, mV"', "ECG Lead {} [mV]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("case", [str, str.upper])
def test_spellings_of_lead_names(pattern: str, case: Callable[[str], str]) -> None:
    assert_is_signal(read(text_of([pattern.format(case(lead)) for lead in LEADS_12]), RATE_AND_UNIT))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_keep_the_micro_sign(encoding: str) -> None:
    assert_is_signal(read(text_of([f"{lead} (µV)" for lead in LEADS_12], scale=1000).encode(encoding), RATE))


@pytest.mark.parametrize(("delimiter", "decimal"), [(";", ","), ("\t", ","), (";", "."), ("\t", "."), ("|", ".")])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_decimals_and_line_ends(delimiter: str, decimal: str, end: str) -> None:
    assert_is_signal(read(text_of(MV_NAMES, None, delimiter, decimal).replace("\n", end), RATE))


@pytest.mark.parametrize("units", [["s"] + ["mV"] * 12, ["(s)"] + ["(mV)"] * 12, [""] + ["mV"] * 12])
def test_a_row_of_units_below_the_names(units: list[str]) -> None:
    text = text_of(["time", *LEADS_12], [f"{t:.3f}" for t in TIMES_S])
    head, _, rest = text.partition("\n")
    assert_is_signal(read("\n".join([head, ",".join(units), rest])))


def test_wide_letters_and_brackets_of_east_asian_exports() -> None:
    names = ["Ⅰ（mV）", "Ⅱ（mV）", "Ⅲ（mV）", "ａＶＲ（mV）", *MV_NAMES[4:]]
    assert_is_signal(read(text_of(names), RATE))


def test_rows_of_empty_cells_behind_the_table_are_left_out() -> None:
    text = text_of(["time_s", *MV_NAMES], [f"{t:.3f}" for t in TIMES_S])
    assert_is_signal(read(text + 3 * ("," * 12 + "\n")))


@pytest.mark.parametrize("mark", ["", "NA", "#N/A", "null"])
def test_words_for_a_missing_value(mark: str) -> None:
    lines = text_of(MV_NAMES).splitlines()
    lines[5] = ",".join([mark, *lines[5].split(",")[1:]])
    signal = read("\n".join(lines), RATE).signal
    assert np.isnan(signal[0, 4]) and np.isnan(signal).sum() == 1


def test_a_row_of_units_of_several_kinds_scales_each_lead() -> None:
    text = text_of(LEADS_12)
    head, _, rest = text.partition("\n")
    record = read("\n".join([head, ",".join(["uV", *["mV"] * 11]), rest]), RATE)
    assert record.signal[0] == pytest.approx(SIGNAL[0] / 1000, abs=1e-6)
    assert record.signal[1] == pytest.approx(SIGNAL[1], abs=1e-6)


def test_the_public_viewer_of_physionet() -> None:
    times = [f"'{int(t // 60)}:{t % 60:06.3f}'" for t in TIMES_S]
    head, _, rest = text_of(["'Elapsed time'", *(f"'{lead}'" for lead in LEADS_12)], times).partition("\n")
    assert_is_signal(read("\n".join([head, ",".join(["'hh:mm:ss.mmm'", *["'mV'"] * 12]), rest])))


@pytest.mark.parametrize(
    ("form", "delimiter", "decimal"),
    [
        ("%Y-%m-%dT%H:%M:%S.%f", ",", "."),
        ("%Y-%m-%dT%H:%M:%S.%f+01:00", ",", "."),
        ("%Y-%m-%d %H:%M:%S.%fZ", ",", "."),
        ("%d.%m.%Y %H:%M:%S,%f", ";", ","),
        ("%d-%b-%Y %H:%M:%S.%f", ",", "."),
        ("[%H:%M:%S.%f %d/%m/%Y]", ",", "."),
        ("%H:%M:%S.%f", "\t", "."),
        ("%I:%M:%S.%f %p", ",", "."),
    ],
)
def test_times_of_day_tell_the_rate_also_over_midnight(form: str, delimiter: str, decimal: str) -> None:
    times = [(BEGIN + timedelta(seconds=float(t))).strftime(form) for t in TIMES_S]
    assert_is_signal(read(text_of(["timestamp", *MV_NAMES], times, delimiter, decimal)))


@pytest.mark.parametrize("cut", [0, 6])
def test_times_of_day_with_a_colon_before_their_milliseconds(cut: int) -> None:
    begin = BEGIN.replace(hour=10, minute=5)
    times = [(begin + timedelta(seconds=float(t))).strftime("00:%M:%S:%f")[3 * (cut > 0) : -3] for t in TIMES_S]
    assert_is_signal(read(text_of(["time", *MV_NAMES], times)))


@pytest.mark.parametrize("fs_hz", [128, 256, 360, 500, 512, 1000])
def test_times_cut_off_to_whole_milliseconds_are_even_and_gaps_stay(fs_hz: int) -> None:
    at = np.arange(N + 50) / fs_hz
    times = [str(1_700_000_000_000 + int(t * 1000)) for t in np.delete(at, slice(100, 150))]
    record = read(text_of(["timestamp (ms)", *MV_NAMES], times))
    assert record.fs_hz == pytest.approx(fs_hz, rel=2e-3) and record.n_samples == N + 50
    assert np.isnan(record.signal[:, 100:150]).all()
    assert record.signal[:, 150:] == pytest.approx(SIGNAL[:, 100:].astype(np.float32), abs=1e-5)


def test_times_in_whole_seconds_ask_for_the_rate_and_take_it() -> None:
    times = [(BEGIN + timedelta(seconds=float(t))).strftime("%H:%M:%S") for t in np.arange(N) / 100]
    text = text_of(["time", *MV_NAMES], times)
    with pytest.raises(NeedsAnswer) as asked:
        read(text)
    assert asked.value.fields["fs_hz"].startswith("Guess: 100.")
    assert_is_signal(read(text, RATE))


@pytest.mark.parametrize("scale", [1, 1000])
def test_times_since_1970_in_seconds_or_milliseconds(scale: int) -> None:
    times = [f"{(1_700_000_000 + t) * scale:.3f}" for t in TIMES_S]
    assert_is_signal(read(text_of(["timestamp", *MV_NAMES], times)))


def test_a_time_column_that_counts_rows_is_asked_about() -> None:
    text = text_of(["time", *MV_NAMES], [str(i) for i in range(N)])
    with pytest.raises(NeedsAnswer) as asked:
        read(text)
    assert asked.value.fields["fs_hz"].startswith("Guess: 1000.")
    assert_is_signal(read(text, RATE))
    assert read(text_of(["time (ms)", *MV_NAMES], [str(i) for i in range(N)])).fs_hz == 1000


@pytest.mark.parametrize("name", ["{}", "Lead {}", "{} (mV)", "MDC_ECG_LEAD_{}", '"{}"'])
@pytest.mark.parametrize("header", [False, True])
def test_one_lead_a_row_with_its_name_in_front(name: str, header: bool) -> None:
    lines = ["lead," + ",".join(str(i) for i in range(N))] if header else []
    lines += [
        ",".join([name.format(lead), *map(str, row)]) for lead, row in zip(LEADS_12, SIGNAL.tolist(), strict=True)
    ]
    assert_is_signal(read("\n".join(lines), RATE_AND_UNIT))


@pytest.mark.parametrize(
    "preamble",
    [
        "Sampling rate: 500 Hz\nUnit: mV", "Sample interval: 2 ms\nUnits: mV", "Sample Rate,500\nUnits,mV", "# fs = 500\n# units = mV",
        "Abtastfrequenz: 500 Hz\nEinheit: mV", "Sampling frequency (Hz),500\nUnit,mV", "dt = 0.002 s\nunit: mV",
    ],
)  # fmt: skip
def test_what_stands_above_the_table(preamble: str) -> None:
    assert_is_signal(read(f"{preamble}\n{text_of(LEADS_12)}"))


@pytest.mark.parametrize("language", ["en", "de"])
def test_the_single_lead_of_a_watch(language: str) -> None:
    values = [f"{value * 1000:.3f}" for value in SIGNAL[0]]
    if language == "en":
        head = 'Name,"Q Q"\nClassification,Sinus Rhythm\nDevice,"Watch5,4"\nSample Rate,500 hertz\n\nLead,Lead I\nUnit,µV\n\n'
    else:
        head = 'Name;"Q Q"\nAbtastrate;500 Hertz\n\nAbleitung;Ableitung I\nEinheit;µV\n\n'
        values = [value.replace(".", ",") for value in values]
    record = read(head + "\n".join(values))
    assert record.leads == ("I",) and record.fs_hz == FS_HZ
    assert record.signal[0] == pytest.approx(SIGNAL[0], abs=1e-5)


def test_two_columns_of_whole_numbers_are_no_decimal_commas() -> None:
    digits = (SIGNAL[:2] * 1000).round().astype(int).T
    text = "I (uV),II (uV)\n" + "\n".join(f"{a},{b}" for a, b in digits)
    assert read(text, RATE).signal == pytest.approx(SIGNAL[:2], abs=1e-5)


def test_columns_that_are_only_numbered_ask_for_the_leads() -> None:
    text = text_of([f"ch{i} (mV)" for i in range(1, 13)])
    with pytest.raises(NeedsAnswer) as asked:
        read(text, RATE)
    assert asked.value.fields["lead_order"].startswith("Guess: I II III aVR")
    assert_is_signal(read(text, ReadOptions(fs_hz=FS_HZ, lead_order=LEADS_12)))


def test_a_time_of_day_that_cannot_be_read_is_named() -> None:
    lines = text_of(["time", *MV_NAMES], [f"10:00:{t:06.3f}" for t in TIMES_S]).splitlines()
    lines[300] = "noon" + lines[300][12:]
    with pytest.raises(UnreadableFile) as caught:
        read("\n".join(lines))
    assert caught.value.code == "bad_time" and "301" in caught.value.message


@pytest.mark.parametrize(
    ("rate", "lead", "unit"),
    [
        ("Sample Rate", "Lead,Lead I", "Unit"), ("Abtastrate", "Ableitung,Ableitung I", "Einheit"),
        ("Fréquence d’échantillonnage", "Dérivation,Dérivation I", "Unité"), ("Frecuencia de muestreo", "Derivación,Derivación I", "Unidad"),
        ("Frequenza di campionamento", "Derivazione,Derivazione I", "Unità"), ("Частота", "Отведение,Отведение I", "Единица"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("decimal", [".", ","])
def test_the_single_lead_of_a_watch_in_other_languages(rate: str, lead: str, unit: str, decimal: str) -> None:
    cells = [f"{value * 1000:.3f}".replace(".", decimal) for value in SIGNAL[0]]
    cells = [f'"{cell}"' for cell in cells] if decimal == "," else cells
    record = read(f"Name,Sinus\n{rate},500 hertz\n\n\n{lead}\n{unit},µV\n\n" + "\n".join(cells) + "\n")
    assert (record.leads, record.fs_hz) == (("I",), 500)
    assert record.signal[0] == pytest.approx(SIGNAL[0], abs=1e-5)


def test_a_chest_belt_with_three_clocks_takes_the_one_with_a_unit() -> None:
    head = "Phone timestamp;sensor timestamp [ns];timestamp [ms];ecg [uV]\n"
    rows = [
        # The phone's clock comes in packets; the sensor's is even.
        f"2022-01-01T10:00:0{i // 73 % 10}.{i // 73 % 10:03d};{600_000_000_000_000_000 + i * 7_692_308};{i / 0.13:.3f};{value:.0f}"
        for i, value in enumerate(SIGNAL[0] * 1000)
    ]
    record = read(head + "\n".join(rows))
    assert (record.leads, record.fs_hz) == (("ecg",), 130)
    assert record.signal[0] == pytest.approx(SIGNAL[0], abs=1e-3)
    assert not record.meta.dropped_channels


def test_columns_of_words_and_of_other_signals_are_dropped_and_named() -> None:
    lines = ["time (s),II (mV),HR (bpm),SpO2,resp,beat,comment"]
    lines += [
        f"{at:.3f},{value},60,98,{i},{'N' if i % 50 else 'V'},{'' if i else 'start'}"
        for i, (at, value) in enumerate(zip(TIMES_S, SIGNAL[1], strict=True))
    ]
    record = read("\n".join(lines))
    assert (record.leads, record.fs_hz, record.n_samples) == (("II",), FS_HZ, N)
    assert record.signal[0] == pytest.approx(SIGNAL[1], abs=1e-6)
    assert record.meta.dropped_channels == ("HR (bpm)", "SpO2", "resp", "beat", "comment")


@pytest.mark.parametrize(
    "text",
    [
        "ecg,age,sex,label\n1,50,0,1\n2,51,1,0\n3,52,1,0\n",
        "record,rhythm,AS,AI\na,SR,0,1\nb,AF,1,0\nc,SR,0,0\n",
        "ecg_id,report,V1\nx,sinus rhythm,high\ny,af,low\nz,af,low\n",
    ],
)
def test_tables_of_labels_are_no_ecgs(text: str) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read(text)
    assert caught.value.code == "not_an_ecg"


def test_times_in_nanoseconds_since_1970() -> None:
    first = [str(1_600_000_000_000_000_000 + i * 2_000_000) for i in range(N)]
    assert_is_signal(read(text_of(["timestamp", *MV_NAMES], first)))


@pytest.mark.parametrize("name", ["-aVR (mV)", "aVR (neg)", "(-)aVR", "aVR_inv"])
def test_a_column_of_a_lead_stored_upside_down(name: str) -> None:
    text = f"I (mV),{name}\n" + "\n".join(f"{a},{b}" for a, b in SIGNAL[:2].T)
    options = RATE if "mV" in name else RATE_AND_UNIT
    record = read(text if "mV" in name else text.replace(" (mV)", ""), options)
    assert record.leads == ("I", "-aVR")
    assert normalise(record).lead("aVR") == pytest.approx(-SIGNAL[1], abs=1e-6)


def test_columns_that_a_line_of_json_above_the_table_names() -> None:
    told = {"20:16": {"sensor": ["ECG"], "label": ["A2"], "column": ["nSeq", "I1", "O1", "A2"], "sampling rate": 1000}}
    lines = ["# OpenSignals Text File Format", f"# {json.dumps(told)}", "# EndOfHeader"]
    lines += [f"{i % 16}\t1\t0\t{500 + round(value * 100)}\t" for i, value in enumerate(SIGNAL[0])]
    with pytest.raises(NeedsAnswer) as caught:
        read("\n".join(lines))
    # The converter's digits are not those of a voltage; nothing else is open.
    assert set(caught.value.fields) == {"unit"}
    record = read("\n".join(lines), ReadOptions(unit="100/mV"))
    assert (record.leads, record.fs_hz) == (("ECG",), 1000)
    assert record.signal[0] == pytest.approx(5 + SIGNAL[0], abs=0.006)
    assert record.meta.dropped_channels == ("I1", "O1")
