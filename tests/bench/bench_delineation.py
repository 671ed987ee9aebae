"""Beat detection and wave boundaries against the cardiologists' boundaries of LUDB.

Run: ``python -m tests.bench.bench_delineation`` (and ``... neurokit`` to measure neurokit2 on the same records).
LUDB marks P, QRS and T in each of twelve leads (Kalyakulina 2020, doi 10.1109/ACCESS.2020.3029211). For the
multi-lead result the reference is the median over the leads that mark the wave (at least six). Beats outside the
first and last marked wave are not judged: the database leaves cut-off beats unmarked. The window is 150 ms.
The delineator's numbers were set on every second record (the first, third, ...); its boundaries are judged on the
others, and with ``... all`` on all records.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import wfdb

from datasets.ecg import LEADS_12, Record, canonical_lead
from datasets.measure.delineate import Beat, delineate
from datasets.measure.detect import detect_r_peaks
from datasets.measure.measure import measure
from tests.shared import SHARED, shared_path

WINDOW_S = 0.150
BOUNDARIES = ("P onset", "P offset", "QRS onset", "QRS offset", "T onset", "T offset")
# SD in ms of neurokit2 0.2.13, ecg_delineate(method="dwt"), on lead II of the same records with the marked R peaks.
NEUROKIT_DWT_SD_MS = {
    "P onset": 25.9, "P offset": 31.1, "QRS onset": 43.1, "QRS offset": 25.1, "T onset": 51.1, "T offset": 31.7,
}  # fmt: skip
# Two standard deviations of the CSE referees (CSE Working Party 1985, doi 10.1093/oxfordjournals.eurheartj.a061927).
CSE_SD_MS = {"P onset": 10.2, "P offset": 12.7, "QRS onset": 6.5, "QRS offset": 11.6, "T offset": 30.6}


@dataclass(frozen=True)
class Marked:
    """One LUDB record with its marks: ``{lead: {"p" | "N" | "t": [(onset, peak, offset), ...]}}`` in samples."""

    name: str
    record: Record
    marks: dict[str, dict[str, list[tuple[int | None, int, int | None]]]]


def marked_records() -> Iterator[Marked]:
    for header in sorted(shared_path("ecg", "labelled", "ludb", "data").glob("*.hea"), key=lambda one: int(one.stem)):
        path = str(header.with_suffix(""))
        read = wfdb.rdrecord(path)
        leads = tuple(canonical_lead(name) or name for name in read.sig_name)
        marks = {lead: _lead_marks(path, lead) for lead in LEADS_12}
        yield Marked(header.stem, Record(read.p_signal.T, read.fs, leads), marks)


def _lead_marks(path: str, lead: str) -> dict[str, list[tuple[int | None, int, int | None]]]:
    read = wfdb.rdann(path, lead.lower())
    pairs = list(zip(read.sample.tolist(), read.symbol, strict=True))
    out: dict[str, list[tuple[int | None, int, int | None]]] = {"p": [], "N": [], "t": []}
    for k, (at, symbol) in enumerate(pairs):
        if symbol in out:
            onset = pairs[k - 1][0] if k and pairs[k - 1][1] == "(" else None
            offset = pairs[k + 1][0] if k + 1 < len(pairs) and pairs[k + 1][1] == ")" else None
            out[symbol].append((onset, at, offset))
    return out


def consensus(one: Marked, wave: str) -> list[tuple[int, int, int]]:
    """Return the median over leads of each wave that at least six leads mark completely."""
    rows = sorted((w for lead in one.marks.values() for w in lead[wave] if None not in w), key=lambda w: w[1])
    groups: list[list[Any]] = []
    for row in rows:
        if groups and row[1] - np.median([w[1] for w in groups[-1]]) <= 0.12 * one.record.fs_hz:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [tuple(int(v) for v in np.median(group, axis=0)) for group in groups if len(group) >= 6]  # type: ignore[misc]


def _found(beats: list[Beat], wave: str) -> np.ndarray:
    rows = {"p": [b.p for b in beats if b.p], "t": [b.t for b in beats if b.t]}
    rows["N"] = [(b.qrs[0], b.r_peak, b.qrs[1]) for b in beats if b.qrs]
    return np.array([[np.nan if v is None else v for v in row] for row in rows[wave]], dtype=float).reshape(-1, 3)


def _match(
    found: np.ndarray, marks: list[Any], fs_hz: float, errors: dict[str, list[float]], missed: dict[str, int], wave: str
) -> None:
    for name, place in ((f"{_NAMES[wave]} onset", 0), (f"{_NAMES[wave]} offset", 2)):
        for mark in marks:
            if mark[place] is None:
                continue
            gaps = found[:, place] - mark[place] if found.size else np.empty(0)
            gaps = gaps[np.isfinite(gaps)]
            nearest = gaps[np.argmin(np.abs(gaps))] / fs_hz if gaps.size else np.inf
            if abs(nearest) <= WINDOW_S:
                errors[name].append(nearest * 1000)
            else:
                missed[name] += 1


_NAMES = {"p": "P", "N": "QRS", "t": "T"}


def beat_scores(records: list[Marked], lead: str | None = None) -> tuple[int, int, int]:
    """Return true positives, false negatives and false positives of the beat detector."""
    tp = fn = fp = 0
    for one in records:
        fs_hz = one.record.fs_hz
        signal = one.record.signal if lead is None else one.record.lead(lead)[None]
        truth = np.array([w[1] for w in consensus(one, "N")])
        reach = WINDOW_S * fs_hz
        found = detect_r_peaks(signal, fs_hz)
        found = found[(found >= truth[0] - reach) & (found <= truth[-1] + reach)]
        taken: set[int] = set()
        for at in truth:
            near = [k for k in np.flatnonzero(np.abs(found - at) <= reach).tolist() if k not in taken]
            if near:
                taken.add(min(near, key=lambda k: abs(found[k] - at)))
            else:
                fn += 1
        tp += len(taken)
        fp += found.size - len(taken)
    return tp, fn, fp


def boundary_errors(records: list[Marked], lead: str | None) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return per boundary the errors in ms and the number missed; lead None: all leads against the consensus."""
    errors: dict[str, list[float]] = {name: [] for name in BOUNDARIES}
    missed = dict.fromkeys(BOUNDARIES, 0)
    for one in records:
        fs_hz = one.record.fs_hz
        signal = one.record.signal if lead is None else one.record.lead(lead)[None]
        beats = delineate(signal.astype(np.float64), fs_hz, detect_r_peaks(one.record.signal, fs_hz))
        for wave in _NAMES:
            marks = consensus(one, wave) if lead is None else one.marks[lead][wave]
            _match(_found(beats, wave), marks, fs_hz, errors, missed, wave)
    return errors, missed


