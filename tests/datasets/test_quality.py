"""Quality flags name what is wrong with a record, and nothing that is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import Record
from datasets.quality import LEAD_FLAGS, RECORD_FLAGS, assess
from datasets.simulate import CONDITIONS, LeadFault, NoiseSpec, simulate
from tests.labelled import labelled_record, labelled_rows
from tests.shared import needs_shared

SEEDS = range(12)


def _record(name="SNR", seed=1, faults=(), noise=None, fs_hz=500.0, duration_s=10.0) -> Record:
    noise = noise or NoiseSpec.clinical()
    return simulate(name, seed, fs_hz=fs_hz, duration_s=duration_s, noise=noise, faults=faults).record


def _scaled(record, factor=1.0, rate=1.0):
    return Record(record.signal * np.float32(factor), record.fs_hz * rate, record.leads)


@pytest.mark.parametrize("name", CONDITIONS)
def test_well_recorded_ecgs_of_every_condition_have_no_flag(name):
    for seed in SEEDS:
        ecg = simulate(name, seed, fs_hz=500, noise=NoiseSpec.clinical())
        report = assess(ecg.record)
        assert report.flags == (("pacing_spikes",) if name == "PACE" else ()), seed
        assert report.lead_flags == {} and report.score > 0.7
        true_bpm = 60 / np.mean(np.diff(ecg.r_peaks_s))
        assert abs(report.rate_bpm - true_bpm) < (0.14 if name in ("AF", "AFL") else 0.05) * true_bpm


@pytest.mark.parametrize(
    ("fault", "lead", "flag"),
    [
        (LeadFault("flat", "V2"), "V2", "flat"),
        (LeadFault("flat", "I", 3.0, 6.5), "I", "flat"),
        (LeadFault("missing", "aVF"), "aVF", "missing"),
        (LeadFault("gap", "V5", 3.0, 4.0), "V5", "gaps"),
        (LeadFault("clipped", "V4", level_mv=0.4), "V4", "clipped"),
    ],
)
def test_a_faulty_lead_is_named_and_the_others_are_not(fault, lead, flag):
    for seed in SEEDS:
        report = assess(_record(seed=seed, faults=[fault]))
        assert report.lead_flags == {lead: (flag,)}, seed
        own = next(entry for entry in report.leads if entry.lead == lead)
        assert (own.sqi == 0) == (flag in ("flat", "missing"))
        assert ("missing_leads" in report.flags) == (flag in ("flat", "missing"))


def test_a_lead_at_the_end_of_its_range_is_saturated():
    record = _record()
    signal = record.signal.copy()
    signal[7, 1000:1150] = signal[7].max() + 0.1
    assert assess(Record(signal, 500, record.leads)).lead_flags == {"V2": ("saturated",)}


def test_noise_and_wander_lower_the_score_and_are_flagged():
    for seed in SEEDS:
        clean, bad = assess(_record(seed=seed)), assess(_record(seed=seed, noise=NoiseSpec.bad()))
        assert bad.score < 0.5 < 0.85 < clean.score
        assert all("noisy" in entry.flags for entry in bad.leads)
        wander = assess(_record(seed=seed, noise=NoiseSpec(baseline_mv=3.0)))
        assert any("baseline_wander" in entry.flags for entry in wander.leads)


@pytest.mark.parametrize(("cables", "least"), [("RA-LA", 9), ("RA-LL", 9)])
def test_exchanged_limb_electrodes_are_suspected(cables, least):
    found = [assess(_record(seed=seed, faults=[LeadFault("swapped", cables)])).reversal for seed in SEEDS]
    assert found.count(cables) >= least and set(found) <= {cables, None}


def test_a_flat_lead_ii_beside_a_normal_lead_i_suggests_the_leg_electrodes():
    record = _record(seed=2)
    signal = record.signal.copy()
    signal[1] = 0.01 * np.sin(np.arange(5000) * 0.01)
    i, ii = signal[0], signal[1]
    signal[2:6] = ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2
    assert assess(Record(signal, 500, record.leads)).reversal == "RA-RL"


@pytest.mark.parametrize("factor", [40.0, 0.02, 1e-3, 1000.0])
def test_a_wrong_unit_shows_as_implausible_amplitude(factor):
    for seed in SEEDS:
        assert "implausible_amplitude" in assess(_scaled(_record(seed=seed), factor)).flags


@pytest.mark.parametrize("rate", [5, 8, 10])
def test_a_wrong_sampling_rate_shows_as_implausible_heart_rate(rate):
    for seed in SEEDS:
        record = _record(seed=seed, duration_s=20)
        report = assess(_scaled(record, rate=rate))
        assert "implausible_rate" in report.flags and report.rate_bpm > 300
        if rate == 5:
            assert abs(report.rate_bpm - 5 * assess(record).rate_bpm) < 30


def test_contradicting_limb_leads_are_flagged():
    record = _record()
    signal = record.signal.copy()
    signal[2] = -signal[2] + 0.4 * signal[8]
    assert "limb_leads_inconsistent" in assess(Record(signal, 500, record.leads)).flags


def test_noise_without_an_ecg_scores_low():
    rng = np.random.default_rng(0)
    noise = Record(rng.standard_normal((12, 5000)) * 0.3, 500, _record().leads)
    assert assess(noise).score < 0.3
    flat = assess(Record(np.zeros((12, 5000)), 500, noise.leads))
    assert flat.score == 0 and all(entry.flags == ("flat",) for entry in flat.leads)
    nothing = assess(Record(np.full((12, 5000), np.nan), 500, noise.leads))
    assert nothing.score == 0 and nothing.rate_bpm is None and "missing_leads" in nothing.flags


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([50.0, 100.0, 240.0, 500.0, 1000.0]),
    st.integers(1, 4000),
    st.integers(0, 12),
    st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    st.booleans(),
)
def test_any_record_gets_an_answer(seed, fs_hz, samples, first, scale, holes):
    rng = np.random.default_rng(seed)
    leads = (*_record().leads, "V7")[first:]
    signal = (rng.standard_normal((len(leads), samples)) * scale).astype(np.float32)
    if holes:
        signal[rng.random(signal.shape) < 0.3] = np.nan
    report = assess(Record(signal, fs_hz, leads))
    assert 0 <= report.score <= 1 and [entry.lead for entry in report.leads] == list(leads)
    assert set(report.flags) <= set(RECORD_FLAGS)
    assert {flag for entry in report.leads for flag in entry.flags} <= set(LEAD_FLAGS)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["score"] == report.score


@needs_shared
def test_real_records_are_judged_plausibly():
    """Flags against the sources' own labels: few false alarms, most pacemakers seen."""
    rows = [row for row in labelled_rows() if row["dataset"] in ("ptbxl", "ludb")]
    rows = [row for row in rows if row["PACE"] == "1" or int(row["record"]) % 3 == 0]
    reports = {(row["dataset"], row["record"]): assess(labelled_record(row)) for row in rows}
    assert len(reports) > 150
    paced = {key for key, row in zip(reports, rows) if row["PACE"] == "1"}
    spikes = {key for key, report in reports.items() if "pacing_spikes" in report.flags}
    assert len(spikes & paced) >= 7 and len(spikes - paced) <= 3
    for flag in ("implausible_rate", "implausible_amplitude", "no_beats"):
        assert not [key for key, report in reports.items() if flag in report.flags]
    assert sum(report.reversal is not None for report in reports.values()) <= 2
    assert np.median([report.score for report in reports.values()]) > 0.9
