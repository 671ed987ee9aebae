"""DICOM waveforms: real files, variants built with pydicom, and hostile input."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from datasets.formats.base import ReadOptions
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

ECG_12_LEAD = "1.2.840.10008.5.1.4.1.1.9.1.1"


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def channel(
    lead: str = "5.6.3-9-1", meaning: str = "Lead I", unit: str = "uV", bits: int = 16, **extra: object
) -> Dataset:
    item = Dataset()
    item.ChannelSourceSequence = code(lead, "SCPECG", meaning)
    item.ChannelSensitivity = "2.5"
    item.ChannelSensitivityUnitsSequence = code(unit, "UCUM", unit)
    item.ChannelSensitivityCorrectionFactor = "1"
    item.ChannelBaseline = "0"
    item.WaveformBitsStored = bits
    for key, value in extra.items():
        if value is None:
            delattr(item, key)
        else:
            setattr(item, key, value)
    return item


def group(
    samples: np.ndarray, channels: list[Dataset], fs_hz: float = 500, label: str = "RHYTHM", **extra: object
) -> Dataset:
    """Build a multiplex group; samples (n, channels) int16."""
    item = Dataset()
    item.WaveformOriginality = "ORIGINAL"
    item.NumberOfWaveformChannels = len(channels)
    item.NumberOfWaveformSamples = samples.shape[0]
    item.SamplingFrequency = fs_hz
    item.MultiplexGroupLabel = label
    item.ChannelDefinitionSequence = Sequence(channels)
    item.WaveformBitsAllocated = samples.dtype.itemsize * 8
    item.WaveformSampleInterpretation = {"i2": "SS", "u2": "US", "i4": "SL", "i1": "SB"}[samples.dtype.str[1:]]
    item.WaveformData = np.ascontiguousarray(samples).tobytes()
    for key, value in extra.items():
        setattr(item, key, value)
    return item


def document(
    groups: list[Dataset], syntax: str = ExplicitVRLittleEndian, preamble: bool = True, **extra: object
) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = ECG_12_LEAD, "1.2.3.4"
    dataset.Modality, dataset.PatientName, dataset.PatientID = "ECG", "Planted^Name", "P-17"
    dataset.StudyDate, dataset.StudyTime = "20200101", "101112"
    dataset.WaveformSequence = Sequence(groups)
    for key, value in extra.items():
        setattr(dataset, key, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = ECG_12_LEAD
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    out = io.BytesIO()
    if preamble:
        pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    else:
        del dataset.file_meta
        pydicom.dcmwrite(
            out, dataset, enforce_file_format=False, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True
        )
    return out.getvalue()


RAMP = np.arange(-1000, 1000, dtype="<i2")[:, None]


@needs_shared
def test_the_mortara_file_gives_its_rhythm_and_its_printed_measurements():
    known = facts("dicom/mortara_12lead.dcm")
    record = read_shared("dicom/mortara_12lead.dcm", "dicom")
    rhythm = known["groups"][0]
    assert (len(record.leads), record.fs_hz, record.n_samples) == (rhythm["leads"], rhythm["fs"], rhythm["n"])
    assert record.leads == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    assert record.lead("I")[0] == pytest.approx(known["lead_I_sample0_mV"], abs=1e-6)
    assert record.signal[:4, 0] * 1000 == pytest.approx(rhythm["first4_as_pydicom"], abs=1e-3)
    assert [record.lead("I").min() * 1000, record.lead("I").max() * 1000] == pytest.approx(
        rhythm["ch0_min_max"], abs=1e-3
    )
    printed = {"rr_ms": 982, "pr_ms": 161, "qrs_ms": 75, "qt_ms": 368, "qtc_ms": 370}
    printed |= {"p_axis_deg": 74, "qrs_axis_deg": 52, "t_axis_deg": 57}
    assert record.meta.printed == printed
    assert [label.code for label in record.meta.labels] == ["RITMO SINUSALE", "ECG NORMALE"]
    assert any("MEDIAN BEAT" in note for note in record.meta.notes)
    assert (record.meta.subject, record.meta.sex, record.meta.age) == ("642341", "female", 42)
    assert record.meta.recorded_at == "2013-01-25T10:59:19"
    # The ten annotated QRS fiducial points of 10 s at RR 982 ms, and the one of the averaged beat.
    assert sum(mark[1] == "qrs" for mark in record.meta.annotations) == 11


@needs_shared
def test_samples_equal_those_of_pydicom():
    data = shared_bytes("dicom/mortara_12lead.dcm")
    record = read_one(data, "x.dcm", "dicom")
    theirs = pydicom.dcmread(io.BytesIO(data)).waveform_array(0).T / 1000
    assert np.abs(record.signal - theirs).max() < 1e-6


@needs_shared
def test_no_identifying_text_of_the_mortara_file_is_kept():
    meta = repr(read_shared("dicom/mortara_12lead.dcm", "dicom").meta)
    for planted in ("Galliera", "Anonymous", "19710123", "1971-01-23", "03028041970546", "13002689", "2721"):
        assert planted not in meta


@needs_shared
def test_the_reencoded_file_equals_its_source():
    known = facts("dicom/reencoded_ludb2_uV.dcm")
    record = read_shared("dicom/reencoded_ludb2_uV.dcm", "dicom")
    assert (len(record.leads), record.fs_hz, record.n_samples, record.duration_s) == (12, known["fs"], known["n"], 10.0)
    assert_same_signal(record, 2, known["tolerance_mV"])
    assert record.lead("I")[0] == pytest.approx(known["lead_I_sample0_mV"], abs=known["tolerance_mV"])
    assert record.lead("II").max() == pytest.approx(known["lead_II_max_mV"], abs=known["tolerance_mV"])
    assert record.lead("V1").min() == pytest.approx(known["V1_min_mV"], abs=known["tolerance_mV"])
    assert record.meta.sex is None


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_every_transfer_syntax_gives_the_same_samples(syntax):
    record = read_one(document([group(RAMP, [channel()])], syntax), "a.dcm", "dicom")
    assert record.lead("I") == pytest.approx(RAMP[:, 0] * 0.0025, abs=1e-6)
    assert record.meta.subject == "P-17"


def test_big_endian_samples_are_swapped():
    data = document([group(RAMP.astype(">i2"), [channel()])], ExplicitVRBigEndian)
    assert read_one(data, "a.dcm", "dicom").lead("I") == pytest.approx(RAMP[:, 0] * 0.0025, abs=1e-6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_file_without_preamble_is_recognised(syntax):
    data = document([group(RAMP, [channel()])], syntax, preamble=False)
    assert data[128:132] != b"DICM"
    assert read_one(data, "a.bin", "dicom").n_samples == 2000


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e-3), ("mV", 1.0), ("V", 1e3), ("nV", 1e-6)])
def test_sensitivity_times_correction_plus_baseline_in_the_stated_unit(unit, factor):
    described = channel(
        unit=unit, ChannelSensitivity="0.5", ChannelSensitivityCorrectionFactor="1.25", ChannelBaseline="10"
    )
    record = read_one(document([group(RAMP, [described])]), "a.dcm", "dicom")
    expected = (RAMP[:, 0] * 0.5 * 1.25 + 10) * factor
    assert record.lead("I") == pytest.approx(expected, rel=1e-6)


def test_padded_samples_are_gaps():
    samples = RAMP.copy()
    samples[100:150] = -32768
    data = document([group(samples, [channel()], WaveformPaddingValue=struct.pack("<h", -32768))])
    record = read_one(data, "a.dcm", "dicom")
    assert np.flatnonzero(np.isnan(record.lead("I"))).tolist() == list(range(100, 150))
    assert record.lead("I")[150] == pytest.approx(RAMP[150, 0] * 0.0025)
    assert any("padded" in note for note in record.meta.notes)


@pytest.mark.parametrize("high_bits", ["sign", "zero"])
def test_twelve_bits_stored_in_sixteen(high_bits):
    samples = RAMP.copy() if high_bits == "sign" else (RAMP & 0x0FFF).astype("<i2")
    record = read_one(document([group(samples, [channel(bits=12)])]), "a.dcm", "dicom")
    assert record.lead("I") == pytest.approx(RAMP[:, 0] * 0.0025, abs=1e-6)


def test_a_wrong_statement_of_bits_is_noted_and_the_samples_kept():
    samples = (RAMP * 16).astype("<i2")
    record = read_one(document([group(samples, [channel(bits=12)])]), "a.dcm", "dicom")
    assert record.lead("I") == pytest.approx(samples[:, 0] * 0.0025, abs=1e-5)
    assert any("12 bits" in note for note in record.meta.notes)


def test_unsigned_and_32_bit_samples():
    unsigned = read_one(document([group((RAMP + 1000).astype("<u2"), [channel()])]), "a.dcm", "dicom")
    assert unsigned.lead("I")[-1] == pytest.approx(1999 * 0.0025)
    wide = read_one(document([group(RAMP.astype("<i4") * 1000, [channel(bits=32)])]), "a.dcm", "dicom")
    assert wide.lead("I")[0] == pytest.approx(-2500.0)


def test_leads_by_mdc_code_meaning_and_label():
    channels = [
        channel("2:2", "whatever"),
        channel("MDC_ECG_LEAD_V3", ""),
        channel("x", "Lead aVF (augmented)"),
        channel(ChannelSourceSequence=None, ChannelLabel="V6"),
        channel("131136", "by its number"),
    ]
    for at in (1, 4):
        channels[at].ChannelSourceSequence[0].CodingSchemeDesignator = "MDC"
    channels[2].ChannelSourceSequence[0].CodeMeaning = "Lead aVL (augmented)"
    record = read_one(document([group(np.repeat(RAMP, 5, axis=1), channels)]), "a.dcm", "dicom")
    assert record.leads == ("II", "V3", "aVL", "V6", "aVF")


def test_a_channel_that_is_no_voltage_is_dropped_and_named():
    channels = [channel(), channel("x", "Arterial pressure", unit="mm[Hg]")]
    record = read_one(document([group(np.repeat(RAMP, 2, axis=1), channels)]), "a.dcm", "dicom")
    assert record.leads == ("I",)
    assert record.meta.dropped_channels == ("Arterial pressure",)


def test_skew_is_noted_and_not_applied():
    data = document([group(RAMP, [channel(ChannelSampleSkew="2")])])
    record = read_one(data, "a.dcm", "dicom")
    assert record.lead("I")[0] == pytest.approx(-2.5)
    assert any("2 samples" in note for note in record.meta.notes)


def test_the_calibration_pulse_that_a_device_appended_is_cut_off():
    rng = np.random.default_rng(3)
    tail = np.concatenate([np.zeros(300), np.full(100, 400), np.zeros(100)])[:, None].repeat(3, 1)
    samples = np.concatenate([rng.integers(-80, 80, (5000, 3)), tail]).astype("<i2")
    channels = [channel(f"5.6.3-9-{number}") for number in (1, 2, 3)]
    record = read_one(document([group(samples, channels)]), "a.dcm", "dicom")
    assert record.signal.shape == (3, 5000)
    assert any("1 mV calibration pulse" in note for note in record.meta.notes)


def test_a_lead_stored_upside_down_is_not_taken_for_the_upright_one():
    for coded in (channel("5.6.3-9-65", "Lead -aVR"), channel("9", "Lead aVR, reversed")):
        record = read_one(document([group(RAMP, [coded])]), "a.dcm", "dicom")
        assert record.leads != ("aVR",)


def test_a_page_of_short_groups_and_a_rhythm_strip_go_on_one_timeline():
    limb = [channel("5.6.3-9-1", "I"), channel("5.6.3-9-2", "II"), channel("5.6.3-9-61", "III")]
    chest = [channel("5.6.3-9-3", "V1"), channel("5.6.3-9-4", "V2"), channel("5.6.3-9-5", "V3")]
    part, strip = np.repeat(RAMP[:1000], 3, axis=1), RAMP
    groups = [
        group(part, limb, MultiplexGroupTimeOffset="0"),
        group(part, chest, MultiplexGroupTimeOffset="2000"),
        group(strip, [channel("5.6.3-9-2", "II")], MultiplexGroupTimeOffset="0"),
    ]
    record = read_one(document(groups), "a.dcm", "dicom")
    assert record.signal.shape == (6, 2000)
    assert not np.isnan(record.lead("II")).any()
    assert np.isnan(record.lead("I")[1000:]).all() and not np.isnan(record.lead("I")[:1000]).any()
    assert np.isnan(record.lead("V1")[:1000]).all() and record.lead("V1")[1000] == pytest.approx(-2.5)


def test_two_recordings_of_the_same_leads_are_two_records():
    data = document([group(RAMP, [channel()]), group(RAMP[:500], [channel()], MultiplexGroupTimeOffset="60000")])
    result = read_bytes_as(data, "a.dcm", "dicom")
    assert [(key, record.n_samples) for key, record in result.records] == [("a_1", 2000), ("a_2", 500)]


def test_only_a_median_beat_is_refused():
    data = document([group(RAMP[:600], [channel()], label="MEDIAN BEAT")])
    with pytest.raises(UnreadableFile, match="averaged beat 'MEDIAN BEAT'") as caught:
        read_one(data, "a.dcm", "dicom")
    assert caught.value.code == "no_rhythm"


def test_channels_without_a_name_are_asked_for_and_the_answer_taken():
    digits = np.stack([np.arange(700), np.arange(700) * 2], axis=1).astype("<i2")
    data = document([group(digits, [channel(ChannelSourceSequence=None)] * 2)])
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.dcm", "dicom")
    assert set(caught.value.fields) == {"lead_order"}
    assert read_one(data, "a.dcm", "dicom", ReadOptions(lead_order=("II", "V1"))).leads == ("II", "V1")


def test_an_unstated_unit_is_asked_for_and_the_answer_taken():
    bare = {"ChannelSensitivity": None, "ChannelSensitivityUnitsSequence": None}
    data = document([group(RAMP, [channel(**bare)])])
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.dcm", "dicom")
    assert set(caught.value.fields) == {"unit"}
    answered = read_one(data, "a.dcm", "dicom", ReadOptions(unit="200/mV"))
    assert answered.lead("I")[0] == pytest.approx(-5.0)
    assert read_one(data, "a.dcm", "dicom", ReadOptions(unit="uV")).lead("I")[0] == pytest.approx(-1.0)


def test_short_samples_are_refused_with_counts():
    data = document([group(RAMP, [channel()], WaveformData=RAMP.tobytes()[:-100])])
    with pytest.raises(UnreadableFile, match=r"1 channels of 2000 samples \(4000 bytes\) but holds 3900"):
        read_one(data, "a.dcm", "dicom")


def test_an_image_object_is_refused_by_its_modality():
    with pytest.raises(UnreadableFile, match="without a waveform") as caught:
        data = document([])
        dataset = pydicom.dcmread(io.BytesIO(data))
        del dataset.WaveformSequence
        dataset.Modality = "CT"
        out = io.BytesIO()
        dataset.save_as(out)
        read_one(out.getvalue(), "a.dcm", "dicom")
    assert caught.value.code == "no_waveform"


def test_statements_with_a_name_and_private_tags_are_left_out():
    texts = ["SINUS RHYTHM", "Confirmed by Dr. Jane Doe", "Planted was dizzy", "NORMAL ECG"]
    notes = []
    for text in texts:
        item = Dataset()
        item.ReferencedWaveformChannels, item.UnformattedTextValue = [1, 0], text
        notes.append(item)
    dataset = pydicom.dcmread(io.BytesIO(document([group(RAMP, [channel()])])))
    dataset.WaveformAnnotationSequence = Sequence(notes)
    dataset.private_block(0x0011, "PLANTED MAKER", create=True).add_new(1, "LO", "Secret Person")
    out = io.BytesIO()
    dataset.save_as(out)
    record = read_one(out.getvalue(), "a.dcm", "dicom")
    assert [label.code for label in record.meta.labels] == ["SINUS RHYTHM", "NORMAL ECG"]
    for planted in ("Doe", "Planted", "dizzy", "Secret"):
        assert planted not in repr(record.meta)
    assert any("2 free-text statements" in note for note in record.meta.notes)


def deflated(body: bytes) -> bytes:
    meta = document([group(RAMP, [channel()])], DeflatedExplicitVRLittleEndian)
    plain = pydicom.dcmread(io.BytesIO(meta), stop_before_pixels=True).file_meta
    length = plain.FileMetaInformationGroupLength
    return meta[: 132 + 12 + length] + body


def test_a_deflated_bomb_stops_at_the_limit():
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(300)) + pack.flush()
    assert len(bomb) < 400_000
    with pytest.raises(TooLarge, match="unpacks to more than"):
        read_one(deflated(bomb), "a.dcm", "dicom")


def test_undefined_lengths_nested_a_thousand_deep_are_refused():
    nest = (
        struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ) * 1000
    data = document([group(RAMP, [channel()])])
    with pytest.raises(UnreadableFile):
        read_one(data[:300] + nest + data[300:], "a.dcm", "dicom")


def test_an_announced_size_beyond_memory_is_refused_before_reading():
    data = document([group(RAMP, [channel()], NumberOfWaveformSamples=4_000_000_000)])
    with pytest.raises(TooLarge):
        read_one(data, "a.dcm", "dicom")


def test_an_unknown_kind_of_value_in_an_image_object_is_refused():
    data = document([]).replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00C\xbd")
    at = data.rindex(b"\x00\x54\x00\x01SQ")
    with pytest.raises(UnreadableFile) as caught:
        read_one(data[:at], "a.dcm", "dicom")
    assert caught.value.code == "damaged_dicom"


def many_elements(group_number: int, count: int) -> bytes:
    return b"".join(struct.pack("<HH2sH", group_number, index % 60_000, b"LO", 0) for index in range(count))


def test_millions_of_elements_are_refused():
    data = document([group(RAMP, [channel()])])
    with pytest.raises(TooLarge, match="elements"):
        read_one(data + many_elements(0x5401, 250_000), "a.dcm", "dicom")
    data = document([])
    at = data.rindex(b"\x00\x54\x00\x01SQ")
    body = struct.pack("<HHI", 0xFFFE, 0xE000, 8 * 150_000) + many_elements(0x0009, 150_000)
    with pytest.raises(TooLarge, match="in one sequence"):
        read_one(data[:at] + struct.pack("<HH2sHI", 0x5400, 0x100, b"SQ", 0, len(body)) + body, "a.dcm", "dicom")


@needs_shared
def test_a_wrong_vr_is_refused_or_read_but_never_crashes():
    data = shared_bytes("dicom/reencoded_ludb2_uV.dcm")
    for vr in (b"SQ", b"OB", b"ZZ", b"FD", b"UN"):
        broken = data.replace(b"\x3a\x00\x1a\x00DS", b"\x3a\x00\x1a\x00" + vr, 1)
        assert broken != data
        try:
            read_one(broken, "a.dcm", "dicom")
        except UnreadableFile as error:
            assert "a.dcm" in error.message


test_damaged_files_never_crash = needs_shared(fuzz_test("dicom", "dicom/reencoded_ludb2_uV.dcm"))
test_damaged_annotated_files_never_crash = needs_shared(fuzz_test("dicom", "dicom/mortara_12lead.dcm", 30))


def test_a_lead_whose_unit_is_no_voltage_is_a_question():
    data = document([group(RAMP, [channel(unit="{digit}")])])
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.dcm", "dicom")
    assert caught.value.fields["unit"].startswith("Guess: uV.")
    assert read_one(data, "a.dcm", "dicom", ReadOptions(unit="uV")).lead("I")[0] == pytest.approx(-2.5)


@pytest.mark.parametrize(
    ("value", "scheme", "meaning", "label", "lead"),
    [
        ("2:62", "MDC", "Lead aVR", "", "aVR"),
        ("131134", "MDC", "", "", "aVR"),
        ("131390", "MDC", "", "", "aVR"),
        ("2:318", "MDC", "", "", "aVR"),
        ("999999", "MDC", "Lead aVR", "", "aVR"),
        ("MDC_ECG_LEAD_AVR", "MDC", "X", "", "aVR"),
        ("K7", "99ACME", "ECG channel", "aVR", "aVR"),
        ("aVR", "99ACME", "", "", "aVR"),
        ("K7", "99ACME", "Unspecified lead", "aVR+", "aVR"),
    ],
)
def test_the_lead_is_told_by_whatever_names_one(value, scheme, meaning, label, lead):
    item = channel(ChannelLabel=label)
    item.ChannelSourceSequence = code(value, scheme, meaning)
    assert read_one(document([group(RAMP, [item])]), "a.dcm", "dicom").leads == (lead,)


@pytest.mark.parametrize(
    ("value", "meaning", "per_digit"), [("266418", "", 2.5), ("266419", "MDC_DIM_MICRO_VOLT", 2.5e-3)]
)
def test_units_by_their_numbers_in_the_mdc_nomenclature(value, meaning, per_digit):
    item = channel()
    item.ChannelSensitivityUnitsSequence = code(value, "MDC", meaning)
    record = read_one(document([group(RAMP, [item])]), "a.dcm", "dicom")
    assert record.signal[0, -1] == pytest.approx(999 * per_digit)


def test_respiration_in_microvolt_is_no_ecg():
    breath = channel(ChannelLabel="RESP")
    del breath.ChannelSourceSequence
    data = document([group(RAMP, [channel()]), group(RAMP[:500], [breath], fs_hz=125, label="RESP")])
    record = read_one(data, "a.dcm", "dicom")
    assert record.leads == ("I",) and record.fs_hz == 500


def test_the_directory_of_a_medium_is_not_needed():
    dataset = Dataset()
    dataset.FileSetID, dataset.DirectoryRecordSequence = "X", Sequence([])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.1.3.10",
        "1.2",
    )
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    with pytest.raises(UnreadableFile, match="files that it lists") as caught:
        read_one(out.getvalue(), "DICOMDIR", "dicom")
    assert caught.value.code == "not_needed"


# Codes and values from the tables of ITU-T G.711: the ends, the smallest steps, and the first value of some segments.
MU_LAW = {
    0x80: 8031, 0x81: 7775, 0x8F: 4191, 0x90: 3999, 0xA0: 1983, 0xC0: 471, 0xE0: 93, 0xEF: 33, 0xF0: 30, 0xFD: 4, 0xFE: 2, 0xFF: 0, 0x7F: 0,
    0x7E: -2, 0x6F: -33, 0x01: -7775, 0x00: -8031,
}  # fmt: skip
A_LAW = {
    0xAA: 4032, 0xAB: 3904, 0xA5: 2112, 0xBA: 2016, 0x8A: 1008, 0xEA: 63 * 4, 0xFA: 126, 0xCA: 63, 0xC5: 33, 0xDA: 31, 0xD4: 3, 0xD5: 1, 0x55: -1,
    0x54: -3, 0x45: -33, 0x2B: -3904, 0x2A: -4032, 0x00: -688,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "law", "table"), [("MB", "mu-law", MU_LAW), ("AB", "A-law", A_LAW)])
def test_samples_on_a_logarithmic_scale_are_expanded(kind, law, table):
    codes = np.array(list(table), np.uint8)[:, None].view("i1")
    record = read_one(document([group(codes, [channel(bits=8)], WaveformSampleInterpretation=kind)]), "a.dcm", "dicom")
    assert record.signal[0] == pytest.approx(np.array(list(table.values())) * 2.5e-3, rel=1e-6)
    assert any(law in note and "print" in note for note in record.meta.notes)


def test_the_padding_of_companded_samples_is_a_code():
    codes = np.array([0xFF, 0x7F, 0x80, 0x7F], np.uint8)[:, None].view("i1")
    made = group(codes, [channel(bits=8)], WaveformSampleInterpretation="MB", WaveformPaddingValue=b"\x7f\x00")
    record = read_one(document([made]), "a.dcm", "dicom")
    # Both codes stand for zero; only one of them is the padding.
    assert np.isnan(record.signal[0]).tolist() == [False, True, False, True] and record.signal[0][0] == 0


def test_companding_has_8_bits():
    made = group(RAMP, [channel()], WaveformSampleInterpretation="AB")
    with pytest.raises(UnreadableFile, match="AB with 16 bits"):
        read_one(document([made]), "a.dcm", "dicom")
