"""Read the shared labelled records with public readers, for tests that need real ECGs."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import h5py
import numpy as np
import wfdb
from scipy.io import loadmat

from datasets.ecg import LEADS_12, Record, canonical_lead
from tests.shared import shared_path


def labelled_rows() -> list[dict[str, str]]:
    """Return the rows of the table of all labelled records."""
    with open(shared_path("ecg", "labelled", "labels_all.csv"), newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def labelled_record(row: dict[str, str]) -> Record:
    """Return the record of one row, float32 mV."""
    path = shared_path("ecg", row["path"])
    if path.suffix == ".mat":
        return Record(loadmat(path)["feats"], float(row["fs"]), LEADS_12)
    if path.suffix in {".h5", ".hdf5"}:
        with h5py.File(path) as stream:
            return Record(np.asarray(stream["ecg"], dtype=np.float32), float(row["fs"]), LEADS_12)
    found = wfdb.rdrecord(str(path))
    return Record(found.p_signal.T, found.fs, tuple(canonical_lead(name) or name for name in found.sig_name))


def labelled_records() -> Iterator[tuple[str, Record]]:
    """Yield ``(dataset/record, record)`` of all labelled records."""
    for row in labelled_rows():
        yield f"{row['dataset']}/{row['record']}", labelled_record(row)
