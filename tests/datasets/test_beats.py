"""QRS complexes are found where the truth or the cardiologists' marks are."""

from __future__ import annotations

import numpy as np
import wfdb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datasets.beats import find_r_peaks
from datasets.simulate import CONDITIONS, NoiseSpec, simulate, simulate_dataset
from tests.labelled import labelled_record, labelled_rows
from tests.shared import needs_shared, shared_path


def _hits(found: np.ndarray, true: np.ndarray, tolerance: float) -> tuple[int, int, int]:
    """Return matched, missed and false beats; both arrays in the same unit."""
    free = list(found)
    matched = 0
    for place in true:
        near = [other for other in free if abs(other - place) <= tolerance]
        if near:
            free.remove(min(near, key=lambda other: abs(other - place)))
            matched += 1
    return matched, len(true) - matched, len(free)


def test_simulated_beats_of_all_conditions_are_found():
    totals = np.zeros(3, dtype=int)
    for ecg in simulate_dataset(120, 11, fs_hz=500):
        true = np.array([beat.qrs_peak_s for beat in ecg.fiducials])
        inner = true[(true > 0.1) & (true < ecg.record.duration_s - 0.1)]
        found = find_r_peaks(ecg.record.signal, 500) / 500
        edge = (found < 0.1) | (found > ecg.record.duration_s - 0.1)
        totals += _hits(found[~edge], inner, 0.08)
    assert totals[0] > 1300
    assert totals[1] <= 0.005 * totals[0] and totals[2] <= 0.005 * totals[0], totals


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(set(CONDITIONS) - {"AF", "AFL"})),
    st.integers(0, 10**6),
    st.sampled_from([100.0, 250.0, 1000.0]),
    st.floats(0.2, 5),
)
@example("PAC", 207, 100.0, 1.0)
def test_rate_and_amplitude_of_the_record_hardly_matter(name, seed, fs_hz, factor):
    ecg = simulate(name, seed, fs_hz=fs_hz, noise=NoiseSpec.clinical())
    found = find_r_peaks(ecg.record.signal * np.float32(factor), fs_hz) / fs_hz
    true = ecg.r_peaks_s
    # Of a beat whose peak lies just outside of the record a part may be seen, at each end.
    inner = (found > 0.12) & (found < 9.88)
    _, missed, _ = _hits(found, true[(true > 0.12) & (true < 9.88)], 0.1)
    _, _, false = _hits(found[inner], true, 0.1)
    assert missed <= 1 and false <= 1


def test_steep_t_waves_of_paced_beats_are_no_beats():
    ecg = simulate("PACE", 6377, fs_hz=100.0, noise=NoiseSpec.clinical())
    found = find_r_peaks(ecg.record.signal, 100.0) / 100.0
    true = ecg.r_peaks_s
    assert _hits(found, true[(true > 0.12) & (true < 9.88)], 0.1) == (11, 0, 0)


def test_silence_noise_and_very_short_records_have_defined_answers():
    for signal in (
        np.zeros((3, 5000)),
        np.full((3, 5000), np.nan),
        np.zeros((1, 1)),
        np.ones((12, 20)),
        np.zeros((0, 900)),
    ):
        assert find_r_peaks(signal.astype(np.float32), 500).shape == (0,)
    noise = np.random.default_rng(0).standard_normal((12, 5000)).astype(np.float32)
    found = find_r_peaks(noise, 500)
    assert (np.diff(found) > 0).all() and found.dtype == np.int64


@needs_shared
def test_the_beats_that_cardiologists_marked_in_ludb_are_found():
    totals = np.zeros(3, dtype=int)
    for row in labelled_rows():
        if row["dataset"] == "ludb":
            record = labelled_record(row)
            marks = wfdb.rdann(str(shared_path("ecg", row["path"])), "ii")
            true = np.array([at for at, symbol in zip(marks.sample, marks.symbol) if symbol == "N"])
            found = find_r_peaks(record.signal, record.fs_hz)
            # The first and last beats of a LUDB record carry no marks.
            totals += _hits(found[(found > true[0] - 75) & (found < true[-1] + 75)], true, 50)
    assert totals[0] >= 1285 and totals[1] <= 4 and totals[2] <= 4, totals
