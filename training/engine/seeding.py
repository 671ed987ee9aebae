"""Random state: derived seeds, and a scope that leaves the caller's state as it was.

Every epoch and batch takes its numbers from a seed derived from (run seed, purpose, epoch, batch).
A resumed run therefore needs no stored generator: the epoch's number says everything.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive(seed: int, *parts: int | str) -> int:
    """Return a 63-bit seed for one purpose, independent between purposes."""
    text = "/".join(str(part) for part in (seed, *parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch (all devices) exactly on leaving."""
    python, legacy, processor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # To ask whether there is an accelerator would open its driver in processes that compute on the processor.
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(processor)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def deterministic(threads: int | None, device: torch.device) -> Iterator[None]:
    """Choose kernels and the number of threads, and put both back on leaving: deterministic kernels on a processor, on an
    accelerator those that prove fastest there.

    New tensors are not filled first, which PyTorch does in this mode to show reads of memory that nobody wrote.
    """
    before = torch.get_deterministic_debug_mode()
    count, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    mode: Any = torch.utils.deterministic
    filled = mode.fill_uninitialized_memory
    try:
        # ``use_deterministic_algorithms`` sets the same and imports the compiler, which takes a second.
        torch.set_deterministic_debug_mode("default" if device.type == "cuda" else "warn")
        torch.backends.cudnn.benchmark = device.type == "cuda"
        mode.fill_uninitialized_memory = False
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        mode.fill_uninitialized_memory = filled
        torch.set_num_threads(count)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, which for a few records is faster by far where others are busy: no thread waits for another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
