"""A training run of a proof's portal, looked at while it goes on."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ecgportal.processes import command_line, does_a_job
from tests.proofs.client import Client
from tests.proofs.hosts import Portal, until

_DRIVERS = ("/dev/nvidia", "/dev/kfd")


def holds_accelerator(process: psutil.Process) -> bool:
    """Whether a process has a device file of an accelerator's driver open."""
    try:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if os.readlink(link).startswith(_DRIVERS):
                    return True
    except FileNotFoundError:
        # It has ended meanwhile.
        return False
    return False


def waits_for_a_job(process: psutil.Process) -> bool:
    """Whether a process is kept ready, or about to be, for the next training."""
    return does_a_job(process) and not {"--spare", "ready"}.isdisjoint(command_line(process).split())


class Watched:
    """A run that was started by REST, from then on.

    row: its last state. messages: what it said, warnings included. first_epoch_s, seconds: from the start to its first epoch and
    its end, as far as ``look`` was called often. held_accelerator: whether its process was seen to hold one; it is looked at,
    which takes processor time, where has_accelerator says that there is one.
    """

    def __init__(self, portal: Portal, host: str, client: Client, asked: dict[str, Any], *, has_accelerator: bool):
        self._portal, self._host, self._client, self._has_accelerator = portal, host, client, has_accelerator
        self._begun = time.monotonic()
        self.row: dict[str, Any] = client.ask("POST", "training-runs/", asked)
        self.id, self.job = str(self.row["id"]), str(self.row["job"])
        self.messages: set[str] = set()
        self.first_epoch_s = self.seconds = math.nan
        self.held_accelerator = False

    def look(self) -> bool:
        """Ask how it stands; False when it has ended."""
        self.row = self._client.ask("GET", f"training-runs/{self.id}/")
        self.messages.update([self.row["message"], *self.row["warnings"]])
        if math.isnan(self.first_epoch_s) and self.epochs():
            self.first_epoch_s = time.monotonic() - self._begun
        if self._has_accelerator and not self.held_accelerator:
            self.held_accelerator = any(holds_accelerator(process) for process in self.processes())
        if self.row["state"] in ("queued", "running"):
            return True
        if math.isnan(self.seconds):
            self.seconds = time.monotonic() - self._begun
        return False

    def follow(self, limit_s: float = 900.0) -> dict[str, Any]:
        """Look until it has ended; return its row."""
        until(lambda: not self.look(), f"the end of {self.row['name']}", limit_s, 0.15)
        return self.row

    def epochs(self) -> int:
        return int(self._client.ask("GET", f"training-runs/{self.id}/metrics/")["count"])

    def attempt(self) -> int:
        return int(self._client.ask("GET", f"jobs/{self.job}/")["attempt"])

    def processes(self) -> list[psutil.Process]:
        """Return the processes that do its job, which their command line names (as that of the worker does, which waits)."""
        found = self._portal.of(self._host)
        return [process for process in found if does_a_job(process) and self.job in command_line(process).split()]

    @property
    def device(self) -> str:
        """The device that its manifest names."""
        environment = (self.row["manifest"] or {}).get("environment") or {}
        accelerator = environment.get("accelerator") or {}
        return " ".join(filter(None, [environment.get("device"), accelerator.get("name")])) or "no device"

    @property
    def on_processor(self) -> bool:
        return self.device == "cpu"

    def told(self) -> str:
        """Return device and times in a few words."""
        return f"{self.device}: first epoch after {self.first_epoch_s:.1f} s, end after {self.seconds:.1f} s"
