"""Checkpoints in the bucket: brought there after each epoch, so that another host can go on with a run.

``state.json`` names the files that belong to it and their digests. It is brought last and fetched last, so the bucket always
holds a whole checkpoint, as the folder does (:mod:`training.engine.checkpoint`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgportal import home, storage
from ecgportal.errors import StorageFailed
from training.engine.callbacks import Callback
from training.live import add_warnings
from training.models import TrainingRun

_STATE = "state.json"
_TRIES = 3


def fetch(folder: Path) -> None:
    """Bring a newer checkpoint than the one that lies here from the bucket into its folder, if there is one.

    StorageFailed when the bucket does not answer: it may have one.
    """
    store = storage.shared()
    if store is None:
        return
    key = storage.key_of(folder)
    content = store.read(f"{key}/{_STATE}")
    if content is None:
        return
    here = folder / _STATE
    if here.exists():
        ours, theirs = _stands_at(here.read_bytes()), _stands_at(content)
        # After a time without the bucket this host may be further; what it has of another training is worth nothing.
        if ours[0] == theirs[0] and ours[1] >= theirs[1]:
            return
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in _files(content).items():
        if not store.fetch(f"{key}/{name}", folder / name, digest):
            raise StorageFailed(
                f"The checkpoint of this run in {store} lacks {name}. Start the run anew.",
                code="storage_damaged",
            )
    draft = folder / f".{_STATE}.fetched"
    draft.write_bytes(content)
    os.replace(draft, here)


class Kept(Callback):
    """Brings each epoch's checkpoint into the bucket. A bucket that does not answer does not stop the run: it says so once, and
    tries again at the next epoch."""

    def __init__(self, run: TrainingRun, folder: Path):
        self._run, self._folder = run, folder
        self._there: dict[str, str] = {}
        self._is_out = False

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        store = storage.shared()
        if store is None:
            return
        try:
            self._bring(store)
            self._is_out = False
        except StorageFailed as error:
            if not self._is_out:
                self._is_out = True
                add_warnings(
                    self._run,
                    [
                        f"After epoch {row['epoch']} the checkpoint could not be stored for other hosts: {error.message} It lies on "
                        f"{home.host_name()}; the run goes on, and every epoch tries again."
                    ],
                )

    def _bring(self, store: Any) -> None:
        key = storage.key_of(self._folder)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".kept-") as kept:
            content = self._hold(Path(kept))
            if content is None:
                return
            files = _files(content)
            new = {name: digest for name, digest in files.items() if self._there.get(name) != digest}
            store.put_all([(f"{key}/{name}", Path(kept, name), digest) for name, digest in new.items()])
            store.put(f"{key}/{_STATE}", content)
        before, self._there = self._there, files
        store.delete([f"{key}/{name}" for name in before if name not in files])

    def _hold(self, kept: Path) -> bytes | None:
        """Link the files of the checkpoint aside, so that the next epoch cannot take them away; returns what names them."""
        for _ in range(_TRIES):
            content = (self._folder / _STATE).read_bytes()
            try:
                for name in _files(content):
                    (kept / name).unlink(missing_ok=True)
                    _link(self._folder / name, kept / name)
            except FileNotFoundError:
                # Other processes train this run, and have finished an epoch meanwhile.
                continue
            return content
        return None


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        # A file system without hard links.
        shutil.copyfile(path, target)


def _files(content: bytes) -> dict[str, str]:
    return {Path(name).name: digest for name, digest in json.loads(content)["files"].values()}


def _stands_at(content: bytes) -> tuple[str, int]:
    """Return which training a checkpoint belongs to, and after which epoch it was written."""
    try:
        state = json.loads(content)
        return str(state["fingerprint"]), int(state["epoch"])
    except (ValueError, KeyError, TypeError):
        return "", -1
