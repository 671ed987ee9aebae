"""Training speed on an accelerator, over as many records as the training part of PTB-XL has (folds 1 to 8; 9 for validation).

12 leads, 1000 samples, defaults beside the batch size, a checkpoint after each epoch. The plain loop is the same network in
PyTorch as it comes, in the same batches, with its data in the accelerator's memory, and neither augments nor averages.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.bench_training import _data, _network, _row

RECORDS, HELD_BACK = 17_418, 2_183
#: Batch sizes with the epochs to train and whether to compile although so few epochs do not pay for it.
TRIALS = ((256, 50, False), (64, 6, False), (1024, 12, True))


def run() -> Iterator[dict[str, Any]]:
    """Yield each result as it is found: an accelerator may be at hand for minutes only."""
    import torch

    if not torch.cuda.is_available():
        yield {"name": "no accelerator on this machine", "value": None, "unit": "", "goal": None, "ok": None}
        return
    for batch, epochs, compiled in TRIALS:
        plain = _plain_rate("inception_time", batch)
        found = trained("inception_time", batch, epochs, compiled=compiled)
        label = f"{torch.cuda.get_device_name(0)}, InceptionTime, batches of {batch}"
        yield from [
            _row(f"{label}: plain PyTorch loop", plain, "records/s", None, None),
            _row(f"{label}: engine, validation included", found["rate"], "records/s", *_goal(batch >= 1024, "at least 30000", found["rate"] >= 30_000)),
            _row(f"{label}: engine / plain", found["rate"] / plain, "x", None, None),
            _row(f"{label}: accelerator busy", found["busy"], "%", *_goal(batch >= 256, "at least 90", found["busy"] >= 90)),
            _row(f"{label}: from fit() to the first batch done", found["first"], "s", None, None),
        ]  # fmt: skip
        whole = f"{label}: {epochs} epochs of {RECORDS} records"
        yield _row(whole, found["seconds"], "s", *_goal(epochs == 50, "at most 60", found["seconds"] <= 60))
    for batch in (64, 256):
        for compiled in (False, True):
            what = "compiled and recorded" if compiled else "recorded"
            name = f"{torch.cuda.get_device_name(0)}, InceptionTime, batches of {batch}: gradients alone, {what}"
            yield _row(name, _gradients_rate("inception_time", batch, compiled), "records/s", None, None)


def _goal(is_one: bool, sentence: str, reached: bool) -> tuple[str | None, bool | None]:
    return (sentence, reached) if is_one else (None, None)


def records(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signals and targets of ``n`` records, of which some thousand are different."""
    signals, targets = _data(1024)
    rows = np.arange(n) % len(signals)
    return signals[rows], targets[rows]


def trained(name: str, batch: int, epochs: int, *, compiled: bool = False) -> dict[str, float]:
    """Train and return ``seconds`` from the call to its end, ``rate`` in training records per second of the second half's
    median epoch, ``busy`` in percent of that half, and ``first``, the seconds to the first batch."""
    from training.engine import fit as engine
    from training.engine.callbacks import Callback
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    signals, targets = records(RECORDS + HELD_BACK)
    ends: list[float] = []
    batches: list[float] = []
    busy = _Busy()

    class Mark(Callback):
        def on_batch(self, progress: Any) -> None:
            if not batches:
                batches.append(time.perf_counter())

        def on_epoch_end(self, row: Any) -> None:
            ends.append(time.perf_counter())
            busy.counts = len(ends) >= epochs // 2

    usual = engine.COMPILED_FROM_S
    engine.COMPILED_FROM_S = 0.0 if compiled else usual
    begun = time.perf_counter()
    try:
        with busy, tempfile.TemporaryDirectory() as folder:
            engine.fit(
                _network(name), ArraySource(signals[:RECORDS]), targets[:RECORDS], ArraySource(signals[RECORDS:]), targets[RECORDS:],
                get_problem("multilabel"), FitSettings(epochs=epochs, batch_size=batch, patience=None), fs_hz=100.0, callbacks=[Mark()],
                checkpoint_dir=Path(folder),
            )  # fmt: skip
    finally:
        engine.COMPILED_FROM_S = usual
    seconds = float(np.median(np.diff(ends[epochs // 2 - 1 :])))
    return {
        "seconds": time.perf_counter() - begun, "rate": RECORDS / seconds, "busy": busy.percent, "first": batches[0] - begun,
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


def _gradients_rate(name: str, batch: int, compiled: bool) -> float:
    """Return the rate of forward and backward pass alone, as the engine computes them."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from training.engine.batches import Stepper
    from training.engine.network import Form
    from training.engine.seeding import deterministic

    place = torch.device("cuda")
    signals, targets = (torch.from_numpy(a).to(place) for a in _data(batch))
    net = Form(_network(name), place, (12, 1000)).net.train()
    loss = binary_cross_entropy_with_logits
    stepper = Stepper(net, lambda o, t: loss(o.float(), t), autocast=True, piece=batch, note=print)
    if compiled and (reason := stepper.compile(signals, targets)):
        raise RuntimeError(reason)

    def steps(n: int) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(n):
            stepper.gradients(signals, targets)
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    with deterministic(None, place):
        steps(5)
        return 30 * batch / steps(30)


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
