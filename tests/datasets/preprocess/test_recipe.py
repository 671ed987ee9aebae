"""Recipes as a whole, and what single steps do to signals whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12, Record
from datasets.preprocess._polyphase import resample, resampled_length
from datasets.preprocess.align_r_peaks import AlignRPeaks
from datasets.preprocess.bandpass import Bandpass
from datasets.preprocess.crop import Crop
from datasets.preprocess.expand import Expand
from datasets.preprocess.fill import Fill
from datasets.preprocess.median_beat import MedianBeat
from datasets.preprocess.normalise import Normalise
from datasets.preprocess.notch import Notch
from datasets.preprocess.recipe import DEFAULT_RECIPE, Recipe
from datasets.preprocess.remove_baseline import RemoveBaseline
from datasets.preprocess.resample import Resample
from datasets.preprocess.select_leads import SelectLeads
from datasets.simulate import LeadFault, NoiseSpec, simulate
from ecgportal.errors import InvalidInput


def _sine(rate_hz, fs_hz, seconds=20.0, phase=0.3):
    return np.sin(2 * np.pi * rate_hz * np.arange(round(seconds * fs_hz)) / fs_hz + phase)[None].astype(np.float32)


def _gain_db(rate_hz, fs_hz, out_hz=100.0):
    """Power behind the filter over power before it, away from the ends, over whole periods for low rates."""
    out = resample(_sine(rate_hz, fs_hz, 40.0), fs_hz, out_hz)[0, int(5 * out_hz) : -int(5 * out_hz)]
    return 10 * np.log10(2 * np.mean(out.astype(float) ** 2) + 1e-30)


@pytest.mark.parametrize("fs_hz", [240, 250, 257, 360, 400, 500, 1000])
def test_the_pass_band_is_flat_to_40_hz_and_the_stop_band_60_db_down_from_55_hz(fs_hz):
    for rate_hz in (0.5, 1, 5, 10, 17.3, 25, 33.7, 40):
        assert abs(_gain_db(rate_hz, fs_hz)) < 0.1, rate_hz
    for rate_hz in np.arange(55.3, fs_hz / 2, 7.1):
        assert _gain_db(rate_hz, fs_hz) < -60, rate_hz
    if fs_hz >= 240:
        assert _gain_db(50.5, fs_hz) < -60 and _gain_db(60.2, fs_hz) < -60


@pytest.mark.parametrize(("fs_hz", "out_hz"), [(500, 100), (400, 100), (257, 100), (1000, 500), (100, 500), (128, 100)])
def test_sample_k_lies_at_k_over_the_rate(fs_hz, out_hz):
    rate_hz = 7.3
    out = resample(_sine(rate_hz, fs_hz), fs_hz, out_hz)
    true = _sine(rate_hz, out_hz)
    assert out.shape[1] == resampled_length(20 * fs_hz, fs_hz, out_hz) == 20 * out_hz
    assert np.abs(out - true)[:, out_hz:-out_hz].max() < 2e-3


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([240.0, 250.0, 400.0, 500.0, 1000.0, 100.0, 128.0, 333.333]),
    st.sampled_from([50.0, 100.0, 250.0, 500.0]),
    st.integers(1, 3000),
    st.floats(-5, 5),
    st.floats(-2, 2),
)
def test_levels_and_slopes_pass_unchanged_to_the_very_ends(fs_hz, out_hz, samples, level, slope):
    """No ringing at the ends: a ramp comes out as the same ramp, first and last sample included."""
    time_s = np.arange(samples) / fs_hz
    slope = slope if samples > 1 else 0.0
    out = resample((level + slope * time_s)[None].astype(np.float32), fs_hz, out_hz)
    assert out.shape[1] == resampled_length(samples, fs_hz, out_hz)
    true = level + slope * np.arange(out.shape[1]) / out_hz
    if samples > fs_hz / 2 or slope == 0.0:
        assert np.abs(out[0] - true).max() < 1e-3 * (1 + abs(level) + abs(slope) * samples / fs_hz)


def test_an_ecg_that_starts_inside_a_beat_does_not_ring_at_its_ends():
    record = simulate("SNR", 5, fs_hz=500, duration_s=30).record
    whole = resample(record.signal, 500, 100)
    for start in range(5000, 5500, 35):
        part = resample(record.signal[:, start : start + 2500], 500, 100)
        error = np.abs(part - whole[:, start // 5 : start // 5 + 500])
        scale = np.abs(whole).max()
        assert error[:, 10:-10].max() < 0.06 * scale and error.max() < 0.25 * scale


def test_down_and_up_again_gives_a_band_limited_signal_back():
    rng = np.random.default_rng(0)
    slow = sum(_sine(rate, 500, 10, phase) for rate, phase in zip(rng.uniform(0.5, 38, 12), rng.uniform(0, 6, 12)))
    back = resample(resample(slow, 500, 100), 100, 500)
    assert np.abs(back - slow)[:, 500:-500].max() < 0.01 * np.abs(slow).max()


def test_gaps_stay_gaps_and_do_not_spread():
    record = simulate("SNR", 2, fs_hz=500, faults=[LeadFault("gap", "V3", 2.0, 3.0), LeadFault("missing", "V6")]).record
    out = DEFAULT_RECIPE.apply(record)
    v3 = out.mask[out.leads.index("V3")]
    assert np.flatnonzero(~v3).tolist() == list(range(200, 300))
    assert not out.mask[11].any() and not out.signal[11].any()
    assert out.mask[[0, 1, 2, 3, 4, 5, 6, 7, 9, 10]].all()
    assert any("V3 10.0%" in note and "all of V6" in note for note in out.notes)
    clean = DEFAULT_RECIPE.apply(simulate("SNR", 2, fs_hz=500).record)
    away = np.r_[0:150, 350:1000]
    assert np.abs(out.signal[8, away] - clean.signal[8, away]).max() < 0.02


def test_the_default_recipe_gives_twelve_leads_of_ten_seconds_at_100_hz():
    spec = DEFAULT_RECIPE.output_spec()
    assert (spec.leads, spec.fs_hz, spec.n_samples, spec.unit, spec.normalisation) == (
        LEADS_12,
        100,
        1000,
        "mV",
        "none",
    )
    out = DEFAULT_RECIPE.apply(simulate("SNR", 1, fs_hz=500).record)
    assert out.signal.shape == (12, 1000) and out.signal.dtype == np.float32 and out.mask.all() and out.notes == ()


def test_the_digest_of_the_default_recipe_does_not_change_by_accident():
    """Stored models name recipes by this digest. It changes with the recipe's steps or parameters only."""
    assert DEFAULT_RECIPE.digest == "dc3eea8aefacbe16c3129dace4bf579f442fdba0f0425e35b688103a6aba96a0"


