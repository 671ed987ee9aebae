"""What the readers of clinical formats share."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12
from datasets.formats import registry
from datasets.formats._clinical import (
    age_between,
    asked_leads,
    check_rate,
    decimal,
    distinct_leads,
    lead_name,
    millivolts_per,
    number,
    option_unit_mv,
    parse_numbers,
    person_words,
    sex,
    statement_labels,
    timeline,
)
from datasets.formats.base import ReadOptions
from ecgportal.errors import InvalidInput, NeedsAnswer, TooLarge, UnreadableFile

MINE = (
    "dicom", "hl7_aecg", "muse_xml", "cardiosoft_xml", "philips_xml", "scp_ecg", "edf", "mortara_xml", "schiller_xml",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4.88", 4.88),
        ("4,88", 4.88),
        (" -0,005 ", -0.005),
        ("4,880", None),
        ("1,000", None),
        ("1,2,3", None),
        ("", None),
    ],
)
def test_decimal_commas_are_read_where_they_cannot_divide_thousands(text, value):
    assert decimal(text) == value


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("uV", 1e-3),
        ("µV", 1e-3),
        ("μV", 1e-3),
        ("mV", 1),
        ("MV", 1),
        ("V", 1e3),
        ("nV", 1e-6),
        ("MICROVOLTS", 1e-3),
        ("mm[Hg]", None),
        ("%", None),
        ("", None),
    ],
)
def test_units_to_millivolt(unit, factor):
    assert millivolts_per(unit) == factor


def test_the_answer_about_the_unit():
    assert option_unit_mv("200/mV") == pytest.approx(0.005)
    assert option_unit_mv("uV") == pytest.approx(0.001)
    for wrong in ("0/mV", "-3/mV", "x/mV", "mmHg", ""):
        with pytest.raises(InvalidInput):
            option_unit_mv(wrong)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("MDC_ECG_LEAD_AVR", "aVR"),
        ("Lead aVF (augmented)", "aVF"),
        ("ECG V1", "V1"),
        ("DII", "II"),
        ("CH1", "CH1"),
        ("Channel 2", "Channel 2"),
        ("ECG_3", "ECG_3"),
        ("V3R", "V3R"),
        ("odd  name\x00", "odd name"),
    ],
)
def test_lead_names(label, name):
    assert lead_name(label) == name


def test_repeated_labels_are_numbered_and_repeated_leads_refused():
    assert distinct_leads("x", ["ECG", "II", "ECG", "ECG"]) == ["ECG", "II", "ECG (2)", "ECG (3)"]
    with pytest.raises(UnreadableFile, match="lead II twice"):
        distinct_leads("x", ["II", "II"])


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", None, "1,5"])
def test_what_is_no_number(text):
    assert number(text) is None


@pytest.mark.parametrize("rate", [None, 0, 0.5, -500, 1e6, float("nan"), float("inf")])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(UnreadableFile):
        check_rate("x", rate)


@pytest.mark.parametrize("separator", [None, ","])
def test_numbers_of_a_text_longer_than_one_piece(separator):
    values = np.arange(-200_000, 200_000)
    text = (separator or " ").join(map(str, values))
    assert len(text) > 2_000_000
    for tail in ("", separator or " "):
        assert np.array_equal(parse_numbers("x", "lead I", text + tail, separator), values)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(10**6), 10**6)), min_size=1, max_size=50))
def test_empty_places_are_gaps(values):
    text = ",".join("" if value is None else str(value) for value in values) + ","
    found = parse_numbers("x", "lead I", text, ",")
    expected = np.array([np.nan if value is None else value for value in values], float)
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("text", ["1 a", "1 inf", "1,2"])
def test_other_text_is_refused(text):
    with pytest.raises(UnreadableFile):
        parse_numbers("x", "lead I", text, None)


def test_the_timeline_fills_what_the_first_piece_left_open():
    long = np.arange(10, dtype=np.float32)[None]
    short = np.full((2, 4), 99, np.float32)
    leads, signal = timeline("x", 2.0, [(0.0, ("II",), long), (1.0, ("II", "V1"), short), (-1.0, ("V1",), short[:1])])
    assert leads == ("II", "V1")
    assert signal.shape == (2, 12)
    assert signal[0, 2:].tolist() == long[0].tolist()
    assert np.flatnonzero(~np.isnan(signal[1])).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(TooLarge):
        timeline("x", 500.0, [(0.0, ("I",), long), (1e9, ("II",), long)])


def test_statements_of_devices_pass_and_free_text_does_not():
    texts = [
        "SINUS RHYTHM",
        "sinus rhythm with 1st degree AV block.",
        "Seen by Jane Doe",
        "West sinus rhythm",
        "NORMAL ECG",
    ]
    texts += ["WHEN COMPARED WITH ECG", "Confirmed by", "", "Inferior infarct, 12-JAN-2001"]
    labels, left_out = statement_labels(texts)
    assert [label.code for label in labels] == ["SINUS RHYTHM", "sinus rhythm with 1st degree AV block", "NORMAL ECG"]
    assert left_out == 5
    assert {label.system for label in labels} == {"name"}


def test_a_word_of_a_statement_that_is_a_name_in_the_file_is_left_out():
    labels, left_out = statement_labels(["SMALL Q WAVE", "NORMAL ECG"], person_words(["Small^Peter", None, "of the"]))
    assert [label.code for label in labels] == ["NORMAL ECG"] and left_out == 1


def test_ages():
    assert age_between(datetime(1950, 6, 2), datetime(2020, 6, 1)) == 69
    assert age_between(datetime(1950, 6, 1), datetime(2020, 6, 1)) == 70
    assert age_between(datetime(2021, 1, 1), datetime(2020, 1, 1)) is None
    assert age_between(None, datetime(2020, 1, 1)) is None


@settings(deadline=None)
@given(st.binary(max_size=500))
def test_recognition_never_raises(head):
    readers = registry.readers()
    starts = (b"", b"<", b"0       ", b"\xffBIOSEMI", b"\x08\x00\x05\x00", b"\x00" * 16 + b"SCPECG", b"<?xml ")
    for name in MINE:
        for start in starts:
            assert readers[name].sniff(start + head, "x") in (True, False)


@pytest.mark.parametrize(
    "head", [b"%PDF-1.7 <RestingECG>", b"\x89PNG\r\n\x1a\n<AnnotatedECG>", b"GIF89a", b"PK\x03\x04", b""]
)
def test_other_content_is_recognised_by_none(head):
    readers = registry.readers()
    assert not [name for name in MINE if readers[name].sniff(head, "ecg.xml")]


def test_numbered_channels_are_asked_for_and_names_are_kept() -> None:
    numbered = [f"channel {n}" for n in range(1, 13)]
    with pytest.raises(NeedsAnswer) as asked:
        asked_leads("a.dcm", numbered, ReadOptions())
    assert asked.value.fields["lead_order"].startswith(f"Guess: {' '.join(LEADS_12)}.")
    with pytest.raises(NeedsAnswer, match="its 12 channels"):
        asked_leads("a.dcm", numbered, ReadOptions(lead_order=("I", "II")))
    assert asked_leads("a.dcm", numbered, ReadOptions(lead_order=LEADS_12)) == list(LEADS_12)
    for named in (["channel 1", "V1"], ["channel 1"], []):
        assert asked_leads("a.dcm", named, ReadOptions()) == named
    assert asked_leads("a.dcm", ["channel 1"], ReadOptions(lead_order=("II",))) == ["II"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("W", "female"), ("weiblich", "female"), ("MASCULINO", "male"), ("女", "female"), ("O", None), ("Unknown", None)],
)
def test_sex_in_other_languages(text, expected):
    assert sex(text) == expected
