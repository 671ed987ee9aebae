"""Of a WFDB record nothing is kept but what is read, and it still reads to the very same samples."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat

from datasets.ecg import Record
from datasets.formats import registry
from datasets.formats.archive import FileSource
from datasets.formats.base import BytesSource, ReadOptions
from datasets.scrubbing import AS_SENT, NOT_KEPT, SCRUBBED, scrub
from tests.datasets.formats.wfdb_tools import folder_index
from tests.planted import FIRST, NAME, hits
from tests.shared import needs_shared, shared_path

WORDS = f"by {FIRST} {NAME}".encode()
LEADS = ("I", "II", "V1")
OPTIONS = ReadOptions(unit="200/mV")


def kept_of(
    header: str, files: dict[str, bytes], folder: Path | None = None
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the state of each file of a record, and what is kept of them, once it was seen that it reads as what was sent.

    folder: where the files lie; without one their bytes are at hand.
    """
    before, companions, parts = read(header, files)
    states, kept = {}, {}
    for name in (header, *companions):
        path, data = (Path("not needed"), files[name]) if folder is None else (folder / name, None)
        states[name], clean = scrub("wfdb", name, path, data, parts.get(name, ()))
        if states[name] != NOT_KEPT:
            kept[name] = files[name] if clean is None else clean
    after, *_ = read(header, kept)
    assert np.array_equal(before.signal, after.signal, equal_nan=True)
    assert (before.leads, before.fs_hz) == (after.leads, after.fs_hz)
    return states, kept


def read(header: str, files: dict[str, bytes]) -> tuple[Record, tuple[str, ...], dict]:
    entry, result = registry.read(BytesSource(header, files[header], files), OPTIONS)
    assert entry.name == "wfdb"
    return result.records[0][1], result.companions, dict(result.parts)


