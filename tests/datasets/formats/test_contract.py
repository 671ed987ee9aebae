"""What every reader promises, tested on every registered reader: a new format is tested by existing."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.ecg import LEADS_12, Record
from datasets.formats import registry
from datasets.formats.base import HEAD_BYTES, BytesSource, Reader, ReadOptions, ReadResult
from ecgportal.errors import NeedsAnswer, PortalError
from tests.datasets.formats.clinical_tools import Mutation, mutate, mutations
from tests.shared import SHARED, needs_shared

READERS = registry.readers()
ANSWERS = ReadOptions(fs_hz=500.0, unit="mV", lead_order=LEADS_12)
# Files that carry a format's marks but no ECG; the reader must say so.
_WITHOUT_ECG = {
    "hl7_aecg/empty.xml",
    "edf/test_edfann.edf",
    "philips_xml/invalid-doc-type.xml",
    "philips_xml/invalid-doc-version.xml",
}


@cache
def fixtures() -> tuple[str, ...]:
    """Return the shared ECG files that stand alone or head a record."""
    if SHARED is None:
        return ()
    root = SHARED / "ecg"
    table = json.loads((root / "expected.json").read_text())
    names = [entry["dst"] for entry in table]
    # The first files of each labelled collection, too.
    for pattern in (
        "cinc2021/*.hea",
        "cpsc2018/*.hea",
        "ludb/data/*.hea",
        "ptbxl/records*/*/*.hea",
        "code15/*.mat",
        "sph/*.h5",
    ):
        names += [str(path.relative_to(root)) for path in sorted((root / "labelled").glob(pattern))[:3]]
    heads = {str(Path(name).with_suffix("")) for name in names if name.endswith(".hea")}
    companions = (".dat", ".mat", ".xyz", ".atr")
    return tuple(
        n
        for n in names
        if not (n.endswith(companions) and (str(Path(n).with_suffix("")) in heads or n.startswith("wfdb/")))
    )


@cache
def source(name: str) -> BytesSource:
    assert SHARED is not None
    path = SHARED / "ecg" / name
    beside = {}
    if name.endswith(".hea"):
        stem = path.stem.removesuffix("_frame")
        beside = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.name.startswith(stem + ".")}
    return BytesSource(name, path.read_bytes(), beside)


@cache
def reader_of(name: str) -> Reader | None:
    return registry.sniff(source(name))


def samples_of(reader: str) -> list[str]:
    return [name for name in fixtures() if (found := reader_of(name)) is not None and found.name == reader]


def smallest(reader: str) -> str | None:
    names = [name for name in samples_of(reader) if name not in _WITHOUT_ECG]
    return min(names, key=lambda name: source(name).size, default=None)


def check_record(record: Record) -> None:
    assert record.signal.dtype == np.float32 and record.signal.flags.c_contiguous
    assert not np.isinf(record.signal).any()
    assert record.fs_hz > 0 and isinstance(record.meta.notes, tuple)
    assert record.meta.sex in (None, "male", "female")
    assert record.meta.age is None or 0 <= record.meta.age <= 130


def check_read(reader: Reader, given_source: BytesSource) -> None:
    """Assert that reading gives records or an error that a user can understand."""
    try:
        result = reader.read(given_source, ANSWERS)
    except PortalError as error:
        assert len(error.message) > 20 and error.code.isidentifier()
        return
    assert isinstance(result, ReadResult) and result.records
    for _, record in result.records:
        check_record(record)


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_a_reader_describes_itself(reader: Reader) -> None:
    assert reader.name == reader.name.lower() and reader.title and reader.suffixes
    assert all(suffix.startswith(".") for suffix in reader.suffixes)


@needs_shared
@pytest.mark.parametrize("name", fixtures())
def test_every_shared_file_has_one_reader_and_gives_records(name: str) -> None:
    found = [reader.name for reader in READERS.values() if reader.sniff(source(name).data[:HEAD_BYTES], name)]
    assert len(found) <= 1
    if name in _WITHOUT_ECG:
        with pytest.raises(PortalError):
            registry.read(source(name), ANSWERS)
        return
    assert len(found) == 1
    _, result = registry.read(source(name), replace(ANSWERS, unit="uV") if "_uV.csv" in name else ANSWERS)
    for key, record in result.records:
        check_record(record)
        assert key and "/" not in key
        # A QRS complex of less than 10 uV or more than 20 mV means a wrong unit.
        size = float(np.nanmedian(np.nanmax(record.signal, axis=1) - np.nanmin(record.signal, axis=1)))
        constant = "flac" in name
        assert constant or 0.01 < size < 20, f"the leads span {size} mV"
    assert all(companion.startswith(str(Path(name).parent)) for companion in result.companions)


@needs_shared
@pytest.mark.parametrize("name", fixtures())
def test_a_file_is_recognised_under_any_name_that_its_format_allows(name: str) -> None:
    reader = reader_of(name)
    if reader is None:
        pytest.fail("no reader knows the file")
    renamed = f"<img onerror>{Path(name).suffix}"
    found = registry.sniff(BytesSource(renamed, source(name).data))
    assert found is reader


@needs_shared
@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_a_file_that_was_cut_short_is_an_error_of_ours(reader: Reader) -> None:
    name = smallest(reader.name)
    if name is None:
        pytest.skip("no real file of this format is in the shared material")
    whole = source(name)
    for part in (0.001, 0.02, 0.1, 0.3, 0.5, 0.9, 0.999):
        cut = int(whole.size * part)
        check_read(reader, BytesSource(whole.name, whole.data[:cut], whole.neighbours))
        shorter = {n: data[: int(len(data) * part)] for n, data in whole.neighbours.items()}
        check_read(reader, BytesSource(whole.name, whole.data, shorter))


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 5000, b"\xff" * 5000, b"<" * 5000, b"1\n" * 2000, bytes(range(256)) * 20]
)
def test_files_without_sense_are_errors_of_ours(reader: Reader, data: bytes) -> None:
    assert reader.sniff(data[:HEAD_BYTES], "x.bin") in (True, False)
    with pytest.raises(PortalError) as caught:
        reader.read(BytesSource(f"x{reader.suffixes[0]}", data), ReadOptions())
    assert len(caught.value.message) > 20


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_sniffing_never_raises(reader: Reader) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=600), st.sampled_from(["x", "x.xml", "x.csv", "x.mat", "x.hea", ""]))
    def check(data: bytes, name: str) -> None:
        assert reader.sniff(data, name) in (True, False)

    check()


@needs_shared
@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_damaged_files_never_crash(reader: Reader) -> None:
    name = smallest(reader.name)
    if name is None:
        pytest.skip("no real file of this format is in the shared material")
    whole = source(name)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutations, st.sampled_from([None, 400, 4000]), st.booleans())
    def check(steps: list[Mutation], head: int | None, of_companion: bool) -> None:
        if of_companion and whole.neighbours:
            beside = {n: mutate(data, steps, head) for n, data in whole.neighbours.items()}
            check_read(reader, BytesSource(whole.name, whole.data, beside))
        else:
            check_read(reader, BytesSource(whole.name, mutate(whole.data, steps, head), whole.neighbours))

    check()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "ecg.xml"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "ecg.xml"),
        (b"GIF89a<?xml version='1.0'?><RestingECG/>", "ecg.xml"),
        (b"MZ\x90\x00\x03", "ecg.dcm"),
        (b"<html><body><table><tr><td>1</td></tr></table></body></html>", "ecg.csv"),
        (b"#!/bin/sh\necho 1,2\n", "ecg.csv"),
        (b"file_name,label,ICD-10\n00001_hr.hea,AFIB,I48\n00002_hr.hea,NORM,\n", "labels.csv"),
        (b"ecg_id,strat_fold,NORM\n1,2,0\n2,3,1\n", "labels.csv"),
    ],
)
def test_other_files_in_the_clothes_of_an_ecg_are_refused(data: bytes, name: str) -> None:
    with pytest.raises(PortalError) as caught:
        registry.read(BytesSource(name, data))
    assert caught.value.code in ("not_an_ecg", "format_not_read") and name in caught.value.message


@needs_shared
@pytest.mark.parametrize("name", fixtures())
def test_a_file_that_leaves_something_open_asks_and_takes_the_answer(name: str) -> None:
    if name in _WITHOUT_ECG:
        return
    try:
        registry.read(source(name))
    except NeedsAnswer as asked:
        assert asked.fields and set(asked.fields) <= {"fs_hz", "unit", "lead_order"}
        assert all(sentence.startswith(("Guess:", "No guess:")) for sentence in asked.fields.values())
        _, result = registry.read(source(name), ANSWERS)
        assert result.records
