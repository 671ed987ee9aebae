"""Recognise the same signal under another name.

A fingerprint is 256 signs of fixed random projections (M. Charikar, "Similarity estimation techniques from rounding
algorithms", STOC 2002) of the steepness of the leads I, II, V1 to V6 at 50 Hz between 0.5 and 6.5 s. Unit, offset and
baseline fall out; rounding, another container, and another sampling rate turn over a few signs at most. Equal signals
share at least one of ten buckets of 24 signs, which a database finds by equality; ``similar`` then decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

import numpy as np

from datasets.ecg import Record, derive_limb_leads
from datasets.preprocess._gaps import bridge
from datasets.preprocess._polyphase import resample

BITS = 256
BUCKETS = 10
# Of 256 signs. Copies differ in a few, different ECGs in about 128.
MOST_DIFFERENT = 28
_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_WORK_HZ = 50.0
_START, _LENGTH = 25, 300
_LEAST_S = 2.0


@cache
def _projections() -> np.ndarray:
    """Return the projections ``(leads * samples, 256)`` of +1 and -1, the same everywhere and for ever."""
    count = len(_LEADS) * _LENGTH * BITS
    data = hashlib.shake_256(b"signal fingerprint 1").digest(count // 8)
    signs = np.unpackbits(np.frombuffer(data, dtype=np.uint8)).astype(np.float32) * 2 - 1
    return signs.reshape(len(_LEADS) * _LENGTH, BITS)


def fingerprint(record: Record) -> str | None:
    """Return the fingerprint as 64 hexadecimal digits, or None for a record without a usable signal.

    None: none of the eight leads (I or II may be computed from III and the other) varies, or less than 2.5 s are there.
    """
    record = derive_limb_leads(record)
    present = [name for name in _LEADS if name in record.leads]
    if not present or record.duration_s < _LEAST_S + _START / _WORK_HZ:
        return None
    rows = record.signal[[record.leads.index(name) for name in present]]
    # The window with some room for the filter, so that a long record costs no more than a short one.
    rows = rows[:, : int((_START + _LENGTH + 30) / _WORK_HZ * record.fs_hz)]
    bridged = bridge(np.where(np.isfinite(rows), rows, np.float32(np.nan)))[0]
    slow = resample(bridged, record.fs_hz, _WORK_HZ)
    slope = (slow[:, 2:] - slow[:, :-2])[:, _START : _START + _LENGTH]
    size = float(np.sqrt(np.square(slope, dtype=np.float64).mean()))
    # Below the rounding of float32 there is no signal.
    if size <= 3e-6 * float(np.abs(slow).max()):
        return None
    window = np.zeros((len(_LEADS), _LENGTH), dtype=np.float32)
    window[[_LEADS.index(name) for name in present], : slope.shape[1]] = slope / size
    bits = window.reshape(-1) @ _projections() > 0
    return np.packbits(bits).tobytes().hex()


def buckets(code: str) -> tuple[str, ...]:
    """Return the ten exact-match keys of a fingerprint; equal signals share at least one."""
    return tuple(f"{number}{code[6 * number : 6 * number + 6]}" for number in range(BUCKETS))


def distance(first: str, second: str) -> int:
    """Return how many of the 256 signs differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def similar(first: str, second: str) -> bool:
    """Return whether two fingerprints are those of one signal."""
    return distance(first, second) <= MOST_DIFFERENT


def clusters(signs: np.ndarray) -> np.ndarray:
    """Return the number of each fingerprint's cluster, int ``(n,)``: similar ones have the same, also in chains.

    signs: packed as in a fingerprint's digits, uint8 ``(n, 32)``. Only those that share a bucket are compared.
    """
    words, place = _distinct(np.ascontiguousarray(signs, dtype=np.uint8))
    packed = words.view(np.uint8)
    cluster = np.arange(len(words))
    for bucket in range(BUCKETS):
        high, middle, low = packed[:, 3 * bucket : 3 * bucket + 3].astype(np.uint32).T
        value = high << 16 | middle << 8 | low
        order = np.argsort(value, kind="stable")
        value = value[order]
        # Neighbours first, then those that lie two apart, and so on for as long as they are in one bucket.
        step, here = 1, np.flatnonzero(value[1:] == value[:-1])
        while len(here):
            one, two = order[here], order[here + step]
            apart = np.flatnonzero(cluster[one] != cluster[two])
            one, two = one[apart], two[apart]
            alike = np.bitwise_count(words[one] ^ words[two]).sum(axis=1, dtype=np.int64) <= MOST_DIFFERENT
            if alike.any():
                cluster = _joined(cluster, one[alike], two[alike])
            step += 1
            here = here[here + step < len(value)]
            here = here[value[here] == value[here + step]]
    return cluster[place]


def _distinct(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different rows as uint64 ``(m, 4)`` and where among them each row is: of a signal that is there a thousand
    times one is compared with the others."""
    words = signs.view(np.uint64)
    order = np.lexsort(words.T)
    ordered = words[order]
    is_new = np.ones(len(words), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    place = np.empty(len(words), np.int64)
    place[order] = np.cumsum(is_new) - 1
    return ordered[is_new], place


def _joined(cluster: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the clusters after those of each ``one`` and ``two`` became one."""
    # Processes that read files never come here.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(one), bool), (cluster[one], cluster[two])), shape=(len(cluster), len(cluster)))
    return connected_components(edges, directed=False)[1][cluster]


def same_signal(codes: Mapping[str, str | None]) -> dict[str, str]:
    """Return, for every key whose signal occurs under another key too, the name of their cluster.

    The name is the cluster's smallest key. Keys without a fingerprint are never in a cluster.
    """
    keys = sorted(key for key, code in codes.items() if code is not None)
    signs = np.frombuffer(bytes.fromhex("".join(codes[key] or "" for key in keys)), np.uint8).reshape(-1, BITS // 8)
    numbers = clusters(signs)
    sizes = np.bincount(numbers, minlength=1)
    names: dict[int, str] = {}
    found = np.flatnonzero(sizes[numbers] > 1)
    return {keys[row]: names.setdefault(int(numbers[row]), keys[row]) for row in found}
