"""Write ECG files that tests upload: WFDB pairs from the simulator, archives, and a label table as PTB-XL has it."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from datasets.ecg import Record
from datasets.simulate import NoiseSpec, simulate

# Conditions of the simulator with the SCP codes that a label table gives them, and their PTB-XL superclass.
CONDITIONS = {
    "SNR": ({"NORM": 100.0, "SR": 0.0}, "NORM"),
    "LVH": ({"LVH": 100.0, "SR": 0.0}, "HYP"),
    "RBBB": ({"CRBBB": 100.0, "SR": 0.0}, "CD"),
    "STE_ANT": ({"AMI": 100.0, "SR": 0.0}, "MI"),
}


def wfdb_pair(record: Record, name: str, *, gain_per_mv: float = 1000.0) -> dict[str, bytes]:
    """Return ``name.hea`` and ``name.dat`` (format 16, interleaved) of a record."""
    digits = np.clip(np.round(record.signal * gain_per_mv), -32767, 32767).astype("<i2")
    base = name.rsplit("/", 1)[-1]
    lines = [f"{base} {len(record.leads)} {record.fs_hz:g} {record.n_samples}"]
    for lead, row in zip(record.leads, digits, strict=True):
        lines.append(f"{base}.dat 16 {gain_per_mv:g}(0)/mV 16 0 {row[0]} {_checksum(row)} 0 {lead}")
    return {f"{name}.hea": ("\n".join(lines) + "\n").encode(), f"{name}.dat": digits.T.tobytes()}


def _checksum(row: np.ndarray) -> int:
    total = int(row.sum(dtype=np.int64)) & 0xFFFF
    return total - 0x10000 if total >= 0x8000 else total


def zip_of(files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> bytes:
    """Return a zip archive of files by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items() if isinstance(files, Mapping) else files:
            archive.writestr(name, data)
    return out.getvalue()


@dataclass(frozen=True)
class Cohort:
    """A made-up study: files by name, the label table's rows, and the truth per record."""

    files: dict[str, bytes]
    rows: list[dict[str, str]]
    superclass: dict[str, str]
    subjects: dict[str, str]

    def zip(self) -> bytes:
        return zip_of(self.files)

    def table(self) -> bytes:
        """Return the label table as CSV."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(self.rows[0]))
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue().encode()


def make_cohort(
    n: int, *, seed: int = 1, fs_hz: float = 250.0, duration_s: float = 6.0, prefix: str = "case"
) -> Cohort:
    """Return ``n`` simulated records of ``CONDITIONS`` in turn. Every fourth person has two records in a row of their class."""
    names = list(CONDITIONS)
    files: dict[str, bytes] = {}
    rows, superclass, subjects = [], {}, {}
    earlier: dict[str, tuple[str, object]] = {}
    for number in range(n):
        condition = names[number % len(names)]
        codes, group = CONDITIONS[condition]
        key = f"{prefix}{number:03d}"
        known = earlier.pop(condition, None) if (number // len(names)) % 4 == 1 else None
        ecg = simulate(
            condition, seed * 1000 + number, fs_hz=fs_hz, duration_s=duration_s, noise=NoiseSpec(white_mv=0.005),
            patient=known[1] if known else None,  # type: ignore[arg-type]
        )  # fmt: skip
        subject = known[0] if known else f"{prefix}-p{number:03d}"
        earlier[condition] = (subject, ecg.patient)
        files |= wfdb_pair(ecg.record, f"study/{key}")
        rows.append(
            {
                "filename_hr": key, "patient_id": subject, "age": f"{ecg.age:g}", "sex": "1" if ecg.sex == "female" else "0",
                "scp_codes": str(codes), "strat_fold": str(number % 10 + 1),
            }
        )  # fmt: skip
        superclass[key], subjects[key] = group, subject
    return Cohort(files, rows, superclass, subjects)
