"""SCP-ECG: the public example, a re-encoded record, and every compression by an encoder of our own."""

from __future__ import annotations

import binascii
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ecgportal.errors import PortalError, TooLarge, UnreadableFile
from tests.datasets.formats import scp_writer as scp
from tests.datasets.formats.clinical_tools import (
    assert_same_signal,
    direct_reader,
    facts,
    fuzz_test,
    mutate,
    mutations,
    never_another_error,
    read_one,
    read_shared,
    shared_bytes,
)
from tests.shared import needs_shared

EXAMPLE, RAW = "scp/ecgtoolkit_example.scp", "scp/reencoded_ludb3_raw.scp"


@needs_shared
def test_the_public_example():
    known = facts(EXAMPLE)
    record = read_shared(EXAMPLE, "scp_ecg")
    assert list(record.leads) == known["lead_order"] and len(record.leads) == known["leads"]
    assert (record.fs_hz, record.n_samples, record.duration_s) == (known["fs"], known["n"], known["seconds"])
    raw = np.round(record.lead("I")[:5] * 1e6 / known["nV_per_bit"]).astype(int)
    assert raw.tolist() == known["lead_I_first5_raw"]
    assert record.lead("I")[0] == pytest.approx(known["lead_I_sample0_mV"], abs=1e-6)
    assert record.lead("V1")[0] == pytest.approx(known["V1_sample0_mV"], abs=1e-6)


@needs_shared
def test_the_example_holds_the_integers_of_its_hl7_twin():
    record = read_shared(EXAMPLE, "scp_ecg")
    twin = read_shared("hl7_aecg/hl7_2003_example.xml", "hl7_aecg")
    assert record.leads == twin.leads
    assert np.array_equal(np.round(record.signal * 400), np.round(twin.signal * 400))
    assert np.array_equal(record.signal, twin.signal)


@needs_shared
def test_the_example_prints_what_its_twin_prints():
    meta = read_shared(EXAMPLE, "scp_ecg").meta
    twin = read_shared("hl7_aecg/hl7_2003_example.xml", "hl7_aecg").meta
    for key in ("pr_ms", "qrs_ms", "qt_ms", "qtc_ms", "p_ms", "p_axis_deg", "qrs_axis_deg", "t_axis_deg"):
        assert meta.printed[key] == twin.printed[key], key
    assert (meta.subject, meta.sex, meta.device) == ("SBJ-123", "male", "ELI250")
    assert "Clark" not in repr(meta) and "1953" not in repr(meta)


@needs_shared
def test_the_reencoded_record_equals_its_source():
    known = facts(RAW)
    record = read_shared(RAW, "scp_ecg")
    assert (len(record.leads), record.fs_hz, record.n_samples) == (known["leads"], known["fs"], known["n"])
    assert_same_signal(record, 3, known["tolerance_mV"])
    assert record.lead("I")[0] == pytest.approx(known["lead_I_sample0_mV"], abs=known["tolerance_mV"])
    assert record.lead("II").max() == pytest.approx(known["lead_II_max_mV"], abs=known["tolerance_mV"])
    assert record.lead("V1").min() == pytest.approx(known["V1_min_mV"], abs=known["tolerance_mV"])


def signal(count: int = 600, seed: int = 1) -> np.ndarray:
    """Return a smooth signal of int16 with a steep wave every 200 samples."""
    rng = np.random.default_rng(seed)
    base = 40 * np.sin(np.arange(count) / 30) + rng.normal(0, 2, count)
    for at in range(80, count, 200):
        base[at - 10 : at + 10] += 800 * np.hanning(20)
    return np.round(base).astype(np.int64)


def simple(rows: dict[str, np.ndarray], order: int = 0, huffman: bool = True, **more: bytes) -> bytes:
    leads = [(name, 1, row.size) for name, row in rows.items()]
    parts = [
        scp.huffman(scp.differences(row, order)) if huffman else np.array(scp.differences(row, order), "<i2").tobytes()
        for row in rows.values()
    ]
    sections = {1: scp.patient_section(), 3: scp.leads_section(leads), 6: scp.block(parts, order=order)}
    if huffman:
        sections[2] = scp.DEFAULT_MARK
    return scp.scp_file(sections)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("huffman", [True, False])
