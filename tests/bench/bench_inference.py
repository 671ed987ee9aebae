"""Inference: the portal's predictor against plain ONNX Runtime on the same file, in the same run.

How much faster it can be at all follows from the last row of each network: the multiply-accumulates of its convolutions
and linear layers per CPU second, as a share of what the same cores reach in float32 matrix multiplication in the same
run. Whoever stands at 70 % can be made at most 1.4 times as fast, unless by fewer products. (The state spaces of S4D are
neither convolutions nor linear layers; their products are not counted.)

``python -m tests.bench.bench_inference`` prints the table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
from threadpoolctl import threadpool_limits

from datasets.ecg import LEADS_12
from modelhub.architectures.catalog import catalog
from modelhub.architectures.registry import build
from modelhub.contract import ModelContract
from modelhub.onnx.export import export_onnx
from modelhub.runtime.predictor import load_predictor

GOALS = {"inception_time": 1.8}
_MATRIX = 1024
_RECORDS = 16
_ROUNDS = 5


def _cpu_seconds(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), clock()
    call()
    return time.perf_counter() - wall, clock() - cpu


def run() -> list[dict]:
    """Return rows ``{name, value, unit, goal, ok}``; goal and ok are None where a row is for information."""
    rows: list[dict] = []
    threads = min(2, len(os.sched_getaffinity(0)))
    signals = np.random.default_rng(0).standard_normal((_RECORDS, 12, 1000), dtype=np.float32)
    matrix = np.random.default_rng(1).standard_normal((_MATRIX, _MATRIX), dtype=np.float32)
    for name in ("inception_time", "xception_time", "se_wrn", "xresnet1d101", "s4d_128"):
        contract = ModelContract(
            leads=LEADS_12, fs_hz=100, n_samples=1000, classes=tuple("abcde"), task="multilabel", architecture=name
        )
        data = export_onnx(build(name, n_leads=12, n_samples=1000, fs_hz=100, n_classes=5, seed=1), contract)
        ours = load_predictor(data, contract, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        plain = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        sides = ("ours", "plain", "matrix")
        walls: dict[str, list[float]] = {side: [] for side in sides}
        cpus: dict[str, list[float]] = {side: [] for side in sides}
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(ours.predict, signals),
            "plain": partial(plain.run, None, {"signal": signals}),
            "matrix": partial(_multiplied, matrix),
        }
        # In turns, so that other work on the machine meets both alike; the first round warms up, the best one counts.
        for turn in range(_ROUNDS + 1):
            for side, call in calls.items():
                # The product of matrices has one thread; those of the sessions still spin for a moment beside it.
                wall, cpu = _cpu_seconds(call, time.thread_time if side == "matrix" else time.process_time)
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
            *(
                _row(f"{name}: {said} of the speed of matrix multiplication", share, "%", None)
                for said, share in _shares(name, cpus).items()
            ),
        ]
    return rows


def _multiplied(matrix: np.ndarray) -> np.ndarray:
    """Return a product of matrices computed by one thread, the most that a core can do with float32."""
    with threadpool_limits(1):
        return matrix @ matrix


def _shares(name: str, cpus: dict[str, list[float]]) -> dict[str, float]:
    """Return how much of the core's own speed each side reaches, in percent, by CPU time."""
    most = _MATRIX**3 / min(cpus["matrix"])
    needed = _RECORDS * catalog()[name].million_macs * 1e6
    return {
        f"{said} at {2e-9 * needed / min(cpus[side]):.0f} of {2e-9 * most:.0f} GFLOP/s,": 100
        * needed
        / min(cpus[side])
        / most
        for side, said in (("plain", "plain"), ("ours", "ours"))
    }


def _row(name: str, value: float, unit: str, goal: float | None) -> dict:
    ok = None if goal is None else value >= goal
    return {"name": name, "value": round(value, 2), "unit": unit, "goal": goal, "ok": ok}


if __name__ == "__main__":
    for row in run():
        print(row)
