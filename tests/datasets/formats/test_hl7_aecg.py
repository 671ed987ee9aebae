"""HL7 annotated ECG: real and synthetic files, units, clocks, annotations, hostile XML."""

from __future__ import annotations

import re

import numpy as np
import pytest

from datasets.ecg import normalise
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from ecgportal.errors import NeedsAnswer, UnreadableFile, UnsafeFile
from tests.datasets.formats.clinical_tools import facts, fuzz_test, read_bytes_as, read_one, read_shared, shared_bytes
from tests.shared import needs_shared


def sequence_set(
    leads: dict[str, str],
    head: str = "20200101101010.000",
    increment: str = '<increment value="2" unit="ms"/>',
    scale: str = '<scale value="5" unit="uV"/>',
    origin: str = '<origin value="0" unit="uV"/>',
) -> str:
    clock = (
        f'<component><sequence><code code="TIME_ABSOLUTE"/><value><head value="{head}"/>{increment}</value></sequence>'
        "</component>"
    )
    rows = "".join(
        f'<component><sequence><code code="{code}"/><value xsi:type="SLIST_PQ">{origin}{scale}'
        f"<digits>{digits}</digits></value></sequence></component>"
        for code, digits in leads.items()
    )
    return f"<component><sequenceSet>{clock}{rows}</sequenceSet></component>"


def document(body: str, before: str = "", code: str = "RHYTHM") -> bytes:
    return (
        '<?xml version="1.0"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f'{before}<component><series><code code="{code}"/>{body}</series></component></AnnotatedECG>'
    ).encode()


DIGITS = " ".join(str(value) for value in range(-50, 50))


@needs_shared
@pytest.mark.parametrize("name", ["hl7_2003_example.xml", "liryc_100hz_synthetic.xml"])
def test_the_known_files_give_their_facts(name):
    known = facts(f"hl7_aecg/{name}")
    record = read_shared(f"hl7_aecg/{name}", "hl7_aecg")
    canonical = tuple({"AVR": "aVR", "AVL": "aVL", "AVF": "aVF"}.get(lead, lead) for lead in known["names"])
    assert record.leads == canonical and len(record.leads) == known["leads"]
    assert (record.fs_hz, record.n_samples, record.duration_s) == (known["fs"], known["n"], known["seconds"])
    for lead in ("I", "II"):
        assert record.lead(lead)[0] == pytest.approx(known[f"{lead}_sample0_mV"], abs=1e-6)
        low_high = [record.lead(lead).min(), record.lead(lead).max()]
        assert low_high == pytest.approx(known[f"{lead}_min_max_mV"], abs=1e-6)
    assert any(f"{known['derived_series']} derived series" in note for note in record.meta.notes)


@needs_shared
def test_the_example_keeps_its_annotations_and_the_trial_subject():
    meta = read_shared("hl7_aecg/hl7_2003_example.xml", "hl7_aecg").meta
    assert meta.annotations[:4] == (
        (0.122, "p_onset", None, ""),
        (0.224, "p_offset", None, ""),
        (0.27, "qrs_onset", None, ""),
        (0.39, "qrs_offset", None, ""),
    )
    assert sum(mark[1] == "qrs_onset" for mark in meta.annotations) == 12
    assert (meta.subject, meta.age, meta.sex) == ("SBJ-123", 46.0, "male")
    assert (meta.printed["pr_ms"], meta.printed["qrs_ms"], meta.printed["qt_ms"]) == (148, 120, 420)
    assert [label.code for label in meta.labels] == ["Sinus Rhythm"]
    for planted in ("Clark", "JMK", "KAB", "19530508", "River City", "Brown", "John Smith", "dizzy", "RaceWhite"):
        assert planted not in repr(meta)


@needs_shared
def test_printed_measurements_of_the_synthetic_file():
    meta = read_shared("hl7_aecg/liryc_100hz_synthetic.xml", "hl7_aecg").meta
    assert meta.printed["heart_rate_bpm"] == facts("hl7_aecg/liryc_100hz_synthetic.xml")["printed_hr"]
    assert (meta.printed["pr_ms"], meta.printed["qrs_ms"]) == (192, 88)
    # The corrected QT is 0 by itself; its value by a formula (Hodges) stands inside it.
    assert (meta.printed["qtc_ms"], meta.printed["p_axis_deg"]) == (413, 60)


