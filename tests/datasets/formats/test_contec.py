"""Contec ECG90A files, built after the layout that an owner of the device described."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from datasets.ecg import LEADS_12, normalise
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions
from datasets.identity import terms_of
from ecgportal.errors import InvalidInput, NeedsAnswer, UnreadableFile
from tests.datasets.formats.clinical_tools import direct_reader, mutations, never_another_error

DIGITS = 2048 + np.arange(8)[:, None] * 50 + np.arange(-100, 100)
ANSWERS = ReadOptions(fs_hz=800.0, unit="200/mV", lead_order=("II", "III", "V1", "V2", "V3", "V4", "V5", "V6"))


def recording(digits: np.ndarray = DIGITS, behind: int = 37) -> bytes:
    head = b"0000037\x00" + b"\x01\x02" + b"2019-07-01 12:30:05\x00" + b"\x00\x00" + b"Quixwrth" + bytes([1, 44, 70])
    return head + digits.T.astype("<u2").tobytes() + bytes(behind)


def read(data: bytes, options: ReadOptions = ANSWERS):
    entry, result = registry.read(BytesSource("0000037.ECG", data), options)
    assert entry.name == "contec" and not entry.tried_on_real_files
    return result.records[0][1]


def test_everything_is_asked_and_the_answers_are_taken() -> None:
    with pytest.raises(NeedsAnswer) as asked:
        read(recording(), ReadOptions())
    assert {key: text.split(".")[0] for key, text in asked.value.fields.items()} == {
        "fs_hz": "Guess: 800", "unit": "Guess: 200/mV", "lead_order": "Guess: II III V1 V2 V3 V4 V5 V6",
    }  # fmt: skip
    record = read(recording())
    assert (record.fs_hz, record.leads) == (800.0, ANSWERS.lead_order)
    np.testing.assert_allclose(record.signal, (DIGITS - 2048) * 0.005, atol=1e-6)
    meta = record.meta
    assert (meta.subject, meta.age, meta.sex, meta.recorded_at) == ("Quixwrth", 44, "male", "2019-07-01T12:30:05")
    whole = normalise(record)
    assert whole.leads == LEADS_12 and whole.computed == ("I", "aVR", "aVL", "aVF")


def test_off_scale_samples_are_gaps_and_the_filling_is_cut() -> None:
    digits = np.hstack([DIGITS, np.zeros((8, 40), int)])
    digits[2, 7] = 0x6800
    record = read(recording(digits))
    assert record.n_samples == 200 and np.argwhere(np.isnan(record.signal)).tolist() == [[2, 7]]


@pytest.mark.parametrize(
    "data", [recording(behind=36), recording(DIGITS + 5000), recording(DIGITS * 0), recording(DIGITS[:, :0])]
)
def test_what_another_device_wrote_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableFile) as error:
        read(data)
    assert error.value.code == "damaged_contec"


def test_another_number_of_leads_is_refused() -> None:
    with pytest.raises(InvalidInput, match="8 leads"):
        read(recording(), ReadOptions(fs_hz=800.0, unit="mV", lead_order=("I", "II")))


def test_the_name_is_known() -> None:
    assert "Quixwrth" in terms_of("contec", recording())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations)
def test_damaged_files_never_crash(steps) -> None:
    never_another_error(direct_reader("contec", "a.ecg"), recording(), steps, 60)
