"""WFDB records of real collections: their facts, their marks, and agreement with the wfdb package."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import wfdb

from datasets.ecg import LEADS_12
from datasets.formats._clinical import lead_name
from ecgportal.errors import TooLarge, UnreadableFile
from tests.datasets.formats.wfdb_tools import read_made, read_path
from tests.shared import SHARED, needs_shared, shared_path


@cache
def fixtures() -> list[tuple[str, dict]]:
    if SHARED is None:
        return []
    table = json.loads((SHARED / "ecg" / "expected.json").read_text())
    return [(e["dst"], e["facts"]) for e in table if e["dst"].endswith(".hea") and e["facts"]]


@needs_shared
@pytest.mark.parametrize(("name", "facts"), fixtures(), ids=[name for name, _ in fixtures()])
def test_facts_of_real_records(name: str, facts: dict) -> None:
    ((key, record),) = read_path(shared_path("ecg", *name.split("/"))).records
    assert key == Path(name).stem
    assert len(record.leads) + len(record.meta.dropped_channels) == facts["leads"]
    assert record.fs_hz == facts["fs"]
    assert record.n_samples == facts["n"]
    assert record.duration_s == pytest.approx(facts["seconds"], abs=1e-3)
    assert int(np.isnan(record.signal).sum()) == facts["nan_samples"]
    kept = [lead for lead in facts["names"] if lead not in record.meta.dropped_channels]
    assert [lead_name(lead) for lead in kept] == list(record.leads)
    assert record.signal[:2, 0] == pytest.approx(facts["first_sample"][:2], abs=1e-4)
    assert [record.signal[0].min(), record.signal[0].max()] == pytest.approx(facts["ch0_min_max"], abs=1e-4)
    assert record.signal.dtype == np.float32


@needs_shared
def test_annotations_of_mitdb_100() -> None:
    result = read_path(shared_path("ecg", "wfdb", "mitdb_100", "100.hea"))
    record = result.records[0][1]
    assert len(record.meta.annotations) == 2274
    assert sum(symbol != "+" for _, symbol, _, _ in record.meta.annotations) == 2273
    assert record.meta.annotations[0][1:] == ("+", None, "(N")
    reference = wfdb.rdann(str(shared_path("ecg", "wfdb", "mitdb_100", "100")), "atr")
    assert [s for _, s, _, _ in record.meta.annotations] == reference.symbol
    assert np.allclose([t for t, _, _, _ in record.meta.annotations], reference.sample / 360)
    assert (record.meta.age, record.meta.sex) == (69, "male")
    assert set(result.companions) == {"100.dat", "100.atr"}


@needs_shared
def test_wave_marks_of_ludb_name_their_lead() -> None:
    record = read_path(shared_path("ecg", "labelled", "ludb", "data", "2.hea")).records[0][1]
    reference = wfdb.rdann(str(shared_path("ecg", "labelled", "ludb", "data", "2")), "ii")
    found = [(t, s) for t, s, lead, _ in record.meta.annotations if lead == "II"]
    assert [s for _, s in found] == reference.symbol
    assert np.allclose([t for t, _ in found], reference.sample / 500)
    assert {lead for _, _, lead, _ in record.meta.annotations} == set(LEADS_12)
    assert (record.meta.age, record.meta.sex) == (64, "male")
    assert [label.code for label in record.meta.labels][:3] == [
        "Sinus rhythm", "Electric axis of the heart: normal", "Left atrial hypertrophy"
    ]  # fmt: skip


@needs_shared
@pytest.mark.parametrize(
    "folder", ["cinc2021", "cpsc2018", "ludb/data", "ptbxl/records500/00000", "ptbxl/records100/00000"]
)
def test_samples_are_those_of_the_wfdb_package_bit_for_bit(folder: str) -> None:
    for path in sorted(shared_path("ecg", "labelled", *folder.split("/")).glob("*.hea"))[:12]:
        record = read_path(path).records[0][1]
        reference, fields = wfdb.rdsamp(str(path.with_suffix("")))
        assert np.array_equal(record.signal, reference.T.astype(np.float32), equal_nan=True)
        assert record.fs_hz == fields["fs"]
        assert record.leads == LEADS_12
        assert record.meta.notes == ()


@needs_shared
def test_averaged_frames_are_those_of_the_wfdb_package() -> None:
    path = shared_path("ecg", "wfdb", "skewframe", "test01_00s_frame.hea")
    record = read_path(path).records[0][1]
    assert np.array_equal(record.signal, wfdb.rdsamp(str(path.with_suffix("")))[0].T.astype(np.float32))
    assert "ECG_2" in record.meta.notes[0]


@needs_shared
def test_early_georgia_header_gives_the_samples_of_the_later_release() -> None:
    early = read_path(shared_path("ecg", "wfdb", "cinc2020_bad_header", "E00001.hea")).records[0][1]
    later = read_path(shared_path("ecg", "labelled", "cinc2021", "E00001.hea")).records[0][1]
    assert np.array_equal(early.signal, later.signal)
    assert early.fs_hz == 500 and early.n_samples == 5000
    assert early.meta.labels == () and early.meta.age is None and early.meta.sex == "female"
    assert "4880" in early.meta.notes[0] and later.meta.notes == ()


@needs_shared
@pytest.mark.parametrize(
    ("record", "age", "sex", "codes"),
    [("E00001", None, "female", ["426783006"]), ("E07501", 65, "male", ["253352002", "427084000"])],
)
def test_both_spellings_of_the_challenge_comments(record: str, age: float, sex: str, codes: list[str]) -> None:
    meta = read_path(shared_path("ecg", "labelled", "cinc2021", f"{record}.hea")).records[0][1].meta
    assert (meta.age, meta.sex) == (age, sex)
    assert [(label.system, label.code) for label in meta.labels] == [("snomed", code) for code in codes]


@needs_shared
def test_a_channel_that_is_no_ecg_is_dropped_and_named() -> None:
    record = read_path(shared_path("ecg", "wfdb", "mat_3sig", "a103l.hea")).records[0][1]
    assert record.leads == ("II", "V") and record.meta.dropped_channels == ("PLETH",)


@needs_shared
def test_a_flac_file_is_refused_before_it_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_path("ecg", "wfdb", "flac_bomb", "flac_3_constant.hea")
    monkeypatch.setattr("datasets.formats._clinical.MAX_VALUES", 10_000_000)
    monkeypatch.setattr(wfdb, "rdrecord", lambda *a, **k: pytest.fail("the file was expanded"))
    with pytest.raises(TooLarge):
        read_path(path)


@needs_shared
def test_a_flac_header_that_lies_about_its_length_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_path("ecg", "wfdb", "flac_bomb")
    header = (folder / "flac_3_constant.hea").read_text().replace("5600000", "95600000")
    monkeypatch.setattr(wfdb, "rdrecord", lambda *a, **k: pytest.fail("the file was expanded"))
    with pytest.raises(UnreadableFile) as caught:
        read_made(header, {"flac_3_constant.dat": (folder / "flac_3_constant.dat").read_bytes()})
    assert caught.value.code == "signal_file_truncated"