@needs_shared
@pytest.mark.parametrize("name", ["minimum_aecg.xml", "minimum_aecg_nouuid.xml"])
def test_the_minimum_files(name):
    record = read_shared(f"hl7_aecg/{name}", "hl7_aecg")
    assert (record.leads, record.n_samples, record.fs_hz) == (("II",), 13, 500)
    assert record.lead("II")[:6] * 400 == pytest.approx([-2, -2, -2, -2, -3, -4], abs=1e-4)


@needs_shared
def test_the_empty_file_is_refused_with_a_sentence():
    with pytest.raises(UnreadableFile, match="without a rhythm waveform") as caught:
        read_shared("hl7_aecg/empty.xml", "hl7_aecg")
    assert caught.value.code == "no_waveform"


@pytest.mark.parametrize(
    ("scale", "origin", "first_mv"),
    [
        ('<scale value="5" unit="uV"/>', '<origin value="0" unit="uV"/>', -0.25),
        ('<scale value="0.005" unit="mV"/>', '<origin value="1" unit="mV"/>', 0.75),
        ('<scale value="5000" unit="nV"/>', '<origin value="1000" unit="uV"/>', 0.75),
        ('<scale value="0.000005" unit="V"/>', "", -0.25),
    ],
)
def test_scale_and_origin_each_in_their_own_unit(scale, origin, first_mv):
    body = sequence_set({"MDC_ECG_LEAD_V1": DIGITS}, scale=scale, origin=origin)
    record = read_one(document(body), "a.xml", "hl7_aecg")
    assert record.leads == ("V1",)
    assert record.lead("V1")[0] == pytest.approx(first_mv, abs=1e-6)


@pytest.mark.parametrize(
    ("increment", "fs_hz"),
    [
        ('<increment value="0.002" unit="s"/>', 500),
        ('<increment value="4" unit="ms"/>', 250),
        ('<increment value="0.00416667" unit="s"/>', 240),
        ('<increment value="1000" unit="us"/>', 1000),
    ],
)
def test_the_rate_follows_from_the_increment(increment, fs_hz):
    body = sequence_set({"MDC_ECG_LEAD_II": DIGITS}, increment=increment)
    assert read_one(document(body), "a.xml", "hl7_aecg").fs_hz == fs_hz


@pytest.mark.parametrize("unit", ["Hz", "ticks", ""])
def test_an_increment_in_an_unknown_unit_is_asked_for(unit):
    stated = f'unit="{unit}"' if unit else ""
    body = sequence_set({"MDC_ECG_LEAD_II": DIGITS}, increment=f'<increment value="2" {stated}/>')
    with pytest.raises(NeedsAnswer, match=unit or "none") as caught:
        read_one(document(body), "a.xml", "hl7_aecg")
    assert set(caught.value.fields) == {"fs_hz"}
    assert read_one(document(body), "a.xml", "hl7_aecg", ReadOptions(fs_hz=500.0)).fs_hz == 500


def test_codes_of_another_nomenclature_and_a_lead_stored_upside_down():
    body = sequence_set({"NOM_ECG_LEAD_V2": DIGITS, "MDC_ECG_LEAD_AVRNEG": DIGITS})
    record = read_one(document(body), "a.xml", "hl7_aecg")
    assert record.leads == ("V2", "-aVR")
    assert normalise(record).lead("aVR")[0] == pytest.approx(0.25)


