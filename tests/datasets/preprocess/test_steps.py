"""One contract for every registered preparation step: shape law, missing-sample law, JSON round trip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12
from datasets.preprocess.base import OutputSpec, Stage, Step, parameters, step_from_json, steps
from datasets.preprocess.recipe import Recipe
from datasets.simulate import simulate
from ecgportal.errors import InvalidInput

REQUIRED = {"fs_hz": 100.0, "duration_s": 2.0}
MORE = {
    "normalise": [{"kind": "mean_std", "mean": [0.1], "std": [0.5]}],
    "select_leads": [{"leads": ["V6", "aVF", "V7"]}],
    "expand": [{"duration_s": 30.0, "how": "repeat"}],
    "resample": [{"fs_hz": 360.0}],
    "bandpass": [{"low_hz": 0.0}, {"high_hz": 0.0}],
    "notch": [{"mains_hz": 60.0, "harmonics": 3}],
}


def _examples() -> list[Step]:
    """Every step with its defaults, with each of its choices, and with the settings above."""
    found = []
    for name, cls in steps().items():
        known = parameters(cls)
        base = {"step": name} | {key: REQUIRED[key] for key, entry in known.items() if "default" not in entry}
        variants = [base] + [base | extra for extra in MORE.get(name, [])]
        for key, entry in known.items():
            variants += [base | {key: choice} for choice in entry.get("choices", ()) if choice != "mean_std"]
        found += [step_from_json(variant) for variant in variants]
    return list(dict.fromkeys(found))


EXAMPLES = _examples()
BASE = simulate("SNR", 1, fs_hz=500, duration_s=12).record
every_step = pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: str(entry)[:70])


def _stage(fs_hz: float = 250, samples: int = 1000, leads: int = 12) -> Stage:
    signal = np.array(BASE.signal[:leads, :samples])
    return Stage(signal, fs_hz, LEADS_12[:leads], np.ones(signal.shape, bool))


stages = st.builds(
    _stage, st.sampled_from([100.0, 240.0, 250.0, 500.0, 1000.0]), st.integers(1, 2500), st.integers(1, 12)
)


@st.composite
def broken_stages(draw):
    stage = draw(stages)
    signal, mask = stage.signal.copy(), stage.mask.copy()
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.integers(0, signal.shape[0] - 1))
        start = draw(st.integers(0, signal.shape[1] - 1))
        end = draw(st.integers(start, signal.shape[1]))
        signal[row, start:end] = np.nan
    if draw(st.booleans()):
        signal[0] = np.nan
    mask &= ~np.isnan(signal)
    return replace(stage, signal=signal, mask=mask)


def _lawful(stage: Stage) -> None:
    assert stage.signal.dtype == np.float32 and stage.mask.dtype == bool
    assert stage.signal.shape == stage.mask.shape and stage.signal.shape[0] == len(stage.leads)
    assert stage.signal.shape[1] >= 1
    assert not np.isnan(stage.signal[stage.mask]).any()
    assert not np.isinf(stage.signal).any()


@every_step
@settings(max_examples=25, deadline=None)
@given(stage=broken_stages())
def test_shape_and_missing_samples(entry, stage):
    before = stage.signal.copy(), stage.mask.copy()
    out = entry.apply(stage)
    _lawful(out)
    assert np.array_equal(stage.signal, before[0], equal_nan=True) and np.array_equal(stage.mask, before[1])
    samples = stage.signal.shape[1]
    spec = entry.spec(OutputSpec(stage.leads, stage.fs_hz, samples, samples))
    assert out.leads == spec.leads and out.fs_hz == spec.fs_hz
    assert spec.min_samples <= out.signal.shape[1] <= (spec.max_samples or out.signal.shape[1])
    assert out.notes[: len(stage.notes)] == stage.notes
    again = entry.apply(stage)
    assert np.array_equal(out.signal, again.signal, equal_nan=True) and np.array_equal(out.mask, again.mask)


@every_step
def test_a_missing_lead_stays_missing_and_takes_no_sample_from_the_others(entry):
    whole = _stage(samples=2500)
    signal, mask = whole.signal.copy(), whole.mask.copy()
    signal[10], mask[10] = np.nan, False
    out, clean = entry.apply(replace(whole, signal=signal, mask=mask)), entry.apply(whole)
    if "V5" in out.leads:
        row = out.leads.index("V5")
        assert not out.mask[row].any()
    others = [index for index, name in enumerate(out.leads) if name != "V5"]
    assert out.mask[others].sum() >= clean.mask[others].sum() * 0.9
    assert not np.isnan(out.signal[others][clean.mask[others] & out.mask[others]]).any()


@every_step
def test_json_round_trip(entry):
    recipe = Recipe((entry,))
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe and again.digest == recipe.digest and again.to_json() == recipe.to_json()
    assert hash(again) == hash(recipe)


@every_step
def test_every_parameter_is_described_for_forms(entry):
    for name, description in parameters(type(entry)).items():
        assert description["help"].endswith("."), name
        assert description["type"] in {"number", "integer", "text", "boolean", "list of number", "list of text"}
    assert type(entry).__doc__


@pytest.mark.parametrize("name", steps())
def test_wrong_parameters_are_refused_with_the_name_of_the_parameter(name):
    base = {"step": name} | {k: REQUIRED[k] for k, e in parameters(steps()[name]).items() if "default" not in e}
    with pytest.raises(InvalidInput, match="unknown: colour") as caught:
        step_from_json(base | {"colour": "red"})
    assert caught.value.code == "invalid_recipe"
    for key, entry in parameters(steps()[name]).items():
        with pytest.raises(InvalidInput, match=key):
            step_from_json(base | {key: {"not": "a value"}})
        if entry["type"] == "number":
            for bad in (float("nan"), float("inf"), -1e9, True, "5"):
                with pytest.raises(InvalidInput):
                    step_from_json(base | {key: bad})
        if "choices" in entry:
            with pytest.raises(InvalidInput, match="must be one of"):
                step_from_json(base | {key: "something else"})