@settings(max_examples=60)
@given(
    fmt=st.sampled_from((8, 16, 24, 32, 61, 80, 160, 212, 310, 311)), frames=st.integers(1, 40), offset=st.integers(0, 40),
    per_frame=st.lists(st.integers(1, 3), min_size=1, max_size=3), skew=st.integers(0, 3), behind=st.integers(0, 9),
    is_stated=st.booleans(),
)  # fmt: skip
def test_samples_stay_and_what_lies_beside_them_goes(fmt, frames, offset, per_frame, skew, behind, is_stated):
    """skew: of the last signal; the wfdb package knows none in format 8. A header without a length counts whatever the file holds."""
    skews = [0] * (len(per_frame) - 1) + [min(skew, frames) if fmt != 8 else 0]
    rows = zip(per_frame, skews, LEADS, strict=False)
    lines = [f"x.dat {fmt}x{per}:{late}+{offset} 200 0 0 7 0 0 {lead}" for per, late, lead in rows]
    header = "\n".join([f"x {len(per_frame)} 100 {frames if is_stated else 0}", *lines]).encode()
    bits = {61: 16, 160: 16, 80: 8, 212: 12, 310: 32 / 3, 311: 32 / 3}.get(fmt, fmt)
    needed = math.ceil(frames * sum(per_frame) * bits / 8)
    # Groups of several samples end at whole words of 32 bits.
    samples = np.random.default_rng(frames).bytes(-(-needed // 4) * 4)
    sent = (WORDS * 3)[:offset] + samples + (WORDS * behind if is_stated else b"")
    states, kept = kept_of("x.hea", {"x.hea": header, "x.dat": sent})
    clean = kept["x.dat"]
    assert clean[:offset] == bytes(offset) and samples.startswith(clean[offset:])
    assert not is_stated or needed <= len(clean) - offset < needed + 2
    assert states["x.dat"] == (AS_SENT if clean == sent else SCRUBBED)


@pytest.mark.parametrize(("fmt", "subtype"), [(508, "PCM_S8"), (516, "PCM_16"), (524, "PCM_24")])
@pytest.mark.parametrize("skipped", [0, 30])
def test_flac_is_encoded_anew(fmt, subtype, skipped, tmp_path):
    signal = np.random.default_rng(fmt).integers(-(2**31), 2**31, (500, 2), dtype=np.int32)
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", 96000, 2, subtype, format="FLAC") as file:
        file.title = WORDS.decode()
        file.write(signal)
    lines = [f"x.dat {fmt}+{skipped} 200 16 0 0 0 0 {lead}" for lead in ("I", "II")]
    files = {"x.hea": "\n".join(["x 2 100 400", *lines]).encode(), "x.dat": stream.getvalue() + WORDS}
    assert hits(files["x.dat"])
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    states, kept = kept_of("x.hea", files, None if skipped else tmp_path)
    assert states["x.dat"] == SCRUBBED and not hits(kept["x.dat"])
    with soundfile.SoundFile(io.BytesIO(kept["x.dat"])) as file:
        assert (file.frames, file.subtype) == (400 + skipped, subtype)
        assert not file.read(skipped).any()


@pytest.mark.parametrize("offset", ["+24", ""])
@pytest.mark.parametrize(
    ("head", "state"),
    [
        (struct.pack("<5i4s", 30, 2, 50, 0, 4, b"val"), AS_SENT),
        (struct.pack("<5i4s", 30, 2, 50, 0, 4, b"Eve"), SCRUBBED),
        (struct.pack("<5i4s", 30, 0x7A656275, 0x6C6F6E61, 0, 4, b"val"), SCRUBBED),
    ],
)
def test_the_head_of_a_matrix_says_what_it_is_and_nothing_else(head, state, offset):
    header = f"x 2 100 50\nx.mat 16{offset} 200 16 0 0 0 0 I\nx.mat 16{offset} 200 16 0 0 0 0 II\n"
    samples = np.arange(100, dtype="<i2").tobytes()
    states, kept = kept_of("x.hea", {"x.hea": header.encode(), "x.mat": head + samples})
    assert states == {"x.hea": AS_SENT, "x.mat": state}
    assert kept["x.mat"][24:] == samples and kept["x.mat"][20:24] == b"val\0"
    # It is what it says: a matrix of so many numbers.
    assert loadmat(io.BytesIO(kept["x.mat"]))["val"].size == 100


def test_words_in_place_of_a_matrix_head_go():
    header = b"x 2 100 50\nx.mat 16+24 200 16 0 0 0 0 I\nx.mat 16+24 200 16 0 0 0 0 II\n"
    states, kept = kept_of("x.hea", {"x.hea": header, "x.mat": WORDS.ljust(24)[:24] + bytes(200) + WORDS})
    assert states["x.mat"] == SCRUBBED and not hits(kept["x.mat"]) and len(kept["x.mat"]) == 224


def test_segments_and_files_that_lie_in_each_other_keep_what_each_of_them_needs(tmp_path):
    first, second = np.arange(6, dtype="<i2").tobytes(), np.arange(50, 54, dtype="<i2").tobytes()
    lines = "{0}.dat {1} 200 16 0 0 0 0 I\nall.dat 16+{2} 200 16 0 0 0 0 II\n"
    files = {
        "m.hea": b"m/3 2 100 7\ns1 3\n~ 2\ns2 2\n",
        "s1.hea": f"s1 2 100 3\n{lines.format('s1', 212, 4)}".encode(),
        "s2.hea": f"s2 2 100 2\n{lines.format('s2', 80, 40)}".encode(),
        "s1.dat": first[:5] + WORDS, "s2.dat": second[:2] + WORDS, "all.dat": WORDS[:4] + first + WORDS + bytes(4) + second + WORDS,
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    states, kept = kept_of("m.hea", files, tmp_path)
    assert [states[name] for name in ("s1.dat", "s2.dat", "all.dat")] == [SCRUBBED] * 3
    assert not any(hits(data) for data in kept.values())
    assert [len(kept[name]) for name in ("s1.dat", "s2.dat", "all.dat")] == [5, 2, 44]


def test_a_signal_file_may_be_called_anything():
    header = b"x 1 100 50\nx.bin 16+2 200 16 0 0 0 0 I\n"
    states, kept = kept_of("x.hea", {"x.hea": header, "x.bin": bytes(2) + np.arange(50, dtype="<i2").tobytes() + WORDS})
    assert states["x.bin"] == SCRUBBED and len(kept["x.bin"]) == 102


def test_a_signal_file_of_which_nobody_says_what_was_read_is_not_kept():
    for name in ("x.dat", "x.mat"):
        assert scrub("wfdb", name, Path("not needed"), bytes(200)) == (NOT_KEPT, None)


def annotations(*words: tuple[int, int, bytes]) -> bytes:
    """Return an annotation file of ``(code, value, text)``."""
    parts = [struct.pack("<H", code << 10 | value) + text + b"\0" * (len(text) % 2) for code, value, text in words]
    return b"".join(parts) + bytes(2)


def test_every_text_of_an_annotation_file_is_looked_at_and_nothing_behind_it_kept():
    aux, note, beat = 63, 22, 1

    def state(*texts: bytes, behind: bytes = b"", first: tuple = ((note, 0, b""),)) -> str:
        data = annotations(*first, *((aux, len(text), text) for text in texts), (beat, 9, b"")) + behind
        found, clean = scrub("wfdb", "x.atr", Path("not needed"), data)
        assert clean is None or data == clean + behind
        return found

    assert state(b"(AFIB\0") == state(b"## time resolution: 360") == AS_SENT
    assert state(b"(N", behind=WORDS) == SCRUBBED
    # As a remark of the file, before the first annotation, overwritten by the next text, behind the text's end.
    assert state(b"## " + WORDS) == state(WORDS, first=()) == state(WORDS, b"(N") == state(b"(N\0" + WORDS) == NOT_KEPT


def test_of_a_header_the_lines_and_words_that_are_read_are_kept():
    lines = ["x 2 100/100(0) 50 10:11:12 23/07/2009", f"x.dat 16 200(0)/mV {NAME} {NAME} 0 0 {NAME} I", f"x.dat 16 200 16 0 0 0 0 {FIRST} {NAME}"]  # fmt: skip
    sent = "\n".join([*lines, f"{FIRST} {NAME}"]).encode()
    state, clean = scrub("wfdb", "x.hea", Path("not needed"), sent)
    assert state == SCRUBBED and clean is not None
    assert clean.decode().splitlines() == [
        "x 2 100/100(0) 50", "x.dat 16 200(0)/mV 0 0 0 0 0 I", "x.dat 16 200 16 0 0 0 0 channel 2",
    ]  # fmt: skip
    sent = sent.replace(f"{FIRST} {NAME}".encode(), b"II", 1)
    assert not hits(kept_of("x.hea", {"x.hea": sent, "x.dat": bytes(200)})[1]["x.hea"])
    for line, kept in ((f"x 1 100/{NAME} {NAME}", "x 1 100"), (f"x/1 1 100 9\ns 9 {NAME}", "x/1 1 100 9\ns 9")):
        assert scrub("wfdb", "x.hea", Path("not needed"), line.encode())[1] == kept.encode() + b"\n"


@needs_shared
def test_real_records_stay_as_they_are():
    folders = [path for path in shared_path("ecg", "wfdb").iterdir() if path.name != "flac_bomb"]
    folders += [shared_path("ecg", "labelled", *name.split()) for name in ("cinc2021", "cpsc2018", "ludb data", "ptbxl records500 00000")]  # fmt: skip
    for folder in folders:
        index = folder_index(folder)
        header = min(name for name in index if name.endswith(".hea"))
        _, result = registry.read(FileSource(header, index[header], index), OPTIONS)
        files = {name: index[name].read_bytes() for name in (header, *result.companions)}
        states, _ = kept_of(header, files, folder)
        assert {name: state for name, state in states.items() if state != AS_SENT} in ({}, {header: SCRUBBED})
