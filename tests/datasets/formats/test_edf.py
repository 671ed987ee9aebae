"""EDF, EDF+ and BDF: re-encoded records, files of the edfio package, files built byte by byte."""

from __future__ import annotations

import io

import edfio
import numpy as np
import pytest

from datasets.formats.base import BytesSource, ReadOptions
from datasets.formats.edf import _read
from ecgportal.errors import NeedsAnswer, TooLarge, UnreadableFile
from tests.datasets.formats.clinical_tools import (
    assert_same_signal,
    facts,
    fuzz_test,
    read_bytes_as,
    read_one,
    read_shared,
    shared_bytes,
)
from tests.shared import needs_shared

PLUS, PLAIN = "edf/reencoded_ludb4_edfplus_mV.edf", "edf/reencoded_ludb7_edf_uV.edf"


def field(value: object, width: int) -> bytes:
    return str(value).encode("latin-1").ljust(width)[:width]


def build(
    signals: list[tuple[str, str, np.ndarray]],
    records: object = None,
    record_s: object = 1,
    kind: str = "",
    patient: str = "X X X X",
    bdf: bool = False,
    annotations: list[bytes] | None = None,
    count: object = None,
    physical: tuple[float, float] = (-3276.8, 3276.7),
) -> bytes:
    """Build a file; every signal's digits have the shape (records, samples per record)."""
    digits = list(signals)
    width = 3 if bdf else 2
    limits = (-8388608, 8388607) if bdf else (-32768, 32767)
    n_records = digits[0][2].shape[0]
    rows = [(label, unit, values.shape[1]) for label, unit, values in digits]
    if annotations is not None:
        rows.append(("BDF Annotations" if bdf else "EDF Annotations", "", 30))
    head = b"\xffBIOSEMI" if bdf else field("0", 8)
    head += (
        field(patient, 80) + field("Startdate 03-FEB-2021 X X Cart", 80) + field("03.02.21", 8) + field("10.11.12", 8)
    )
    head += field(256 * (len(rows) + 1), 8) + field(kind, 44) + field(n_records if records is None else records, 8)
    head += field(record_s, 8) + field(len(rows) if count is None else count, 4)
    columns = [[field(label, 16) for label, _, _ in rows], [field("", 80)] * len(rows)]
    columns += [[field(unit, 8) for _, unit, _ in rows]]
    columns += [[field(value, 8)] * len(rows) for value in (*physical, *limits)]
    columns += [[field("", 80)] * len(rows), [field(samples, 8) for _, _, samples in rows], [field("", 32)] * len(rows)]
    head += b"".join(b"".join(column) for column in columns)
    body = b""
    for index in range(n_records):
        for _, _, values in digits:
            whole = values[index].astype("<i4")
            body += (
                whole.astype("<i2").tobytes() if width == 2 else whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
            )
        if annotations is not None:
            body += annotations[index].ljust(30 * width, b"\x00")
    return head + body


def ramp(records: int = 4, samples: int = 100) -> np.ndarray:
    return np.arange(records * samples).reshape(records, samples) - 150


def tal(onset: float, *texts: tuple[float, str]) -> bytes:
    out = f"+{onset:g}\x14\x14\x00"
    return (out + "".join(f"+{at:g}\x14{text}\x14\x00" for at, text in texts)).encode()


@needs_shared
@pytest.mark.parametrize(("name", "number"), [(PLUS, 4), (PLAIN, 7)])
def test_the_reencoded_records_equal_their_source(name, number):
    known = facts(name)
    record = read_shared(name, "edf")
    assert (len(record.leads), record.fs_hz, record.n_samples, record.duration_s) == (
        known["leads"],
        known["fs"],
        known["n"],
        known["seconds"],
    )
    assert_same_signal(record, number, known["tolerance_mV"])
    for value, key in (
        (record.lead("I")[0], "lead_I_sample0_mV"),
        (record.lead("II").max(), "lead_II_max_mV"),
        (record.lead("V1").min(), "V1_min_mV"),
    ):
        assert value == pytest.approx(known[key], abs=known["tolerance_mV"])