def run(held_back: bool = True) -> list[dict[str, Any]]:
    """Return rows ``name, value, unit, goal, ok``; empty without the LUDB records.

    held_back: judge boundaries on the records that the delineator's numbers were not set on, else on all.
    """
    if SHARED is None:
        return []
    records = list(marked_records())
    rows: list[dict[str, Any]] = []
    tp, fn, fp = beat_scores(records)
    rows.append(_row(f"QRS sensitivity, {tp + fn} beats", 100 * tp / (tp + fn), "%", 99.5, above=True))
    rows.append(_row("QRS positive predictive value", 100 * tp / (tp + fp), "%", 99.5, above=True))
    judged = records[1::2] if held_back else records
    for lead, where in ((None, "all leads"), ("II", "lead II")):
        errors, missed = boundary_errors(judged, lead)
        for name in BOUNDARIES:
            values = np.array(errors[name])
            share = 100 * values.size / (values.size + missed[name])
            rows.append(_row(f"{name}, {where}: sensitivity", share, "%", 95.0, above=True))
            rows.append(_row(f"{name}, {where}: mean error", float(values.mean()), "ms", 12.0, size=True))
            rows.append(_row(f"{name}, {where}: SD of error", float(values.std()), "ms", NEUROKIT_DWT_SD_MS[name]))
            if lead is None and name in CSE_SD_MS:
                rows.append(
                    _row(f"{name}, {where}: SD against CSE referees", float(values.std()), "ms", CSE_SD_MS[name])
                )
    rows.append(_row("measure(), 12 × 5000, median CPU time", _milliseconds(records), "ms", 20.0))
    return rows


def _milliseconds(records: list[Marked]) -> float:
    spent = []
    for one in records[:60]:
        start = time.process_time()
        measure(one.record)
        spent.append(time.process_time() - start)
    return 1000 * float(np.median(spent))


def _row(name: str, value: float, unit: str, goal: float, *, above: bool = False, size: bool = False) -> dict[str, Any]:
    judged = abs(value) if size else value
    words = f"{'at least' if above else 'at most'} {goal:g} {unit}" + (" either way" if size else "")
    return {
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "goal": words,
        "ok": bool(judged >= goal if above else judged <= goal),
    }


def neurokit_sd() -> dict[str, float]:
    """Measure neurokit2's dwt delineator on lead II with the marked R peaks; the source of NEUROKIT_DWT_SD_MS."""
    import neurokit2

    keys = {
        "p": ("ECG_P_Onsets", "ECG_P_Offsets"),
        "N": ("ECG_R_Onsets", "ECG_R_Offsets"),
        "t": ("ECG_T_Onsets", "ECG_T_Offsets"),
    }
    errors: dict[str, list[float]] = {name: [] for name in BOUNDARIES}
    for one in marked_records():
        clean = neurokit2.ecg_clean(one.record.lead("II").astype(float), sampling_rate=int(one.record.fs_hz))
        peaks = np.array([w[1] for w in one.marks["II"]["N"]])
        _, waves = neurokit2.ecg_delineate(clean, peaks, sampling_rate=int(one.record.fs_hz), method="dwt")
        for wave, pair in keys.items():
            for place, key in zip((0, 2), pair, strict=True):
                found = np.array(
                    [[v, v, v] for v in waves.get(key, []) if v is not None and np.isfinite(v)], dtype=float
                ).reshape(-1, 3)
                marks = [tuple(v if k == place else None for k, v in enumerate(w)) for w in one.marks["II"][wave]]
                _match(found, marks, one.record.fs_hz, errors, dict.fromkeys(BOUNDARIES, 0), wave)
    return {name: round(float(np.std(values)), 1) for name, values in errors.items()}


if __name__ == "__main__":
    if "neurokit" in sys.argv[1:]:
        print(neurokit_sd())
    else:
        for row in run(held_back="all" not in sys.argv[1:]):
            print(
                f"{row['name']:<55} {row['value']:>8} {row['unit']:<3} goal {row['goal']:<24} {'ok' if row['ok'] else 'MISSED'}"
            )
