"""The simulated ECGs meet the clinical criteria of the conditions they are labelled with."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12, derive_limb_leads
from datasets.simulate import (
    CONDITIONS,
    LeadFault,
    NoiseSpec,
    SimulatedECG,
    simulate,
    simulate_dataset,
)
from ecgportal.errors import InvalidInput

SEEDS = range(25)


def _beat_window(ecg: SimulatedECG, lead: str, start_s: float, end_s: float) -> np.ndarray:
    fs = ecg.record.fs_hz
    return ecg.record.lead(lead)[round(start_s * fs) : round(end_s * fs) + 1]


def _inner(ecg: SimulatedECG, kind: str = "N"):
    end = ecg.record.duration_s
    return [b for b in ecg.fiducials if b.kind == kind and b.qrs_onset_s > 0.35 and b.t_offset_s < end - 0.05]


def _baseline(ecg: SimulatedECG, lead: str, beat) -> float:
    return float(_beat_window(ecg, lead, beat.qrs_onset_s - 0.012, beat.qrs_onset_s - 0.004).mean())


def _rate_bpm(ecg: SimulatedECG) -> float:
    return 60.0 / float(np.diff(ecg.r_peaks_s).mean())


def test_limb_leads_follow_einthoven_and_goldberger_with_noise_and_swapped_cables():
    ecg = simulate("SNR", 3, fs_hz=500, noise=NoiseSpec.bad(), faults=[LeadFault("swapped", "RA-LL")])
    rows = ecg.record.signal
    again = derive_limb_leads(type(ecg.record)(rows[:2], 500, ("I", "II")))
    for name in ("III", "aVR", "aVL", "aVF"):
        assert np.array_equal(ecg.record.lead(name), again.lead(name))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    def bytes_of(seed):
        return simulate("AF", seed, fs_hz=500, noise=NoiseSpec.clinical()).record.signal.tobytes()

    assert bytes_of(5) == bytes_of(5)
    assert bytes_of(5) != bytes_of(6)


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_gives_a_twelve_lead_record_in_millivolt(name):
    ecg = simulate(name, 1, fs_hz=250, duration_s=8)
    assert ecg.record.leads == LEADS_12 and ecg.record.signal.shape == (12, 2000)
    assert np.isfinite(ecg.record.signal).all()
    assert 0.3 < np.abs(ecg.record.signal).max() < 7
    assert {label.code for label in ecg.labels} >= set(CONDITIONS[name].snomed) | set(CONDITIONS[name].scp)
    assert ecg.record.meta.labels == ecg.labels and ecg.record.meta.subject == ecg.subject


@pytest.mark.parametrize(("name", "low", "high"), [("SNR", 60, 100), ("SB", 0, 60), ("STACH", 100, 200)])
def test_rates_keep_to_the_limits_of_the_rhythm(name, low, high):
    rates = [_rate_bpm(simulate(name, seed, fs_hz=100)) for seed in SEEDS]
    assert all(low < rate < high for rate in rates), rates


def test_fibrillation_is_irregular_and_has_no_p_wave_while_sinus_rhythm_is_regular():
    for seed in SEEDS:
        af, sinus = simulate("AF", seed, fs_hz=100, duration_s=20), simulate("SNR", seed, fs_hz=100, duration_s=20)
        assert all(beat.p_onset_s is None for beat in af.fiducials)
        assert all(beat.p_onset_s is not None for beat in sinus.fiducials)
        spread = [np.diff(e.r_peaks_s).std() / np.diff(e.r_peaks_s).mean() for e in (af, sinus)]
        assert spread[0] > 0.10 and spread[1] < 0.06, (seed, spread)


def test_fibrillatory_waves_are_seen_in_v1_between_the_beats():
    af, sinus = simulate("AF", 4, fs_hz=500), simulate("SNR", 4, fs_hz=500)
    for ecg, seen in ((af, True), (sinus, False)):
        quiet = [_beat_window(ecg, "V1", b.qrs_onset_s - 0.03, b.qrs_onset_s - 0.005) for b in _inner(ecg)]
        level = np.std([w.mean() for w in quiet])
        assert bool(level > 0.02) is seen


@pytest.mark.parametrize(
    ("name", "low_ms", "high_ms"),
    [
        ("SNR", 70, 110),
        ("IRBBB", 100, 120),
        ("LAFB", 80, 120),
        ("RBBB", 120, 170),
        ("LBBB", 120, 180),
        ("PACE", 130, 200),
    ],
)
def test_qrs_durations(name, low_ms, high_ms):
    for seed in SEEDS:
        for beat in simulate(name, seed, fs_hz=100).fiducials:
            assert low_ms <= 1000 * (beat.qrs_offset_s - beat.qrs_onset_s) <= high_ms


def test_fiducials_lie_where_the_signal_starts_and_ends():
    """Over all leads together the QRS leaves the baseline at its onset, within two samples at 500 Hz."""
    for seed in SEEDS:
        ecg = simulate("SNR", seed, fs_hz=500)
        for beat in _inner(ecg):
            before = max(
                np.ptp(_beat_window(ecg, n, beat.qrs_onset_s - 0.02, beat.qrs_onset_s - 0.006)) for n in LEADS_12
            )
            after = max(np.ptp(_beat_window(ecg, n, beat.qrs_onset_s, beat.qrs_onset_s + 0.014)) for n in LEADS_12)
            assert before < 0.06 < after
            times = (beat.p_onset_s, beat.p_peak_s, beat.p_offset_s, beat.qrs_onset_s, beat.qrs_peak_s,
                     beat.qrs_offset_s, beat.t_onset_s, beat.t_peak_s, beat.t_offset_s)  # fmt: skip
            assert list(times) == sorted(times)


def test_pr_interval():
    for seed in SEEDS:
        for name, long in (("IAVB", True), ("SNR", False)):
            for beat in simulate(name, seed, fs_hz=100).fiducials:
                pr_ms = 1000 * (beat.qrs_onset_s - beat.p_onset_s)
                assert bool(pr_ms > 200) is long and pr_ms > 110


def test_qt_corrected_by_fridericia_is_normal_in_sinus_rhythm():
    for seed in SEEDS:
        for name in ("SNR", "SB"):
            ecg = simulate(name, seed, fs_hz=100)
            rr_s = np.diff(ecg.r_peaks_s).mean()
            qtc = np.mean([b.t_offset_s - b.qrs_onset_s for b in ecg.fiducials]) / rr_s ** (1 / 3)
            assert 0.34 < qtc < 0.47


def test_right_bundle_branch_block_shows_rsr_in_v1_and_a_wide_s_in_v6_and_i():
    for seed in SEEDS:
        ecg = simulate("RBBB", seed, fs_hz=500)
        beat = _inner(ecg)[0]
        first, last = beat.qrs_onset_s, beat.qrs_offset_s
        v1 = _beat_window(ecg, "V1", first, last) - _baseline(ecg, "V1", beat)
        late = int(v1.argmax())
        early = v1[: len(v1) * 2 // 5]
        r, s = early.max(), v1[int(early.argmax()) : late].min()
        assert v1[late] > r > 0.04, seed
        assert s < r - 0.1 and late > len(v1) * 0.4, seed
        for lead in ("I", "V6"):
            tail = _beat_window(ecg, lead, first + 0.6 * (last - first), last) - _baseline(ecg, lead, beat)
            assert tail.min() < -0.1, (seed, lead)


def test_left_bundle_branch_block_is_negative_in_v1_and_positive_in_i_and_v6_with_opposed_t_waves():
    for seed in SEEDS:
        ecg = simulate("LBBB", seed, fs_hz=500)
        beat = _inner(ecg)[0]
        for lead, sign in (("V1", -1), ("I", 1), ("V6", 1)):
            base = _baseline(ecg, lead, beat)
            qrs = sign * (_beat_window(ecg, lead, beat.qrs_onset_s, beat.qrs_offset_s) - base)
            t = sign * (_beat_window(ecg, lead, beat.t_peak_s - 0.01, beat.t_peak_s + 0.01).mean() - base)
            assert qrs.max() > 0.3 and qrs.min() > -0.12, (seed, lead)
            assert t < -0.02, (seed, lead)


def test_sokolow_lyon_index_divides_hypertrophy_from_normal():
    def index_mv(ecg):
        found = []
        for beat in _inner(ecg):
            qrs = {
                n: _beat_window(ecg, n, beat.qrs_onset_s, beat.qrs_offset_s) - _baseline(ecg, n, beat) for n in LEADS_12
            }
            found.append(-qrs["V1"].min() + max(qrs["V5"].max(), qrs["V6"].max()))
        return np.median(found)

    for seed in SEEDS:
        assert index_mv(simulate("LVH", seed, fs_hz=500)) > 3.5
        assert index_mv(simulate("SNR", seed, fs_hz=500)) < 3.4


def _st_mv(ecg: SimulatedECG) -> dict[str, float]:
    """ST level 40 ms behind the J point against the PR level, median over the beats."""
    return {
        name: float(np.median([
            _beat_window(ecg, name, b.qrs_offset_s + 0.038, b.qrs_offset_s + 0.042).mean() - _baseline(ecg, name, b)
            for b in _inner(ecg)
        ]))
        for name in LEADS_12
    }  # fmt: skip


def test_st_elevation_meets_the_universal_definition_and_has_reciprocal_depression():
    """0.2 mV in V2 and V3 and 0.1 mV elsewhere (K. Thygesen et al., Circulation 2018;138:e618-e651)."""
    for seed in SEEDS:
        anterior = _st_mv(simulate("STE_ANT", seed, fs_hz=500))
        assert min(anterior["V2"], anterior["V3"]) >= 0.2 and min(anterior["V1"], anterior["V4"]) >= 0.1
        assert anterior["III"] < -0.04 and anterior["aVF"] < -0.02
        inferior = _st_mv(simulate("STE_INF", seed, fs_hz=500))
        assert min(inferior[name] for name in ("II", "III", "aVF")) >= 0.1
        assert inferior["aVL"] < -0.05 and inferior["I"] < 0
        normal = _st_mv(simulate("SNR", seed, fs_hz=500))
        assert max(abs(v) for v in normal.values()) < 0.1


def test_frontal_axis_is_normal_in_sinus_rhythm_and_left_in_anterior_fascicular_block():
    for seed in SEEDS:
        for name, low, high in (("SNR", -30, 95), ("LAFB", -90, -40)):
            ecg = simulate(name, seed, fs_hz=500)
            beat = _inner(ecg)[0]
            area = {n: _beat_window(ecg, n, beat.qrs_onset_s, beat.qrs_offset_s).sum() for n in ("I", "aVF")}
            axis = np.degrees(np.arctan2(area["aVF"] * 2 / np.sqrt(3), area["I"]))
            assert low < axis < high, (seed, name, axis)


def test_early_beats_are_early_and_ventricular_ones_wide_with_a_compensatory_pause():
    for seed in SEEDS:
        for name, kind in (("PVC", "V"), ("PAC", "A")):
            ecg = simulate(name, seed, fs_hz=100)
            kinds = [beat.kind for beat in ecg.fiducials]
            assert kind in kinds
            index = kinds.index(kind)
            assert 0 < index < len(kinds) - 1
            rr = np.diff(ecg.r_peaks_s)
            usual = np.median(rr)
            assert rr[index - 1] < 0.85 * usual
            beat = ecg.fiducials[index]
            width = beat.qrs_offset_s - beat.qrs_onset_s
            if kind == "V":
                assert width >= 0.12 and beat.p_onset_s is None
                assert rr[index] > 1.2 * usual
            else:
                assert width < 0.12 and beat.p_onset_s is not None


def test_contradictory_and_unknown_conditions_are_refused():
    for conditions in (("AF", "IAVB"), ("SB", "STACH"), ("RBBB", "LBBB"), ("PACE", "LVH")):
        with pytest.raises(InvalidInput, match="cannot be simulated in one record"):
            simulate(conditions, 1, fs_hz=100)
    with pytest.raises(InvalidInput, match="no condition XYZ"):
        simulate("XYZ", 1, fs_hz=100)
    with pytest.raises(InvalidInput, match="50 to 4000 Hz"):
        simulate("SNR", 1, fs_hz=0)


def test_faults_do_what_they_say():
    faults = [
        LeadFault("flat", "V1"),
        LeadFault("missing", "V2"),
        LeadFault("gap", "V3", 2.0, 3.0),
        LeadFault("clipped", "V4", level_mv=0.4),
    ]
    clean, broken = simulate("SNR", 8, fs_hz=500).record, simulate("SNR", 8, fs_hz=500, faults=faults).record
    assert not broken.lead("V1").any()
    assert np.isnan(broken.lead("V2")).all()
    assert np.flatnonzero(np.isnan(broken.lead("V3"))).tolist() == list(range(1000, 1500))
    assert np.array_equal(broken.lead("V4"), np.clip(clean.lead("V4"), -0.4, 0.4).astype(np.float32))
    assert np.array_equal(broken.lead("V5"), clean.lead("V5"))
    reversed_arms = simulate("SNR", 8, fs_hz=500, faults=[LeadFault("swapped", "RA-LA")]).record
    assert np.allclose(reversed_arms.lead("I"), -clean.lead("I"), atol=0.0011)
    assert np.allclose(reversed_arms.lead("II"), clean.lead("III"), atol=0.0021)
    for kind, where in (("swapped", "RA"), ("flat", "V9"), ("melted", "V1")):
        with pytest.raises(InvalidInput):
            LeadFault(kind, where)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(CONDITIONS)),
    seed=st.integers(0, 2**31),
    fs_hz=st.sampled_from([100, 240, 400, 500, 1000]),
    duration_s=st.sampled_from([1.0, 2.5, 10.0, 31.0]),
)
def test_any_condition_rate_and_length_gives_a_finite_record(name, seed, fs_hz, duration_s):
    ecg = simulate(name, seed, fs_hz=fs_hz, duration_s=duration_s, noise=NoiseSpec.clinical())
    assert ecg.record.signal.shape == (12, round(fs_hz * duration_s))
    assert np.isfinite(ecg.record.signal).all()
    assert ((ecg.r_peaks_s >= 0) & (ecg.r_peaks_s < duration_s)).all()
    assert (np.diff(ecg.r_peaks_s) > 0.2).all()


def test_a_dataset_holds_every_condition_and_repeated_subjects():
    records = list(simulate_dataset(200, 7, fs_hz=100))
    assert len(records) == 200
    assert {name for ecg in records for name in ecg.conditions} == set(CONDITIONS)
    per_subject = Counter(ecg.subject for ecg in records)
    assert 5 < sum(count > 1 for count in per_subject.values()) < 80
    for subject in per_subject:
        assert len({(ecg.age, ecg.sex) for ecg in records if ecg.subject == subject}) == 1
    again = islice(simulate_dataset(200, 7, fs_hz=100), 30)
    assert all(np.array_equal(a.record.signal, b.record.signal) for a, b in zip(records, again))
    normal = sum(any(label.code == "NORM" for label in ecg.labels) for ecg in records)
    assert 60 < normal < 110


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_a_small_dataset_has_its_number_of_records(n):
    assert len(list(simulate_dataset(n, 3, fs_hz=100.0, duration_s=2.0))) == n