def test_plain_and_huffman_with_every_order_of_differences(order, huffman):
    rows = {"I": signal(seed=1), "V2": signal(seed=2)}
    record = read_one(simple(rows, order, huffman), "a.scp", "scp_ecg")
    assert record.leads == ("I", "V2")
    assert record.signal * 1000 == pytest.approx(np.stack(list(rows.values())), abs=1e-3)
    assert (record.meta.subject, record.meta.age, record.meta.sex) == ("S-1", 60, "female")
    assert record.meta.recorded_at == "2020-02-03T00:00:00"
    assert "Planted" not in repr(record.meta)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int64, st.integers(1, 80), elements=st.integers(-8000, 8000)), st.integers(0, 2))
def test_every_signal_comes_back(values, order):
    record = read_one(simple({"I": values}, order), "a.scp", "scp_ecg")
    assert np.array_equal(np.round(record.lead("I") * 1000).astype(int), values)


CUSTOM = [
    [
        ("00", 0, False, 5),
        ("01", 0, False, -5),
        ("10", 0, True, 2),
        ("110", 6, False, 0),
        ("1110000000000001", 16, False, 0),
    ],
    [("1", 0, False, 7), ("01", 0, True, 1), ("001", 16, False, 0)],
]


def test_custom_tables_with_switches_and_long_prefixes():
    values = np.array([5, -5, 7, 30, -31, 7, 12000, -12000, 0, 7, 5, 1])
    part = scp.huffman(values.tolist(), CUSTOM, alternate=True)
    data = scp.scp_file(
        {2: scp.table_section(CUSTOM), 3: scp.leads_section([("II", 1, values.size)]), 6: scp.block([part])}
    )
    record = read_one(data, "a.scp", "scp_ecg")
    assert np.round(record.lead("II") * 1000).astype(int).tolist() == values.tolist()


def with_reference_beat(bimodal: bool, factor: int = 4) -> tuple[bytes, dict[str, np.ndarray]]:
    """Build a file whose reference beat was subtracted, and outside the QRS reduced by ``factor``.

    The rhythm outside the protected zones is made of straight lines through the centres of the reduced values, so
    that interpolation gives it back.
    """
    count, length, fiducial = 800, 60, 21
    middles = [101, 302, 503, 704]
    beat = np.round(700 * np.hanning(length)).astype(np.int64)
    rows, parts, references = {}, [], []
    zones = [(middle - 20, middle + 39) for middle in middles]
    for scale, name in ((1, "I"), (2, "V6")):
        residual = 3 * scale * np.arange(count, dtype=np.int64) if bimodal else signal(count, seed=scale)
        whole = residual.copy()
        for middle in middles:
            begin = middle - fiducial
            whole[begin : begin + length] += scale * beat
        rows[name] = whole
        references.append(scp.huffman(scp.differences(scale * beat, 1)))
        stored = reduce(residual, zones, factor) if bimodal else residual
        parts.append(scp.huffman(scp.differences(stored, 2)))
    beats = [(0, middle - fiducial + 1, middle, middle - fiducial + length) for middle in middles]
    beats.append((1, 0, 780, 0))
    sections = {
        2: scp.DEFAULT_MARK,
        3: scp.leads_section([("I", 1, count), ("V6", 1, count)], subtracted=True),
        4: scp.beats_section(length * 2, fiducial, beats, [*zones, (0, 0)]),
        5: scp.block(references, order=1),
        6: scp.block(parts, order=2, interval_us=2000 * factor if bimodal else 2000, bimodal=bimodal),
    }
    return scp.scp_file(sections), rows


def reduce(values: np.ndarray, zones: list[tuple[int, int]], factor: int) -> np.ndarray:
    """Keep every sample inside the zones (from 1), and the mean of every ``factor`` samples outside."""
    inside = np.zeros(values.size, bool)
    for first, last in zones:
        inside[first - 1 : last] = True
    out, at = [], 0
    while at < values.size:
        if inside[at]:
            out.append(values[at])
            at += 1
            continue
        end = at
        while end < values.size and end - at < factor and not inside[end]:
            end += 1
        out.append(round(float(values[at:end].mean())))
        at = end
    return np.array(out)


