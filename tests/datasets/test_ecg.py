"""The dictionary of lead names, derived leads, and what a record refuses to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.ecg import LEADS_12, Record, RecordMeta, canonical_lead, derive_limb_leads, normalise, order_leads
from ecgportal.errors import InvalidInput


@pytest.mark.parametrize(
    ("spelling", "lead"),
    [
        ("i", "I"), ("AVR", "aVR"), ("Lead II", "II"), ("ECG V1", "V1"), ("MDC_ECG_LEAD_AVF", "aVF"), ("v6\x00\x00", "V6"),
        ("aVL (augmented)", "aVL"), ("DII", "II"), ("C3", "V3"), ("Lead 1", "I"), ("ECG Lead V4", "V4"), ("vx", "X"), ("MLII", "MLII"),
    ],
)  # fmt: skip
def test_vendor_spellings_are_known(spelling, lead):
    assert canonical_lead(spelling) == lead


@pytest.mark.parametrize("name", ["PLETH", "Channel 1", "CH1", "ECG_2", "1", "R", "", "RESP", "V10", "EDF Annotations"])
def test_what_is_no_lead_is_not_guessed(name):
    assert canonical_lead(name) is None


@given(st.text(max_size=40))
def test_any_text_has_an_answer(text):
    assert canonical_lead(text) is None or canonical_lead(canonical_lead(text)) == canonical_lead(text)


def _record(leads: tuple[str, ...], seed: int = 0) -> Record:
    return Record(np.random.default_rng(seed).normal(size=(len(leads), 50)).astype(np.float32), 100.0, leads)


def test_derived_leads_follow_einthoven_and_goldberger_and_are_marked():
    made = derive_limb_leads(_record(("I", "II", "V1")))
    i, ii = made.lead("I"), made.lead("II")
    assert made.computed == ("III", "aVR", "aVL", "aVF")
    np.testing.assert_allclose(made.lead("III"), ii - i, atol=1e-6)
    np.testing.assert_allclose(made.lead("aVR") + made.lead("aVL") + made.lead("aVF"), 0, atol=1e-6)


def test_nothing_is_derived_without_both_sources_and_recorded_leads_stay():
    assert derive_limb_leads(_record(("I", "V1"))).leads == ("I", "V1")
    full = _record(LEADS_12)
    assert normalise(full).signal is full.signal


@given(st.permutations(LEADS_12))
def test_ordering_is_a_permutation(order):
    record = _record(tuple(order))
    ordered = order_leads(record)
    assert ordered.leads == LEADS_12
    assert all(np.array_equal(ordered.lead(name), record.lead(name)) for name in LEADS_12)


@pytest.mark.parametrize(
    ("signal", "fs_hz", "leads"),
    [
        (np.zeros((2, 5)), 100.0, ("I",)), (np.zeros((1, 0)), 100.0, ("I",)), (np.zeros((2, 5)), 100.0, ("I", "I")),
        (np.zeros((1, 5)), 0.0, ("I",)), (np.zeros((1, 5)), float("nan"), ("I",)), (np.zeros(5), 100.0, ("I",)),
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(signal, fs_hz, leads):
    with pytest.raises(InvalidInput):
        Record(signal, fs_hz, leads)


@pytest.mark.parametrize(("stated", "age"), [(0, 0), (130, 130), (-1, None), (131, None), (999, None), (None, None)])
def test_a_number_that_is_no_age_is_none(stated: float | None, age: float | None) -> None:
    assert RecordMeta(age=stated).age == age
