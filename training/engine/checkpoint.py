"""Checkpoints: tensors as safetensors, the rest as JSON, replaced atomically; nothing is pickled.

``state.json`` names the two tensor files that belong to it and their sha256. It is replaced last, so
a process that dies at any moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ecgportal.errors import TrainingFailed
from training.engine.data import Data
from training.engine.device import fetched
from training.engine.network import weights_hash
from training.engine.settings import FitSettings

STATE = "state.json"
FORMAT = 2


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old or the new one, never a part; it is on disk on return."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise TrainingFailed(
            f"The checkpoint could not be written because {why}. The checkpoint before it is whole: "
            "make room and resume the run.",
            code="checkpoint_not_written",
        ) from error


def fingerprint(
    settings: FitSettings, data: Data, task: str, fs_hz: float, module: nn.Module, persons: np.ndarray | None = None
) -> str:
    """Return a digest of everything that a resumed run must share with the one that was stopped.

    The number of threads is not part of it: a resumed run takes the stored one.
    """
    parts = [
        json.dumps(settings.to_dict() | {"threads": None}, sort_keys=True), weights_hash(module.state_dict()), task,
        repr(fs_hz), ",".join(data.names), hashlib.sha256(data.truth.tobytes()).hexdigest(),
        *(hashlib.sha256(rows.tobytes()).hexdigest() for part in data.parts for rows in (part.train, part.validation)),
    ]  # fmt: skip
    parts += [] if persons is None else [hashlib.sha256(np.ascontiguousarray(persons).tobytes()).hexdigest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class CheckpointStore:
    """The checkpoint of one run in one folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._best: tuple[str, str] | None = None

    def save(
        self, epoch: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor], best: Mapping[str, Tensor] | None
    ) -> None:
        """Store one epoch. ``best`` is given when the best weights changed; else the stored ones stay."""
        files = {"tensors": self._put(f"state-{epoch:05d}.safetensors", tensors)}
        if best is not None:
            self._best = self._put(f"best-{epoch:05d}.safetensors", best)
        if self._best is not None:
            files["best"] = self._best
        content = dict(state) | {"format": FORMAT, "files": files}
        write_atomic(self.folder / STATE, json.dumps(content, allow_nan=False).encode())
        self._tidy({name for name, _ in files.values()})

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]] | None:
        """Return (state, tensors, best weights), None when there is no checkpoint.

        Raises TrainingFailed ``checkpoint_damaged`` when files are missing or changed.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            state = json.loads(path.read_bytes())
            if state["format"] != FORMAT:
                raise ValueError("written by another version")
            files = state["files"]
            tensors = self._get(*files["tensors"])
            best = self._get(*files["best"]) if "best" in files else {}
            self._best = tuple(files["best"]) if "best" in files else None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise TrainingFailed(
                f"The checkpoint in {self.folder.name} is damaged ({error}). Start the run anew.",
                code="checkpoint_damaged",
            ) from error
        return state, tensors, best

    def clear(self) -> None:
        """Remove the checkpoint."""
        (self.folder / STATE).unlink(missing_ok=True)
        self._best = None
        self._tidy(set())

    def _put(self, name: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
        content = save_tensors(dict(zip(tensors, fetched(list(tensors.values())), strict=True)))
        write_atomic(self.folder / name, content)
        return name, hashlib.sha256(content).hexdigest()

    def _get(self, name: str, digest: str) -> dict[str, Tensor]:
        if Path(name).name != name:
            raise ValueError("a file name points elsewhere")
        content = (self.folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{name} has changed")
        return load_tensors(content)

    def _tidy(self, keep: set[str]) -> None:
        for path in self.folder.glob("*.safetensors"):
            if path.name not in keep and path.name.startswith(("state-", "best-")):
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)


def load_best(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the best weights so far (own names and shapes) and the state, from a run that may have died.

    None when no epoch has been finished.
    """
    found = CheckpointStore(folder).load()
    return (found[2], found[0]) if found and found[2] else None