def test_the_subtracted_reference_beat_is_added_back():
    data, rows = with_reference_beat(bimodal=False)
    record = read_one(data, "a.scp", "scp_ecg")
    assert np.array_equal(np.round(record.signal * 1000).astype(int), np.stack(list(rows.values())))
    assert any("4 QRS complexes" in note for note in record.meta.notes)


@pytest.mark.parametrize("factor", [2, 4])
def test_bimodal_compression_keeps_the_qrs_exactly_and_interpolates_between(factor):
    data, rows = with_reference_beat(bimodal=True, factor=factor)
    record = read_one(data, "a.scp", "scp_ecg")
    assert record.fs_hz == 500 and record.n_samples == 800
    expected = np.stack(list(rows.values()))
    got = record.signal * 1000
    for middle in (101, 302, 503, 704):
        zone = slice(middle - 21, middle + 39)
        assert got[:, zone] == pytest.approx(expected[:, zone], abs=1e-2)
    # Rounding to whole digits, and half a reduced value at the ends.
    assert np.abs(got - expected).max() <= 0.6 + 3 * 2 * factor / 2
    assert np.abs(got - expected)[:, 10:-10].max() <= 1.1
    assert any("interpolated" in note for note in record.meta.notes)


@pytest.mark.parametrize("version", [10, 13, 20, 22, 30])
def test_every_version_of_the_protocol(version):
    row = signal(100)
    # From version 3.0 on the byte behind the order of differences is reserved; before it announces bimodal data.
    coded = bytearray(scp.block([scp.huffman(row.tolist())], bimodal=version == 30))
    sections = {2: scp.DEFAULT_MARK, 3: scp.leads_section([("I", 1, 100)]), 6: bytes(coded)}
    record = read_one(scp.scp_file(sections, version), "a.scp", "scp_ecg")
    assert np.array_equal(np.round(record.lead("I") * 1000).astype(int), row)


def test_a_check_sum_of_zero_is_none_and_sections_of_manufacturers_are_passed_over():
    data = bytearray(simple({"I": signal()}))
    at = 22 + 10 * 8
    assert struct.unpack_from("<H", data, at)[0] == 8
    # Section 200 with a head of its own kind, behind the standard ones.
    struct.pack_into("<HII", data, at, 200, 20, len(data) + 1)
    data += b"vendor content here."
    struct.pack_into("<HI", data, 0, 0, len(data))
    struct.pack_into("<H", data, 6, 0)
    record = read_one(bytes(data), "a.scp", "scp_ecg")
    assert record.n_samples == 600
    # Any other wrong sum is one.
    struct.pack_into("<H", data, 0, 1)
    with pytest.raises(UnreadableFile, match="check sum"):
        read_one(bytes(data), "a.scp", "scp_ecg")


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize("factor", [2, 4])
def test_rhythm_kept_at_a_part_of_the_reference_beats_rate(huffman, factor):
    row = signal(300)
    part = scp.huffman(row.tolist()) if huffman else row.astype("<i2").tobytes()
    sections = {
        3: scp.leads_section([("I", 1, 300 * factor), ("V1", 1, 300 * factor)]),
        5: scp.block([part, part], interval_us=2000),
        6: scp.block([part, part], interval_us=2000 * factor),
    }
    if huffman:
        sections[2] = scp.DEFAULT_MARK
    record = read_one(scp.scp_file(sections), "a.scp", "scp_ecg")
    assert (record.fs_hz, record.n_samples) == (500 / factor, 300)
    assert np.array_equal(np.round(record.lead("V1") * 1000).astype(int), row)
    # Samples that are really missing are not taken for that.
    sections[3] = scp.leads_section([("I", 1, 900 * factor), ("V1", 1, 900 * factor)])
    with pytest.raises(UnreadableFile, match="announces"):
        read_one(scp.scp_file(sections), "a.scp", "scp_ecg")