@needs_shared
def test_the_annotations_of_the_plus_file():
    known = facts(PLUS)
    marks = read_shared(PLUS, "edf").meta.annotations
    assert len(marks) == known["annotated_QRS_lead_II"]
    assert {mark[1] for mark in marks} == {"N"}
    rate = 60 * (len(marks) - 1) / (marks[-1][0] - marks[0][0])
    assert rate == pytest.approx(known["hr_from_annotations_bpm"], abs=1.0)


@needs_shared
@pytest.mark.parametrize("name", [PLUS, PLAIN])
def test_samples_equal_those_of_edfio(name):
    theirs = edfio.read_edf(io.BytesIO(shared_bytes(name)))
    record = read_shared(name, "edf")
    factor = 1e-3 if theirs.signals[0].physical_dimension == "uV" else 1.0
    for row, signal in zip(record.signal, theirs.signals, strict=True):
        assert np.abs(row - signal.data * factor).max() < 1e-6


@needs_shared
def test_annotations_without_signals_are_refused():
    with pytest.raises(UnreadableFile, match="annotations but no signals") as caught:
        read_shared("edf/test_edfann.edf", "edf")
    assert caught.value.code == "no_waveform"


def test_a_file_of_edfio_with_other_signals():
    rng = np.random.default_rng(5)
    made = edfio.Edf(
        [
            edfio.EdfSignal(
                rng.normal(0, 0.3, 2500), 250, label="ECG II", physical_dimension="mV", physical_range=(-3, 3)
            ),
            edfio.EdfSignal(
                rng.normal(0, 50, 1000), 100, label="EEG C3-A2", physical_dimension="uV", physical_range=(-500, 500)
            ),
            edfio.EdfSignal(
                rng.normal(0, 50, 1000), 100, label="C4", physical_dimension="uV", physical_range=(-500, 500)
            ),
            edfio.EdfSignal(
                rng.normal(0, 0.3, 2500), 250, label="EKG V5", physical_dimension="mV", physical_range=(-3, 3)
            ),
            edfio.EdfSignal(rng.normal(90, 1, 10), 1, label="SaO2", physical_dimension="%", physical_range=(0, 100)),
        ],
        patient=edfio.Patient(code="K-9", sex="F", name="Planted_Name"),
        annotations=[edfio.EdfAnnotation(1.5, None, "QRS"), edfio.EdfAnnotation(3, None, "Mrs Doe coughs")],
    )
    out = io.BytesIO()
    made.write(out)
    record = read_one(out.getvalue(), "night.edf", "edf")
    assert (record.leads, record.fs_hz, record.n_samples) == (("II", "V5"), 250, 2500)
    # A bare C4 beside EEG is an electrode of the EEG, not the chest lead of the same name.
    assert record.meta.dropped_channels == ("EEG C3-A2", "C4", "SaO2")
    assert np.abs(record.lead("II") - made.signals[0].data).max() < 1e-6
    assert (record.meta.subject, record.meta.sex) == ("K-9", "female")
    assert record.meta.annotations == ((1.5, "qrs", None, ""), (3.0, "note", None, ""))
    assert "Planted" not in repr(record.meta) and "Doe" not in repr(record.meta)


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1.0), ("uV", 1e-3), ("µV", 1e-3), ("V", 1e3), ("nV", 1e-6)])
def test_units(unit, factor):
    record = read_one(build([("II", unit, ramp())]), "a.edf", "edf")
    assert record.lead("II") == pytest.approx((np.arange(400) - 150) * 0.1 * factor, rel=1e-4, abs=1e-9)


def test_a_missing_unit_is_asked_for():
    data = build([("II", "", ramp())])
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.edf", "edf")
    assert set(caught.value.fields) == {"unit"}
    assert read_one(data, "a.edf", "edf", ReadOptions(unit="uV")).lead("II")[0] == pytest.approx(-0.015)


def test_unnamed_signals_are_asked_for_and_the_answer_taken():
    data = build([("Channel 1", "mV", ramp()), ("Channel 2", "mV", ramp())])
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.edf", "edf")
    assert set(caught.value.fields) == {"lead_order"}
    assert read_one(data, "a.edf", "edf", ReadOptions(lead_order=("DII", "V1"))).leads == ("II", "V1")
    with pytest.raises(NeedsAnswer, match="2 signals, but 1"):
        read_one(data, "a.edf", "edf", ReadOptions(lead_order=("II",)))


