"""Proof on real data: what the defaults reach on records of other patients, beside other ways of training.

    python -m tests.proofs.real_data [--tasks superclass,norm,...] [--methods default,...] [--seeds 5] [--keep FOLDER]

Needs the shared ECG files (PORTAL_SHARED, or the folder ``shared`` beside the checkout).

Tasks: ``superclass`` (PTB-XL, several at once), ``one`` (PTB-XL, the first superclass alone), ``norm`` (PTB-XL, NORM against
the rest), ``lvh`` (LUDB and PTB-XL), and over all sources pooled ``af``, ``rbbb``, ``avb`` (first degree) and ``pvc``, each
against the rest.
Methods: ``default`` (what a run without any setting does), ``single`` (the same with one network), ``linear`` (the linear
model of fixed features, which takes seconds and is the companion of a default run), ``beats`` (a ridge regression of nothing but
each lead's mean beat, by scikit-learn: what a simple model reaches on the same division), ``exchangeai`` (in the manner of ExChanGeAI,
see ``tests.proofs.baseline``; tasks with one class per record), and from a model pretrained on the
findings of the sources that the task does not use: ``head``, ``full``, ``head_then_full``; ``self_taught`` starts all layers
from a trunk that learned from the same sources without labels.

For each seed 30 % of the patients (``--held-back``) are held back, classes spread evenly; every method trains on the rest, and the
held-back records are scored once. Prints a line per training and a table per task: figures over all seeds' held-back
predictions with 95 % intervals over patients, and the difference of the weighted F1 to ``exchangeai`` on the same
predictions. With ``--keep`` each training's predictions are stored, and what is stored is not trained again. A default
training takes about ten minutes on two free cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.proofs.records import FINDINGS, FS_HZ, SOURCES, SUPERCLASSES, Records, load, stored

POOLED = {"af": "AF", "rbbb": "RBBB", "avb": "IAVB", "pvc": "PVC"}
TASKS = ("superclass", "one", "norm", "lvh", *POOLED)
FROM_OTHERS = ("head", "full", "head_then_full")
METHODS = ("default", "single", "linear", "beats", "exchangeai", *FROM_OTHERS, "self_taught")
FEWEST_TO_PRETRAIN, RESAMPLES = 50, 2000


@dataclass(frozen=True, eq=False)
class Job:
    """A task with its data. kind: the problem's name. targets: as the problem encodes them. classes: of one per record."""

    name: str
    kind: str
    outputs: tuple[str, ...]
    records: Records
    targets: np.ndarray
    others: Records

    @property
    def classes(self) -> np.ndarray:
        return self.targets.argmax(1) if self.kind == "multiclass" else self.targets[:, 0].astype(int)


def job(name: str, everything: Records) -> Job:
    """Return the task's records and targets."""
    from training.problems.registry import get_problem

    wanted = {"lvh": ("ludb", "ptbxl")}.get(name, SOURCES if name in POOLED else ("ptbxl",))
    inside = np.isin(everything.sources, wanted)
    if name in ("superclass", "one", "norm"):
        inside &= np.array([own is not None for own in everything.superclasses])
    own = everything.where(inside)
    # A patient or signal of the task teaches no base model.
    others = everything.where(~np.isin(everything.sources, wanted) & ~np.isin(everything.groups, own.groups))
    if name in ("superclass", "one"):
        kind = "multilabel" if name == "superclass" else "multiclass"
        labels: list[Any] = [found if name == "superclass" else (found or ())[:1] for found in own.superclasses]
        return Job(name, kind, SUPERCLASSES, own, get_problem(kind).encode(labels, SUPERCLASSES).values, others)
    if name == "norm":
        return Job(
            name,
            "binary",
            ("NORM",),
            own,
            np.array([[float("NORM" in (c or ()))] for c in own.superclasses], np.float32),
            others,
        )
    code = "LVH" if name == "lvh" else POOLED[name]
    return Job(name, "binary", (code,), own, own.findings[:, [FINDINGS.index(code)]], others)