def test_the_calibration_pulse_at_the_end_is_cut_off():
    # As Philips exports: ten seconds of ECG, then zeros and a pulse of 1 mV that are the same in every lead.
    rng = np.random.default_rng(3)
    tail = np.concatenate([np.zeros(300), np.full(100, 200), np.zeros(100)])
    leads = {
        f"MDC_ECG_LEAD_{lead}": " ".join(
            str(int(value)) for value in np.concatenate([rng.normal(0, 40, 5000).round(), tail])
        )
        for lead in ("I", "II", "V1", "V2")
    }
    record = read_one(document(sequence_set(leads)), "a.xml", "hl7_aecg")
    assert record.signal.shape == (4, 5000)
    assert any("1 mV calibration pulse" in note for note in record.meta.notes)
    same = dict.fromkeys(leads, leads["MDC_ECG_LEAD_I"])
    assert read_one(document(sequence_set(same)), "a.xml", "hl7_aecg").n_samples == 5500


def test_digits_with_a_decimal_comma_or_in_pairs_are_not_guessed():
    for digits in ("1,5 2,5 -3,0 4", "1, 2, 3"):
        body = sequence_set({"MDC_ECG_LEAD_I": digits})
        if digits.startswith("1, "):
            assert read_one(document(body), "a.xml", "hl7_aecg").n_samples == 3
        else:
            with pytest.raises(UnreadableFile, match="comma"):
                read_one(document(body), "a.xml", "hl7_aecg")


@pytest.mark.parametrize(
    ("code", "value", "unit", "key", "printed"),
    [
        ("MDC_ECG_HEART_RATE", "1.25", "Hz", "heart_rate_bpm", 75), ("MDC_ECG_HEART_RATE", "75", "bpm", "heart_rate_bpm", 75),
        ("MDC_ECG_TIME_PD_QRS", "0.1", "s", "qrs_ms", 100),
        ("MDC_ECG_TIME_PD_PR_GL", "160", "ms", "pr_ms", 160), ("MDC_ECG_TIME_PD_QTc", "420", "ms", "qtc_ms", 420), ("MINDRAY_ECG_QRS_AXIS", "30", "deg", "qrs_axis_deg", 30),
    ],
)  # fmt: skip
def test_printed_values_are_in_the_unit_of_their_key(code, value, unit, key, printed):
    mark = (
        f'<subjectOf><annotationSet><component><annotation><code code="{code}"/><value value="{value}" unit="{unit}"/>'
        "</annotation></component></annotationSet></subjectOf>"
    )
    meta = read_one(document(sequence_set({"MDC_ECG_LEAD_I": DIGITS}) + mark), "a.xml", "hl7_aecg").meta
    assert meta.printed == {key: pytest.approx(printed)}


def test_sets_at_different_times_go_on_one_timeline():
    body = sequence_set({"MDC_ECG_LEAD_I": DIGITS, "MDC_ECG_LEAD_II": DIGITS})
    body += sequence_set({"MDC_ECG_LEAD_V1": DIGITS}, head="20200101101010.200")
    record = read_one(document(body), "a.xml", "hl7_aecg")
    assert record.leads == ("I", "II", "V1")
    assert record.n_samples == 200
    assert np.isnan(record.lead("I")[100:]).all() and np.isnan(record.lead("V1")[:100]).all()
    assert not np.isnan(record.lead("V1")[100:]).any()


def test_a_representative_beat_given_as_series_is_no_rhythm():
    with pytest.raises(UnreadableFile, match="without a rhythm"):
        read_one(document(sequence_set({"MDC_ECG_LEAD_I": DIGITS}), code="REPRESENTATIVE_BEAT"), "a.xml", "hl7_aecg")


@pytest.mark.parametrize("code", ["MEDIAN_BEAT", "AVERAGE_BEAT", "MDC_ECG_REPRESENTATIVE_BEAT", "Template"])
def test_averaged_beats_under_other_names_are_no_rhythm(code):
    beat = f'<component><series><code code="{code}"/>{sequence_set({"MDC_ECG_LEAD_II": "1 2 3"})}</series></component>'
    data = document(sequence_set({"MDC_ECG_LEAD_I": DIGITS}))
    both = data.replace(b"</AnnotatedECG>", beat.encode() + b"</AnnotatedECG>")
    assert read_one(both, "a.xml", "hl7_aecg").leads == ("I",)
    with pytest.raises(UnreadableFile, match="without a rhythm"):
        read_one(data.replace(b'code="RHYTHM"', f'code="{code}"'.encode()), "a.xml", "hl7_aecg")


