"""Equal signals are found under another id, unit, rate and container; different ones are not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample as fft_resample
from scipy.signal import resample_poly

from datasets.ecg import Record
from datasets.fingerprint import buckets, clusters, distance, fingerprint, same_signal, similar
from datasets.simulate import NoiseSpec, simulate, simulate_dataset
from tests.labelled import labelled_records, labelled_rows
from tests.shared import needs_shared, shared_path

KNOWN_PAIRS = {
    ("ptbxl/00145", "ptbxl/00463"),
    ("ptbxl/00143", "ptbxl/00144"),
    ("ptbxl/00456", "ptbxl/00457"),
    ("ptbxl/00459", "ptbxl/00460"),
    ("cpsc2018/A0101", "cinc2021/Q0048"),
    ("cinc2021/E07509", "cinc2021/E07510"),
}
COPIES = {
    "microvolt": lambda r: Record(r.signal * 1000, r.fs_hz, r.leads),
    "wrong gain": lambda r: Record(r.signal * 4.88, r.fs_hz, r.leads),
    "offset": lambda r: Record(r.signal + 3, r.fs_hz, r.leads),
    "5 uV steps": lambda r: Record(np.rint(r.signal / 0.005) * 0.005, r.fs_hz, r.leads),
    "float16": lambda r: Record(r.signal.astype(np.float16), r.fs_hz, r.leads),
    "100 Hz polyphase": lambda r: Record(resample_poly(r.signal, 100, int(r.fs_hz), axis=1), 100, r.leads),
    "100 Hz Fourier": lambda r: Record(fft_resample(r.signal, round(r.duration_s * 100), axis=1), 100, r.leads),
    "first 8 s": lambda r: Record(r.signal[:, : int(8 * r.fs_hz)], r.fs_hz, r.leads),
    "lead order": lambda r: Record(r.signal[::-1], r.fs_hz, r.leads[::-1]),
    "8 leads": lambda r: Record(r.signal[[0, 1, 6, 7, 8, 9, 10, 11]], r.fs_hz, ("I", "II", *r.leads[6:])),
}


@pytest.fixture(scope="module")
def originals():
    return [ecg.record for ecg in simulate_dataset(25, 3, fs_hz=500)]


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_similar_and_share_a_bucket(name, originals):
    for record in originals:
        code, copy = fingerprint(record), fingerprint(COPIES[name](record))
        assert similar(code, copy) and set(buckets(code)) & set(buckets(copy))


def test_different_records_are_far_apart_even_of_the_same_person():
    records = list(simulate_dataset(80, 5, fs_hz=250))
    person = records[0].patient
    codes = [fingerprint(ecg.record) for ecg in records]
    codes += [fingerprint(simulate("SNR", seed, fs_hz=250, patient=person).record) for seed in range(10)]
    assert min(distance(a, b) for i, a in enumerate(codes) for b in codes[:i]) > 40


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([100.0, 240.0, 500.0]), st.floats(0.001, 1000))
def test_the_unit_never_matters(seed, fs_hz, factor):
    record = simulate("SNR", seed, fs_hz=fs_hz, duration_s=5, noise=NoiseSpec.clinical()).record
    scaled = Record(record.signal * np.float32(factor), fs_hz, record.leads)
    assert distance(fingerprint(record), fingerprint(scaled)) <= 2


def test_records_without_a_signal_have_no_fingerprint_and_are_never_called_equal():
    leads = ("I", "II", "V1")
    flat = Record(np.full((3, 5000), 0.7), 500, leads)
    nothing = Record(np.full((3, 5000), np.nan), 500, leads)
    short = Record(np.random.default_rng(0).standard_normal((3, 500)), 500, leads)
    other = Record(np.random.default_rng(0).standard_normal((1, 5000)), 500, ("V7",))
    assert [fingerprint(r) for r in (flat, nothing, short, other)] == [None] * 4
    assert same_signal({"a": None, "b": None}) == {}


def test_the_fingerprint_of_a_signal_never_changes():
    """Databases keep fingerprints: a change of the method needs a new name for it."""
    ramp = np.arange(5000)
    wave = Record(np.stack([np.sin(ramp * 0.05), np.sin(ramp * 0.031) ** 3]), 500, ("I", "II"))
    assert fingerprint(wave)[:12] == "f87b9d11775c"


def test_clusters_are_named_by_their_smallest_key():
    a, b = (fingerprint(simulate("SNR", seed, fs_hz=100).record) for seed in (1, 2))
    near = f"{int(a, 16) ^ 0b1011:064x}"
    assert same_signal({"z": a, "m": near, "k": b, "q": b, "x": None}) == {"m": "m", "z": "m", "k": "k", "q": "k"}


def test_finding_takes_no_time_that_grows_with_the_square() -> None:
    """Each of 20,000 codes and of 5,000 copies of one is compared with a handful of others."""
    asked = 0
    plain = np.bitwise_count

    def counted(signs: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(signs)
        return plain(signs)

    codes = {f"r{n:05d}": hashlib.sha256(str(n).encode()).hexdigest() for n in range(20_000)}
    codes |= {f"s{n:05d}": codes["r00007"] for n in range(5_000)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "bitwise_count", counted)
        found = same_signal(codes)
    assert 0 < asked < 1_000
    assert set(found) == {"r00007", *(f"s{n:05d}" for n in range(5_000))} and set(found.values()) == {"r00007"}


def _plainly(codes: list[str]) -> list[int]:
    """Return the smallest number of each code's cluster, by comparing all pairs that share a bucket."""
    cluster = list(range(len(codes)))
    for one in range(len(codes)):
        for two in range(one):
            if set(buckets(codes[one])) & set(buckets(codes[two])) and similar(codes[one], codes[two]):
                low, high = sorted((cluster[one], cluster[two]))
                cluster = [low if number == high else number for number in cluster]
    return cluster


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_clusters_are_those_of_all_pairs_that_share_a_bucket(rng, count):
    signals = [rng.getrandbits(256) for _ in range(4)]
    codes = []
    for _ in range(count):
        code = rng.choice(signals)
        for _ in range(rng.randrange(40)):
            code ^= 1 << rng.randrange(256)
        codes.append(f"{code:064x}")
    found = clusters(np.frombuffer(bytes.fromhex("".join(codes)), np.uint8).reshape(-1, 32))
    first: dict[int, int] = {}
    assert [first.setdefault(number, place) for place, number in enumerate(found.tolist())] == _plainly(codes)


