"""WFDB signal files: every storage format, frames, gaps, gains and segments, against the wfdb package."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import wfdb

from tests.datasets.formats.wfdb_tools import read_made, read_path

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
