"""Training speed on an accelerator, over as many records as the training part of PTB-XL has (folds 1 to 8; 9 for validation).

12 leads, 1000 samples, defaults beside the batch size, a checkpoint after each epoch. What the compiler takes is measured with
nothing compiled before, as in a portal's first long run. The plain loop is the same network in
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
#: Batch sizes with the epochs to train and whether to compile although so few epochs do not pay for it; 128 is the default for
#: so many records.
TRIALS = ((1024, 16, True), (256, 50, False), (128, 50, False), (64, 6, False))
COMPILED_BATCH = 1024


def run() -> Iterator[dict[str, Any]]:
    """Yield each result as it is found: an accelerator may be at hand for minutes only."""
    import torch

    if not torch.cuda.is_available():
        yield {"name": "no accelerator on this machine", "value": None, "unit": "", "goal": None, "ok": None}
        return
    own, further = compile_seconds("inception_time", COMPILED_BATCH, RECORDS)
    label = f"{torch.cuda.get_device_name(0)}, InceptionTime, batches of {COMPILED_BATCH}"
    yield _row(f"{label}: compiling for the sizes of an epoch's batches", own, "s", None, None)
    yield _row(f"{label}: compiling a further network of the run", further, "s", None, None)
    for batch, epochs, compiled in TRIALS:
        plain = _plain_rate("inception_time", batch)
        found = trained("inception_time", batch, epochs, compiled=compiled)
        label = f"{torch.cuda.get_device_name(0)}, InceptionTime, batches of {batch}"
        yield from [
            _row(f"{label}: plain PyTorch loop", plain, "records/s", None, None),
            _row(f"{label}: engine{', compiled' if compiled else ''}", found["rate"], "records/s", *_goal(batch >= 1024, "at least 30000", found["rate"] >= 30_000)),
            _row(f"{label}: engine, validation and checkpoint included", found["whole"], "records/s", None, None),
            _row(f"{label}: engine / plain", found["rate"] / plain, "x", None, None),
            _row(f"{label}: accelerator busy", found["busy"], "%", *_goal(batch >= 256, "at least 90", found["busy"] >= 90)),
            _row(f"{label}: from fit() to the first batch done", found["first"], "s", None, None),
        ]  # fmt: skip
        whole = f"{label}: {epochs} epochs of {RECORDS} records"
        yield _row(whole, found["seconds"], "s", *_goal(epochs == 50, "at most 60", found["seconds"] <= 60))


def _goal(is_one: bool, sentence: str, reached: bool) -> tuple[str | None, bool | None]:
    return (sentence, reached) if is_one else (None, None)


def records(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signals and targets of ``n`` records, of which some thousand are different."""
    signals, targets = _data(1024)
    rows = np.arange(n) % len(signals)
    return signals[rows], targets[rows]


def trained(name: str, batch: int, epochs: int, *, compiled: bool = False) -> dict[str, float]:
    """Train and return ``seconds`` from the call to its end; of the second half's median epoch the training records per second
    of its batches, ``rate``, and with validation and checkpoint, ``whole``; ``busy`` in percent of that half; and ``first``,
    the seconds to the first batch."""
    import torch

    from training.engine import run as engine
    from training.engine.callbacks import Callback
    from training.engine.fit import fit
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    signals, targets = records(RECORDS + HELD_BACK)
    ends: list[float] = []
    batches: list[float] = []
    trained: list[float] = []
    busy = _Busy()

    class Mark(Callback):
        def on_batch(self, progress: Any) -> None:
            if not batches:
                batches.append(time.perf_counter())
            if progress.batch == progress.batches:
                torch.cuda.synchronize()
                trained.append(time.perf_counter())

        def on_epoch_end(self, row: Any) -> None:
            ends.append(time.perf_counter())
            busy.counts = epochs // 2 <= len(ends) < epochs

    usual = engine.COMPILED_FROM_S
    engine.COMPILED_FROM_S = 0.0 if compiled else usual
    begun = time.perf_counter()
    try:
        with busy, tempfile.TemporaryDirectory() as folder:
            fit(
                _network(name), ArraySource(signals[:RECORDS]), targets[:RECORDS], ArraySource(signals[RECORDS:]), targets[RECORDS:],
                get_problem("multilabel"), FitSettings(epochs=epochs, batch_size=batch, patience=None), fs_hz=100.0, callbacks=[Mark()],
                checkpoint_dir=Path(folder),
            )  # fmt: skip
    finally:
        engine.COMPILED_FROM_S = usual
    half = epochs // 2
    of_batches = float(np.median(np.subtract(trained[half:], ends[half - 1 : -1])))
    of_epochs = float(np.median(np.diff(ends[half - 1 :])))
    return {
        "seconds": time.perf_counter() - begun, "rate": RECORDS / of_batches, "whole": RECORDS / of_epochs, "busy": busy.percent,
        "first": batches[0] - begun,
    }  # fmt: skip


def compile_seconds(name: str, batch: int, n_records: int, device: str = "auto") -> tuple[float, float]:
    """Return the seconds to compile a run's first network, for each size that its batches have, and those for a second one
    like it, where nothing was compiled before. RuntimeError where the compiler does not work."""
    import torch
    from torch._inductor.utils import fresh_cache

    from modelhub.architectures.ensemble import Ensemble
    from training.engine.data import check_data
    from training.engine.device import resolve_device
    from training.engine.run import Run
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    signals, targets = records(n_records)
    problem, place = get_problem("multilabel"), resolve_device(device)
    data = check_data(ArraySource(signals), targets, None, None, problem, None, members=2)
    networks = Ensemble([_network(name), _network(name)])
    run = Run(networks, data, problem, FitSettings(batch_size=batch), 100.0, [], place)
    seconds = []
    torch.compiler.reset()
    with fresh_cache():
        for member in run.members:
            member.enter(run.plan.name(1), 1e-3)
            member.begin()
            begun = time.perf_counter()
            if reason := member.compile():
                raise RuntimeError(f"PyTorch cannot compile here: {reason}")
            if place.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    return seconds[0], seconds[1]


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
