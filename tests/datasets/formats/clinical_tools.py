"""What the tests of the clinical formats share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.ecg import Record, canonical_lead
from datasets.formats import registry
from datasets.formats.base import BytesSource, ReadOptions, ReadResult
from ecgportal.errors import PortalError
from tests.shared import shared_path

Mutation = tuple[str, float, float, int]


@cache
def facts(name: str) -> dict:
    """Return the facts of one file of the shared material."""
    table = json.loads(shared_path("ecg", "expected.json").read_text())
    return next(entry["facts"] for entry in table if entry["dst"] == name)


@cache
def shared_bytes(name: str) -> bytes:
    return shared_path("ecg", *name.split("/")).read_bytes()


def read_bytes_as(data: bytes, name: str, expected: str, options: ReadOptions | None = None) -> ReadResult:
    """Read through the registry, so that the recognition by content is part of every test."""
    entry, result = registry.read(BytesSource(name, data), options)
    assert entry.name == expected
    return result


def read_one(data: bytes, name: str, expected: str, options: ReadOptions | None = None) -> Record:
    result = read_bytes_as(data, name, expected, options)
    assert len(result.records) == 1
    return result.records[0][1]


def read_shared(name: str, expected: str) -> Record:
    return read_one(shared_bytes(name), name, expected)


@cache
def ludb(number: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a LUDB record in mV, ``(12, 5000)``, and its lead names, read by the wfdb package."""
    record = wfdb.rdrecord(str(shared_path("ecg", "labelled", "ludb", "data", str(number))))
    return record.p_signal.T, tuple(canonical_lead(name) or name for name in record.sig_name)


def assert_same_signal(record: Record, number: int, tolerance_mv: float) -> None:
    """Assert that a record holds the LUDB record's samples within the step of its container."""
    signal, leads = ludb(number)
    assert record.signal.shape == signal.shape
    for row, lead in enumerate(leads):
        assert np.abs(record.lead(lead) - signal[row]).max() <= tolerance_mv + 1e-7, lead


KINDS = ("set", "flip", "cut", "copy", "zero", "truncate", "insert", "number", "extreme")
_NUMBERS = (b"-1", b"0", b"1", b"65536", b"2147483648", b"99999999999999999999", b"1e9", b"1e-9", b"nan", b"")
_EXTREMES = (
    b"\xff\xff",
    b"\xff\x7f",
    b"\x00\x80",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
)

mutations = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.floats(0, 1),
        st.floats(0, 1),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=6,
)


def mutate(data: bytes, steps: list[Mutation], head: int | None = None) -> bytes:
    """Apply mutations; with ``head`` the places are drawn from the first bytes, where structure lies."""
    out = bytearray(data)
    for kind, where, far, value in steps:
        if not out:
            break
        span = min(len(out), head) if head else len(out)
        at = min(int(where * span), len(out) - 1)
        length = 1 + int(far * 64)
        if kind == "set":
            out[at] = value
        elif kind == "flip":
            out[at] ^= 1 << (value % 8)
        elif kind == "cut":
            del out[at : at + length]
        elif kind == "copy":
            out[at:at] = out[at : at + length]
        elif kind == "zero":
            out[at : at + length] = bytes(len(out[at : at + length]))
        elif kind == "number":
            # The next number that is written in digits, as counts and rates are in text formats.
            found = re.compile(rb"\d+").search(out, at, at + 4000)
            if found is not None:
                out[found.start() : found.end()] = _NUMBERS[value % len(_NUMBERS)]
        elif kind == "extreme":
            word = _EXTREMES[value % len(_EXTREMES)]
            out[at : at + len(word)] = word
        elif kind == "insert":
            out[at:at] = bytes([value]) * length
        else:
            del out[max(at, 1) :]
    return bytes(out)


def never_another_error(read: Callable[[bytes], object], data: bytes, steps: list[Mutation], head: int | None) -> None:
    """Assert that a damaged file gives records or a PortalError, nothing else."""
    try:
        result = read(mutate(data, steps, head))
    except PortalError as error:
        assert error.message and error.code
        return
    assert isinstance(result, ReadResult)
    for _, record in result.records:
        assert record.signal.dtype == np.float32
        assert not np.isinf(record.signal).any()


def direct_reader(name: str, file_name: str) -> Callable[[bytes], ReadResult]:
    """Return a function that hands bytes to one reader, past the recognition."""
    entry = registry.readers()[name]
    return lambda data: entry.read(BytesSource(file_name, data), ReadOptions())


def fuzz_test(name: str, shared_name: str, examples: int = 60) -> Callable[[], None]:
    """Return a property test over mutations of a real file, half of them in its first 4000 bytes."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutations, st.sampled_from([None, 400, 4000]))
    def check(steps: list[Mutation], head: int | None) -> None:
        never_another_error(direct_reader(name, shared_name), shared_bytes(shared_name), steps, head)

    return check