def divide(task: Job, seed: int, held_back: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the numbers of the records of training, validation and test, as a run divides them."""
    from datasets.splits import DEVELOPMENT, SplitItem, split

    items = [
        SplitItem(f"{n:05d}", group, frozenset(str(c) for c in np.flatnonzero(row > 0.5)))
        for n, (group, row) in enumerate(zip(task.records.groups, task.targets, strict=True))
    ]
    shares = {part: (1 - held_back) * share for part, share in DEVELOPMENT.items()} | {"test": held_back}
    parts = split(items, fractions=shares, seed=seed)
    train, validation, test = (np.array([int(key) for key in parts.keys(part)]) for part in shares)
    return train, validation, test


def run(task: Job, method: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Train by one method on one division; return probabilities and decisions of the held-back records."""
    from tests.proofs import baseline

    train, validation, test = divide(task, seed, asked.held_back)
    if method == "beats":
        return {"test": test, **_ridge_of_beats(task, np.concatenate([train, validation]), test)}
    if method != "exchangeai":
        p, decided, facts = _ours(task, method, seed, asked, train, validation, test)
        return {"p": p, "decided": decided, "test": test, **facts}
    n_classes = len(task.outputs) if task.kind == "multiclass" else 2
    p, facts = baseline.train(
        _network(asked, n_classes, seed), task.records.signals, task.classes, FS_HZ, train, validation, test, seed=seed, epochs=asked.epochs
    )  # fmt: skip
    decided = np.eye(n_classes)[p.argmax(1)]
    return {
        "p": p if n_classes > 2 else p[:, 1:],
        "decided": decided if n_classes > 2 else decided[:, 1:],
        "test": test,
        **facts,
    }


def _ridge_of_beats(task: Job, learned: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Return what a ridge regression of mean beats says of the held-back records, and what it decides."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from training.problems.registry import get_problem

    x = _mean_beats(task)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 6, 13)))
    said = model.fit(x[learned], task.targets[learned]).predict(x[test]).reshape(len(test), -1)
    hits = np.eye(said.shape[1])[said.argmax(1)] if task.kind == "multiclass" else (said > 0.5).astype(float)
    return {"p": get_problem(task.kind).activate(said - 0.5), "decided": hits}


@cache
def _mean_beats(task: Job) -> np.ndarray:
    import torch

    from modelhub.architectures.fixed_features import FixedFeatures

    made = FixedFeatures(n_leads=12, n_samples=1000, fs_hz=FS_HZ).eval()
    views = list(made.views)
    with torch.inference_mode():
        pieces = [
            made(piece).split(list(made.views.values()), dim=1)[views.index("beat")].numpy()
            for piece in torch.from_numpy(task.records.signals).split(16)
        ]
    return np.concatenate(pieces)


def _network(
    asked: argparse.Namespace, n_classes: int, seed: int, members: int = 1, companion: bool = False, name: str = ""
) -> Any:
    from modelhub.architectures.registry import build

    return build(
        name or asked.architecture,
        n_leads=12,
        n_samples=1000,
        fs_hz=FS_HZ,
        n_classes=n_classes,
        seed=seed,
        members=members,
        companion=companion,
    )


