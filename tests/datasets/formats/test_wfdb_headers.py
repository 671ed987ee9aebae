"""WFDB headers: hostile ones, what they leave open, and the habits of other collections."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb

from datasets.ecg import LEADS_12
from datasets.formats import _wfdb_signals, registry
from datasets.formats import wfdb as wfdb_reader
from datasets.formats._wfdb_header import parse_header
from datasets.formats.archive import FileSource
from datasets.formats.base import BytesSource, ReadOptions
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile
from tests.datasets.formats.wfdb_tools import read_made, read_path

HEADER = "x 1 100 4\nx.dat 16 100 16 0 0 0 0 II\n"


@pytest.mark.parametrize(
    "name", ["../secret.dat", "/etc/passwd", "http://host/x.dat", "file:///etc/passwd", "sub/x.dat", "..\\x.dat"]
)
@pytest.mark.parametrize("fmt", ["16", "212"])
def test_a_header_reaches_files_of_its_own_folder_only(name: str, fmt: str, tmp_path: Path) -> None:
    (tmp_path / "secret.dat").write_bytes(bytes(100))
    folder = tmp_path / "upload"
    folder.mkdir()
    (folder / "x.hea").write_text(HEADER.replace("x.dat 16", f"{name} {fmt}"))
    source = FileSource(
        "upload/x.hea", folder / "x.hea", {"upload/x.hea": folder / "x.hea", "secret.dat": tmp_path / "secret.dat"}
    )
    with pytest.raises(UnreadableFile) as caught:
        registry.read(source)
    assert caught.value.code == "signal_file_missing"
    assert name in caught.value.message.replace("\\\\", "\\") and "upload/x.hea" in caught.value.message


def test_a_segment_outside_the_folder_is_not_read() -> None:
    with pytest.raises(UnreadableFile) as caught:
        read_made("m/1 1 100 4\n../x 4\n")
    assert caught.value.code == "signal_file_missing"


@pytest.mark.parametrize("fmt", ["16", "212", "32"])
def test_a_truncated_signal_file_names_both_files(fmt: str) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read_made(HEADER.replace("16 100", f"{fmt} 100", 1).replace(" 4\n", " 400\n", 1), {"x.dat": bytes(100)})
    assert caught.value.code == "signal_file_truncated"
    assert "x.hea" in caught.value.message and "x.dat" in caught.value.message


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("x 2 100 4\nx.dat 16 100 16 0 0 0 0 II\n", "bad_header"),
        ("x 1 100 4\nx.dat 16 100 16 0 0 0 0 II\n", "bad_rate"),
        ("x 1 100 4\nx.dat 16 1/NU 16 0 0 0 0 PLETH\n", "no_ecg_lead"),
        ("x/1 1 100 4\ny 4\n", "bad_header"),
    ],
)
def test_headers_that_make_no_sense_are_refused(header: str, code: str) -> None:
    files = {"x.dat": bytes(8), "y.hea": b"y/1 1 100 4\nx 4\n"}
    if code == "bad_rate":
        header = header.replace("100 4", "0 4")
    with pytest.raises(UnreadableFile) as caught:
        read_made(header, files)
    assert caught.value.code == code


def test_a_length_beyond_the_limit_is_refused_before_reading() -> None:
    for header in (
        "x 1 100 400000000\nx.dat 16 100 16 0 0 0 0 II\n",
        "m/2 1 100 1000000004\nx 4\n~ 1000000000\n",
        "m/2 1 100 30000004\nx 4\n~ 30000000\n",
    ):
        with pytest.raises(TooLarge):
            read_made(header, {"x.dat": bytes(8), "x.hea": HEADER.encode()})


def test_an_uncalibrated_signal_is_asked_for() -> None:
    header = "x 1 100 4\nx.dat 16 0 12 0 0 0 0 I\n"
    with pytest.raises(NeedsAnswer) as caught:
        read_made(header, {"x.dat": bytes(8)})
    assert "200/mV" in caught.value.fields["unit"]
    data = np.array([100, 200, 0, 0], dtype="<i2").tobytes()
    assert read_made(header, {"x.dat": data}, ReadOptions(unit="200/mV")).signal[0, 0] == pytest.approx(0.5)


def test_a_lead_in_no_voltage_is_asked_for() -> None:
    header = "x 1 100 2\nx.dat 16 100/NU 16 0 0 0 0 II\n"
    data = np.array([100, 200], dtype="<i2").tobytes()
    with pytest.raises(NeedsAnswer):
        read_made(header, {"x.dat": data})
    assert read_made(header, {"x.dat": data}, ReadOptions(unit="uV")).signal[0, 1] == pytest.approx(0.002)


def test_two_channels_of_one_name_stay_apart() -> None:
    record = read_made(
        "x 2 100 1\nx.dat 16 100 16 0 0 0 0 ECG\nx.dat 16 100 16 0 0 0 0 ECG\n", {"x.dat": struct.pack("<2h", 1, 2)}
    )
    assert record.leads == ("ECG", "ECG (2)")


def test_record_line_variants() -> None:
    assert parse_header("a 0 360.5/1000(3) 900 12:30:05 24/12/1999", "a.hea").recorded_at == "1999-12-24T12:30:05"
    assert parse_header("a 0 500 5000 05-May-2020 14:50:55", "a.hea").recorded_at is None
    assert parse_header("a 0", "a.hea").fs_hz == 250
    assert parse_header("a.mat 0 500", "a.hea").name == "a"


def test_signal_files_are_told_by_name() -> None:
    assert all(wfdb_reader.is_signal_file_name(n) for n in ("a/00001_hr.dat", "E1.mat", "s.xyz", "s.D01"))
    assert not any(wfdb_reader.is_signal_file_name(n) for n in ("a.hea", "a.csv", "dat", ".dat"))


def test_packed_files_need_no_padding_at_their_end() -> None:
    header = BytesSource("x.hea", b"")
    spec = parse_header("x 1 100\nx.dat 212 100 12 0 0 0 0 I", "x.hea").signals
    assert [_wfdb_signals.frames_that_fit(header, BytesSource("x.dat", bytes(n)), spec) for n in (3, 5, 6)] == [2, 3, 4]


PAIR = "x.dat 16 1000/mV 16 0 0 0 0 I\nx.dat 16 1000/mV 16 0 0 0 0 II\n"
PAIR_FILES = {"x.dat": np.arange(8, dtype="<i2").tobytes()}


def test_a_signal_that_no_file_holds_is_missing_and_named() -> None:
    record = read_made("x 3 100 4\n" + PAIR + "~ 0 1000/mV 16 0 0 0 0 V1\n", PAIR_FILES)
    assert record.leads == ("I", "II") and record.meta.dropped_channels == ("V1",)


def test_signals_without_names_are_asked_for_and_the_answer_taken() -> None:
    header = "x 2 100 4\nx.dat 16 1000\nx.dat 16 1000\n"
    with pytest.raises(NeedsAnswer) as asked:
        read_made(header, PAIR_FILES)
    assert asked.value.fields["lead_order"].startswith("No guess:")
    record = read_made(header, PAIR_FILES, ReadOptions(lead_order=("V1", "II")))
    assert record.leads == ("V1", "II") and record.signal[:, 1] == pytest.approx([0.002, 0.003])
    with pytest.raises(NeedsAnswer) as asked:
        read_made("x 2 100 4\nx.dat 16\nx.dat 16\n", PAIR_FILES)
    assert set(asked.value.fields) == {"unit", "lead_order"}


def test_names_in_the_header_win_over_the_answer() -> None:
    assert read_made("x 2 100 4\n" + PAIR, PAIR_FILES, ReadOptions(lead_order=("V5", "V6"))).leads == ("I", "II")


@pytest.mark.parametrize(
    ("comment", "subject", "age"),
    [
        ("# <subject_id>: 10000032", "10000032", None),
        ("#Patient ID: a-7", "a-7", None),
        ("# average: 12", None, None),
        ("#Dosage: 5", None, None),
    ],
)
def test_the_subject_by_its_key_and_no_age_by_another_word(
    comment: str, subject: str | None, age: float | None
) -> None:
    record = read_made(f"x 2 100 4\n{PAIR}{comment}\n", PAIR_FILES)
    assert record.meta.subject == subject and record.meta.age == age


def test_a_matrix_whose_header_forgets_the_24_bytes_before_the_samples() -> None:
    matrix = struct.pack("<5i", 30, 2, 4, 0, 4) + b"val\x00" + np.arange(8, dtype="<i2").tobytes()
    record = read_made("x 2 100 4\n" + PAIR.replace(".dat", ".mat"), {"x.mat": matrix})
    assert record.signal[:, 1] == pytest.approx([0.002, 0.003]) and "24 bytes" in " ".join(record.meta.notes)


def test_capitals_in_the_name_of_a_signal_file_do_not_matter() -> None:
    assert read_made("x 2 100 4\n" + PAIR.replace("x.dat", "X.DAT"), PAIR_FILES).n_samples == 4


def test_other_signals_are_told_by_any_word_of_their_name() -> None:
    names = ("ECG", "foot GSR", "HR", "marker", "RESP", "Pressure of ECG cuff", "left thorax band")
    lines = "".join(f"x.dat 16 1000 16 0 0 0 0 {name}\n" for name in names)
    record = read_made(f"x 7 15.5 10\n{lines}", {"x.dat": np.arange(70, dtype="<i2").tobytes()})
    assert record.leads == ("ECG", "Pressure of ECG cuff")
    assert record.meta.dropped_channels == ("foot GSR", "HR", "marker", "RESP", "left thorax band")


def test_the_eeg_of_a_sleep_record_is_no_ecg() -> None:
    names = ("Fp2-F4", "F4-C4", "C4-A1", "ROC-LOC", "EMG1-EMG2", "ECG1-ECG2")
    lines = [f"x.dat 16 44.96/uV 15 0 0 0 0 {name}\n" for name in names]
    data = {"x.dat": np.arange(60, dtype="<i2").tobytes()}
    record = read_made(f"x 6 100 10\n{''.join(lines)}", data)
    assert record.leads == ("ECG1-ECG2",) and len(record.meta.dropped_channels) == 5
    with pytest.raises(UnreadableFile) as caught:
        read_made(f"x 5 100 12\n{''.join(lines[:5])}", data)
    assert caught.value.code == "no_ecg_lead"


def test_a_file_of_its_own_kind_for_every_signal(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    lines, formats = [], ("16", "80", "24", "32")
    for index, fmt in enumerate(formats):
        wfdb.wrsamp(f"p{index}", 250, ["mV"], [LEADS_12[index]], d_signal=rng.integers(-100, 100, (300, 1)), fmt=[fmt],
                    adc_gain=[200.0], baseline=[0], write_dir=str(tmp_path))  # fmt: skip
        lines.append((tmp_path / f"p{index}.hea").read_text().splitlines()[1])
    (tmp_path / "all.hea").write_text("\n".join([f"all {len(formats)} 250/999.56 300", *lines]) + "\n")
    ((_, record),) = read_path(tmp_path / "all.hea").records
    assert record.leads == LEADS_12[:4]
    assert record.signal == pytest.approx(wfdb.rdsamp(str(tmp_path / "all"))[0].T, abs=1e-6)


def test_a_signal_file_that_matlab_saved_again_is_not_taken_for_bare_samples() -> None:
    digits = np.arange(600, dtype="<i2").reshape(2, 300)
    for level, kind in (("4", "<i2"), ("4", "<f8"), ("4", "<i4"), ("5", "<i2")):
        out = io.BytesIO()
        scipy.io.savemat(out, {"val": digits.astype(kind)}, format=level)
        header = "x 2 500 300\nx.mat 16+24 1000/mV 16 0 0 0 0 I\nx.mat 16+24 1000/mV 16 0 0 0 0 II\n"
        if (level, kind) == ("4", "<i2"):
            assert read_made(header, {"x.mat": out.getvalue()}).lead("II")[-1] == pytest.approx(0.599)
            continue
        with pytest.raises(UnreadableFile, match="saved again by MATLAB") as caught:
            read_made(header, {"x.mat": out.getvalue()})
        assert caught.value.code == "signal_file_damaged"


@pytest.mark.parametrize(
    ("comments", "subject", "age", "sex", "labels"),
    [
        (
            "# <age>: 65 <sex>: F <diagnoses> Coronary artery disease, arterial hypertension\n# patient 1",
            "1", 65, "female", ["Coronary artery disease", "arterial hypertension"],
        ),
        ("# Age (years): 45\n# Gender = Female", None, 45, "female", []),
        ("#Age:45y\n#Sex:M", None, 45, "male", []),
        ("# age: >89  sex: M", None, 90, "male", []),
        ("# age: 6 months", None, 0.5, None, []),
        ("#Age: NaN\n#Sex: Unknown", None, None, None, []),
        ("# Rhythm: AF\n# Diagnosis: Anterior MI, seen by Smith", None, None, None, ["AF", "Anterior MI"]),
    ],
)  # fmt: skip
def test_what_comments_of_other_collections_say(
    comments: str, subject: str | None, age: float | None, sex: str | None, labels: list[str]
) -> None:
    meta = read_made(f"x 2 100 4\n{PAIR}{comments}\n", PAIR_FILES).meta
    assert (meta.subject, meta.age, meta.sex) == (subject, age, sex)
    assert [label.code for label in meta.labels] == labels


@pytest.mark.parametrize("suffix", ["qrs", "ecg", "man", "ari"])
def test_annotations_of_another_annotator_are_kept_where_there_are_no_reference_ones(
    suffix: str, tmp_path: Path
) -> None:
    wfdb.wrann(
        "x", suffix, np.array([10, 40, 90]), ["N", "V", "+"], aux_note=["", "", "(AFIB"], write_dir=str(tmp_path)
    )
    other = (tmp_path / f"x.{suffix}").read_bytes()
    record = read_made("x 2 100 4\n" + PAIR, PAIR_FILES | {f"x.{suffix}": other})
    assert record.meta.annotations == ((0.1, "N", None, ""), (0.4, "V", None, ""), (0.9, "+", None, "(AFIB"))
    assert suffix in " ".join(record.meta.notes)
    wfdb.wrann("x", "atr", np.array([20]), ["N"], write_dir=str(tmp_path))
    files = PAIR_FILES | {f"x.{suffix}": other, "x.atr": (tmp_path / "x.atr").read_bytes()}
    assert [at for at, *_ in read_made("x 2 100 4\n" + PAIR, files).meta.annotations] == [0.2]


@pytest.mark.parametrize("stored", ["x.DAT", "X.dat"])
def test_signal_files_under_other_capitals_and_with_a_dot_before_them(stored: str) -> None:
    header = "x 2 100 4\n" + PAIR.replace("x.dat", "./x.dat" if stored == "x.DAT" else "X.DAT")
    assert read_made(header, {stored: PAIR_FILES["x.dat"]}).n_samples == 4


def test_a_baseline_written_as_a_fraction() -> None:
    record = read_made("x 2 100 4\n" + PAIR.replace("1000/mV", "1000.0(2.0)/mV"), PAIR_FILES)
    assert record.signal[:, 1] == pytest.approx([0.0, 0.001])


def test_twelve_numbered_channels_ask_for_their_leads_and_two_do_not() -> None:
    lines = "".join(f"x.dat 16 1000 16 0 0 0 0 ECG{i + 1}\n" for i in range(12))
    files = {"x.dat": np.arange(48, dtype="<i2").tobytes()}
    with pytest.raises(NeedsAnswer) as asked:
        read_made("x 12 100 4\n" + lines, files)
    assert asked.value.fields["lead_order"].startswith("Guess: I II III")
    assert read_made("x 12 100 4\n" + lines, files, ReadOptions(lead_order=LEADS_12)).leads == LEADS_12
    two = PAIR.replace(" I\n", " ECG1\n").replace(" II\n", " ECG2\n")
    assert read_made("x 2 100 4\n" + two, PAIR_FILES).leads == ("ECG1", "ECG2")


def test_a_header_without_a_rate_says_so_and_takes_the_answer() -> None:
    record = read_made("x 2\n" + PAIR, PAIR_FILES)
    assert record.fs_hz == 250 and "no sampling rate" in " ".join(record.meta.notes)
    assert read_made("x 2\n" + PAIR, PAIR_FILES, ReadOptions(fs_hz=500)).fs_hz == 500
    assert read_made("x 2 100 4\n" + PAIR, PAIR_FILES, ReadOptions(fs_hz=500)).fs_hz == 100


@pytest.mark.parametrize("data", [b"", b"\x00", b"<ECG/>", b"\x01" * 16 + b"SCPECG" + b"\x00" * 20, b"time,I\n0,1\n"])
def test_another_file_under_an_annotators_name_is_left_to_its_own_reader(data: bytes) -> None:
    _, result = registry.read(BytesSource("x.hea", f"x 2 100 4\n{PAIR}".encode(), PAIR_FILES | {"x.ecg": data}))
    assert result.companions == ("x.dat",) and not result.records[0][1].meta.annotations
