"""GE MUSE XML: the real file, its traps, and built variants."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from datasets.ecg import LEADS_12, normalise
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile, UnsafeFile
from tests.datasets.formats.clinical_tools import facts, fuzz_test, read_bytes_as, read_one, read_shared, shared_bytes
from tests.shared import needs_shared

REAL = "muse_xml/muse_ecg_deidentified_1.xml"
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def lead(name: str, digits: np.ndarray, count: int | None = None, crc: int | None = None, **extra: str) -> str:
    raw = digits.astype("<i2").tobytes()
    fields = {
        "LeadByteCountTotal": len(raw),
        "LeadTimeOffset": 0,
        "LeadSampleCountTotal": digits.size if count is None else count,
        "LeadAmplitudeUnitsPerBit": "4.88",
        "LeadAmplitudeUnits": "MICROVOLTS",
        "LeadID": name,
        "LeadSampleSize": 2,
        "LeadDataCRC32": zlib.crc32(raw) if crc is None else crc,
    } | extra
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items() if value != "")
    return f"<LeadData>{inside}<WaveFormData>\n{base64.encodebytes(raw).decode()}\n</WaveFormData></LeadData>"


def waveform(leads: str, kind: str = "Rhythm", base: str = "500", exponent: str = "0", start: str = "0") -> str:
    return (
        f"<Waveform><WaveformType>{kind}</WaveformType><WaveformStartTime>{start}</WaveformStartTime>"
        + (f"<SampleBase>{base}</SampleBase>" if base else "")
        + f"<SampleExponent>{exponent}</SampleExponent>{leads}</Waveform>"
    )


def document(body: str) -> bytes:
    doctype = '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'
    return f'<?xml version="1.0" encoding="ISO-8859-1"?>{doctype}<RestingECG>{body}</RestingECG>'.encode()


RAMP = np.arange(-500, 500)


@needs_shared
def test_the_real_file_is_read_at_its_own_240_hz():
    known = facts(REAL)
    record = read_shared(REAL, "muse_xml")
    assert record.leads == EIGHT and len(record.leads) == known["leads_stored"]
    assert (record.fs_hz, record.n_samples) == (known["fs"], known["n"])
    assert record.duration_s == pytest.approx(known["seconds"], abs=1e-3)
    assert record.lead("I")[0] == pytest.approx(known["lead_I_sample0_mV"], abs=1e-6)
    assert record.lead("II")[0] == pytest.approx(known["lead_II_sample0_mV"], abs=1e-6)
    assert [record.lead("II").min(), record.lead("II").max()] == pytest.approx(known["lead_II_min_max_mV"], abs=1e-4)
    assert not record.computed


@needs_shared
def test_the_four_limb_leads_are_computed_and_marked():
    known = facts(REAL)
    record = normalise(read_shared(REAL, "muse_xml"))
    assert record.leads == LEADS_12 and len(record.leads) == known["leads_after_derivation"]
    assert record.computed == ("III", "aVR", "aVL", "aVF")
    assert record.lead("III")[0] == pytest.approx(known["III_sample0_mV"], abs=1e-6)
    assert record.lead("aVR")[0] == pytest.approx(known["aVR_sample0_mV"], abs=1e-6)


@needs_shared
def test_printed_measurements_beats_and_statements():
    record = read_shared(REAL, "muse_xml")
    meta = record.meta
    expected = {"heart_rate_bpm": 102, "pr_ms": 167, "qrs_ms": 83, "qt_ms": 367, "qtc_ms": 478, "qrs_count": 17}
    expected |= {"p_axis_deg": 48, "qrs_axis_deg": -31, "t_axis_deg": 59, "atrial_rate_bpm": 102}
    assert meta.printed == expected
    times = [mark[0] for mark in meta.annotations]
    assert len(times) == 17
    # At the right rate the marks give the printed heart rate; at 250 Hz they would give 106.6.
    assert 60 * 16 / (times[-1] - times[0]) == pytest.approx(102.3, abs=0.1)
    assert [label.code for label in meta.labels] == [
        "BASELINE ARTIFACT",
        "SINUS TACHYCARDIA WITH ONE VENTRICULAR PREMATURE BEAT",
        "LEFT AXIS DEVIATION",
        "OLD ANTEROSEPTAL INFARCT",
    ]
    assert (meta.subject, meta.age, meta.sex) == ("502542127", 66, "male")
    assert any("median" in note for note in meta.notes)
    for planted in ("WEST", "KANYE", "AGUIRRE", "ELTON", "1941", "MGH", "MYSTERY", "1/21/99", "18300"):
        assert planted not in repr(meta)


@pytest.mark.parametrize(("base", "exponent", "fs_hz"), [("500", "0", 500), ("5", "2", 500), ("2500", "-1", 250)])
def test_the_exponent_of_the_rate(base, exponent, fs_hz):
    data = document(waveform(lead("I", RAMP), base=base, exponent=exponent))
    assert read_one(data, "a.xml", "muse_xml").fs_hz == fs_hz


def test_the_rhythm_is_found_wherever_it_stands():
    median = waveform(lead("I", RAMP[:300]), kind="Median", base="250")
    for body in (median + waveform(lead("I", RAMP)), waveform(lead("I", RAMP)) + median):
        record = read_one(document(body), "a.xml", "muse_xml")
        assert (record.n_samples, record.fs_hz) == (1000, 500)


def test_several_rhythms_of_other_leads_are_joined_and_of_the_same_leads_kept_apart():
    joined = read_one(document(waveform(lead("I", RAMP)) + waveform(lead("V1", RAMP))), "a.xml", "muse_xml")
    assert joined.leads == ("I", "V1") and joined.n_samples == 1000
    apart = read_bytes_as(document(waveform(lead("I", RAMP)) + waveform(lead("I", RAMP))), "a.xml", "muse_xml")
    assert [key for key, _ in apart.records] == ["a_1", "a_2"]


@pytest.mark.parametrize(
    ("unit", "per_bit", "first"),
    [("MICROVOLTS", "4.88", -2.44), ("MICROVOLTS", "4,88", -2.44), ("MILLIVOLTS", "0.005", -2.5)],
)
def test_units(unit, per_bit, first):
    data = document(waveform(lead("I", RAMP, LeadAmplitudeUnits=unit, LeadAmplitudeUnitsPerBit=per_bit)))
    assert read_one(data, "a.xml", "muse_xml").lead("I")[0] == pytest.approx(first)


def test_a_missing_unit_or_rate_is_asked_for():
    data = document(waveform(lead("I", RAMP, LeadAmplitudeUnits="", LeadAmplitudeUnitsPerBit="")))
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.xml", "muse_xml")
    assert set(caught.value.fields) == {"unit"}
    answered = read_one(data, "a.xml", "muse_xml", ReadOptions(unit="200/mV"))
    assert answered.lead("I")[0] == pytest.approx(-2.5)
    with pytest.raises(NeedsAnswer) as caught:
        read_one(document(waveform(lead("I", RAMP), base="")), "a.xml", "muse_xml")
    assert set(caught.value.fields) == {"fs_hz"}


@pytest.mark.parametrize("announced", [1001, 100_000])
def test_samples_that_are_missing_are_named_by_lead_and_counts(announced):
    body = waveform(lead("I", RAMP) + lead("V2", RAMP, count=announced))
    with pytest.raises(UnreadableFile, match=f"lead V2 announces {announced} samples but holds 1000") as caught:
        read_one(document(body), "a.xml", "muse_xml")
    assert caught.value.code == "short_waveform"


@needs_shared
@pytest.mark.parametrize("cut", [1, 2, 3, 100])
def test_the_real_file_with_a_shortened_lead(cut):
    data = shared_bytes(REAL)
    end = data.rindex(b"</WaveFormData>")
    end = len(data[:end].rstrip())
    with pytest.raises(UnreadableFile, match=r"lead V6 announces 2500 samples but holds \d+"):
        read_one(data[: end - cut - 1] + data[end:], "a.xml", "muse_xml")


def test_text_that_is_no_base64_is_refused():
    body = waveform(lead("I", RAMP)).replace("<WaveFormData>\n", "<WaveFormData>\n!!!!")
    with pytest.raises(UnreadableFile, match="lead I are not base64"):
        read_one(document(body), "a.xml", "muse_xml")


def test_a_wrong_checksum_is_noted():
    record = read_one(document(waveform(lead("I", RAMP, crc=1))), "a.xml", "muse_xml")
    assert any("checksum of lead I" in note for note in record.meta.notes)


def beats(times: list[int], rate: int | None = None) -> str:
    marks = "".join(f"<QRS><Number>{i}</Number><Type>0</Type><Time>{at}</Time></QRS>" for i, at in enumerate(times, 1))
    printed = (
        f"<RestingECGMeasurements><VentricularRate>{rate}</VentricularRate></RestingECGMeasurements>" if rate else ""
    )
    return f"{printed}<QRSTimesTypes>{marks}</QRSTimesTypes>"


@pytest.mark.parametrize(
    ("times", "rate", "seconds"),
    [
        # MUSE 9 writes milliseconds, version 8 samples; two beats a second are 120/min.
        ([100, 600, 1100, 1600], 120, [0.1, 0.6, 1.1, 1.6]),
        ([50, 300, 550, 800], 120, [0.1, 0.6, 1.1, 1.6]),
        # Beyond the last of 1000 samples only milliseconds are possible.
        ([100, 600, 1100, 1600], None, [0.1, 0.6, 1.1, 1.6]),
        # Without a printed rate nothing tells.
        ([50, 300, 550, 800], None, []),
        # The printed rate fits neither.
        ([50, 300, 550, 800], 60, []),
    ],
)
def test_the_unit_of_the_qrs_times_is_told_by_the_printed_rate(times, rate, seconds):
    meta = read_one(document(beats(times, rate) + waveform(lead("I", RAMP))), "a.xml", "muse_xml").meta
    assert [mark[0] for mark in meta.annotations] == seconds
    assert any("QRS times" in note for note in meta.notes) == (not seconds)


def test_offsets_that_are_not_documented_are_said_and_not_applied():
    body = waveform(lead("I", RAMP, FirstSampleBaseline="12", LeadOffsetFirstSample="0"))
    record = read_one(document(body), "a.xml", "muse_xml")
    assert record.lead("I")[0] == pytest.approx(-2.44)
    assert any("FirstSampleBaseline of 12" in note for note in record.meta.notes)


def test_the_age_follows_from_the_birth_date_where_none_is_stated():
    persons = "<PatientDemographics><DateofBirth>06-30-1950</DateofBirth></PatientDemographics>"
    test = "<TestDemographics><AcquisitionDate>06-29-2010</AcquisitionDate></TestDemographics>"
    meta = read_one(document(persons + test + waveform(lead("I", RAMP))), "a.xml", "muse_xml").meta
    assert meta.age == 59 and "1950" not in repr(meta)


def test_a_file_with_a_median_only_is_refused():
    with pytest.raises(UnreadableFile, match="without a rhythm waveform") as caught:
        read_one(document(waveform(lead("I", RAMP), kind="Median")), "a.xml", "muse_xml")
    assert caught.value.code == "no_rhythm"


def test_hostile_document_types_are_refused():
    bomb = b'<!DOCTYPE RestingECG [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><RestingECG>&b;</RestingECG>'
    with pytest.raises(UnsafeFile):
        read_one(bomb, "a.xml", "muse_xml")


def test_a_pdf_named_xml_is_not_recognised():
    with pytest.raises(UnreadableFile) as caught:
        registry.read(BytesSource("muse.xml", b"%PDF-1.4\n<RestingECG/>"))
    assert caught.value.code == "not_an_ecg"


test_damaged_files_never_crash = needs_shared(fuzz_test("muse_xml", REAL))
