"""Training speed on the processor against a plain PyTorch loop over the same network, in one run.

Both sides do whole training steps (forward, backward, AdamW) with batches of 64 records of 12 leads and 1000
samples. The plain loop has its data in memory and neither augments nor averages nor clips; ours does all of it and
reads through its loader. Rounds alternate, so that a busy machine slows both alike; the best round counts. Processor
time is given beside the clock's: it is what a busy machine leaves comparable.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, STEPS, ROUNDS, CLASSES = 64, 2, 2, 5


def run() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, goal in (("inception_time", 1.8), ("xception_time", 1.5)):
        plain, ours = _against_plain(name)
        for number, clock in enumerate(("by the clock", "by processor time")):
            ratio = ours[number] / plain[number]
            rows += [
                _row(f"{name}: plain PyTorch loop, {clock}", plain[number], "records/s", None, None),
                _row(f"{name}: engine, {clock}", ours[number], "records/s", None, None),
                _row(f"{name}: engine / plain, {clock}", ratio, "x", f"at least {goal}", ratio >= goal),
            ]
        difference = _difference(name)
        rows.append(
            _row(
                f"{name}: largest difference of outputs and gradients",
                difference,
                "",
                "at most 1e-4",
                difference <= 1e-4,
            )
        )
    start = _seconds_to_first_batch()
    rows.append(_row("from fit() to the first batch done", start, "s", "at most 3", start <= 3))
    loader, need = _loader_rate(), max(r["value"] for r in rows if r["unit"] == "records/s")
    rows.append(_row("loader alone", loader, "records/s", "10 x the fastest training", loader >= 10 * need))
    seconds = _bootstrap_seconds()
    rows.append(_row("evaluate 500 x 5, 1000 resamples", seconds, "s", "at most 2", seconds <= 2))
    return rows


def _row(name: str, value: float, unit: str, goal: str | None, ok: bool | None) -> dict[str, Any]:
    return {"name": name, "value": float(value), "unit": unit, "goal": goal, "ok": None if ok is None else bool(ok)}


def _data(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(scale=0.2, size=(n, 12, 1000)).astype(np.float32), (rng.random((n, CLASSES)) < 0.3).astype(
        np.float32
    )


def _network(name: str) -> Any:
    from modelhub.architectures.registry import build

    return build(name, n_leads=12, n_samples=1000, fs_hz=100.0, n_classes=CLASSES, seed=0)


Rates = tuple[float, float]
"""Records per second by the clock and by processor time."""


def _now() -> Rates:
    return time.perf_counter(), time.process_time()


def _rates(marks: list[Rates]) -> Rates:
    """Return the rates of the fastest step between marks, by each clock."""
    clock, processor = np.diff(np.array(marks), axis=0).min(axis=0)
    return BATCH / clock, BATCH / processor


def _against_plain(name: str) -> tuple[Rates, Rates]:
    """Return the rates of the plain loop and of the engine."""
    rounds = [(_plain_rate(name), _engine_rate(name)) for _ in range(ROUNDS)]
    best = np.array(rounds).max(axis=0)
    return tuple(best[0]), tuple(best[1])


def _plain_rate(name: str) -> Rates:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    signals, targets = (torch.from_numpy(a) for a in _data(BATCH))
    net = _network(name).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    marks = []
    for _ in range(STEPS + 1):
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(net(signals), targets).backward()
        optimiser.step()
        marks.append(_now())
    return _rates(marks)


def _engine_rate(name: str) -> Rates:
    from training.engine.fit import fit
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    marks: list[Rates] = []
    signals, targets = _data(BATCH * (STEPS + 1))
    settings = FitSettings(epochs=1, batch_size=BATCH)
    fit(
        _network(name), ArraySource(signals), targets, None, None, get_problem("multilabel"), settings,
        fs_hz=100.0, callbacks=[_marker(lambda: marks.append(_now()))],
    )  # fmt: skip
    return _rates(marks)


def _marker(mark: Callable[[], None]) -> Any:
    from training.engine.callbacks import Callback, Progress

    class Mark(Callback):
        def on_batch(self, progress: Progress) -> None:
            mark()

    return Mark()


def _difference(name: str) -> float:
    """Return the largest absolute difference of outputs and gradients between both forms of a network in training mode."""
    import torch

    from modelhub.architectures.fast import as_2d

    slow = _network(name).train()
    fast = as_2d(slow)
    x = torch.from_numpy(_data(4)[0])
    outputs = [net(x) for net in (slow, fast)]
    for out in outputs:
        out.square().mean().backward()
    worst = float((outputs[0] - outputs[1]).detach().abs().max())
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        worst = max(worst, float((a.grad - b.grad.reshape(a.shape)).abs().max()))
    return worst


def _seconds_to_first_batch() -> float:
    from training.engine.fit import fit
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    signals, targets = _data(64)
    marks: list[float] = []
    begun = time.perf_counter()
    fit(
        _network("inception_time"), ArraySource(signals), targets, None, None, get_problem("multilabel"),
        FitSettings(epochs=1), fs_hz=100.0, callbacks=[_marker(lambda: marks.append(time.perf_counter()))],
    )  # fmt: skip
    return marks[0] - begun


def _loader_rate() -> float:
    import torch

    from training.engine.source import ArraySource, Feed, epoch_order

    signals, _ = _data(1024)
    feed = Feed(ArraySource(signals), torch.device("cpu"))
    begun = time.perf_counter()
    for _ in feed.batches(epoch_order(np.arange(1024), BATCH, 0, 1)):
        pass
    return 1024 / (time.perf_counter() - begun)


def _bootstrap_seconds() -> float:
    from training.metrics.report import evaluate

    rng = np.random.default_rng(0)
    targets = (rng.random((500, 5)) < 0.2).astype(float)
    probabilities = 1 / (1 + np.exp(-(targets * 1.5 + rng.normal(size=targets.shape) - 1)))
    begun = time.perf_counter()
    evaluate(probabilities, targets, list("abcde"), "multilabel", groups=np.arange(500) // 2)
    return time.perf_counter() - begun
