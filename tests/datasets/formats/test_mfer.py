"""MFER files, built after the published encoding rules (ISO 22077-1)."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from datasets.ecg import LEADS_12
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from datasets.identity import terms_of
from datasets.scrubbing import NOT_KEPT, scrub
from ecgportal.errors import NeedsAnswer, PortalError, UnreadableFile
from tests.datasets.formats.clinical_tools import direct_reader, mutations, never_another_error, read_one

CODES = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)
SIGNAL = (np.arange(12)[:, None] * 100 + np.arange(-300, 300)).astype(np.int16)


def tag(number: int, content: bytes = b"") -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x84" + struct.pack(">I", size)
    return bytes([number]) + length + content


def channel(number: int, *tags: bytes, is_open: bool = False) -> bytes:
    inner = b"".join(tags)
    size = b"\x80" if is_open else bytes([len(inner)])
    return bytes([0x3F, number]) + size + inner + (b"\x00\x00" if is_open else b"")


def frame(signal: np.ndarray, block: int, order: str = ">", kind: str = "i2") -> bytes:
    """Lay out ``(leads, samples)`` in sequences of blocks."""
    leads, samples = signal.shape
    blocks = signal.reshape(leads, samples // block, block).transpose(1, 0, 2)
    return tag(0x1E, blocks.astype(order + kind).tobytes())


def recording(
    order: str = ">", block: int = 100, signal: np.ndarray = SIGNAL, is_open: bool = False, **changes: Any
) -> bytes:
    o = order
    parts: dict[str, bytes] = {
        "preamble": tag(0x40, b"MFR Standard 12 leads ECG".ljust(32)),
        "order": tag(0x01, b"\x00" if o == ">" else b"\x01"),
        "characters": tag(0x03, b"ASCII"),
        "device": tag(0x17, b"Maker^ECG-9^1.2^SERIAL77"),
        "kind": tag(0x08, struct.pack(o + "H", 1)),
        "person": tag(0x81, b"Quixworth^Zebulona") + tag(0x82, b"MRN-123") + tag(0x84, b"\x02"),
        "age": tag(0x83, bytes([61]) + struct.pack(o + "HHBB", 0, 1950, 3, 12)),
        "time": tag(0x85, struct.pack(o + "HBBBBBHH", 2010, 5, 4, 23, 59, 1, 0, 0)),
        "interval": tag(0x0B, b"\x01\xfd" + struct.pack(o + "H", 2)),
        "resolution": tag(0x0C, b"\x00\xfa" + struct.pack(o + "H", 5)),
        "block": tag(0x04, struct.pack(o + "I", block)),
        "channels": tag(0x05, bytes([len(signal)])),
        "sequences": tag(0x06, struct.pack(o + "H", signal.shape[1] // block)),
        "leads": b"".join(
            channel(n, tag(0x09, struct.pack(o + "H", code)), is_open=is_open) for n, code in enumerate(CODES[: len(signal)])
        ),
        "samples": frame(signal, block, o),
        "end": tag(0x80),
    }  # fmt: skip
    return b"".join({**parts, **changes}.values())


def read(data: bytes, **answers: Any):
    ((_, record),) = registry.read(BytesSource("x.mwf", data), ReadOptions(**answers))[1].records
    return record


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("block", [1, 100, 600])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_built_file(order: str, block: int, is_open: bool) -> None:
    record = read_one(recording(order, block, is_open=is_open), "a.mwf", "mfer")
    assert (record.leads, record.fs_hz) == (LEADS_12, 500.0)
    np.testing.assert_allclose(record.signal, SIGNAL * 0.005, atol=1e-5)
    meta = record.meta
    assert (meta.subject, meta.age, meta.sex, meta.recorded_at) == ("MRN-123", 61.0, "female", "2010-05-04T23:59:01")
    assert meta.device == "Maker ECG-9" and not meta.notes and "Quixworth" not in repr(meta)
    assert not registry.readers()["mfer"].tried_on_real_files


def test_the_preamble_may_be_missing() -> None:
    assert read(recording(preamble=b"")).leads == LEADS_12
    with pytest.raises(PortalError):
        registry.read(BytesSource("x.bin", recording(preamble=b"")))


def test_a_rate_in_hertz_fits_one_byte() -> None:
    assert read(recording(interval=tag(0x0B, b"\x00\x00\xfa"))).fs_hz == 250.0


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i4", "u4", "f4", "f8"])
def test_every_kind_of_sample(kind: str) -> None:
    code = {"i2": 0, "u2": 1, "i4": 2, "u1": 3, "i1": 5, "u4": 6, "f4": 7, "f8": 8}[kind]
    signal = np.arange(1200).reshape(12, 100) % 120
    data = recording(
        signal=signal,
        preamble=tag(0x40, b"MFR".ljust(32)) + tag(0x0A, bytes([code])),
        samples=frame(signal, 100, kind=kind),
    )
    np.testing.assert_allclose(read(data).signal, signal * 0.005, atol=1e-5)


def test_a_null_value_is_a_gap_and_each_channel_has_its_own_resolution() -> None:
    signal = SIGNAL.copy()
    signal[0, 3] = -32768
    leads = channel(0, tag(0x09, b"\x00\x01"), tag(0x0C, b"\x00\xf9\x01")) + channel(1, tag(0x09, b"\x00\x02"))
    data = recording(signal=signal[:2], leads=tag(0x12, b"\x80\x00") + leads)
    record = read(data)
    assert np.isnan(record.signal[0, 3]) and np.isfinite(record.signal).sum() == 1199
    np.testing.assert_allclose(record.signal[0, 4:], SIGNAL[0, 4:] * 1e-4, atol=1e-5)
    np.testing.assert_allclose(record.signal[1], SIGNAL[1] * 0.005, atol=1e-5)


def test_frames_follow_one_another_and_other_kinds_are_left_out() -> None:
    beat = tag(0x08, b"\x00\x09") + tag(0x06, b"\x00\x01") + frame(SIGNAL[:, :100], 100)
    data = recording(samples=frame(SIGNAL, 100) + frame(SIGNAL, 100) + beat)
    record = read(data)
    np.testing.assert_allclose(record.signal, np.hstack([SIGNAL, SIGNAL]) * 0.005, atol=1e-5)
    assert record.meta.notes == ("Frames of another kind or with other channels were left out: 1.",)


def test_other_quantities_and_other_rates_are_named() -> None:
    leads = (
        channel(0, tag(0x09, b"\x00\x01"))
        + channel(1, tag(0x09, b"\x00\x00Pleth"), tag(0x0C, b"\x07\x00\x01"))
        + channel(2, tag(0x09, b"\x00\x02"))
        + channel(3, tag(0x09, b"\x00\x03"), tag(0x0B, b"\x01\xfd\x04"), tag(0x04, b"\x00\x32"))
    )
    rows = [SIGNAL[at].reshape(6, 100) for at in range(3)] + [SIGNAL[3, :300].reshape(6, 50)]
    samples = tag(0x1E, np.hstack(rows).astype(">i2").tobytes())
    record = read(recording(signal=SIGNAL[:4], leads=leads, samples=samples))
    assert record.leads == ("I", "II")
    assert record.meta.dropped_channels == ("Pleth (no voltage)", "V1 (300 samples at 250 Hz)")
    np.testing.assert_allclose(record.signal, SIGNAL[[0, 2]] * 0.005, atol=1e-5)


def test_what_the_file_leaves_open_is_asked() -> None:
    data = recording(interval=b"", resolution=b"", leads=b"")
    with pytest.raises(NeedsAnswer) as asked:
        read(data)
    assert set(asked.value.fields) == {"fs_hz", "unit"} and asked.value.fields["fs_hz"].startswith("Guess: 1000.")
    with pytest.raises(NeedsAnswer) as asked:
        read(data, fs_hz=500.0, unit="200/mV")
    assert set(asked.value.fields) == {"lead_order"}
    record = read(data, fs_hz=500.0, unit="200/mV", lead_order=LEADS_12)
    assert (record.leads, record.fs_hz) == (LEADS_12, 500.0)
    np.testing.assert_allclose(record.signal, SIGNAL * 0.005, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (recording()[:-200], "short_waveform"),
        (recording(sequences=tag(0x06, b"\x00\x07")), "short_waveform"),
        (recording(samples=b""), "no_waveform"),
        (recording(characters=tag(0x0A, b"\x09")), "unknown_sample_kind"),
        (recording(characters=tag(0x0E, b"\x00\x01" + bytes(8))), "unknown_compression"),
        (recording(channels=tag(0x05, b"\x7f")), "damaged_mfer"),
        (recording(block=100, sequences=tag(0x04, b"\x7f\xff\xff\xff")), "short_waveform"),
        (recording(interval=tag(0x0B, b"\x02\x00\x01")), "damaged_mfer"),
        (recording(end=b"")[:40] + b"\x3f\xff\xff\xff\xff", "damaged_mfer"),
        (recording(resolution=tag(0x0C, b"\x01\x00\x01")), "no_ecg_lead"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(data: bytes, code: str) -> None:
    with pytest.raises(UnreadableFile) as error:
        read(data)
    assert error.value.code == code and "x.mwf" in error.value.message


def test_names_are_known_and_the_file_is_not_kept(tmp_path) -> None:
    path = tmp_path / "a.mwf"
    path.write_bytes(recording())
    assert {"Quixworth", "Zebulona", "MRN-123"} <= set(terms_of("mfer", recording()))
    assert terms_of(None, recording()) == terms_of("mfer", recording())
    assert scrub("mfer", "a.mwf", path) == (NOT_KEPT, None)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations)
def test_damaged_files_never_crash(steps) -> None:
    never_another_error(direct_reader("mfer", "a.mwf"), recording(), steps, None)
