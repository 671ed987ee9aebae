"""What a run was made of, so that it can be repeated and believed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.engine.settings import FitSettings
from training.engine.source import SignalSource

#: What decides which numbers come out of a training: the pure core and the engine.
_CODE = (
    "datasets/ecg.py", "datasets/fingerprint.py", "datasets/holding_out.py", "datasets/measure", "datasets/prepared.py",
    "datasets/preprocess", "datasets/splits.py", "datasets/stratification.py", "modelhub/architectures", "modelhub/contract.py",
    "modelhub/onnx", "training/engine", "training/metrics", "training/problems",
)  # fmt: skip
_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "onnx", "onnxruntime")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return versions and hardware: ``python, libraries, system, processor, cores, threads, memory_gib, accelerator``."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    place = torch.device(device)
    accelerator = None
    if place.type == "cuda":
        facts = torch.cuda.get_device_properties(place)
        accelerator = {
            "name": facts.name, "memory_gib": round(facts.total_memory / 2**30, 1), "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip
    return {
        "python": platform.python_version(), "libraries": versions, "system": platform.platform(),
        "processor": _processor(), "instructions": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "memory_gib": _memory_gib(), "device": str(place), "accelerator": accelerator,
    }  # fmt: skip


@cache
def code_digest() -> str:
    """Return the sha256 over the portal's own source files that decide what a training gives, as this process found them."""
    return digest_of_code(Path(__file__).resolve().parents[2])


def digest_of_code(root: Path) -> str:
    """Return the sha256 over names and contents of the Python files of the pure core and the engine under ``root``."""
    places = [root / name for name in _CODE]
    files = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    lines = sorted(
        f"{path.relative_to(root).as_posix()}\t{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in files
        if path.exists()
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def digest_of_source(source: SignalSource, targets: np.ndarray, *, chunk: int = 256) -> str:
    """Return the sha256 over all signals and targets in order, reading ``chunk`` records at a time."""
    digest = hashlib.sha256()
    for start in range(0, len(source), chunk):
        signals = np.ascontiguousarray(source.read(np.arange(start, min(start + chunk, len(source)))), np.float32)
        if start == 0:
            digest.update(repr((len(source), *signals.shape[1:])).encode())
        digest.update(signals.tobytes())
    digest.update(np.ascontiguousarray(targets, np.float32).tobytes())
    return digest.hexdigest()


def digest_of_keys(parts: dict[str, Sequence[str]]) -> str:
    """Return the sha256 of a split: which record keys lie in which part, whatever their order."""
    digest = hashlib.sha256()
    for part in sorted(parts):
        digest.update(f"{part}\n".encode())
        for key in sorted(parts[part]):
            digest.update(f"\t{key}\n".encode())
    return digest.hexdigest()


def manifest(
    settings: FitSettings, *, task: str, outputs: Sequence[str], fs_hz: float, device: str = "cpu", **more: Any
) -> dict[str, Any]:
    """Return the manifest of a run as plain JSON.

    more: what the caller knows beside it: digests of data and split, recipe, label map, base version, architecture,
    code version, weights hash. Repeating a run bit for bit takes equal settings, data, versions, processor and threads.
    """
    return {
        "task": task, "outputs": list(outputs), "fs_hz": fs_hz, "settings": settings.to_dict(), "seed": settings.seed,
        "environment": environment(device), **more,
    }  # fmt: skip


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        # No such file outside Linux; the platform's own name follows.
        return platform.processor()
    return platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
