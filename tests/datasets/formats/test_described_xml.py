"""Mortara and Schiller XML: files built after the published descriptions."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from hypothesis import given, settings

from datasets.formats import registry
from datasets.formats.base import ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile
from tests.datasets.formats.clinical_tools import direct_reader, mutations, never_another_error, read_one

RAMP = np.arange(-100, 100)


def mortara(count: str = "200", per_mv: str = "400", rate: str = "500", bits: int = 16) -> bytes:
    data = base64.b64encode(RAMP.astype(f"<i{bits // 8}").tobytes()).decode()
    scale = f'UNITS_PER_MV="{per_mv}" ' if per_mv else ""
    sampling = f'SAMPLE_FREQ="{rate}" ' if rate else ""
    channels = "".join(
        f'<CHANNEL OFFSET="0" BITS="{bits}" FORMAT="SIGNED" {scale}{sampling}DURATION="{count}" NAME="{lead}" '
        f'ENCODING="BASE64" DATA="{data}"/>'
        for lead in ("I", "AVR", "V1")
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ECG ACQUISITION_TIME_XML="2023-12-01T12:00:00" AGE="61" AGE_UNITS="Y" '
        'NUM_QRS="12" AVERAGE_RR="800" VENT_RATE="75" TECHNICIAN="Planted">'
        '<SUBJECT LAST_NAME="Doe" FIRST_NAME="Jane" GENDER="Female" ID="P-1" DOB_XML="1962-05-15"/>'
        '<SOURCE TYPE="RESTING" MANUFACTURER="Mortara Instrument, Inc." MODEL="ELI250c" ACQUIRING_DEVICE_SITE_NAME="Hospital"/>'
        '<AUTOMATIC_INTERPRETATION><STATEMENT TEXT="SINUS RHYTHM" REASON=""/><STATEMENT TEXT="Doe was seen"/>'
        '</AUTOMATIC_INTERPRETATION><TYPICAL_CYCLE PR_DURATION="163" QRS_DURATION="93" QT="456" QTC="463" P_AXIS="57" '
        f'QRS_AXIS="-35" T_AXIS="40" UNITS_PER_MV="200"/>{channels}</ECG>'
    ).encode()


def schiller(unit: str = "UV", rate: str = "500", exponent: str = "1", kind: str = "ECG_RHYTHMS") -> bytes:
    digits = ",".join(str(value) for value in RAMP)
    channels = "".join(
        f"<channel><name>{lead}</name><datatype>COMMASEPARATE</datatype><data>{digits},</data></channel>"
        for lead in ("I", "AVF", "V6")
    )
    return (
        "<com.xiriuz.sema.xml.schillerEDI.SchillerEDI><patdata><id>P-2</id><lastname>Doe</lastname><gender>MALE</gender>"
        "<birthdate>19600203</birthdate></patdata><examdescript><startdatetime><date>20210304</date></startdatetime>"
        f"</examdescript><eventdata><event><wavedata><type>ECG_AVERAGES</type></wavedata><wavedata><type>{kind}</type>"
        f"<resolution><samplerate><units>HZ</units><value>{rate}</value><exponent>{exponent}</exponent></samplerate>"
        f"<yres><units>{unit}</units><unitperbit>5</unitperbit></yres></resolution>{channels}</wavedata></event></eventdata>"
        "</com.xiriuz.sema.xml.schillerEDI.SchillerEDI>"
    ).encode()


def test_both_say_that_no_real_file_was_tried():
    readers = registry.readers()
    assert not readers["mortara_xml"].tried_on_real_files
    assert not readers["schiller_xml"].tried_on_real_files
    assert readers["muse_xml"].tried_on_real_files


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_mortara(bits):
    record = read_one(mortara(bits=bits), "a.xml", "mortara_xml")
    assert (record.leads, record.fs_hz, record.n_samples) == (("I", "aVR", "V1"), 500, 200)
    assert record.lead("aVR") == pytest.approx(RAMP / 400)
    meta = record.meta
    assert meta.printed == {
        "heart_rate_bpm": 75, "rr_ms": 800, "qrs_count": 12, "pr_ms": 163, "qrs_ms": 93, "qt_ms": 456, "qtc_ms": 463,
        "p_axis_deg": 57, "qrs_axis_deg": -35, "t_axis_deg": 40,
    }  # fmt: skip
    assert (meta.subject, meta.age, meta.sex, meta.recorded_at) == ("P-1", 61, "female", "2023-12-01T12:00:00")
    assert [label.code for label in meta.labels] == ["SINUS RHYTHM"]
    for planted in ("Doe", "Jane", "Planted", "1962", "Hospital"):
        assert planted not in repr(meta)


def test_mortara_samples_that_are_missing_are_named():
    with pytest.raises(UnreadableFile, match="lead I announces 300 samples but holds 200"):
        read_one(mortara(count="300"), "a.xml", "mortara_xml")


@pytest.mark.parametrize(("missing", "answer"), [("per_mv", {"unit": "400/mV"}), ("rate", {"fs_hz": 500.0})])
def test_mortara_asks_for_what_is_not_stated(missing, answer):
    data = mortara(**{missing: ""})
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.xml", "mortara_xml")
    assert set(caught.value.fields) == set(answer)
    record = read_one(data, "a.xml", "mortara_xml", ReadOptions(**answer))
    assert record.lead("I")[0] == pytest.approx(-0.25) and record.fs_hz == 500


def test_mortara_durations_in_milliseconds_and_samples_as_text():
    # 200 samples at 500 Hz last 400 ms.
    assert read_one(mortara(count="400"), "a.xml", "mortara_xml").n_samples == 200
    text = base64.b64encode(RAMP.astype("<i2").tobytes()).decode()
    data = mortara().replace(f' DATA="{text}"/>'.encode(), f">{text}</CHANNEL>".encode())
    assert read_one(data, "a.xml", "mortara_xml").lead("I") == pytest.approx(RAMP / 400)


def test_mortara_samples_beyond_the_announced_ones_are_said():
    record = read_one(mortara(count="150"), "a.xml", "mortara_xml")
    assert record.n_samples == 150 and any("holds 200 samples and announces 150" in note for note in record.meta.notes)


def test_mortara_persons_in_localised_demographic_fields():
    data = (
        re.sub(rb"<SUBJECT[^>]*/>", b"", mortara())
        .replace(b' AGE="61" AGE_UNITS="Y"', b"")
        .replace(b"Doe was", b"Sinus")
    )
    fields = (
        '<DEMOGRAPHIC_FIELDS><DEMOGRAPHIC_FIELD ID="1" LABEL="Nom:" VALUE="Sinus"/>'
        '<DEMOGRAPHIC_FIELD ID="2" LABEL="Numéro" VALUE="P-9"/><DEMOGRAPHIC_FIELD ID="3" LABEL="Age&amp;an" VALUE="44"/>'
        '<DEMOGRAPHIC_FIELD ID="4" LABEL="Sexe" VALUE="F"/><DEMOGRAPHIC_FIELD LABEL="FName:&amp;," VALUE="Rhythm"/></DEMOGRAPHIC_FIELDS>'
    )
    meta = read_one(data.replace(b"<SOURCE", fields.encode() + b"<SOURCE"), "a.xml", "mortara_xml").meta
    assert (meta.subject, meta.age, meta.sex) == ("P-9", 44, "female")
    assert not meta.labels


@pytest.mark.parametrize(("unit", "first"), [("UV", -0.5), ("MV", -500.0), ("uV", -0.5)])
def test_schiller(unit, first):
    record = read_one(schiller(unit), "a.xml", "schiller_xml")
    assert (record.leads, record.fs_hz, record.n_samples) == (("I", "aVF", "V6"), 500, 200)
    assert record.lead("I")[0] == pytest.approx(first)
    meta = record.meta
    assert (meta.subject, meta.sex, meta.age, meta.recorded_at) == ("P-2", "male", 61, "2021-03-04")
    assert "Doe" not in repr(meta) and "1960" not in repr(meta)
    assert any("ecg_averages" in note for note in meta.notes)


def test_schiller_singular_rhythm_time_of_day_and_printed_values():
    global_ = (
        "<annotation_global><name>HR</name><value>62</value><name>QRS</name><value>94</value><name>Note</name><value>7</value>"
        "</annotation_global></event>"
    )
    data = schiller(kind="ECG_RHYTHM", exponent="0").replace(b"</event>", global_.encode())
    data = data.replace(b"</date>", b"</date><time>134501</time>")
    record = read_one(data, "a.xml", "schiller_xml")
    assert record.n_samples == 200 and record.meta.printed == {"heart_rate_bpm": 62, "qrs_ms": 94}
    assert record.meta.recorded_at == "2021-03-04T13:45:01"


def test_schiller_bare_rates_are_read_and_other_sample_kinds_refused():
    bare = re.sub(rb"<samplerate>.*?</samplerate>", b"<samplerate>1000</samplerate>", schiller())
    assert read_one(bare, "a.xml", "schiller_xml").fs_hz == 1000
    with pytest.raises(UnreadableFile, match="as BASE64"):
        read_one(schiller().replace(b"COMMASEPARATE", b"BASE64"), "a.xml", "schiller_xml")
    # With an exponent of 1 a rate of 50 may be 50 Hz or 500 Hz.
    with pytest.raises(UnreadableFile, match="exponent 1"):
        read_one(schiller(rate="50"), "a.xml", "schiller_xml")


def test_schiller_without_a_rhythm_or_with_an_unknown_exponent_is_refused():
    with pytest.raises(UnreadableFile, match="without a rhythm"):
        read_one(schiller(kind="ECG_AVERAGES"), "a.xml", "schiller_xml")
    with pytest.raises(UnreadableFile, match="exponent 3"):
        read_one(schiller(exponent="3"), "a.xml", "schiller_xml")


@settings(max_examples=80, deadline=None)
@given(mutations)
def test_damaged_mortara_files_never_crash(steps):
    never_another_error(direct_reader("mortara_xml", "a.xml"), mortara(), steps, None)


@settings(max_examples=80, deadline=None)
@given(mutations)
def test_damaged_schiller_files_never_crash(steps):
    never_another_error(direct_reader("schiller_xml", "a.xml"), schiller(), steps, None)
