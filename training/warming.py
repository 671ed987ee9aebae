"""What a training loads and does before its first batch, done before there is a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace


def warm_up() -> None:
    """Load what lies between a click and the first batch, and train a small network on noise for one epoch, so that the
    libraries have made themselves ready. It uses the processor alone and leaves nothing behind."""
    import numpy as np

    from modelhub.architectures.catalog import catalog
    from modelhub.architectures.registry import build
    from training import pretraining, running, searching  # noqa: F401  (the jobs that train)
    from training.engine.fit import fit
    from training.engine.settings import FitSettings
    from training.engine.source import ArraySource
    from training.problems.registry import get_problem

    catalog()
    names, leads, samples, fs_hz = ("a", "b"), 12, 100, 100.0
    generator = np.random.default_rng(0)
    signals = generator.normal(size=(12, leads, samples)).astype(np.float32)
    truth = np.tile(np.eye(2, dtype=np.float32), (6, 1))
    module = build("inception_time", n_leads=leads, n_samples=samples, fs_hz=fs_hz, n_classes=len(names), seed=0)
    settings = replace(FitSettings(), epochs=1, batch_size=4, members=1, threads=1, learning_rate=1e-3, patience=None)
    source, judged = ArraySource(signals[:8]), ArraySource(signals[8:])
    with _as_without_accelerator():
        fit(
            module, source, truth[:8], judged, truth[8:], get_problem("multilabel"), settings, fs_hz=fs_hz, names=names, device="cpu"
        )  # fmt: skip


@contextmanager
def _as_without_accelerator() -> Iterator[None]:
    """Let PyTorch find no accelerator: its optimisers ask for one at every step, and to ask opens the driver."""
    import torch

    asks = torch.cuda.is_available
    torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = asks