def test_leads_by_number_and_by_words():
    body = sequence_set({"131329": DIGITS, "131390": DIGITS, "131393": DIGITS, "LOCAL_7": DIGITS})
    body = body.replace('code="LOCAL_7"', 'code="LOCAL_7" displayName="Lead V5"')
    record = read_one(document(body), "a.xml", "hl7_aecg")
    assert record.leads == ("I", "aVR", "-aVR", "V5")


def test_a_document_inside_a_message():
    inner = document(sequence_set({"MDC_ECG_LEAD_I": DIGITS})).split(b"?>", 1)[1]
    inner = inner.replace(b"AnnotatedECG", b"annotatedECG")
    message = b'<PORT_IN020001 xmlns="urn:hl7-org:v3"><controlActProcess><subject>' + inner
    message += b"</subject></controlActProcess></PORT_IN020001>"
    assert read_one(message, "a.xml", "hl7_aecg").n_samples == 100


def test_a_lead_in_no_voltage_is_a_question_and_one_without_samples_is_named():
    body = sequence_set(
        {"MDC_ECG_LEAD_I": DIGITS, "MDC_ECG_LEAD_II": ""}, scale='<scale value="5" unit="1"/>', origin=""
    )
    with pytest.raises(NeedsAnswer) as caught:
        read_one(document(body), "a.xml", "hl7_aecg")
    assert set(caught.value.fields) == {"unit"}
    record = read_one(document(body), "a.xml", "hl7_aecg", ReadOptions(unit="uV"))
    assert record.lead("I")[0] == pytest.approx(-0.25) and "Lead II holds no samples." in record.meta.notes


def test_two_rhythm_series_are_two_records():
    one = f'<component><series><code code="RHYTHM"/>{sequence_set({"MDC_ECG_LEAD_I": DIGITS})}</series></component>'
    data = document(sequence_set({"MDC_ECG_LEAD_II": DIGITS})).replace(
        b"</AnnotatedECG>", one.encode() + b"</AnnotatedECG>"
    )
    result = read_bytes_as(data, "folder/a.xml", "hl7_aecg")
    assert [(key, record.leads) for key, record in result.records] == [("a_1", ("II",)), ("a_2", ("I",))]


def test_missing_unit_and_rate_are_asked_for():
    no_unit = document(sequence_set({"MDC_ECG_LEAD_I": DIGITS}, scale='<scale value="5"/>', origin=""))
    with pytest.raises(NeedsAnswer) as caught:
        read_one(no_unit, "a.xml", "hl7_aecg")
    assert set(caught.value.fields) == {"unit"}
    assert read_one(no_unit, "a.xml", "hl7_aecg", ReadOptions(unit="uV")).lead("I")[0] == pytest.approx(-0.25)
    no_rate = document(sequence_set({"MDC_ECG_LEAD_I": DIGITS}, increment=""))
    with pytest.raises(NeedsAnswer) as caught:
        read_one(no_rate, "a.xml", "hl7_aecg")
    assert set(caught.value.fields) == {"fs_hz"}
    assert read_one(no_rate, "a.xml", "hl7_aecg", ReadOptions(fs_hz=250)).fs_hz == 250


def test_a_statement_of_the_file_wins_over_the_answer():
    data = document(sequence_set({"MDC_ECG_LEAD_I": DIGITS}))
    record = read_one(data, "a.xml", "hl7_aecg", ReadOptions(fs_hz=99, unit="V"))
    assert (record.fs_hz, record.lead("I")[0]) == (500, pytest.approx(-0.25))


def test_a_channel_that_is_no_voltage_is_dropped_and_named():
    body = sequence_set({"MDC_ECG_LEAD_I": DIGITS}).replace(
        "</sequenceSet>",
        '<component><sequence><code code="MDC_PRESS_BLD"/><value><scale value="1" unit="mm[Hg]"/><digits>1 2</digits>'
        "</value></sequence></component></sequenceSet>",
    )
    record = read_one(document(body), "a.xml", "hl7_aecg")
    assert record.leads == ("I",)
    assert len(record.meta.dropped_channels) == 1