def test_differences_wrap_at_16_bits_as_in_the_device():
    values = np.array([30000, -30000, 20000, -32768, 32767])
    wrapped = (np.diff(values, prepend=0) + 32768) % 65536 - 32768
    part = scp.huffman(wrapped.tolist())
    data = scp.scp_file({2: scp.DEFAULT_MARK, 3: scp.leads_section([("I", 1, 5)]), 6: scp.block([part], order=1)})
    record = read_one(data, "a.scp", "scp_ecg")
    assert np.round(record.lead("I") * 1000).astype(int).tolist() == values.tolist()


def test_leads_at_different_times_are_placed_on_one_timeline():
    row = signal(100)
    part = scp.huffman(row.tolist())
    data = scp.scp_file(
        {2: scp.DEFAULT_MARK, 3: scp.leads_section([("I", 1, 100), ("V1", 101, 200)]), 6: scp.block([part, part])}
    )
    record = read_one(data, "a.scp", "scp_ecg")
    assert record.n_samples == 200
    assert np.isnan(record.lead("I")[100:]).all() and np.isnan(record.lead("V1")[:100]).all()


def test_an_unknown_lead_code_keeps_its_number():
    data = simple({"I": signal(50)}, huffman=False)
    body = bytearray(scp.leads_section([("I", 1, 50)]))
    body[-1] = 200
    part = signal(50).astype("<i2").tobytes()
    record = read_one(scp.scp_file({3: bytes(body), 6: scp.block([part])}), "a.scp", "scp_ecg")
    assert record.leads == ("SCP lead 200",)
    assert read_one(data, "a.scp", "scp_ecg").leads == ("I",)


@needs_shared
@pytest.mark.parametrize("at", [60, 200, 400, 470, 1000, 5000, 34000])
def test_a_changed_byte_is_found_by_the_check_sum(at):
    data = bytearray(shared_bytes(EXAMPLE))
    data[at] ^= 1
    with pytest.raises(UnreadableFile) as caught:
        read_one(bytes(data), "a.scp", "scp_ecg")
    assert caught.value.code in ("wrong_checksum", "section_past_end", "damaged_scp")
    assert "section" in caught.value.message.lower()


@needs_shared
def test_the_changed_section_is_named():
    data = bytearray(shared_bytes(EXAMPLE))
    data[5000] ^= 1
    with pytest.raises(UnreadableFile, match=r"Section 6 \(rhythm data\) is the changed part"):
        read_one(bytes(data), "a.scp", "scp_ecg")


def resum(data: bytes) -> bytes:
    """Put the file's check sum right after a change, so that only the change itself is met."""
    body = data[2:]
    return struct.pack("<H", binascii.crc_hqx(body, 0xFFFF)) + body


def test_a_section_past_the_end_is_named():
    data = bytearray(simple({"I": signal()}))
    at = 22 + 10 * 6
    assert struct.unpack_from("<H", data, at)[0] == 6
    struct.pack_into("<I", data, at + 2, 10_000_000)
    with pytest.raises(
        UnreadableFile, match=r"section 6 \(rhythm data\) runs from byte \d+ over 10000000 bytes"
    ) as caught:
        read_one(resum(bytes(data)), "a.scp", "scp_ecg")
    assert caught.value.code == "section_past_end"


def test_a_section_check_sum_of_its_own_is_checked():
    data = bytearray(simple({"I": signal()}))
    data[-1] ^= 255
    with pytest.raises(UnreadableFile, match="section 6"):
        read_one(resum(bytes(data)), "a.scp", "scp_ecg")


@pytest.mark.parametrize(
    "table",
    [
        [("0", 0, True, 1), ("1", 0, True, 1)],
        [("0", 0, True, 2), ("1", 0, False, 1)],
    ],
)
def test_a_huffman_table_that_only_switches_ends(table):
    data = scp.scp_file(
        {2: scp.table_section([table, table]), 3: scp.leads_section([("I", 1, 1000)]), 6: scp.block([bytes(60_000)])}
    )
    with pytest.raises(UnreadableFile, match="announces 1000 samples but holds 0"):
        read_one(data, "a.scp", "scp_ecg")


