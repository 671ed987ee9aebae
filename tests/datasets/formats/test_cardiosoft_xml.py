"""GE CardioSoft XML: the real file and built variants."""

from __future__ import annotations

import re

import numpy as np
import pytest

from datasets.formats.base import ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile
from tests.datasets.formats.clinical_tools import facts, fuzz_test, read_bytes_as, read_one, read_shared, shared_bytes
from tests.shared import needs_shared

REAL = "cardiosoft_xml/ukbb_scrubbed.xml"


@needs_shared
def test_the_strip_of_the_real_file():
    known = facts(REAL)
    record = read_shared(REAL, "cardiosoft_xml")
    assert record.leads == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    assert (len(record.leads), record.fs_hz, record.n_samples) == (known["leads"], known["fs"], known["n"])
    assert record.duration_s == known["seconds"]
    for lead, key in (("I", "lead_I"), ("II", "lead_II"), ("V1", "V1")):
        assert record.lead(lead)[0] == pytest.approx(known[f"{key}_sample0_mV"], abs=1e-6)
    # The augmented leads are letters of their own and follow from I and II.
    assert np.abs(record.lead("III") - (record.lead("II") - record.lead("I"))).max() <= 0.0051
    assert np.abs(record.lead("aVF") - (record.lead("II") - record.lead("I") / 2)).max() <= 0.0051


@needs_shared
def test_what_the_real_file_prints():
    meta = read_shared(REAL, "cardiosoft_xml").meta
    expected = {"heart_rate_bpm": 75, "qrs_ms": 76, "qt_ms": 378, "qtc_ms": 422, "rr_ms": 804, "qrs_count": 12}
    assert expected.items() <= meta.printed.items()
    assert len(meta.annotations) == 12 and meta.annotations[0] == (0.61, "beat", None, "dominant")
    assert [label.code for label in meta.labels][:2] == ["Normal sinus rhythm", "Right axis deviation"]
    assert (meta.subject, meta.sex, meta.device) == ("1", "female", "GE CardioSoft V6.73")
    assert "SMITH" not in repr(meta)
    assert any("full disclosure" in note for note in meta.notes)


@needs_shared
def test_the_full_disclosure_is_read_when_there_is_no_strip():
    text = shared_bytes(REAL).decode("latin-1")
    text = re.sub(r"<StripData>.*?</StripData>", "", text, flags=re.DOTALL)
    record = read_one(text.encode("latin-1"), "a.xml", "cardiosoft_xml")
    assert record.signal.shape == (12, 13500) and record.fs_hz == 500
    assert np.abs(record.lead("III") - (record.lead("II") - record.lead("I"))).max() <= 0.0051
    assert any("No strip" in note for note in record.meta.notes)


def strip(
    first: str = "1,2,3", second: str = "4,5,6", count: str = "3", unit: str = "uVperLsb", rate: str = "500"
) -> str:
    resolution = f'<Resolution units="{unit}">5</Resolution>' if unit else ""
    sampling = f'<SampleRate units="Hz">{rate}</SampleRate>' if rate else ""
    return (
        f"<StripData>{sampling}<ChannelSampleCountTotal>{count}</ChannelSampleCountTotal>{resolution}"
        f'<WaveformData lead="aVR">{first}</WaveformData><WaveformData lead="V1">\n{second},\n</WaveformData></StripData>'
    )


def document(body: str) -> bytes:
    return f'<?xml version="1.0" encoding="ISO-8859-1" ?>\n<CardiologyXML>{body}</CardiologyXML>'.encode()


def test_digits_to_millivolt_and_a_separator_at_the_end():
    record = read_one(document(strip()), "a.xml", "cardiosoft_xml")
    assert record.leads == ("aVR", "V1")
    assert record.signal == pytest.approx(np.array([[0.005, 0.01, 0.015], [0.02, 0.025, 0.03]]))


def test_numbers_between_blanks():
    record = read_one(document(strip(first="1 2\n3")), "a.xml", "cardiosoft_xml")
    assert record.lead("aVR") == pytest.approx([0.005, 0.01, 0.015])


def test_an_empty_place_is_a_gap():
    record = read_one(document(strip(first="1,,3")), "a.xml", "cardiosoft_xml")
    assert np.isnan(record.lead("aVR")[1]) and record.lead("aVR")[2] == pytest.approx(0.015)


def test_missing_samples_are_named_by_lead_and_counts():
    with pytest.raises(UnreadableFile, match="lead aVR announces 3 samples but holds 2"):
        read_one(document(strip(first="1,2")), "a.xml", "cardiosoft_xml")


@pytest.mark.parametrize(("unit", "age"), [("YEARS", 6), ("MONTHS", 0.5), ("EONS", None)])
def test_the_age_is_in_its_stated_unit(unit, age):
    persons = f'<PatientInfo><Age units="{unit}">6</Age></PatientInfo>'
    assert read_one(document(persons + strip()), "a.xml", "cardiosoft_xml").meta.age == age


def test_two_strips_are_two_records():
    result = read_bytes_as(document(strip() + strip()), "a.xml", "cardiosoft_xml")
    assert [key for key, _ in result.records] == ["a_1", "a_2"]


@pytest.mark.parametrize(("missing", "answer"), [("unit", {"unit": "200/mV"}), ("rate", {"fs_hz": 500.0})])
def test_what_is_not_stated_is_asked_for(missing, answer):
    data = document(strip(**{missing: ""}))
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.xml", "cardiosoft_xml")
    assert set(caught.value.fields) == set(answer)
    record = read_one(data, "a.xml", "cardiosoft_xml", ReadOptions(**answer))
    assert record.fs_hz == 500 and record.lead("aVR")[0] == pytest.approx(0.005)


@pytest.mark.parametrize("body", ["", "<StripData/>", "<FullDisclosure><SampleRate>500</SampleRate></FullDisclosure>"])
def test_a_file_without_waveforms_is_refused(body):
    with pytest.raises(UnreadableFile, match="without strips") as caught:
        read_one(document(body), "a.xml", "cardiosoft_xml")
    assert caught.value.code == "no_waveform"


def test_a_cut_full_disclosure_is_refused():
    body = (
        '<FullDisclosure><SampleRate>2</SampleRate><Resolution units="uVperLsb">5</Resolution><LeadOrder>I,II</LeadOrder>'
        "<FullDisclosureData>1,2,3,4,5,6,7</FullDisclosureData></FullDisclosure>"
    )
    with pytest.raises(UnreadableFile, match="7 samples"):
        read_one(document(body), "a.xml", "cardiosoft_xml")


test_damaged_files_never_crash = needs_shared(fuzz_test("cardiosoft_xml", REAL, 30))