def test_numbered_ecg_signals_keep_their_labels():
    record = read_one(build([("ECG1", "mV", ramp()), ("ECG 2", "mV", ramp()), ("ECG R", "mV", ramp())]), "a.edf", "edf")
    assert record.leads == ("ECG1", "ECG 2", "ECG R")


def test_a_file_without_ecg_is_refused_by_its_labels():
    with pytest.raises(UnreadableFile, match="EEG Fpz-Cz, EOG") as caught:
        read_one(build([("EEG Fpz-Cz", "uV", ramp()), ("EOG", "uV", ramp())]), "a.edf", "edf")
    assert caught.value.code == "no_ecg_channel"


@pytest.mark.parametrize(
    ("label", "lead"),
    [("ECG-II", "II"), ("ECG II-Ref", "II"), ("EKG V1", "V1"), ("ECG -aVR", "-aVR"), ("ECG I-II", "ECG I-II"),
     ("ECG LA-RA", "ECG LA-RA")],
)  # fmt: skip
def test_hyphens_divide_turn_over_or_subtract(label, lead):
    assert read_one(build([(label, "mV", ramp())]), "a.edf", "edf").leads == (lead,)


def test_decimal_commas_in_the_header():
    record = read_one(build([("II", "mV", ramp())], physical=("-3,2768", "3,2767"), record_s="0,2"), "a.edf", "edf")
    assert record.fs_hz == 500
    assert record.signal[0] == pytest.approx(ramp().ravel() / 10000, abs=1e-6)


def test_a_signal_with_turned_physical_limits_is_turned():
    record = read_one(build([("II", "uV", ramp())], physical=(3276.7, -3276.8)), "a.edf", "edf")
    assert record.signal[0] == pytest.approx(-(ramp().ravel() + 1) / 10000, abs=1e-6)


def test_chest_leads_named_c_in_an_ecg_file():
    signals = [(label, "mV", ramp()) for label in ("I", "II", "C1", "C6")]
    assert read_one(build(signals), "a.edf", "edf").leads == ("I", "II", "V1", "V6")


def test_different_rates_give_a_record_each():
    data = build([("ECG I", "mV", ramp(4, 100)), ("ECG II", "mV", ramp(4, 50)), ("ECG V1", "mV", ramp(4, 100))])
    result = read_bytes_as(data, "a.edf", "edf")
    found = [(key, record.leads, record.fs_hz) for key, record in result.records]
    assert found == [("a_1", ("I", "V1"), 100), ("a_2", ("II",), 50)]


def test_24_bit_samples():
    values = np.array([[0, 1, -1, 8388607, -8388608, 70000, -70000, 255]])
    data = build([("ECG I", "uV", values)], bdf=True, physical=(-8388608, 8388607))
    record = read_one(data, "a.bdf", "edf")
    assert record.lead("I") * 1000 == pytest.approx(values[0], rel=1e-5, abs=1e-3)


def test_gaps_of_a_discontinuous_file_stay_gaps():
    lists = [tal(0), tal(1), tal(5.5, (5.7, "N")), tal(6.5)]
    record = read_one(build([("II", "mV", ramp())], kind="EDF+D", annotations=lists), "a.edf", "edf")
    assert record.n_samples == 750
    missing = np.flatnonzero(np.isnan(record.lead("II")))
    assert (missing[0], missing[-1], missing.size) == (200, 549, 350)
    assert record.lead("II")[550] == pytest.approx((200 - 150) * 0.1, rel=1e-4)
    assert record.meta.annotations == ((5.7, "N", None, ""),)
    assert any("gaps" in note for note in record.meta.notes)


def test_onsets_count_from_the_first_record():
    lists = [tal(0.25, (0.75, "V")), tal(1.25), tal(2.25), tal(3.25)]
    record = read_one(build([("II", "mV", ramp())], kind="EDF+C", annotations=lists), "a.edf", "edf")
    assert record.n_samples == 400 and record.meta.annotations == ((0.5, "V", None, ""),)


def test_records_that_overlap_are_refused():
    lists = [tal(0), tal(1), tal(1.5), tal(2.5)]
    with pytest.raises(UnreadableFile, match="overlap"):
        read_one(build([("II", "mV", ramp())], kind="EDF+D", annotations=lists), "a.edf", "edf")