def test_long_records_are_cut_in_the_middle_and_short_ones_expanded_with_a_mask():
    long = simulate("SNR", 1, fs_hz=100, duration_s=31).record
    assert np.array_equal(DEFAULT_RECIPE.apply(long).signal, long.signal[:, 1050:2050])
    short = simulate("SNR", 1, fs_hz=400, duration_s=7.3).record
    out = DEFAULT_RECIPE.apply(short)
    assert out.mask[:, :730].all() and not out.mask[:, 730:].any() and not out.signal[:, 730:].any()
    assert any("lasts 7.30 s" in note for note in out.notes)
    repeat = Recipe((Resample(100), Expand(10, "repeat"))).apply(short)
    assert np.array_equal(repeat.signal[:, 730:], repeat.signal[:, :270]) and np.array_equal(repeat.mask, out.mask)
    assert np.array_equal(Recipe((Crop(10, "start"),)).apply(long).signal, long.signal[:, :1000])


def test_leads_are_reordered_computed_or_marked_as_missing():
    record = simulate("SNR", 1, fs_hz=100).record
    order = [11, 1, 0, 6]
    shuffled = Record(record.signal[order], 100, tuple(record.leads[i] for i in order))
    out = Recipe((SelectLeads(("I", "II", "aVL", "V1", "V2", "V6")),)).apply(shuffled)
    for row, name in enumerate(out.leads):
        if name != "V2":
            assert np.allclose(out.signal[row], record.lead(name), atol=1e-6) and out.mask[row].all()
    assert not out.mask[4].any() and not out.signal[4].any()
    assert "Computed from I and II: aVL." in out.notes and "Not recorded: V2." in out.notes


def test_normalising_ignores_what_was_not_recorded():
    record = simulate("SNR", 1, fs_hz=100, duration_s=6, faults=[LeadFault("flat", "V2")]).record
    out = Recipe((Expand(10), Normalise("lead_zscore"))).apply(record)
    live = [i for i in range(12) if i != 7]
    assert np.abs(out.signal[:, :600].mean(axis=1)).max() < 1e-3
    assert np.abs(out.signal[live, :600].std(axis=1) - 1).max() < 1e-3
    assert not out.signal[7].any() and not out.signal[:, 600:].any()
    ends = Recipe((Normalise("min_max"),)).apply(record).signal[live]
    assert np.allclose(ends.max(axis=1), 1, atol=1e-5) and np.allclose(ends.min(axis=1), -1, atol=1e-5)
    whole = Recipe((Normalise("record_zscore"),)).apply(record).signal
    assert abs(whole.std() - 1) < 0.02
    known = Recipe((Normalise("mean_std", (0.1,), (0.5,)),)).apply(record)
    assert np.allclose(known.signal, (record.signal - 0.1) / 0.5, atol=1e-5)
    assert Recipe((Normalise(),)).output_spec().unit == "1"


