"""Small deterministic signals and contracts for the tests of models."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.ecg import LEADS_12
from modelhub.contract import ModelContract
from tests.modelhub.dav_server import dav_server as dav_server  # a fixture


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def beats(n: int, n_leads: int = 12, n_samples: int = 1000, fs_hz: float = 100, seed: int = 0) -> np.ndarray:
    """Return ECG-like signals in millivolt: narrow peaks at 50..100 per minute, slow waves, a little noise."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(n_samples) / fs_hz
    out = np.empty((n, n_leads, n_samples), dtype=np.float32)
    for record in range(n):
        period_s = generator.uniform(0.6, 1.2)
        phase = (time_s + generator.uniform(0, 1)) % period_s
        shape = np.exp(-(((phase - 0.3) / 0.02) ** 2)) + 0.25 * np.exp(-(((phase - 0.5) / 0.06) ** 2))
        gains = generator.uniform(-1, 1.5, (n_leads, 1))
        out[record] = gains * shape + generator.normal(0, 0.02, (n_leads, n_samples))
    return out


def make_contract(**changes) -> ModelContract:
    values = {
        "leads": LEADS_12,
        "fs_hz": 100.0,
        "n_samples": 1000,
        "classes": ("NORM", "MI", "STTC", "CD", "HYP"),
        "task": "multilabel",
    } | changes
    return ModelContract(**values)
