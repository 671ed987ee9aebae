"""The labelled real ECGs that the proofs train on, prepared by the portal's own readers and default recipe."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.ecg import LEADS_12, Record
from datasets.fingerprint import fingerprint, same_signal
from datasets.preprocess.recipe import DEFAULT_RECIPE
from datasets.splits import SplitItem, merged_groups
from tests.shared import shared_path

FS_HZ = 100.0
SOURCES = ("ptbxl", "ludb", "cpsc2018", "cinc2021", "code15", "sph")
# Where files do not say their unit: CODE-15% counts tenths of a millivolt.
UNITS = {"code15": "10/mV"}
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
FINDINGS = (
    "SNR", "SB", "STACH", "SA", "AF", "AFL", "IAVB", "RBBB", "IRBBB", "LBBB", "LAFB", "PAC", "PVC", "STD", "STE", "LVH", "MI", "PACE",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Records:
    """Records of several sources.

    signals: float32 ``(records, 12, 1000)`` in mV at 100 Hz. groups: what must stay on one side of a split, by patient and
    by equal signals over all sources. superclasses: those of PTB-XL, None where a record has none. findings: ``(records,
    18)`` of 0 and 1 in the order of ``FINDINGS``; 0 means that the source does not state it.
    """

    signals: np.ndarray
    sources: np.ndarray
    groups: np.ndarray
    superclasses: tuple[tuple[str, ...] | None, ...]
    findings: np.ndarray

    def where(self, chosen: np.ndarray) -> Records:
        rows = np.flatnonzero(chosen)
        return Records(
            self.signals[rows], self.sources[rows], self.groups[rows], tuple(self.superclasses[i] for i in rows), self.findings[rows]
        )  # fmt: skip


def stored(file: Path) -> Records:
    """Return the prepared records of ``file``; made first, of all sources, where it is not there."""
    if not file.exists():
        made = load(set(SOURCES))
        names = np.array([";".join(own) if own is not None else "" for own in made.superclasses])
        np.savez_compressed(
            file, signals=made.signals, sources=made.sources, groups=made.groups, superclasses=names, findings=made.findings
        )  # fmt: skip
    with np.load(file) as found:
        superclasses = tuple(tuple(str(names).split(";")) if names else None for names in found["superclasses"])
        return Records(found["signals"], found["sources"], found["groups"], superclasses, found["findings"])


def load(sources: set[str]) -> Records:
    """Read and prepare the records of these sources."""
    root = shared_path("ecg")
    with open(root / "labelled" / "labels_all.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] in sources]
    signals, codes, superclasses, findings = [], {}, [], []
    for number, row in enumerate(rows):
        record = _read(root / row["path"], float(row["fs"]), UNITS.get(row["dataset"], "mV"))
        signals.append(DEFAULT_RECIPE.apply(record).signal)
        codes[str(number)] = fingerprint(record)
        own = tuple(name for name in SUPERCLASSES if name in row["superclass"].split(";"))
        superclasses.append(own or None)
        findings.append([float(row[name]) for name in FINDINGS])
    twins = same_signal(codes)
    items = [
        SplitItem(str(n), f"{row['dataset']} {row['patient']}" if row["patient"] else None, frozenset(), same_signal=twins.get(str(n)))
        for n, row in enumerate(rows)
    ]  # fmt: skip
    group = {item.key: members[0].key for members in merged_groups(items) for item in members}
    return Records(
        np.stack(signals), np.array([row["dataset"] for row in rows]), np.array([group[str(n)] for n in range(len(rows))]),
        tuple(superclasses), np.array(findings, np.float32),
    )  # fmt: skip


def _read(path: Path, fs_hz: float, unit: str) -> Record:
    """Read the first record of a file; a name without an ending is a WFDB record. Arrays without words are 12 leads."""
    # Not needed, and not there, where the records come from ``stored``.
    from datasets.formats.archive import FileSource
    from datasets.formats.base import ReadOptions
    from datasets.formats.registry import read

    path = path if path.exists() else path.with_name(f"{path.name}.hea")
    index = {other.name: other for other in path.parent.glob(f"{path.stem}.*")}
    told = ReadOptions(fs_hz=fs_hz, unit=unit, lead_order=LEADS_12)
    _, result = read(FileSource(path.name, path, index), told)
    return next(iter(result.records))[1]
