"""Inference: the portal's predictor against plain ONNX Runtime on the same file, in the same run.

``python -m tests.bench.bench_inference`` prints the table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime

from datasets.ecg import LEADS_12
from modelhub.architectures.registry import build
from modelhub.contract import ModelContract
from modelhub.onnx.export import export_onnx
from modelhub.runtime.predictor import load_predictor

GOALS = {"inception_time": 1.8}
_RECORDS = 16
_ROUNDS = 5


def _cpu_seconds(call: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def run() -> list[dict]:
    """Return rows ``{name, value, unit, goal, ok}``; goal and ok are None where a row is for information."""
    rows: list[dict] = []
    threads = min(2, len(os.sched_getaffinity(0)))
    signals = np.random.default_rng(0).standard_normal((_RECORDS, 12, 1000), dtype=np.float32)
    for name in ("inception_time", "xception_time", "se_wrn", "xresnet1d101"):
        contract = ModelContract(
            leads=LEADS_12, fs_hz=100, n_samples=1000, classes=tuple("abcde"), task="multilabel", architecture=name
        )
        data = export_onnx(build(name, n_leads=12, n_samples=1000, fs_hz=100, n_classes=5, seed=1), contract)
        ours = load_predictor(data, contract, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        plain = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        walls: dict[str, list[float]] = {"ours": [], "plain": []}
        cpus: dict[str, list[float]] = {"ours": [], "plain": []}
        calls = {"ours": partial(ours.predict, signals), "plain": partial(plain.run, None, {"signal": signals})}
        # In turns, so that other work on the machine meets both alike; the first round warms up, the best one counts.
        for turn in range(_ROUNDS + 1):
            for side, call in calls.items():
                wall, cpu = _cpu_seconds(call)
                if turn:
                    walls[side].append(wall)
                    cpus[side].append(cpu)
        ratio = min(walls["plain"]) / min(walls["ours"])
        goal = GOALS.get(name)
        rows += [
            _row(f"{name}: speed against plain ONNX Runtime", ratio, "times", goal),
            _row(
                f"{name}: CPU time against plain ONNX Runtime",
                min(cpus["plain"]) / min(cpus["ours"]),
                "times",
                None,
            ),
            _row(f"{name}: ECGs", _RECORDS / min(cpus["ours"]), "per CPU second", None),
        ]
    return rows


def _row(name: str, value: float, unit: str, goal: float | None) -> dict:
    ok = None if goal is None else value >= goal
    return {"name": name, "value": round(value, 2), "unit": unit, "goal": goal, "ok": ok}


if __name__ == "__main__":
    for row in run():
        print(row)