@needs_shared
def test_the_six_known_pairs_are_found_among_the_labelled_records_and_no_other():
    codes = {key: fingerprint(record) for key, record in labelled_records()}
    assert len(codes) == 689 and None not in codes.values()
    clusters = same_signal(codes)
    pairs = {
        tuple(sorted((a, b), key=lambda key: ("ptbxl", "cpsc2018", "cinc2021").index(key.split("/")[0])))
        for a in clusters
        for b in clusters
        if a < b and clusters[a] == clusters[b]
    }
    assert {frozenset(pair) for pair in pairs} == {frozenset(pair) for pair in KNOWN_PAIRS}
    keys = list(codes)
    bits = np.array([np.unpackbits(np.frombuffer(bytes.fromhex(codes[key]), np.uint8)) for key in keys], dtype=float)
    apart = bits @ (1 - bits).T + (1 - bits) @ bits.T
    for first, second in KNOWN_PAIRS:
        apart[keys.index(first), keys.index(second)] = apart[keys.index(second), keys.index(first)] = 256
    assert (apart + 256 * np.eye(len(keys))).min() > 45


@needs_shared
def test_ptbxls_own_100_hz_versions_are_recognised():
    for row in labelled_rows():
        if row["dataset"] == "ptbxl" and int(row["record"]) % 5 == 0:
            low = shared_path("ecg", row["path"].replace("records500", "records100").replace("_hr", "_lr"))
            codes = []
            for path in (low, shared_path("ecg", row["path"])):
                found = wfdb.rdrecord(str(path))
                leads = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
                codes.append(fingerprint(Record(found.p_signal.T, found.fs, leads)))
            assert similar(*codes) and set(buckets(codes[0])) & set(buckets(codes[1])), row["record"]
