"""ISHNE Holter files, built after the published format."""

from __future__ import annotations

import binascii
import struct

import numpy as np
import pytest
from hypothesis import given, settings

from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from datasets.identity import terms_of
from ecgportal.errors import NeedsAnswer, UnreadableFile
from tests.datasets.formats.clinical_tools import direct_reader, mutations, never_another_error, read_one
from tests.datasets.formats.scp_writer import patient_section, scp_file

RAMP = np.arange(-300, 300).reshape(200, 3)
FIELDS = {
    "rate": 200,
    "per_lead": True,
    "text": b"",
    "nanovolt": 5000,
    "codes": (5, 11, 1),
    "shift": 0,
    "checksum": True,
}


def holter(samples: np.ndarray = RAMP, **changes: object) -> bytes:
    """Build a file of ``(samples, leads)``."""
    how = FIELDS | changes
    leads, text = samples.shape[1], how["text"]
    assert isinstance(text, bytes)
    stated = len(samples) if how["per_lead"] else samples.size
    head = struct.pack("<4ih", len(text), stated, 522, 522 + len(text) + int(how["shift"]), 1)
    head += b"Planted".ljust(40, b"\0") + b"Name".ljust(40, b"\0") + b"H-7".ljust(20, b"\0")
    head += struct.pack("<2h", 2, 1) + struct.pack("<3h", 3, 2, 1950) + struct.pack("<3h", 4, 5, 2010)
    head += struct.pack("<3h", 4, 5, 2010) + struct.pack("<3h", 23, 59, 1) + struct.pack("<h", leads)
    for values, rest in ((how["codes"], -9), ((0,) * leads, -9), ((how["nanovolt"],) * leads, -9)):
        head += struct.pack("<12h", *(tuple(values) + (rest,) * 12)[:12])  # type: ignore[arg-type]
    head += struct.pack("<h", 0) + b"digital".ljust(40, b"\0") + struct.pack("<h", how["rate"]) + bytes(80 + 80 + 88)
    assert len(head) == 512
    checksum = binascii.crc_hqx(head + text, 0xFFFF) if how["checksum"] else 0
    return b"ISHNE1.0" + struct.pack("<H", checksum) + head + text + samples.astype("<i2").tobytes()


@pytest.mark.parametrize("per_lead", [True, False])
@pytest.mark.parametrize("text", [b"", b"Planted text on a person"])
def test_a_built_file(per_lead, text):
    record = read_one(holter(per_lead=per_lead, text=text), "a.ecg", "ishne")
    assert (record.leads, record.fs_hz, record.n_samples) == (("I", "V1", "bipolar 3"), 200, 200)
    assert record.signal == pytest.approx(RAMP.T * 0.005, abs=1e-6)
    meta = record.meta
    assert (meta.subject, meta.age, meta.sex, meta.recorded_at) == ("H-7", 60, "female", "2010-05-04T23:59:01")
    assert not meta.notes and "Planted" not in repr(meta) and "1950" not in repr(meta)
    assert not registry.readers()["ishne"].tried_on_real_files


def test_the_words_of_the_identifying_fields_are_known():
    assert set(terms_of("ishne", holter())) == {"Planted", "Name"}
    # Number and name of SCP-ECG's section 1 alike.
    assert "Planted" in terms_of("scp_ecg", scp_file({1: patient_section("S-1234")}))
    assert terms_of("scp_ecg", b"\x00" * 100) == []


def test_every_lead_code_and_faults_as_gaps():
    samples = np.tile(np.arange(40)[:, None], (1, 12))
    samples[5, 3] = -32768
    record = read_one(holter(samples, codes=(5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)), "a.ecg", "ishne")
    assert record.leads == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    assert np.isnan(record.signal[3, 5]) and np.isnan(record.signal).sum() == 1
    plain = read_one(holter(codes=(0, 0, 2)), "a.ecg", "ishne")
    assert plain.leads == ("channel 1", "channel 2", "X")


def test_a_resolution_that_is_not_stated_is_asked_for():
    data = holter(nanovolt=-9)
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.ecg", "ishne")
    assert set(caught.value.fields) == {"unit"}
    assert read_one(data, "a.ecg", "ishne", ReadOptions(unit="200/mV")).lead("I")[0] == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": 2}, "begin at byte 524"),
        ({"rate": 0}, "no usable sampling rate"),
        ({"codes": (5, 5, 6)}, "lead I twice"),
    ],
)
def test_what_would_mix_up_leads_or_has_no_rate_is_refused(change, words):
    with pytest.raises(UnreadableFile, match=words):
        read_one(holter(**change), "a.ecg", "ishne")


def test_cut_files_are_refused_and_other_lengths_noted():
    for per_lead, stated in ((True, 200), (False, 600)):
        with pytest.raises(UnreadableFile, match=f"announces {stated} samples but holds 100") as caught:
            read_one(holter(per_lead=per_lead)[:-600], "a.ecg", "ishne")
        assert caught.value.code == "short_waveform"
    with pytest.raises(UnreadableFile, match="cut off after 300 bytes"):
        read_one(holter()[:300], "a.ecg", "ishne")
    longer = read_one(holter() + bytes(6), "a.ecg", "ishne")
    assert longer.n_samples == 201 and any("states 200 samples" in note for note in longer.meta.notes)


def test_a_header_that_was_changed_is_noted_and_a_sum_of_zero_is_none():
    data = bytearray(holter())
    data[30] ^= 1
    assert any("check sum" in note for note in read_one(bytes(data), "a.ecg", "ishne").meta.notes)
    assert not read_one(holter(checksum=False), "a.ecg", "ishne").meta.notes


def test_beats_of_the_annotation_file_beside_it():
    beats = b"ANN  1.0" + holter()[8:522] + struct.pack("<I", 20)
    beats += b"".join(
        struct.pack("<ccH", kind, b" ", step) for kind, step in ((b"N", 40), (b"V", 60), (b"!", 5), (b"N", 9))
    )
    _, result = registry.read(BytesSource("b/a.ecg", holter(), {"a.ann": beats}))
    assert result.records[0][1].meta.annotations == ((0.3, "N", None, ""), (0.6, "V", None, ""))
    assert result.companions == ("b/a.ann",)


@settings(max_examples=80, deadline=None)
@given(mutations)
def test_damaged_files_never_crash(steps):
    never_another_error(direct_reader("ishne", "a.ecg"), holter(text=b"text"), steps, 600)
