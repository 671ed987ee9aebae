"""WFDB records: the facts of real files, agreement with the wfdb package, and hostile headers."""

from __future__ import annotations

import io
import json
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb

from datasets.ecg import LEADS_12, Record
from datasets.formats import _wfdb_signals, registry
from datasets.formats import wfdb as wfdb_reader
from datasets.formats._clinical import lead_name
from datasets.formats._wfdb_header import parse_header
from datasets.formats.archive import FileSource
from datasets.formats.base import BytesSource, ReadOptions, ReadResult
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile
from tests.shared import SHARED, needs_shared, shared_path


def folder_index(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def read_path(path: Path, options: ReadOptions | None = None) -> ReadResult:
    entry, result = registry.read(FileSource(path.name, path, folder_index(path.parent)), options)
    assert entry.name == "wfdb"
    return result


def read_made(
    header: str, files: dict[str, bytes] | None = None, options: ReadOptions | None = None, name: str = "x.hea"
) -> Record:
    entry, result = registry.read(BytesSource(name, header.encode(), files or {}), options)
    assert entry.name == "wfdb"
    return result.records[0][1]


@cache
def fixtures() -> list[tuple[str, dict]]:
    if SHARED is None:
        return []
    table = json.loads((SHARED / "ecg" / "expected.json").read_text())
    return [(e["dst"], e["facts"]) for e in table if e["dst"].endswith(".hea") and e["facts"]]


@needs_shared
@pytest.mark.parametrize(("name", "facts"), fixtures(), ids=[name for name, _ in fixtures()])
def test_facts_of_real_records(name: str, facts: dict) -> None:
    ((key, record),) = read_path(shared_path("ecg", *name.split("/"))).records
    assert key == Path(name).stem
    assert len(record.leads) + len(record.meta.dropped_channels) == facts["leads"]
    assert record.fs_hz == facts["fs"]
    assert record.n_samples == facts["n"]
    assert record.duration_s == pytest.approx(facts["seconds"], abs=1e-3)
    assert int(np.isnan(record.signal).sum()) == facts["nan_samples"]
    kept = [lead for lead in facts["names"] if lead not in record.meta.dropped_channels]
    assert [lead_name(lead) for lead in kept] == list(record.leads)
    assert record.signal[:2, 0] == pytest.approx(facts["first_sample"][:2], abs=1e-4)
    assert [record.signal[0].min(), record.signal[0].max()] == pytest.approx(facts["ch0_min_max"], abs=1e-4)
    assert record.signal.dtype == np.float32


@needs_shared
def test_annotations_of_mitdb_100() -> None:
    result = read_path(shared_path("ecg", "wfdb", "mitdb_100", "100.hea"))
    record = result.records[0][1]
    assert len(record.meta.annotations) == 2274
    assert sum(symbol != "+" for _, symbol, _, _ in record.meta.annotations) == 2273
    assert record.meta.annotations[0][1:] == ("+", None, "(N")
    reference = wfdb.rdann(str(shared_path("ecg", "wfdb", "mitdb_100", "100")), "atr")
    assert [s for _, s, _, _ in record.meta.annotations] == reference.symbol
    assert np.allclose([t for t, _, _, _ in record.meta.annotations], reference.sample / 360)
    assert (record.meta.age, record.meta.sex) == (69, "male")
    assert set(result.companions) == {"100.dat", "100.atr"}


@needs_shared
def test_wave_marks_of_ludb_name_their_lead() -> None:
    record = read_path(shared_path("ecg", "labelled", "ludb", "data", "2.hea")).records[0][1]
    reference = wfdb.rdann(str(shared_path("ecg", "labelled", "ludb", "data", "2")), "ii")
    found = [(t, s) for t, s, lead, _ in record.meta.annotations if lead == "II"]
    assert [s for _, s in found] == reference.symbol
    assert np.allclose([t for t, _ in found], reference.sample / 500)
    assert {lead for _, _, lead, _ in record.meta.annotations} == set(LEADS_12)
    assert (record.meta.age, record.meta.sex) == (64, "male")
    assert [label.code for label in record.meta.labels][:3] == [
        "Sinus rhythm", "Electric axis of the heart: normal", "Left atrial hypertrophy"
    ]  # fmt: skip


@needs_shared
@pytest.mark.parametrize(
    "folder", ["cinc2021", "cpsc2018", "ludb/data", "ptbxl/records500/00000", "ptbxl/records100/00000"]
)
def test_samples_are_those_of_the_wfdb_package_bit_for_bit(folder: str) -> None:
    for path in sorted(shared_path("ecg", "labelled", *folder.split("/")).glob("*.hea"))[:12]:
        record = read_path(path).records[0][1]
        reference, fields = wfdb.rdsamp(str(path.with_suffix("")))
        assert np.array_equal(record.signal, reference.T.astype(np.float32), equal_nan=True)
        assert record.fs_hz == fields["fs"]
        assert record.leads == LEADS_12
        assert record.meta.notes == ()


@needs_shared
def test_averaged_frames_are_those_of_the_wfdb_package() -> None:
    path = shared_path("ecg", "wfdb", "skewframe", "test01_00s_frame.hea")
    record = read_path(path).records[0][1]
    assert np.array_equal(record.signal, wfdb.rdsamp(str(path.with_suffix("")))[0].T.astype(np.float32))
    assert "ECG_2" in record.meta.notes[0]


@needs_shared
def test_early_georgia_header_gives_the_samples_of_the_later_release() -> None:
    early = read_path(shared_path("ecg", "wfdb", "cinc2020_bad_header", "E00001.hea")).records[0][1]
    later = read_path(shared_path("ecg", "labelled", "cinc2021", "E00001.hea")).records[0][1]
    assert np.array_equal(early.signal, later.signal)
    assert early.fs_hz == 500 and early.n_samples == 5000
    assert early.meta.labels == () and early.meta.age is None and early.meta.sex == "female"
    assert "4880" in early.meta.notes[0] and later.meta.notes == ()


@needs_shared
@pytest.mark.parametrize(
    ("record", "age", "sex", "codes"),
    [("E00001", None, "female", ["426783006"]), ("E07501", 65, "male", ["253352002", "427084000"])],
)
def test_both_spellings_of_the_challenge_comments(record: str, age: float, sex: str, codes: list[str]) -> None:
    meta = read_path(shared_path("ecg", "labelled", "cinc2021", f"{record}.hea")).records[0][1].meta
    assert (meta.age, meta.sex) == (age, sex)
    assert [(label.system, label.code) for label in meta.labels] == [("snomed", code) for code in codes]


@needs_shared
def test_a_channel_that_is_no_ecg_is_dropped_and_named() -> None:
    record = read_path(shared_path("ecg", "wfdb", "mat_3sig", "a103l.hea")).records[0][1]
    assert record.leads == ("II", "V") and record.meta.dropped_channels == ("PLETH",)


@needs_shared
def test_a_flac_file_is_refused_before_it_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_path("ecg", "wfdb", "flac_bomb", "flac_3_constant.hea")
    monkeypatch.setattr("datasets.formats._clinical.MAX_VALUES", 10_000_000)
    monkeypatch.setattr(wfdb, "rdrecord", lambda *a, **k: pytest.fail("the file was expanded"))
    with pytest.raises(TooLarge):
        read_path(path)


@needs_shared
def test_a_flac_header_that_lies_about_its_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_path("ecg", "wfdb", "flac_bomb")
    header = (folder / "flac_3_constant.hea").read_text().replace("5600000", "95600000")
    monkeypatch.setattr(wfdb, "rdrecord", lambda *a, **k: pytest.fail("the file was expanded"))
    with pytest.raises(UnreadableFile) as caught:
        read_made(header, {"flac_3_constant.dat": (folder / "flac_3_constant.dat").read_bytes()})
    assert caught.value.code == "signal_file_truncated"


SIGNAL = np.random.default_rng(7).integers(-2000, 2000, (600, 3))


@pytest.mark.parametrize("fmt", ["80", "212", "16", "24", "32", "508", "516", "524"])
def test_every_storage_format_agrees_with_the_wfdb_package(fmt: str, tmp_path: Path) -> None:
    bits = {"80": 8, "508": 8}.get(fmt, 12)
    digits = np.clip(SIGNAL, -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)
    wfdb.wrsamp("r", 250, ["mV", "uV", "V"], ["I", "II", "V1"], d_signal=digits, fmt=[fmt] * 3, adc_gain=[200.0, 0.5, 3000.0],
                baseline=[0, 7, -3], write_dir=str(tmp_path))  # fmt: skip
    record = read_path(tmp_path / "r.hea").records[0][1]
    reference = wfdb.rdsamp(str(tmp_path / "r"))[0].T * np.array([[1.0], [1e-3], [1e3]])
    assert record.signal == pytest.approx(reference.astype(np.float32), rel=1e-6, abs=1e-9)
    assert record.leads == ("I", "II", "V1") and record.n_samples == 600


@pytest.mark.parametrize("fmt", [160, 310, 311, 212, 80, 24, 32])
@pytest.mark.parametrize("frames", [599, 600])
def test_any_bytes_decode_as_the_wfdb_package_decodes_them(fmt: int, frames: int, tmp_path: Path) -> None:
    (tmp_path / "r.dat").write_bytes(np.random.default_rng(fmt).bytes(8 * 600))
    lines = [f"r.dat {fmt} 200(5)/mV 10 0 0 0 0 {lead}\n" for lead in ("I", "II")]
    (tmp_path / "r.hea").write_text(f"r 2 250 {frames}\n" + "".join(lines))
    record = read_path(tmp_path / "r.hea").records[0][1]
    reference = wfdb.rdsamp(str(tmp_path / "r"))[0].T.astype(np.float32)
    assert np.array_equal(record.signal, reference, equal_nan=True)


def test_format_61_has_its_most_significant_byte_first() -> None:
    record = read_made(
        "x 2 100 2\nx.dat 61 100 16 0 0 0 0 I\nx.dat 61 100 16 0 0 0 0 II\n",
        {"x.dat": struct.pack(">4h", 1, -2, 300, -32768)},
    )
    assert np.array_equal(record.signal, np.array([[0.01, 3], [-0.02, np.nan]], np.float32), equal_nan=True)


def test_format_8_starts_from_the_initial_value() -> None:
    record = read_made("x 1 100 4\nx.dat 8 100 8 0 50 0 0 II\n", {"x.dat": struct.pack("4b", 0, 1, -2, 5)})
    assert record.signal[0] == pytest.approx([0.5, 0.51, 0.49, 0.54])


def test_skewed_signals_are_brought_into_line(tmp_path: Path) -> None:
    data = np.arange(20, dtype="<i2").tobytes()
    header = "x 2 100 10\nx.dat 16:0 100 16 0 0 0 0 I\nx.dat 16:3 100 16 0 0 0 0 II\n"
    record = read_made(header, {"x.dat": data})
    assert record.lead("I")[:3] == pytest.approx([0, 0.02, 0.04])
    assert record.lead("II")[:3] == pytest.approx([0.07, 0.09, 0.11])
    assert np.isnan(record.lead("II")[-3:]).all() and not np.isnan(record.lead("II")[:-3]).any()


def test_leads_that_all_run_faster_than_the_frame_keep_their_rate() -> None:
    data = np.arange(40, dtype="<i2").tobytes()
    header = "x 3 62.5 4\nx.dat 16x4 100/mV 16 0 0 0 0 I\nx.dat 16x4 100/mV 16 0 0 0 0 II\nx.dat 16x2 1/mmHg 16 0 0 0 0 ABP\n"
    record = read_made(header, {"x.dat": data})
    assert record.fs_hz == 250 and record.n_samples == 16
    assert record.lead("I")[:6] == pytest.approx([0, 0.01, 0.02, 0.03, 0.10, 0.11])
    assert record.meta.dropped_channels == ("ABP",)


def test_the_value_for_no_sample_is_a_gap() -> None:
    data = np.array([[100, -32768], [-32768, 50]], dtype="<i2").tobytes()
    record = read_made("x 2 100 2\nx.dat 16 100 16 0 0 0 0 I\nx.dat 16 100(10) 16 0 0 0 0 II\n", {"x.dat": data})
    assert np.array_equal(record.signal, np.array([[1, np.nan], [np.nan, 0.4]], np.float32), equal_nan=True)


def test_units_are_brought_to_millivolt() -> None:
    data = np.full((2, 4), 100, dtype="<i2").tobytes()
    lines = [
        f"x.dat 16 100/{unit} 16 0 0 0 0 {lead}"
        for unit, lead in (("uV", "I"), ("V", "II"), ("mV", "III"), ("mv", "V1"))
    ]
    record = read_made("x 4 100 2\n" + "\n".join(lines), {"x.dat": data})
    assert record.signal[:, 0] == pytest.approx([0.001, 1000, 1, 1])


def test_odd_gains_give_the_bits_of_double_precision() -> None:
    digits = np.random.default_rng(3).integers(-32767, 32767, (4000, 2)).astype("<i2")
    lines = "x.dat 16 1.052e+04(-3)/mV 16 0 0 0 0 I\nx.dat 16 200.1(16777217)/mV 16 0 0 0 0 II\n"
    record = read_made("x 2 100 4000\n" + lines, {"x.dat": digits.tobytes()})
    exact = (digits.astype(np.float64) - [-3, 16777217]) / [10520.0, 200.1]
    assert np.array_equal(record.signal, exact.T.astype(np.float32))


def test_a_wrong_checksum_is_noted() -> None:
    data = np.array([[1, 2], [3, 4]], dtype="<i2").tobytes()
    record = read_made("x 2 100 2\nx.dat 16 100 16 0 1 4 0 I\nx.dat 16 100 16 0 2 5 0 II\n", {"x.dat": data})
    assert len(record.meta.notes) == 1 and "II" in record.meta.notes[0] and ": I." not in record.meta.notes[0]


def test_a_header_without_length_takes_it_from_the_file() -> None:
    record = read_made(
        "x 2 100\nx.dat 16+24 100 16 0 0 0 0 I\nx.dat 16+24 100 16 0 0 0 0 II\n", {"x.dat": bytes(24 + 40)}
    )
    assert record.n_samples == 10


SEGMENTS = {
    "s1.hea": b"s1 2 100 3\ns1.dat 16 100 16 0 0 0 0 I\ns1.dat 16 100 16 0 0 0 0 II\n",
    "s1.dat": np.array([[1, 2], [3, 4], [5, 6]], dtype="<i2").tobytes(),
    "s2.hea": b"s2 2 100 2\ns2.dat 16 50 16 0 0 0 0 V5\ns2.dat 16 50 16 0 0 0 0 II\n",
    "s2.dat": np.array([[10, 20], [30, 40]], dtype="<i2").tobytes(),
    "lay.hea": b"lay 3 100 0\n~ 0 100 16 0 0 0 0 I\n~ 0 100 16 0 0 0 0 II\n~ 0 100 16 0 0 0 0 V5\n",
}


def test_segments_of_a_fixed_layout_are_joined() -> None:
    record = read_made("m/2 2 100 6\ns1 3\ns1 3\n", SEGMENTS)
    assert record.lead("II") == pytest.approx([0.02, 0.04, 0.06] * 2)


def test_segments_of_a_variable_layout_leave_gaps() -> None:
    record = read_made("m/4 3 100 7\nlay 0\ns1 3\n~ 2\ns2 2\n", SEGMENTS)
    assert record.leads == ("I", "II", "V5") and record.n_samples == 7
    nan = np.nan
    expected = [[0.01, 0.03, 0.05, nan, nan, nan, nan], [0.02, 0.04, 0.06, nan, nan, 0.4, 0.8], [nan] * 5 + [0.2, 0.6]]
    assert np.allclose(record.signal, expected, equal_nan=True)


@pytest.mark.parametrize("layout_format", ["0", "16"])
def test_segments_agree_with_the_wfdb_package(layout_format: str, tmp_path: Path) -> None:
    for name, data in SEGMENTS.items():
        (tmp_path / name).write_bytes(data.replace(b"~ 0 ", f"~ {layout_format} ".encode()))
    (tmp_path / "m.hea").write_text("m/4 3 100 7\nlay 0\ns1 3\n~ 2\ns2 2\n")
    reference = wfdb.rdrecord(str(tmp_path / "m"), m2s=True).p_signal.T
    record = read_path(tmp_path / "m.hea").records[0][1]
    assert np.allclose(record.signal, reference, equal_nan=True)


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
