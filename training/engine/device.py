"""The device that a run computes on."""

from __future__ import annotations

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
