"""Proof on real data: superclasses of the PTB-XL part with the default recipe, patient-wise.

    python -m tests.proofs.ptbxl_superclass --seeds 5 [--architecture inception_time] [--epochs 40] [--threads 2]

Needs the shared ECG files (PORTAL_SHARED, or the folder ``shared`` beside the checkout). For each seed the
patients are divided into training, validation and test (about 56, 14 and 30 %); the network is trained from
scratch with the default settings and scored once on the test part. Prints one line per seed and a table of the
pooled test predictions with 95 % intervals over patients. About five minutes a seed on two free cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

CLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
FS_HZ = 100.0


def load() -> tuple[np.ndarray, list[list[str] | None], np.ndarray]:
    """Return signals float32 ``(records, 12, 1000)`` in mV, labels, and subject keys.

    Records whose signals are equal count as one subject, whatever patient they are filed under.
    """
    import wfdb

    from tests.shared import shared_path

    folder = shared_path("ecg", "labelled", "ptbxl")
    with open(folder / "ptbxl_database.csv", newline="") as file:
        names = {f"{int(row['ecg_id']):05d}": row["filename_lr"] for row in csv.DictReader(file)}
    signals, labels, subjects, seen = [], [], [], {}
    with open(shared_path("ecg", "labelled", "labels_all.csv"), newline="") as file:
        for row in csv.DictReader(file):
            if row["dataset"] != "ptbxl":
                continue
            signal = wfdb.rdrecord(str(folder / names[row["record"]])).p_signal.T.astype(np.float32)
            signals.append(signal)
            found = [c for c in row["superclass"].split(";") if c in CLASSES]
            labels.append(found or None)
            subjects.append(seen.setdefault(signal.tobytes(), row["patient"]))
    return np.stack(signals), labels, np.array(subjects)


def split_subjects(subjects: np.ndarray, targets: np.ndarray, shares: tuple[float, ...], seed: int) -> list[np.ndarray]:
    """Divide records into parts by subject, rare classes first, each subject to the part that lacks its classes most."""
    rng = np.random.default_rng(seed)
    keys, index = np.unique(subjects, return_inverse=True)
    counts = np.stack([np.bincount(index, weights=np.nan_to_num(t), minlength=len(keys)) for t in targets.T], axis=1)
    counts = np.concatenate([counts, np.bincount(index, minlength=len(keys))[:, None]], axis=1)
    wanted = np.array(shares)[:, None] * counts.sum(axis=0)
    rarity = np.where(counts[:, :-1] > 0, counts[:, :-1].sum(axis=0), np.inf).min(axis=1)
    order = sorted(rng.permutation(len(keys)), key=lambda k: rarity[k])
    part = np.zeros(len(keys), int)
    for key in order:
        need = (wanted / np.maximum(wanted.sum(axis=0), 1) * (counts[key] > 0)).sum(axis=1) + rng.random(
            len(shares)
        ) * 1e-6
        part[key] = int(need.argmax())
        wanted[part[key]] -= counts[key]
    return [np.flatnonzero(part[index] == p) for p in range(len(shares))]


def one_seed(
    seed: int,
    signals: np.ndarray,
    targets: np.ndarray,
    subjects: np.ndarray,
    settings: Any,
    architecture: str,
    verbose: bool,
) -> dict[str, Any]:
    """Train on one division and return the test predictions and the course of the run."""
    from modelhub.architectures.registry import build
    from training.engine.callbacks import Callback
    from training.engine.fit import fit
    from training.engine.predict import predict
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    class Print(Callback):
        def on_epoch_end(self, row: Mapping[str, Any]) -> None:
            shown = ("epoch", "train_loss", "val_loss", "auroc_macro", "f1_weighted", "seconds")
            print(
                "  " + "  ".join(f"{k} {row[k]:.3f}" if isinstance(row[k], float) else f"{k} {row[k]}" for k in shown),
                flush=True,
            )

    problem = get_problem("multilabel")
    train, val, test = split_subjects(subjects, targets, (0.56, 0.14, 0.30), seed)
    network = build(
        architecture, n_leads=12, n_samples=signals.shape[2], fs_hz=FS_HZ, n_classes=len(CLASSES), seed=seed
    )
    begun = time.monotonic()
    result = fit(
        network,
        ArraySource(signals[train]),
        targets[train],
        ArraySource(signals[val]),
        targets[val],
        problem,
        settings,
        fs_hz=FS_HZ,
        names=CLASSES,
        callbacks=[Print()] if verbose else [],
    )
    seconds = time.monotonic() - begun
    network.load_state_dict(result.best_state)
    probabilities = problem.activate(predict(network, ArraySource(signals[test])))
    return {
        "seed": seed,
        "train": train,
        "test": test,
        "p": probabilities,
        "thresholds": result.thresholds,
        "result": result,
        "seconds": seconds,
    }


def main() -> int:
    from training.engine.settings import FitSettings
    from training.metrics.report import evaluate
    from training.problems.registry import get_problem

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--architecture", default="inception_time")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="another setting")
    parser.add_argument("--save", help="write the test predictions here (.npz)")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    values = {name: json.loads(value) for name, value in (item.split("=", 1) for item in asked.set)}
    values |= {k: v for k, v in {"epochs": asked.epochs, "threads": asked.threads}.items() if v is not None}
    signals, labels, subjects = load()
    encoded = get_problem("multilabel").encode(labels, CLASSES)
    signals, targets, subjects = signals[encoded.known], encoded.values[encoded.known], subjects[encoded.known]
    print(
        f"{len(signals)} records of {len(set(subjects))} patients; settings {values or 'default'}; {asked.architecture}"
    )
    runs = []
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        settings = FitSettings.from_dict(values | {"seed": seed})
        run = one_seed(seed, signals, targets, subjects, settings, asked.architecture, asked.verbose)
        report = evaluate(
            run["p"],
            targets[run["test"]],
            CLASSES,
            "multilabel",
            groups=subjects[run["test"]],
            thresholds=run["thresholds"],
            n_resamples=200,
        )
        per_class = " ".join(f"{c} {report.per_class[c]['auroc'].value:.3f}" for c in CLASSES)
        print(
            f"seed {seed}: test n {report.n}, AUROC {per_class} macro {report.overall['auroc_macro'].value:.3f}, F1 weighted "
            f"{report.overall['f1_weighted'].value:.3f}, best epoch {run['result'].best_epoch}/{run['result'].epochs}, {run['seconds']:.0f} s",
            flush=True,
        )
        runs.append(run)
    rows = np.concatenate([run["test"] for run in runs])
    p = np.concatenate([run["p"] for run in runs])
    limits = np.concatenate([np.broadcast_to(run["thresholds"], run["p"].shape) for run in runs])
    if asked.save:
        np.savez(
            asked.save,
            p=p,
            rows=rows,
            thresholds=limits,
            targets=targets[rows],
            subjects=subjects[rows],
            seed=np.concatenate([np.full(len(r["p"]), r["seed"]) for r in runs]),
        )
    table(p, targets[rows], subjects[rows], limits, evaluate)
    return 0


def table(p: np.ndarray, targets: np.ndarray, subjects: np.ndarray, limits: np.ndarray, evaluate: Any) -> None:
    """Print the figures over all seeds' test predictions; a patient tested in several seeds is one subject."""
    report = evaluate(p, targets, CLASSES, "multilabel", groups=subjects)
    # Thresholds differ by seed: shifting each prediction by its threshold makes one half the common one.
    logit = np.log(np.clip(p, 1e-9, 1 - 1e-9) / np.clip(1 - p, 1e-9, 1)) - np.log(limits / (1 - limits))
    decided = evaluate(1 / (1 + np.exp(-logit)), targets, CLASSES, "multilabel", groups=subjects)
    print(f"\nall seeds pooled: {report.n} predictions, {report.n_subjects} patients")
    print(f"{'class':8} {'positive':>8} {'AUROC (95 %)':>22} {'AUPRC (95 %)':>22} {'F1 (95 %)':>22}")
    show = lambda f: f"{f.value:.3f} ({f.low:.3f}-{f.high:.3f})"  # noqa: E731
    for name in CLASSES:
        row = report.per_class[name]
        print(
            f"{name:8} {row['n_positive']:8d} {show(row['auroc']):>22} {show(row['auprc']):>22} {show(decided.per_class[name]['f1']):>22}"
        )
    print(
        f"{'macro':8} {'':8} {show(report.overall['auroc_macro']):>22} {show(report.overall['auprc_macro']):>22} {show(decided.overall['f1_macro']):>22}"
    )
    print(
        f"weighted F1 {show(decided.overall['f1_weighted'])}, Brier {show(report.overall['brier_macro'])}, ECE {show(report.overall['ece_macro'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
