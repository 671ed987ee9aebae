"""Pacemaker spikes, P waves a long time before the QRS, and stretches of long recordings."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.ecg import Record
from datasets.measure.delineate import delineate
from datasets.measure.detect import detect_r_peaks
from datasets.measure.measure import measure
from datasets.measure.spikes import find_spikes, pacing_spikes, without_spikes
from datasets.measure.stretch import measure_at
from datasets.simulate import simulate

FS_HZ = 500.0
SIMULATED = simulate("SNR", 4, fs_hz=FS_HZ, duration_s=10.0)
PEAKS = detect_r_peaks(SIMULATED.record.signal, FS_HZ)


def _paced(lead_s: float = 0.07, height_mv: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Return the simulated signal with a spike of one sample before each R peak, and the spikes' places."""
    at = PEAKS - round(lead_s * FS_HZ)
    at = at[at > 40]
    signal = SIMULATED.record.signal.astype(np.float64).copy()
    signal[:, at] += height_mv * np.linspace(0.4, 1, signal.shape[0])[:, None]
    return signal, at


def test_spikes_are_found_where_they_are_and_bridged() -> None:
    signal, at = _paced()
    found = pacing_spikes(signal, FS_HZ, PEAKS)
    assert found.tolist() == at.tolist()
    bridged = without_spikes(signal, FS_HZ, found)
    assert np.abs(bridged - SIMULATED.record.signal)[:, at].max() < 0.1
    assert np.abs(signal - SIMULATED.record.signal)[:, at].max() > 1


def test_r_peaks_and_waves_of_a_paced_record_are_those_without_the_spikes() -> None:
    signal, _ = _paced()
    assert np.abs(detect_r_peaks(signal, FS_HZ) - PEAKS).max() <= 2
    plain, paced = (delineate(x, FS_HZ, PEAKS) for x in (SIMULATED.record.signal, signal))
    for a, b in zip(plain, paced, strict=True):
        if a.qrs and b.qrs:
            assert abs(a.qrs[0] - b.qrs[0]) <= 0.02 * FS_HZ and abs(a.qrs[1] - b.qrs[1]) <= 0.006 * FS_HZ


@pytest.mark.parametrize("rate_hz", [100.0, 500.0, 1000.0])
def test_an_ecg_without_a_pacemaker_has_no_spikes(rate_hz: float) -> None:
    record = simulate("SNR", 5, fs_hz=rate_hz, duration_s=10.0).record
    assert find_spikes(record.signal, rate_hz).size == 0
    assert without_spikes(record.signal, rate_hz, np.empty(0, dtype=np.int64)) is record.signal


def test_single_artefacts_are_no_pacemaker() -> None:
    signal = SIMULATED.record.signal.astype(np.float64).copy()
    signal[:, [777, 2999]] += 2.0
    assert find_spikes(signal, FS_HZ).size == 2 and pacing_spikes(signal, FS_HZ, PEAKS).size == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_long_pr_interval_is_measured(seed: int) -> None:
    simulated = simulate("IAVB", seed, fs_hz=FS_HZ, duration_s=10.0)
    truth = np.median([1000 * (b.qrs_onset_s - b.p_onset_s) for b in simulated.fiducials if b.p_onset_s is not None])
    assert truth > 200
    assert measure(simulated.record).pr_ms == pytest.approx(truth, abs=25)


def test_a_minute_of_a_long_recording_is_measured_in_the_recordings_time() -> None:
    record = Record(np.tile(SIMULATED.record.signal, 70), FS_HZ, SIMULATED.record.leads)
    found = measure_at(record, 300.0)
    assert 300 <= min(found.r_peaks_s) and max(found.r_peaks_s) <= 360
    assert all(300 <= t <= 360 for beat in found.fiducials for t in beat.values() if t is not None)
    assert "300 to 360 s of 700 s" in found.method
    assert max(measure_at(record, 1e9).r_peaks_s) <= 700 and min(measure_at(record, 1e9).r_peaks_s) >= 640
    short = SIMULATED.record
    assert measure_at(short, 5.0).r_peaks_s == measure(short).r_peaks_s
