"""Philips XML: real files of two versions, the XLI compression by an encoder of our own, hostile input."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datasets.ecg import LEADS_12
from datasets.formats._philips_xli import lzw_decode, xli_decode
from datasets.formats.base import ReadOptions
from ecgportal.errors import NeedsAnswer, PortalError, UnreadableFile
from tests.datasets.formats.clinical_tools import facts, fuzz_test, read_one, read_shared, shared_bytes
from tests.shared import needs_shared

REAL = ["129DYPRG_1_03.xml", "repbeats_1_03.xml", "3191723_1_04.xml"]


def lzw_encode(data: bytes) -> bytes:
    """Encode with 10-bit codes; the dictionary is frozen when code 1022 is taken; 1023 ends the text."""
    table = {bytes([value]): value for value in range(256)}
    codes, word = [], b""
    for value in data:
        longer = word + bytes([value])
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) < 1023:
            table[longer] = len(table)
        word = bytes([value])
    codes += [table[word]] if word else []
    bits = "".join(f"{code:010b}" for code in [*codes, 1023])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def xli_encode(samples: np.ndarray) -> bytes:
    """Encode one lead of int16: deltas of the second order, high bytes before low bytes, LZW."""
    wide = samples.astype(np.int64)
    second = 2 * wide[1:-1] - wide[:-2] - wide[2:]
    deltas = np.zeros(wide.size, np.int64)
    deltas[:2] = wide[:2]
    deltas[2:-1] = second[1:] + 64
    stored = deltas.astype(np.uint64).astype(np.uint16)
    plain = (stored >> 8).astype(np.uint8).tobytes() + (stored & 0xFF).astype(np.uint8).tobytes()
    body = lzw_encode(plain)
    first = int(second[0]) & 0xFFFF
    return len(body).to_bytes(4, "little") + b"\x01\x00" + first.to_bytes(2, "little") + body


def document(
    data: bytes, attributes: str = "", version: str = "1.04", kind: str = "PhilipsECG", duration: int = 1000
) -> bytes:
    stated = attributes or 'compression="XLI" numberofleads="2" leadlabels="I V1" samplespersecond="500" resolution="5"'
    return (
        f"<restingecgdata><documentinfo><documenttype>{kind}</documenttype><documentversion>{version}</documentversion>"
        f'</documentinfo><waveforms><parsedwaveforms dataencoding="Base64" durationperchannel="{duration}" {stated}>'
        f"{base64.b64encode(data).decode()}</parsedwaveforms></waveforms></restingecgdata>"
    ).encode()


def sine(count: int = 500, phase: float = 0) -> np.ndarray:
    return np.round(300 * np.sin(np.arange(count) / 20 + phase)).astype(np.int16)


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_the_real_files(name):
    known = facts(f"philips_xml/{name}")
    record = read_shared(f"philips_xml/{name}", "philips_xml")
    assert record.leads == LEADS_12 and len(record.leads) == known["leads"]
    assert record.fs_hz == known["fs"]
    for lead in ("I", "II"):
        raw = np.round(record.lead(lead)[:4] * 1000 / known["uV_per_bit"]).astype(int)
        assert raw.tolist() == known[f"raw_first4_{lead}"]
        assert record.lead(lead)[0] == pytest.approx(known[f"lead_{lead}_sample0_mV"], abs=1e-6)
    assert record.lead("V1").min() == pytest.approx(known["V1_min_max_mV"][0], abs=1e-6)
    assert known["doc"] in record.meta.notes[0]


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_the_calibration_pulse_is_cut_and_noted(name):
    record = read_shared(f"philips_xml/{name}", "philips_xml")
    # The file holds 5500 samples; its eleventh second carries the pulse.
    assert record.n_samples == 5000 and record.duration_s == 10
    assert record.lead("V1").max() < 0.95
    assert any("1 mV calibration pulse" in note for note in record.meta.notes)


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_the_limb_leads_follow_einthoven_and_goldberger(name):
    record = read_shared(f"philips_xml/{name}", "philips_xml")
    one, two = record.lead("I"), record.lead("II")
    step_mv = 0.005
    for lead, expected in {
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }.items():
        assert np.abs(record.lead(lead) - expected).max() <= 2.01 * step_mv, lead
        assert np.ptp(record.lead(lead)) > 0.2


@needs_shared
def test_printed_measurements_and_statements():
    first = read_shared("philips_xml/129DYPRG_1_03.xml", "philips_xml").meta
    assert (first.printed["heart_rate_bpm"], first.printed["pr_ms"], first.printed["qrs_ms"]) == (41, 151, 135)
    codes = [label.code for label in first.labels]
    assert codes[:3] == [
        "Sinus bradycardia",
        "Nonspecific intraventricular conduction delay",
        "Inferior infarct, acute (LCx)",
    ]
    assert (first.sex, first.age) == ("male", 50)
    second = read_shared("philips_xml/3191723_1_04.xml", "philips_xml").meta
    assert second.printed["heart_rate_bpm"] == 84
    assert [label.code for label in second.labels][:3] == [
        "SINUS RHYTHM",
        "PROBABLE LEFT VENTRICULAR HYPERTROPHY",
        "ANTERIOR ST ELEVATION, PROBABLY DUE TO LVH",
    ]
    assert (second.subject, second.age) == ("9999", 60)
    for planted in ("ZZDEMOPTONLY", "ADULT", "1950", "VWJ", "120190145", "TEST PT", "Heart Station"):
        assert planted not in repr(second)


@needs_shared
def test_representative_beats_change_nothing():
    plain = read_shared("philips_xml/129DYPRG_1_03.xml", "philips_xml")
    with_beats = read_shared("philips_xml/repbeats_1_03.xml", "philips_xml")
    assert np.array_equal(plain.signal, with_beats.signal)


@needs_shared
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("invalid-doc-type.xml", "unknown_document_type", "MortaraECG"),
        ("invalid-doc-version.xml", "unknown_document_version", "1.05"),
    ],
)
def test_other_types_and_versions_are_refused_with_a_sentence(name, code, words):
    with pytest.raises(UnreadableFile, match=words) as caught:
        read_shared(f"philips_xml/{name}", "philips_xml")
    assert caught.value.code == code


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4000), st.integers(1, 40))
def test_lzw_gives_back_what_was_encoded(data, repeat):
    plain = data * repeat
    assert lzw_decode("x", lzw_encode(plain), len(plain) + 4) == plain


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int16, st.integers(4, 300), elements=st.integers(-32768, 32767)))
def test_xli_gives_back_every_int16_signal(samples):
    decoded = xli_decode("x", xli_encode(samples), 1, samples.size)
    assert np.array_equal(decoded[0], samples)


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01", "1.04.02"])
def test_built_files_of_every_version(version):
    data = document(xli_encode(sine()) + xli_encode(sine(phase=1)), version=version)
    record = read_one(data, "a.xml", "philips_xml")
    assert record.leads == ("I", "V1")
    assert record.signal == pytest.approx(np.stack([sine(), sine(phase=1)]) * 0.005, abs=1e-6)
    assert not any("calibration" in note for note in record.meta.notes)


def twelve(full: bool) -> np.ndarray:
    """Return digits of 12 leads with the limb leads as they are, or as remainders."""
    one, two = sine(), sine(phase=0.5)
    three = two - one
    rows = [one, two, three, -((one + two) // 2), (one - three) // 2, (two + three) // 2]
    if not full:
        rows[2:] = [np.zeros_like(one)] * 4
    return np.stack(rows + [sine(phase=1 + index) for index in range(6)]).astype("<i2")


@pytest.mark.parametrize("full", [True, False])
def test_uncompressed_files_with_whole_limb_leads_or_remainders(full):
    labels = " ".join(LEADS_12)
    attributes = f'numberofleads="12" leadlabels="{labels}" samplespersecond="500" resolution="5"'
    record = read_one(document(twelve(full).tobytes(), attributes), "a.xml", "philips_xml")
    assert record.signal == pytest.approx(twelve(True) * 0.005, abs=0.0051)


def test_samples_written_as_plain_numbers():
    numbers = "\n".join(" ".join(map(str, row)) for row in twelve(True).tolist())
    labels = " ".join(LEADS_12)
    data = document(b"", f'numberofleads="12" leadlabels="{labels}" samplespersecond="500" resolution="5"')
    data = data.replace(b'"Base64"', b'"Plain"').replace(b"></parsed", f">{numbers}</parsed".encode())
    assert read_one(data, "a.xml", "philips_xml").signal == pytest.approx(twelve(True) * 0.005, abs=1e-6)
    with pytest.raises(UnreadableFile, match="holds 5999 values"):
        read_one(data.replace(b" " + numbers.split()[-1].encode() + b"<", b"<"), "a.xml", "philips_xml")


def test_unsigned_samples_have_their_zero_at_the_offset():
    digits = (sine().astype(np.int64) + 40_000).astype("<u2")
    stated = 'numberofleads="1" leadlabels="V1" samplespersecond="500" resolution="5" signalsigned="False" signaloffset="40000"'
    record = read_one(document(digits.tobytes(), stated), "a.xml", "philips_xml")
    assert record.signal[0] == pytest.approx(sine() * 0.005, abs=1e-6)


@pytest.mark.parametrize("bits", ["12", "14"])
def test_a_converter_of_fewer_bits_is_read_where_its_samples_are_whole_words(bits):
    data = document(xli_encode(sine()) * 2).replace(
        b'resolution="5"', f'resolution="5" bitspersample="{bits}"'.encode()
    )
    assert read_one(data, "a.xml", "philips_xml").signal[0] == pytest.approx(sine() * 0.005, abs=1e-6)
    stated = f'numberofleads="1" leadlabels="V1" samplespersecond="500" resolution="5" bitspersample="{bits}"'
    words = sine().astype("<i2").tobytes()
    assert read_one(document(words, stated), "a.xml", "philips_xml").signal[0] == pytest.approx(
        sine() * 0.005, abs=1e-6
    )
    packed = words[: len(words) * int(bits) // 16]
    with pytest.raises(UnreadableFile, match=f"{bits} bits"):
        read_one(document(packed, stated), "a.xml", "philips_xml")


@pytest.mark.parametrize(
    ("missing", "answer"), [("samplespersecond", {"fs_hz": 500.0}), ("resolution", {"unit": "200/mV"})]
)
def test_what_is_not_stated_is_asked_for(missing, answer):
    data = document(xli_encode(sine()) + xli_encode(sine())).replace(missing.encode(), b"other")
    with pytest.raises(NeedsAnswer) as caught:
        read_one(data, "a.xml", "philips_xml")
    assert set(caught.value.fields) == set(answer)
    record = read_one(data, "a.xml", "philips_xml", ReadOptions(**answer))
    assert record.fs_hz == 500 and record.lead("I").max() == pytest.approx(1.5, abs=0.01)


def test_cut_and_inflating_chunks_are_refused():
    good = xli_encode(sine()) + xli_encode(sine())
    with pytest.raises(UnreadableFile, match="number 2 run past the end"):
        read_one(document(good[:-40]), "a.xml", "philips_xml")
    with pytest.raises(UnreadableFile, match=r"announces 2 leads but holds the samples of 1"):
        read_one(document(xli_encode(sine())), "a.xml", "philips_xml")
    with pytest.raises(UnreadableFile, match="number 1 announces 500 samples but holds 300"):
        read_one(document(xli_encode(sine(300)) * 2), "a.xml", "philips_xml")
    bomb = lzw_encode(bytes(1_000_000))
    packed = len(bomb).to_bytes(4, "little") + b"\x01\x00\x00\x00" + bomb
    with pytest.raises(UnreadableFile, match="more than the"):
        read_one(document(packed * 2), "a.xml", "philips_xml")


def test_an_endless_duration_is_refused_before_memory_is_taken():
    with pytest.raises(PortalError):
        read_one(document(xli_encode(sine()), duration=10**15), "a.xml", "philips_xml")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_in_the_chunks_give_an_answer(data):
    try:
        xli_decode("x", data, 1, 50)
    except PortalError as error:
        assert error.message


@needs_shared
def test_the_file_in_utf_16_equals_its_utf_8_form():
    data = shared_bytes("philips_xml/3191723_1_04.xml")
    assert data[:2] == b"\xff\xfe"
    text = data.decode("utf-16").replace('encoding="utf-16"', 'encoding="utf-8"')
    again = read_one(text.encode(), "a.xml", "philips_xml")
    assert np.array_equal(again.signal, read_shared("philips_xml/3191723_1_04.xml", "philips_xml").signal)


test_damaged_files_never_crash = needs_shared(fuzz_test("philips_xml", "philips_xml/129DYPRG_1_03.xml", 40))