def test_a_gap_beyond_memory_is_refused():
    lists = [tal(0), tal(1), tal(2), b"+999999999999\x14\x14\x00"]
    with pytest.raises(TooLarge):
        read_one(build([("II", "mV", ramp())], kind="EDF+D", annotations=lists), "a.edf", "edf")


def test_a_few_samples_far_apart_are_refused_before_memory_is_taken():
    lists = [tal(0), tal(1), tal(2), b"+2000000\x14\x14\x00"]
    with pytest.raises(TooLarge, match="consists of gaps"):
        read_one(build([("II", "mV", ramp())], kind="EDF+D", annotations=lists), "a.edf", "edf")
    day = read_one(build([("II", "mV", ramp())], kind="EDF+D", annotations=[*lists[:3], tal(86_400)]), "a.edf", "edf")
    assert day.n_samples == 86_401 * 100


def test_a_flood_of_annotations_is_refused():
    data = bytearray(build([("II", "mV", ramp(1, 10))], annotations=[tal(0)], kind="EDF+C"))
    at = 256 + 2 * 216 + 8
    assert data[at : at + 8].strip() == b"30"
    data[at : at + 8] = b"34000000"
    with pytest.raises(TooLarge, match="annotations"):
        read_one(bytes(data) + bytes(68_000_000), "a.edf", "edf")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"records": -2}, "states -2 data records"),
        ({"records": -77}, "states -77 data records"),
        ({"records": "x"}, "data records as 'x'"),
        ({"count": "1e9"}, "number of signals as '1e9'"),
        ({"count": 9999}, "announces 9999 signals"),
        ({"count": -1}, "announces -1 signals"),
        ({"record_s": -1}, "no duration"),
        ({"record_s": "nan"}, "no duration"),
    ],
)
def test_impossible_headers_are_refused(change, words):
    with pytest.raises(UnreadableFile, match=words) as caught:
        read_one(build([("II", "mV", ramp())], **change), "a.edf", "edf")
    assert caught.value.code == "damaged_edf"


@pytest.mark.parametrize("bdf", [False, True])
@pytest.mark.parametrize("rest", [0, 7])
def test_a_recording_that_was_not_closed_gives_its_whole_data_records(bdf, rest):
    signals = [("II", "mV", ramp()), ("V1", "mV", ramp() + 7)]
    expected = read_one(build(signals, bdf=bdf), "a.edf", "edf")
    record = read_one(build(signals, records=-1, bdf=bdf) + bytes(rest), "a.edf", "edf")
    assert np.array_equal(record.signal, expected.signal) and record.fs_hz == expected.fs_hz
    (note,) = set(record.meta.notes) - set(expected.meta.notes)
    assert "not closed" in note and "4 whole ones" in note and (f"{rest} bytes" in note) is bool(rest)


def test_a_recording_that_was_not_closed_keeps_its_annotations():
    notes = [tal(0, (0.2, "N")), tal(1, (1.4, "V"))]
    made = {"annotations": notes, "kind": "EDF+C"}
    expected = read_one(build([("II", "mV", ramp(2))], **made), "a.edf", "edf")
    record = read_one(build([("II", "mV", ramp(2))], records=-1, **made), "a.edf", "edf")
    assert record.meta.annotations == expected.meta.annotations and len(record.meta.annotations) == 2


def test_a_recording_that_was_not_closed_before_its_first_data_record_is_refused():
    with pytest.raises(UnreadableFile) as caught:
        read_one(build([("II", "mV", ramp())], records=-1)[:600], "a.edf", "edf")
    assert caught.value.code == "no_waveform"


def test_samples_beyond_memory_are_refused_before_reading():
    data = bytearray(build([("II", "mV", ramp())]))
    data[256 + 216 : 256 + 224] = b"99999999"
    data[236:244] = b"99999999"

    class Huge(BytesSource):
        size = 400_000_000

    with pytest.raises((TooLarge, UnreadableFile)):
        _read(Huge("a.edf", bytes(data)), ReadOptions())


def test_a_cut_file_is_refused_with_counts():
    with pytest.raises(UnreadableFile, match="announces 4 data records but holds 3"):
        read_one(build([("II", "mV", ramp())])[:-10], "a.edf", "edf")


