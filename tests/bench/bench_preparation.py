"""Speed of preparation and of the prepared store, each against the plain way in the same run.

``run()`` returns rows of name, value, unit, goal, ok. Times are processor times of one thread, best of several
rounds, so that other work on the machine moves them little; only appending, which waits for the disk, goes by the clock.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from datasets.fingerprint import fingerprint
from datasets.prepared import PreparedStore
from datasets.preprocess._polyphase import resample
from datasets.preprocess.recipe import DEFAULT_RECIPE, Prepared
from datasets.quality import assess
from datasets.simulate import simulate, simulate_dataset

Row = dict[str, Any]


def _seconds(call: Callable[[], object], repeat: int) -> float:
    """Return seconds per call, best of seven rounds."""
    call()
    best = float("inf")
    for _ in range(7):
        start = time.process_time()
        for _ in range(repeat):
            call()
        best = min(best, (time.process_time() - start) / repeat)
    return best


def _row(name: str, value: float, unit: str, goal: float | None = None, at_least: bool = True) -> Row:
    if goal is None:
        return {"name": name, "value": round(value, 2), "unit": unit, "goal": None, "ok": None}
    ok = value >= goal if at_least else value <= goal
    sentence = f"at {'least' if at_least else 'most'} {goal:g}"
    return {"name": name, "value": round(value, 2), "unit": unit, "goal": sentence, "ok": bool(ok)}


def _gain_db(change: Callable[[np.ndarray], np.ndarray], rate_hz: float) -> float:
    wave = np.sin(2 * np.pi * rate_hz * np.arange(20000) / 500)[None].astype(np.float32)
    out = change(wave)[:, 500:-500].astype(np.float64)
    return float(10 * np.log10(2 * np.mean(out**2) + 1e-30))


def _preparation() -> list[Row]:
    record = simulate("SNR", 1, fs_hz=500).record

    def plain(signal: np.ndarray) -> np.ndarray:
        return resample_poly(signal, 1, 5, axis=1)

    def ours(signal: np.ndarray) -> np.ndarray:
        return resample(signal, 500, 100)

    poly = _seconds(lambda: plain(record.signal), 20)
    fast = _seconds(lambda: ours(record.signal), 60)
    recipe = _seconds(lambda: DEFAULT_RECIPE.apply(record), 60)
    stop = [55.3, 60.1, 70.3, 90.7, 130.9, 200.3, 240.1]
    worst, worst_plain = max(_gain_db(ours, f) for f in stop), max(_gain_db(plain, f) for f in stop)
    flat = max(abs(_gain_db(ours, f)) for f in (0.5, 5.0, 20.0, 35.0, 40.0))
    return [
        _row("resample 12x5000 to 12x1000 against resample_poly", poly / fast, "times", 5),
        _row("default recipe, record to array, against resample_poly", poly / recipe, "times", 4),
        _row("default recipe", 1 / recipe, "records/s"),
        _row("pass band to 40 Hz, largest deviation", flat, "dB", 0.1, at_least=False),
        _row("stop band from 55 Hz, largest gain", worst, "dB", -60, at_least=False),
        _row("stop band of resample_poly, largest gain", worst_plain, "dB"),
    ]


def _quality() -> list[Row]:
    record = simulate("SNR", 1, fs_hz=500).record
    return [
        _row("quality of 12x5000", 1000 * _seconds(lambda: assess(record), 10), "ms", 10, at_least=False),
        _row("fingerprint of 12x5000", 1000 * _seconds(lambda: fingerprint(record), 20), "ms"),
    ]


def _store(folder: Path, rows: int = 12_000, batch: int = 256) -> list[Row]:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((batch, 12, 1000)).astype(np.float32)
    mask = np.ones((12, 1000), dtype=bool)
    leads = DEFAULT_RECIPE.output_spec().leads or ()
    prepared = [Prepared(signal, 100.0, leads, mask) for signal in base]
    store = PreparedStore.create(folder / "store", DEFAULT_RECIPE)
    start = time.perf_counter()
    for first in range(0, rows, batch):
        store.append([f"{first + i}" for i in range(min(batch, rows - first))], prepared[: rows - first])
    append = rows / (time.perf_counter() - start)
    # The plain way: one file per record.
    plain = folder / "plain"
    plain.mkdir()
    for i in range(1024):
        np.save(plain / f"{i}.npy", base[i % batch])
    picks = [rng.integers(0, rows, batch) for _ in range(8)]
    few = [rng.integers(0, 1024, batch) for _ in range(8)]
    store.read(np.arange(rows))
    ours = _seconds(lambda: [store.read(pick) for pick in picks], 1) / 8
    files = _seconds(lambda: [np.stack([np.load(plain / f"{i}.npy") for i in p]) for p in few], 1) / 8
    return [
        _row("prepared store, random batches of 256, warm", batch / ours, "records/s", 30_000),
        _row("the same against one .npy per record", files / ours, "times", 5),
        _row("prepared store, append to disk in batches of 256", append, "records/s"),
    ]


def _simulator() -> list[Row]:
    seconds = _seconds(lambda: list(simulate_dataset(20, 1)), 1)
    return [_row("simulated records of 12x5000 with noise", 20 / seconds, "records/s", 40)]


def run() -> list[Row]:
    """Measure everything; about a minute and 600 MB of disk."""
    folder = Path(tempfile.mkdtemp(prefix="bench-preparation-"))
    try:
        return _preparation() + _quality() + _store(folder) + _simulator()
    finally:
        shutil.rmtree(folder)
