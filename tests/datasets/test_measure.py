"""Measurements: right numbers on records with known truth, and no number where there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12, Record
from datasets.measure.beats import median_beat
from datasets.measure.delineate import Beat
from datasets.measure.detect import detect_r_peaks
from datasets.measure.intervals import axis_degrees, corrected_qt, rr_statistics
from datasets.measure.measure import measure
from datasets.simulate import SimulatedECG, simulate
from ecgportal.errors import InvalidInput

FIELDS = ("heart_rate_bpm", "rr_ms", "p_ms", "pr_ms", "qrs_ms", "qt_ms")


def _inside(sim: SimulatedECG) -> np.ndarray:
    times = np.array(sim.r_peaks_s)
    return times[(times > 0.3) & (times < sim.record.duration_s - 0.3)]


@pytest.mark.parametrize("fs_hz", [100.0, 250.0, 500.0, 1000.0])
@pytest.mark.parametrize(
    "condition", ["SNR", "SB", "STACH", "SA", "AF", "PVC", "PAC", "RBBB", "LBBB", "LVH", "STE_INF"]
)
def test_every_simulated_beat_is_found_and_no_other(condition: str, fs_hz: float) -> None:
    sim = simulate(condition, 3, fs_hz=fs_hz)
    found = detect_r_peaks(sim.record.signal, fs_hz) / fs_hz
    for at in _inside(sim):
        assert np.abs(found - at).min() < 0.1, at
    for at in found[(found > 0.3) & (found < 9.7)]:
        assert np.abs(sim.r_peaks_s - at).min() < 0.1, at


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("condition", ["SNR", "SB", "IAVB", "RBBB", "LVH", "PVC", "PAC", "STE_ANT"])
def test_intervals_agree_with_the_simulators_truth(condition: str, seed: int) -> None:
    sim = simulate(condition, seed, fs_hz=500.0)
    got = measure(sim.record)
    own = [one for one in sim.fiducials if one.kind == "N"]
    pr = 1000 * np.median([one.qrs_onset_s - one.p_onset_s for one in own if one.p_onset_s is not None])
    qrs = 1000 * np.median([one.qrs_offset_s - one.qrs_onset_s for one in own])
    qt = 1000 * np.median([one.t_offset_s - one.qrs_onset_s for one in own])
    assert got.pr_ms == pytest.approx(pr, abs=18)
    assert got.qrs_ms == pytest.approx(qrs, abs=26)
    assert got.qt_ms == pytest.approx(qt, abs=24)
    rr = np.diff([one.qrs_onset_s for one in sim.fiducials])
    assert got.heart_rate_bpm == pytest.approx(60 / rr.mean(), rel=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_no_pr_in_atrial_fibrillation(seed: int) -> None:
    got = measure(simulate("AF", seed, fs_hz=500.0).record)
    assert got.pr_ms is None and got.p_ms is None and got.axis_deg["p"] is None
    assert got.reasons["pr_ms"].endswith(".") and got.heart_rate_bpm is not None and got.qrs_ms is not None
    assert all(one["p_on_s"] is None and one["p_peak_s"] is None for one in got.fiducials)


@pytest.mark.parametrize("seed", [2, 5, 6, 7])
def test_no_pr_and_no_qt_under_flutter_waves(seed: int) -> None:
    got = measure(simulate("AFL", seed, fs_hz=500.0).record)
    assert got.pr_ms is None and got.qt_ms is None and got.axis_deg["t"] is None
    assert "flutter" in got.reasons["pr_ms"] and got.heart_rate_bpm is not None


def test_fiducials_are_ordered_and_inside_the_record() -> None:
    got = measure(simulate("SNR", 5, fs_hz=500.0).record)
    order = ("p_on_s", "p_peak_s", "p_off_s", "qrs_on_s", "r_peak_s", "qrs_off_s", "t_on_s", "t_peak_s", "t_off_s")
    assert len(got.fiducials) == len(got.r_peaks_s) > 5
    for beat in got.fiducials:
        times = [beat[key] for key in order if beat[key] is not None]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= 10
    assert sum(beat["t_off_s"] is not None for beat in got.fiducials) >= len(got.fiducials) - 2


def test_named_lead_is_used_and_named() -> None:
    sim = simulate("SNR", 1, fs_hz=500.0)
    got = measure(sim.record, lead="II")
    assert got.lead_used == "II" and "lead II" in got.method
    assert got.qrs_ms == pytest.approx(measure(sim.record).qrs_ms, abs=40)
    with pytest.raises(InvalidInput, match="V9"):
        measure(sim.record, lead="V9")


def test_a_noisy_or_missing_lead_changes_neither_beats_nor_rate() -> None:
    sim = simulate("SNR", 2, fs_hz=500.0)
    spoiled = sim.record.signal.copy()
    spoiled[4] = np.random.default_rng(0).standard_normal(5000) * 5
    spoiled[9] = np.nan
    spoiled[0, 2000:2300] = np.nan
    got, clean = measure(Record(spoiled, 500.0, LEADS_12)), measure(sim.record)
    assert got.heart_rate_bpm == pytest.approx(clean.heart_rate_bpm, rel=0.01)
    assert len(got.r_peaks_s) == len(clean.r_peaks_s)


def test_offset_and_polarity_of_the_leads_do_not_matter() -> None:
    sim = simulate("SNR", 4, fs_hz=500.0)
    moved = -sim.record.signal + np.linspace(-40, 40, 12)[:, None].astype(np.float32)
    got, clean = measure(Record(moved, 500.0, LEADS_12)), measure(sim.record)
    for name in ("heart_rate_bpm", "pr_ms", "qrs_ms", "qt_ms"):
        assert getattr(got, name) == pytest.approx(getattr(clean, name), abs=4)
    turned = (clean.axis_deg["qrs"] or 0) - (got.axis_deg["qrs"] or 0)
    assert abs(abs(turned) - 180) <= 2


def _bad(kind: str) -> Record:
    rng = np.random.default_rng(7)
    signals = {
        "flat": np.zeros((12, 5000)),
        "offset": np.full((12, 5000), 3.0),
        "empty": np.full((12, 5000), np.nan),
        "noise": rng.standard_normal((12, 5000)) * 0.2,
        "one noisy lead": rng.standard_normal((1, 5000)) * 0.2,
        "sine": np.sin(np.arange(5000) / 500 * 2 * np.pi * 1.1)[None] * np.ones((3, 1)),
        "mains": np.sin(np.arange(5000) / 500 * 2 * np.pi * 50)[None] * np.ones((3, 1)),
        "wander": np.cumsum(rng.standard_normal((12, 5000)), axis=1) * 0.02,
        "one sample": np.ones((12, 1)),
        "two samples": np.array([[0.0, 1.0]]),
        "huge": rng.standard_normal((2, 5000)) * 50,
    }
    signal = signals[kind]
    return Record(signal, 500.0, LEADS_12[: signal.shape[0]])


@pytest.mark.parametrize(
    "kind",
    [
        "flat",
        "offset",
        "empty",
        "noise",
        "one noisy lead",
        "sine",
        "mains",
        "wander",
        "one sample",
        "two samples",
        "huge",
    ],
)
def test_without_an_ecg_there_is_no_number_but_a_reason(kind: str) -> None:
    got = measure(_bad(kind))
    for name in FIELDS:
        assert getattr(got, name) is None, (name, getattr(got, name))
        assert got.reasons[name][0].isupper() and got.reasons[name].endswith(".")
    assert set(got.qtc_ms.values()) == {None} and set(got.axis_deg.values()) == {None}
    json.dumps(got.to_json(), allow_nan=False)


@pytest.mark.parametrize("seed", range(20))
def test_noise_never_gives_a_rate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    leads = (1, 2, 12)[seed % 3]
    burst = 1 + np.sin(np.arange(5000) / 500 * 2 * np.pi * 1.2)
    got = measure(Record(rng.standard_normal((leads, 5000)) * 0.1 * burst, 500.0, LEADS_12[:leads]))
    assert got.heart_rate_bpm is None and got.qrs_ms is None


def test_one_second_record_answers_with_reasons() -> None:
    sim = simulate("SNR", 1, fs_hz=500.0)
    got = measure(Record(sim.record.signal[:, 1000:1500], 500.0, LEADS_12))
    assert got.heart_rate_bpm is None and "two beats" in got.reasons["heart_rate_bpm"]
    json.dumps(got.to_json(), allow_nan=False)


def test_rr_leaves_out_the_interval_over_a_gap_in_all_leads() -> None:
    sim = simulate("SNR", 1, fs_hz=500.0, duration_s=20)
    signal = sim.record.signal.copy()
    signal[:, 4000:6500] = np.nan
    got = measure(Record(signal, 500.0, LEADS_12))
    whole = measure(sim.record)
    assert got.rr_ms is not None and whole.rr_ms is not None
    assert got.rr_ms["max"] < 1.4 * whole.rr_ms["max"] and got.rr_ms["n"] < whole.rr_ms["n"]
    assert got.heart_rate_bpm == pytest.approx(whole.heart_rate_bpm, rel=0.05)


def test_long_record_is_measured_in_pieces_with_every_beat_once() -> None:
    sim = simulate("SNR", 6, fs_hz=250.0, duration_s=60)
    # 60 s put end to end; a beat may be lost or gained at each of the 21 seams.
    signal = np.tile(sim.record.signal[:2], (1, 22))
    single = detect_r_peaks(sim.record.signal[:2], 250.0)
    found = detect_r_peaks(signal, 250.0)
    assert (np.diff(found) > 0.2 * 250).all()
    assert abs(found.size - 22 * single.size) <= 2 * 21
    inside = [at for at in found.tolist() if 5 * 250 < at % (60 * 250) < 55 * 250]
    assert {at % (60 * 250) for at in inside} == set(single[(single > 5 * 250) & (single < 55 * 250)].tolist())


def test_json_form_is_plain_and_complete() -> None:
    told = json.loads(json.dumps(measure(simulate("SNR", 1, fs_hz=500.0).record).to_json(), allow_nan=False))
    assert set(told["qtc_ms"]) == {"bazett", "fridericia", "framingham", "hodges"}
    beat = told["median_beat"]
    assert len(beat["mv"]) == 12 and len({len(row) for row in beat["mv"]}) == 1
    assert beat["fiducials_s"]["qrs_on_s"] < 0 < beat["fiducials_s"]["qrs_off_s"] < beat["fiducials_s"]["t_off_s"]
    assert told["lead_used"] == "RMS of 12 leads" and told["method"].endswith(".")


def test_median_beat_of_equal_beats_is_that_beat() -> None:
    pulse = np.exp(-0.5 * (np.arange(-25, 26) / 6) ** 2)
    signal = np.zeros((1, 3000))
    peaks = [500, 1000, 1500, 2000, 2500]
    for at in peaks:
        signal[0, at - 25 : at + 26] += pulse
    made = median_beat(
        signal, 500.0, [Beat(at, (at - 25, at + 25), None, None) for at in peaks], np.ones(5, dtype=bool)
    )
    assert made is not None and made.n_beats == 5
    centre = round(made.before_s * 500)
    assert np.allclose(made.mv[0, centre - 20 : centre + 21], pulse[5:46], atol=2e-3)


def test_corrected_qt_by_hand() -> None:
    # QT 400 ms at 75/min (RR 800 ms): worked out on paper.
    got = corrected_qt(400, 800)
    assert got["bazett"] == pytest.approx(447.2, abs=0.1)
    assert got["fridericia"] == pytest.approx(430.9, abs=0.1)
    assert got["framingham"] == pytest.approx(430.8, abs=0.1)
    assert got["hodges"] == pytest.approx(426.25, abs=0.01)


@given(st.floats(250, 600))
def test_all_formulas_leave_qt_alone_at_60_a_minute(qt: float) -> None:
    assert set(np.round(list(corrected_qt(qt, 1000).values()), 6)) == {round(qt, 6)}


def test_rr_statistics_by_hand() -> None:
    got = rr_statistics(np.array([800.0, 900.0, 1000.0]))
    assert got == {"n": 3, "mean": 900, "median": 900, "min": 800, "max": 1000, "sd": 100, "rmssd": 100}
    assert "sd" not in rr_statistics(np.array([800.0]))


@given(st.floats(-179, 179))
@settings(max_examples=60)
def test_axis_of_a_known_frontal_vector(degrees: float) -> None:
    """Project a vector on lead I (0°) and II (60°) of Einthoven's triangle and read its direction back."""
    angle = np.radians(degrees)
    pulse = np.hanning(50)
    leads = ("I", "II", "aVF")
    i, ii = np.cos(angle) * pulse, np.cos(angle - np.radians(60)) * pulse
    got = axis_degrees(leads, np.array([i, ii, ii - i / 2]), 0, 49, "qrs")
    assert got is not None and abs((got - degrees + 180) % 360 - 180) <= 1
    assert axis_degrees(leads[:2], np.array([i, ii]), 0, 49, "qrs") == got


def test_axis_without_direction_or_leads_is_none() -> None:
    assert axis_degrees(("I", "II"), np.zeros((2, 50)), 0, 49, "qrs") is None
    assert axis_degrees(("V1", "V2"), np.ones((2, 50)), 0, 49, "qrs") is None
    got = measure(Record(simulate("SNR", 1, fs_hz=500.0).record.signal[6:], 500.0, LEADS_12[6:]))
    assert got.axis_deg["qrs"] is None and "lead I" in got.reasons["axis_deg.qrs"] and got.qrs_ms is not None
