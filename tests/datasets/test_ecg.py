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
        ("NOM_ECG_LEAD_V2", "V2"), ("D1", "I"), ("D aVF", "aVF"), ("Derivação V1", "V1"), ("отведение II", "II"), ("V1导联", "V1"),
        ("Frank Y", "Y"), ("EKG-II", "II"), ("ECG-aVR", "aVR"), ("+I", "I"),
        ("Ⅱ", "II"), ("Ⅲ誘導", "III"), ("Ｖ１", "V1"), ("－ａＶＲ", "-aVR"),
    ],
)  # fmt: skip
def test_vendor_spellings_are_known(spelling, lead):
    assert canonical_lead(spelling) == lead


@pytest.mark.parametrize(
    "name",
    [
        "-aVR",
        "aVR-",
        "−aVR",
        "(-)aVR",
        "aVR (neg)",
        "AVRNEG",
        "MDC_ECG_LEAD_AVRNEG",
        "aVR_inv",
        "ECG -aVR",
        "inverted aVR",
    ],
)
def test_a_lead_stored_upside_down_is_never_the_upright_one(name):
    assert canonical_lead(name) == "-aVR"


@pytest.mark.parametrize("name", ["-V1", "V1-", "I (inverted)", "I-II", "II-III", "I II", "V1-V2", "VR", "Channel I"])
def test_turned_leads_and_differences_of_leads_are_not_taken_for_a_lead(name):
    assert canonical_lead(name) is None


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


@pytest.mark.parametrize("missing", ["I", "II"])
def test_the_limb_leads_come_out_of_any_two_of_the_three(missing: str) -> None:
    whole = derive_limb_leads(_record(("I", "II", "V1")))
    kept = tuple(name for name in ("I", "II", "III", "V1") if name != missing)
    made = derive_limb_leads(Record(np.stack([whole.lead(name) for name in kept]), 100.0, kept))
    assert set(made.computed) == {missing, "aVR", "aVL", "aVF"}
    for name in whole.leads:
        np.testing.assert_allclose(made.lead(name), whole.lead(name), atol=1e-6)


def test_nothing_is_derived_without_both_sources_and_recorded_leads_stay():
    assert derive_limb_leads(_record(("I", "V1"))).leads == ("I", "V1")
    full = _record(LEADS_12)
    assert normalise(full).signal is full.signal


def test_minus_avr_is_turned_over_and_said():
    record = _record(("V1", "-aVR"))
    made = normalise(record)
    assert made.leads == ("aVR", "V1") and not made.computed
    np.testing.assert_array_equal(made.lead("aVR"), -record.lead("-aVR"))
    assert any("turned over" in note for note in made.meta.notes)


def test_minus_avr_beside_avr_is_left_as_it_is():
    record = _record(("aVR", "-aVR"))
    assert normalise(record).leads == ("aVR", "-aVR")


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