def test_filters_have_no_phase_and_the_stated_corners():
    time_s = np.arange(5000) / 500
    for step, rate_hz, low_db, high_db in (
        (Bandpass(0.5, 40), 10.0, -0.1, 0.1),
        (Bandpass(0.5, 40), 0.05, -400, -60),
        (Bandpass(0.5, 40), 40.0, -6.5, -5.5),
        (Bandpass(0.5, 40), 120.0, -400, -30),
        (Notch(50.0), 50.0, -400, -30),
        (Notch(50.0), 40.0, -0.2, 0.1),
        (RemoveBaseline("highpass", 0.5), 0.5, -6.5, -5.5),
        (RemoveBaseline("highpass", 0.5), 5.0, -0.1, 0.1),
    ):
        seconds = 60 if rate_hz < 1 else 10
        time_s = np.arange(seconds * 500) / 500
        signal = np.sin(2 * np.pi * rate_hz * time_s)[None].astype(np.float32)
        out = Recipe((step,)).apply(Record(signal, 500, ("II",))).signal[0]
        inner = slice(len(out) // 3, 2 * len(out) // 3)
        reference = np.exp(-2j * np.pi * rate_hz * time_s[inner])
        ratio = (out[inner] * reference).sum() / (signal[0, inner] * reference).sum()
        assert low_db < 20 * np.log10(abs(ratio) + 1e-12) < high_db, (step, rate_hz)
        if abs(ratio) > 0.1:
            assert abs(np.angle(ratio)) < 0.01, (step, rate_hz)


@pytest.mark.parametrize(
    ("step", "left_over"), [(RemoveBaseline("highpass", 0.67), 0.25), (RemoveBaseline("median"), 0.2)]
)
def test_baseline_removal_takes_wander_below_half_a_hertz(step, left_over):
    quiet = simulate("SNR", 3, fs_hz=500).record
    wandering = simulate("SNR", 3, fs_hz=500, noise=NoiseSpec(baseline_mv=0.8)).record
    assert np.abs(wandering.signal - quiet.signal).max() > 0.4
    recipe = Recipe((step,))
    left = recipe.apply(wandering).signal - recipe.apply(quiet).signal
    assert np.abs(left[:, 500:-500]).std() < left_over * np.abs(wandering.signal - quiet.signal).std()


def test_r_peaks_are_aligned_and_the_median_beat_is_the_clean_beat():
    ecg = simulate("SNR", 6, fs_hz=500, noise=NoiseSpec(muscle_mv=0.05))
    out = Recipe((AlignRPeaks(0.5),)).apply(ecg.record)
    first = ecg.r_peaks_s[ecg.r_peaks_s > 0.52][0]
    shift = round((first - 0.5) * 500)
    lag = [np.abs(out.signal[:, :4000] - ecg.record.signal[:, s : s + 4000]).max() for s in range(shift - 8, shift + 9)]
    assert min(lag) == 0
    assert not out.mask[:, -shift + 8 :].any()
    beat = Recipe((MedianBeat(0.3, 0.4),)).apply(ecg.record)
    clean = Recipe((MedianBeat(0.3, 0.4),)).apply(simulate("SNR", 6, fs_hz=500).record)
    assert beat.signal.shape == (12, 350)
    noise = (ecg.record.signal - simulate("SNR", 6, fs_hz=500).record.signal).std()
    assert (beat.signal - clean.signal).std() < 0.9 * noise
    assert abs(int(np.square(beat.signal).sum(axis=0).argmax()) - 150) <= 3
    silent = Recipe((MedianBeat(),)).apply(Record(np.zeros((2, 900)), 100, ("I", "II")))
    assert not silent.mask.any() and "No whole beat" in silent.notes[0]


def test_every_recipe_ends_with_fill_and_values_that_are_not_finite_never_leave_it():
    assert isinstance(Recipe(()).steps[-1], Fill) and Recipe(()) == Recipe((Fill(0.0),))
    signal = np.ones((2, 100), np.float32)
    signal[0, 5:10], signal[1, 3] = np.nan, np.inf
    out = Recipe((Fill(-2.0),)).apply(Record(signal, 100, ("I", "II")))
    assert (out.signal[~out.mask] == -2).all() and out.mask.sum() == 194
    assert out.signal[out.mask].min() == 1


def test_the_prepared_signal_is_not_the_records_own_memory():
    record = simulate("SNR", 1, fs_hz=100).record
    out = Recipe(()).apply(record)
    out.signal[:] = 9
    assert np.abs(record.signal).max() < 5


def test_recipes_that_cannot_be_read_are_refused():
    good = json.loads(DEFAULT_RECIPE.to_json())
    for bad in ("{", "[]", {"steps": 3}, good | {"extra": 1}, good | {"version": 99}, {"steps": [{"step": "magic"}]}):
        with pytest.raises(InvalidInput) as caught:
            Recipe.from_json(bad)
        assert caught.value.code == "invalid_recipe"
    for strange in (10**30, 10**400, -(10**400), float("inf"), float("nan"), True, "100"):
        with pytest.raises(InvalidInput):
            Recipe.from_json({"version": 1, "steps": [{"step": "resample", "fs_hz": strange}]})
    with pytest.raises(InvalidInput, match="32 steps"):
        Recipe((Crop(1.0),) * 40)