def test_data_behind_the_announced_records_is_said():
    record = read_one(build([("II", "mV", ramp())], records=3), "a.edf", "edf")
    assert record.n_samples == 300 and "1 data records more" in record.meta.notes[0]


def test_signals_of_records_without_duration_have_no_rate():
    with pytest.raises(UnreadableFile, match="lasts 0 s"):
        read_one(build([("II", "mV", ramp())], record_s=0), "a.edf", "edf")


def test_a_scale_that_makes_samples_infinite_is_refused():
    with pytest.raises(UnreadableFile, match="infinite") as caught:
        read_one(build([("II", "V", ramp())], physical=("-1e300", "1e300")), "a.edf", "edf")
    assert caught.value.code == "bad_scale"


@pytest.mark.parametrize("physical", [(1, 1), ("", 5)])
def test_a_scale_that_is_none_is_refused(physical):
    with pytest.raises(UnreadableFile, match="no scale"):
        read_one(build([("II", "mV", ramp())], physical=physical), "a.edf", "edf")


def test_the_patient_field_of_a_plain_file_is_not_taken_when_it_may_be_a_name():
    record = read_one(build([("II", "mV", ramp())], patient="Doe Jane 1950"), "a.edf", "edf")
    assert record.meta.subject is None and "Doe" not in repr(record.meta)
    coded = read_one(build([("II", "mV", ramp())], patient="MCH-7 M 02-MAY-1951 Planted"), "a.edf", "edf")
    assert (coded.meta.subject, coded.meta.sex, coded.meta.age) == ("MCH-7", "male", 69)
    assert coded.meta.recorded_at == "2021-02-03T10:11:12"


test_damaged_plain_files_never_crash = needs_shared(fuzz_test("edf", PLAIN))
test_damaged_plus_files_never_crash = needs_shared(fuzz_test("edf", PLUS))


def test_a_lead_whose_unit_is_no_voltage_is_a_question_and_another_signal_is_dropped():
    data = build([("I", "adu", ramp()), ("ECG II", "adu", ramp()), ("Pulse", "bpm", ramp())])
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.edf", "edf")
    assert set(caught.value.fields) == {"unit"} and "'adu'" in caught.value.message
    record = read_one(data, "a.edf", "edf", ReadOptions(unit="200/mV"))
    assert record.leads == ("I", "II") and record.meta.dropped_channels == ("Pulse",)
    assert record.lead("I")[0] == pytest.approx(-15 / 200)


@pytest.mark.parametrize("form", ["{}-Ref", "{}-REF", "ECG {}-Ref", "{} ECG", "{}+", "EKG-{}"])
def test_labels_of_leads_with_their_reference(form):
    leads = ("I", "II", "aVR", "V1")
    data = build([(form.format(lead), "uV", ramp()) for lead in leads])
    assert read_one(data, "a.edf", "edf").leads == leads


@pytest.mark.parametrize("unit", ["µV".encode().decode("latin-1"), "microvol", "uVolt", "µV"])
def test_spellings_of_microvolt_in_eight_bytes(unit):
    record = read_one(build([("II", unit, ramp())]), "a.edf", "edf")
    assert record.signal[0, 0] == pytest.approx(-150 * 0.1e-3, abs=1e-7)


def test_twelve_numbered_signals_ask_for_their_leads_and_three_do_not():
    data = build([(f"ECG {i + 1}", "uV", ramp()) for i in range(12)])
    with pytest.raises(NeedsAnswer) as asked:
        read_one(data, "a.edf", "edf")
    assert asked.value.fields["lead_order"].startswith("Guess: I II III")
    names = tuple("I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split())
    assert read_one(data, "a.edf", "edf", ReadOptions(lead_order=names)).leads == names
    three = build([(f"ECG{i + 1}", "uV", ramp()) for i in range(3)])
    assert read_one(three, "a.edf", "edf").leads == ("ECG1", "ECG2", "ECG3")


def test_franks_leads_are_known_behind_the_word_for_an_ecg():
    data = build([(f"ECG {axis}", "uV", ramp()) for axis in "XYZ"])
    assert read_one(data, "a.edf", "edf").leads == ("X", "Y", "Z")