def _ours(
    task: Job, method: str, seed: int, asked: argparse.Namespace, train: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
    from modelhub.contract import decided
    from training.engine.fit import fit
    from training.engine.predict import predict
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    settings = FitSettings.from_dict(asked.values | {"seed": seed})
    x, groups, problem = task.records.signals, task.records.groups, get_problem(task.kind)
    members = 1 if method == "single" else settings.n_members(len(train) + len(validation))
    if method == "linear":
        net = _network(asked, len(task.outputs), seed, name="linear")
    elif method in ("default", "single"):
        net = _network(asked, len(task.outputs), seed, members, settings.has_companion(members))
    else:
        net = _pretrained(task, method, settings, asked, x[np.concatenate([train, validation])])
        settings = FitSettings.from_dict(
            asked.values | {"seed": seed, "mode": {"self_taught": "full"}.get(method, method)}
        )
    result = fit(
        net, ArraySource(x[train]), task.targets[train], ArraySource(x[validation]), task.targets[validation], problem, settings,
        fs_hz=FS_HZ, names=task.outputs, groups=(list(groups[train]), list(groups[validation])),
    )  # fmt: skip
    net.load_state_dict(result.best_state)
    p = problem.activate(predict(net, ArraySource(x[test])))
    hits = decided(p, result.thresholds, one_of_several=task.kind == "multiclass").astype(float)
    return p, hits, {"best_epoch": result.best_epoch, "epochs": result.epochs, "networks": result.members}


def _pretrained(task: Job, method: str, settings: Any, asked: argparse.Namespace, own: np.ndarray) -> Any:
    """Return a network that has learned from the other sources (``self_taught``: from signals alone, the task's own, too)."""
    from training.engine.fit import fit
    from training.engine.pretrain import pretrain
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    others = task.others
    if method == "self_taught":
        net = _network(asked, len(task.outputs), settings.seed)
        signals = np.concatenate([own, others.signals])
        net.load_state_dict(pretrain(net, ArraySource(signals), settings, fs_hz=FS_HZ).state)
        return net
    known = others.findings.sum(0) >= 3
    net = _network(asked, int(known.sum()), settings.seed)
    result = fit(
        net, ArraySource(others.signals), others.findings[:, known], None, None, get_problem("multilabel"), settings, fs_hz=FS_HZ
    )  # fmt: skip
    net.load_state_dict(result.best_state)
    net.replace_head(len(task.outputs))
    return net


def sides(columns: np.ndarray) -> np.ndarray:
    """Return yes and no for a single question, so that its F1 is weighted over both as for two classes."""
    return np.concatenate([columns, 1 - columns], axis=1) if columns.shape[1] == 1 else columns


def weighted_f1(truth: np.ndarray, decided: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the F1 weighted by support for each row of ``weights`` ``(resamples, records)``."""
    truth, decided = sides(truth), sides(decided)
    hits, taken, support = weights @ (truth * decided), weights @ decided, weights @ truth
    f1 = np.divide(2 * hits, taken + support, out=np.zeros_like(hits), where=taken + support > 0)
    return (f1 * support).sum(1) / support.sum(1)


def resamples(groups: np.ndarray) -> np.ndarray:
    """Return weights ``(1 + RESAMPLES, records)``: all ones, then bootstrap draws of whole patients."""
    names, index = np.unique(groups, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return np.concatenate([np.ones((1, len(groups))), drawn[:, index]])


def shown(values: np.ndarray, sign: str = "") -> str:
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"{values[0]:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def table(task: Job, found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the figures of every method over the seeds that all of them have."""
    from training.metrics.report import evaluate

    print(
        f"\n{task.name}: {len(task.targets)} records of {len(set(task.records.groups))} patients, {', '.join(task.outputs)}"
    )
    print(f"{'method':16}{'seeds':>6}{'AUROC macro':>26}{'weighted F1':>26}{'F1 less exchangeai':>29}  AUROC by class")
    for method, runs in found.items():
        rows = np.concatenate([r["test"] for r in runs])
        p, decided = (np.concatenate([r[key] for r in runs]) for key in ("p", "decided"))
        report = evaluate(p, task.targets[rows], task.outputs, task.kind, groups=task.records.groups[rows])
        weights = resamples(task.records.groups[rows])
        f1 = weighted_f1(task.targets[rows], decided, weights)
        other, less = found.get("exchangeai"), ""
        if other and method != "exchangeai":
            common = min(len(other), len(runs))
            first = np.concatenate([r["test"] for r in runs[:common]])
            w = resamples(task.records.groups[first])
            ours, theirs = (np.concatenate([r["decided"] for r in part[:common]]) for part in (runs, other))
            difference = weighted_f1(task.targets[first], ours, w) - weighted_f1(task.targets[first], theirs, w)
            less = shown(difference, "+")
        auroc = report.overall["auroc_macro"]
        by_class = " ".join(f"{name} {report.per_class[name]['auroc'].value:.3f}" for name in task.outputs)
        print(
            f"{method:16}{len(runs):>6}{f'{auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})':>26}{shown(f1):>26}{less:>29}  {by_class}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--held-back", type=float, default=0.3, help="share of the patients")
    parser.add_argument("--architecture", default="inception_time")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="another setting of our methods"
    )
    parser.add_argument(
        "--records",
        type=Path,
        help="file of the prepared records, made where it is not there: for a machine without the shared files",
    )
    parser.add_argument("--keep", type=Path, help="folder for predictions, of one --held-back")
    asked = parser.parse_args()
    asked.values = {name: json.loads(value) for name, value in (item.split("=", 1) for item in asked.set)}
    asked.values |= {k: v for k, v in {"epochs": asked.epochs, "threads": asked.threads}.items() if v is not None}
    tasks, methods = asked.tasks.split(","), asked.methods.split(",")
    if set(tasks) - set(TASKS) or set(methods) - set(METHODS):
        parser.error(f"tasks are {', '.join(TASKS)}; methods are {', '.join(METHODS)}")
    if asked.threads:
        import torch

        torch.set_num_threads(asked.threads)
    everything = (
        stored(asked.records)
        if asked.records
        else load(
            set(SOURCES)
            if set(tasks) - {"superclass", "one", "norm"} or set(methods) & {*FROM_OTHERS, "self_taught"}
            else {"ptbxl"}
        )
    )
    print(f"{asked.architecture}, settings {asked.values or 'default'}", flush=True)
    for task in (job(name, everything) for name in tasks):
        found: dict[str, list[dict[str, Any]]] = {}
        for method in methods:
            why = _impossible(task, method)
            if why:
                print(f"{task.name}, {method}: {why}", flush=True)
                continue
            for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
                found.setdefault(method, []).append(_kept(task, method, seed, asked))
        table(task, found)
    return 0


def _impossible(task: Job, method: str) -> str:
    if method == "exchangeai" and task.kind == "multilabel":
        return "it knows one class per record only"
    if method in FROM_OTHERS and len(task.others.signals) < FEWEST_TO_PRETRAIN:
        return "no other source is left to pretrain on"
    return ""


def _kept(task: Job, method: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Return the stored predictions, or train, tell and store them."""
    path = asked.keep / f"{task.name}-{method}-{asked.architecture}-{seed}.npz" if asked.keep else None
    if path is not None and path.exists():
        with np.load(path) as stored:
            return dict(stored)
    begun = time.monotonic()
    found = run(task, method, seed, asked)
    facts = ", ".join(f"{k} {v:.3g}" for k, v in found.items() if not isinstance(v, np.ndarray))
    print(f"{task.name}, {method}, seed {seed}: {time.monotonic() - begun:.0f} s, {facts}", flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **found)
    return found


if __name__ == "__main__":
    sys.exit(main())