def test_a_lead_that_ends_early_ends_in_a_gap():
    body = sequence_set({"MDC_ECG_LEAD_I": DIGITS, "MDC_ECG_LEAD_II": "1 2 3"})
    record = read_one(document(body), "a.xml", "hl7_aecg")
    assert np.isnan(record.lead("II")[3:]).all()
    assert any("II has 3 of 100 samples" in note for note in record.meta.notes)


def test_text_among_the_digits_is_refused_by_the_lead():
    with pytest.raises(UnreadableFile, match="lead I holds something that is not a number"):
        read_one(document(sequence_set({"MDC_ECG_LEAD_I": "1 2 x 4"})), "a.xml", "hl7_aecg")


def test_a_lead_named_twice_is_refused():
    body = sequence_set({"MDC_ECG_LEAD_I": DIGITS, "MDC_ECG_LEAD_i": DIGITS})
    with pytest.raises(UnreadableFile, match="lead I twice"):
        read_one(document(body), "a.xml", "hl7_aecg")


def test_entities_in_an_annotated_ecg_are_refused():
    data = b'<!DOCTYPE AnnotatedECG [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + document("&e;").split(b"?>", 1)[1]
    with pytest.raises(UnsafeFile):
        read_one(data, "a.xml", "hl7_aecg")


@needs_shared
def test_a_file_in_utf_16_gives_the_same_record():
    text = shared_bytes("hl7_aecg/minimum_aecg.xml").decode()
    record = read_one(text.encode("utf-16"), "a.xml", "hl7_aecg")
    assert record.leads == ("II",)


@pytest.mark.parametrize("data", [b"%PDF-1.7\n<AnnotatedECG>", b"\x89PNG\r\n\x1a\n<AnnotatedECG>", b"<html/>"])
def test_other_content_named_xml_is_not_recognised(data):
    with pytest.raises(UnreadableFile) as caught:
        registry.read(BytesSource("ecg.xml", data))
    assert caught.value.code == "not_an_ecg"


test_damaged_files_never_crash = needs_shared(fuzz_test("hl7_aecg", "hl7_aecg/minimum_aecg.xml", 150))
test_damaged_long_files_never_crash = needs_shared(fuzz_test("hl7_aecg", "hl7_aecg/liryc_100hz_synthetic.xml", 40))


@needs_shared
def test_commas_and_comments_between_the_digits_change_nothing():
    plain = shared_bytes("hl7_aecg/hl7_2003_example.xml").decode()
    commas = re.sub(
        r"<digits>([^<]*)</digits>", lambda m: "<digits><!-- q -->" + ",".join(m[1].split()) + "</digits>", plain
    )
    read = [read_bytes_as(text.encode(), "a.xml", "hl7_aecg").records[0][1] for text in (plain, commas)]
    assert np.array_equal(read[0].signal, read[1].signal)


@pytest.mark.parametrize("head", ["20200101101010.000", ""])
def test_sets_of_the_same_leads_at_the_same_time_are_records_of_their_own(head):
    body = sequence_set({"MDC_ECG_LEAD_I": DIGITS}, head=head) + sequence_set({"MDC_ECG_LEAD_I": "7 " * 100}, head=head)
    (_, first), (_, second) = read_bytes_as(document(body), "a.xml", "hl7_aecg").records
    assert first.n_samples == second.n_samples == 100
    assert second.signal[0] == pytest.approx(np.full(100, 0.035))


def test_sets_of_the_same_leads_one_after_the_other_stay_one_record():
    body = sequence_set({"MDC_ECG_LEAD_I": DIGITS})
    body += sequence_set({"MDC_ECG_LEAD_I": "7 " * 100}, head="20200101101010.200")
    record = read_one(document(body), "a.xml", "hl7_aecg")
    assert record.n_samples == 200 and record.signal[0, 100:] == pytest.approx(np.full(100, 0.035))