def test_the_default_table_written_out_reads_like_the_default():
    row = signal()
    part = scp.huffman(scp.differences(row, 2))
    leads = scp.leads_section([("I", 1, row.size)])
    written = {2: scp.table_section([scp.default_table()]), 3: leads, 6: scp.block([part], order=2)}
    record = read_one(scp.scp_file(written), "a.scp", "scp_ecg")
    assert np.array_equal(np.round(record.lead("I") * 1000).astype(int), row)


def test_impossible_tables_are_refused():
    for bits in (
        struct.pack("<HHBBBhI", 1, 1, 0, 0, 1, 0, 0),
        struct.pack("<HHBBBhI", 1, 1, 1, 1, 0, 9, 0),
        b"\x05\x00",
    ):
        data = scp.scp_file({2: bits, 3: scp.leads_section([("I", 1, 10)]), 6: scp.block([bytes(10)])})
        with pytest.raises(UnreadableFile, match="section 2"):
            read_one(data, "a.scp", "scp_ecg")


def test_announced_sizes_beyond_memory_are_refused():
    data = scp.scp_file({3: scp.leads_section([("I", 1, 4_000_000_000)]), 6: scp.block([bytes(10)])})
    with pytest.raises(TooLarge):
        read_one(data, "a.scp", "scp_ecg")


@pytest.mark.parametrize(("left_out", "words"), [(3, "section 3"), (6, "section 6"), (5, "section 5")])
def test_a_missing_section_is_named(left_out, words):
    data, _ = with_reference_beat(bimodal=False)
    sections = sections_of(data)
    del sections[left_out]
    with pytest.raises(UnreadableFile, match=words):
        read_one(scp.scp_file(sections), "a.scp", "scp_ecg")


def sections_of(data: bytes) -> dict[int, bytes]:
    found = {}
    for at in range(22, 22 + 120, 10):
        number, size, index = struct.unpack_from("<HII", data, at)
        if size and number:
            found[number] = data[index - 1 + 16 : index - 1 + size]
    return found


def test_samples_that_are_missing_are_named_by_lead_and_counts():
    part = signal(50).astype("<i2").tobytes()
    data = scp.scp_file({3: scp.leads_section([("V2", 1, 60)]), 6: scp.block([part])})
    with pytest.raises(UnreadableFile, match="announces 60 samples of lead V2 but holds 50"):
        read_one(data, "a.scp", "scp_ecg")


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations, st.sampled_from([2, 3, 4, 5, 6]))
def test_damage_behind_right_check_sums_never_crashes(steps, section):
    data, _ = with_reference_beat(bimodal=True)
    sections = sections_of(data)
    sections[section] = mutate(sections[section], steps, 40)
    try:
        direct_reader("scp_ecg", "a.scp")(scp.scp_file(sections))
    except PortalError as error:
        assert error.message


@settings(max_examples=60, deadline=None)
@given(mutations, st.sampled_from([None, 200]))
def test_damaged_custom_files_never_crash(steps, head):
    never_another_error(direct_reader("scp_ecg", "a.scp"), simple({"I": signal(60)}), steps, head)


test_damaged_files_never_crash = needs_shared(fuzz_test("scp_ecg", EXAMPLE))


def test_the_statements_of_section_8_are_labels_and_names_are_left_out():
    texts = ("Sinus rhythm", "Left bundle branch block", "Reviewed by Planted")
    section = struct.pack("<BHBBBBBB", 1, 2020, 2, 3, 10, 11, 12, len(texts))
    for number, text in enumerate(texts, start=1):
        section += struct.pack("<BH", number, len(text) + 1) + text.encode() + b"\x00"
    row = signal(100)
    sections = {
        1: scp.patient_section(), 3: scp.leads_section([("I", 1, 100)]), 8: section,
        6: scp.block([row.astype("<i2").tobytes()]),
    }  # fmt: skip
    meta = read_one(scp.scp_file(sections), "a.scp", "scp_ecg").meta
    assert [label.code for label in meta.labels] == list(texts[:2])
    assert "left out" in " ".join(meta.notes)
    for cut in range(len(section)):
        sections[8] = section[:cut]
        read_one(scp.scp_file(sections), "a.scp", "scp_ecg")
