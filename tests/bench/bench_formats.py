"""Speed of the format readers.

Run: ``python -m tests.bench formats``. Plain WFDB is held against ``wfdb.rdsamp`` of the same record on the same
core, both from file to samples in millivolt (ours float32, the package's float64); our time includes the header, the
checksums and the finished record. Times are processor times of one core, medians over several rounds.

The goal of 40 times lies beyond numpy: the floor row is the least that it can take, without any header, for opening the
file, reading it, sorting its samples by lead, converting and dividing them. It is measured in the same rounds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import wfdb

from datasets.ecg import LEADS_12
from datasets.formats import registry
from datasets.formats.archive import FileSource, FolderSource, unpack
from datasets.formats.base import ReadOptions

GOAL_RATIO = 40.0


def _made(folder: Path) -> Path:
    digits = np.random.default_rng(1).integers(-2000, 2000, (5000, 12))
    wfdb.wrsamp("made", 500, ["mV"] * 12, list(LEADS_12), d_signal=digits, fmt=["16"] * 12, adc_gain=[1000.0] * 12,
                baseline=[0] * 12, write_dir=str(folder))  # fmt: skip
    return folder / "made.hea"


def _floor(path: Path) -> Callable[[], np.ndarray]:
    """Return numpy's own work on a file of 12 x 5000 samples: memory is at hand, nothing is checked, no header is read."""
    stored, digits = np.empty(120_000, np.uint8), np.empty((12, 5000), np.int16)

    def work() -> np.ndarray:
        with path.open("rb", buffering=0) as stream:
            stream.readinto(stored)
        digits[...] = stored.view("<i2").reshape(5000, 12).T
        np.add.reduce(digits.view(np.uint16), axis=1, dtype=np.uint16)
        signal = digits.astype(np.float32)
        return np.divide(signal, np.float32(1000), out=signal)

    return work


def _median_s(task: Callable[[], object], rounds: int) -> float:
    task()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        task()
        times.append(time.process_time() - start)
    return float(np.median(times))


def run() -> list[dict[str, Any]]:
    """Measure both readers alternately, so that other load on the machine meets both."""
    entry = registry.readers()["wfdb"]
    options = ReadOptions()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        header = _made(folder)
        index = {path.name: path for path in folder.iterdir()}
        source = FileSource(header.name, header, index)
        record = str(header.with_suffix(""))
        ours, theirs, floor = [], [], []
        for _ in range(5):
            floor.append(_median_s(_floor(header.with_suffix(".dat")), 200))
            ours.append(_median_s(lambda: entry.read(source, options), 200))
            theirs.append(_median_s(lambda: wfdb.rdsamp(record), 20))
        signal = entry.read(source, options).records[0][1].signal
        same = np.array_equal(signal, wfdb.rdsamp(record)[0].T.astype(np.float32))
        unpacked = _unpack_rate(folder, header)
    ratio = float(np.median(theirs)) / float(np.median(ours))
    return [
        {"name": "WFDB 16-bit 12 x 5000, times faster than wfdb.rdsamp", "value": round(ratio, 1), "unit": "x",
         "goal": f">= {GOAL_RATIO:g}, same samples", "ok": ratio >= GOAL_RATIO and same},
        {"name": "WFDB 16-bit 12 x 5000, one record", "value": round(float(np.median(ours)) * 1e6, 1), "unit": "us", "goal": None, "ok": None},
        {"name": "the same by numpy alone: reading, sorting, converting, dividing, summing, no header", "value": round(float(np.median(floor)) * 1e6, 1), "unit": "us",
         "goal": f"that floor is {float(np.median(theirs)) / float(np.median(floor)):.0f} times faster than wfdb.rdsamp", "ok": None},
        {"name": "zip of WFDB records, unpacked and read", "value": round(unpacked), "unit": "records/s", "goal": None, "ok": None},
    ]  # fmt: skip


def _unpack_rate(folder: Path, header: Path) -> float:
    import zipfile

    archive, count = folder / "many.zip", 100
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        data = header.with_suffix(".dat").read_bytes()
        for i in range(count):
            out.writestr(f"r{i}.hea", header.read_text().replace("made", f"r{i}"))
            out.writestr(f"r{i}.dat", data)
    into = folder / "into"
    into.mkdir()
    start = time.perf_counter()
    files = FolderSource(dict(unpack(archive, "many.zip", into).files))
    for i in range(count):
        source = files.get(f"r{i}.hea")
        assert source is not None
        registry.read(source)
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    for row in run():
        print(row["name"], row["value"], row["unit"], row["goal"] or "")
