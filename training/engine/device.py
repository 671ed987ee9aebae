"""The device that a run computes on."""

from __future__ import annotations

import fcntl
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ecgportal.errors import TrainingFailed


def resolve_device(name: str) -> torch.device:
    """Return the device: ``auto`` takes an accelerator when there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingFailed(f"The device '{name}' is not available on this machine.", code="no_device") from error
    return device


def computes_in_half(device: torch.device, wanted: bool) -> bool:
    """Tell whether a training on the device uses bfloat16, where mixed precision is wanted."""
    return wanted and device.type == "cuda" and torch.cuda.is_bf16_supported()


def moved(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on the device, without waiting for what an accelerator still has to do."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def fetched(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return dense tensors on the processor; what is there already is not copied. An accelerator's come in one piece for each
    type, for every single copy waits for what is being computed."""
    answer = [tensor.detach() for tensor in tensors]
    for dtype in {tensor.dtype for tensor in answer if tensor.is_cuda}:
        own = [number for number, tensor in enumerate(answer) if tensor.is_cuda and tensor.dtype == dtype]
        whole = torch.cat([answer[number].reshape(-1) for number in own]).cpu()
        for number, part in zip(own, whole.split([answer[number].numel() for number in own]), strict=True):
            answer[number] = part.view(answer[number].shape)
    return [tensor.contiguous() for tensor in answer]


@contextmanager
def held(device: torch.device, waiting: Callable[[bool], None]) -> Iterator[None]:
    """Have an accelerator to oneself among this machine's runs; processors are shared and cost no wait.

    Two runs on one accelerator would run each other out of memory, so the second waits until the first has ended,
    however it ended. ``waiting(first)`` is called at once and then every half second while another run has the device;
    it may raise to give up.
    """
    if device.type == "cpu":
        yield
        return
    name = f"ecg-portal-{os.getuid()}-{_identity(device)}.lock"
    with open(Path(tempfile.gettempdir()) / name, "w") as file:
        first = True
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting(first)
                first = False
                time.sleep(0.5)
        # The lock goes with the file, also when the process is killed.
        try:
            yield
        finally:
            # What the run leaves in circles of references would keep the accelerator's memory from the next one.
            gc.collect()
            torch.cuda.empty_cache()


def _identity(device: torch.device) -> str:
    """Return a name for the device that is the same in every process of the machine."""
    if device.type != "cuda":
        return device.type
    index = device.index if device.index is not None else torch.cuda.current_device()
    return str(torch.cuda.get_device_properties(index).uuid)
