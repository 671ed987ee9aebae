"""Training speed on an accelerator, over as many records as the training part of PTB-XL has (folds 1 to 8; 9 for validation).

Batches of 64 records of 12 leads and 1000 samples, as the other benches; and of the size that the settings page proposes for
so many records. The plain loop is the same network in PyTorch as it comes, with its data in the accelerator's memory.
"""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

import numpy as np

from tests.bench.bench_training import _data, _network, _row

RECORDS, HELD_BACK, EPOCHS, BATCHES = 17_418, 2_183, 50, (64, 256)


def run() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return [{"name": "no accelerator on this machine", "value": None, "unit": "", "goal": None, "ok": None}]
    name = torch.cuda.get_device_properties(0).name
    rows = []
    for batch in BATCHES:
        plain = _plain_rate("inception_time", batch)
        found = trained("inception_time", batch, EPOCHS)
        label = f"{name}, InceptionTime, batches of {batch}"
        rows += [
            _row(f"{label}: plain PyTorch loop", plain, "records/s", None, None),
            _row(f"{label}: engine", found["rate"], "records/s", "at least 30000", found["rate"] >= 30_000),
            _row(f"{label}: engine / plain", found["rate"] / plain, "x", None, None),
            _row(f"{label}: {EPOCHS} epochs of {RECORDS} records", found["seconds"], "s", "at most 60", found["seconds"] <= 60),
            _row(f"{label}: accelerator busy", found["busy"], "%", "at least 90", found["busy"] >= 90),
            _row(f"{label}: from fit() to the first batch done", found["first"], "s", None, None),
        ]  # fmt: skip
    return rows


def records(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signals and targets of ``n`` records, of which some thousand are different."""
    signals, targets = _data(1024)
    rows = np.arange(n) % len(signals)
    return signals[rows], targets[rows]


def trained(name: str, batch: int, epochs: int, **settings: Any) -> dict[str, float]:
    """Train and return ``seconds`` from the call to its end, ``rate`` in training records per second between the ends of the
    first and the last epoch (validation included in the time), ``busy`` in percent of that time, and ``first``, the seconds to the first batch."""
    from training.engine.callbacks import Callback
    from training.engine.fit import fit
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    signals, targets = records(RECORDS + HELD_BACK)
    marks: list[float] = []
    batches: list[float] = []
    busy = _Busy()

    class Mark(Callback):
        def on_batch(self, progress: Any) -> None:
            if not batches:
                batches.append(time.perf_counter())

        def on_epoch_end(self, row: Any) -> None:
            marks.append(time.perf_counter())
            busy.counts = 1 <= len(marks) < epochs

    begun = time.perf_counter()
    with busy:
        fit(
            _network(name), ArraySource(signals[:RECORDS]), targets[:RECORDS], ArraySource(signals[RECORDS:]), targets[RECORDS:],
            get_problem("multilabel"), FitSettings(epochs=epochs, batch_size=batch, patience=None, **settings), fs_hz=100.0, callbacks=[Mark()],
        )  # fmt: skip
    ended = time.perf_counter()
    return {
        "seconds": ended - begun, "rate": RECORDS * (epochs - 1) / (marks[-1] - marks[0]), "busy": busy.percent,
        "first": batches[0] - begun,
    }  # fmt: skip


class _Busy:
    """Asks the driver ten times a second for the share of time in which the accelerator computed, while ``counts``."""

    def __init__(self) -> None:
        self.counts = False
        self.found: list[float] = []
        self._driver = subprocess.Popen(
            ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0", "--loop-ms=100"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @property
    def percent(self) -> float:
        return float(np.mean(self.found)) if self.found else float("nan")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._driver.terminate()
        self._driver.wait()
        self._thread.join()

    def _listen(self) -> None:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if self.counts:
                self.found.append(float(line))


def _plain_rate(name: str, batch: int) -> float:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    signals, targets = (torch.from_numpy(a).cuda() for a in _data(1024))
    net = _network(name).cuda().train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    order = torch.randperm(1024, device="cuda")

    def steps(n: int) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for number in range(n):
            rows = order[number * batch % 1024 :][:batch]
            optimiser.zero_grad()
            binary_cross_entropy_with_logits(net(signals[rows]), targets[rows]).backward()
            optimiser.step()
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    steps(5)
    return 60 * batch / steps(60)
