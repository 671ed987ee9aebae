"""A portal in a throw-away folder for proofs: one database, and any number of supervisors that take themselves for hosts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from ecgportal import home, processes
from ecgportal.embedded_pg import EmbeddedServer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], what: str, limit_s: float = 600.0, every_s: float = 0.2) -> None:
    """Wait for something; RuntimeError says what did not come."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {limit_s:.0f} s in vain: {what}")
        time.sleep(every_s)


class Portal:
    """Use as a context; everything is ended and removed with it.

    folder: where it lies, on a disk with room. own_database: the one host, which plays all roles, brings its database, as
    where a person starts a portal; then this process has no Django.
    """

    def __init__(self, folder: str | None = None, *, own_database: bool = False):
        self.home = Path(tempfile.mkdtemp(prefix="ecgportal-proof-", dir=folder))
        # A socket's path must be short, whatever the folder is.
        self._server = EmbeddedServer(self.home / "postgres")
        self._own_database = own_database
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        os.environ.update(PORTAL_HOME=str(self.home), PORTAL_ENV_FILE=os.devnull, PORTAL_DEMO="0", PORTAL_ENV="")
        os.environ["DJANGO_SETTINGS_MODULE"] = "ecgportal.settings"

    def __enter__(self) -> Portal:
        if self._own_database:
            os.environ.pop("DATABASE_URL", None)
            return self
        self._server.start()
        os.environ["DATABASE_URL"] = home.embedded_url()
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=home.REPOSITORY, check=True)
        import django

        django.setup()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._own_database:
            from django.db import connections

            connections.close_all()
        for process in self._hosts.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._hosts.values():
            process.wait(60)
        self._server.stop(10.0)
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, name: str, role: str = "workers", **settings: str) -> None:
        """Start a host. settings: further environment variables."""
        environment = {**os.environ, "PORTAL_HOST_NAME": name, "PORTAL_PROCESSES": role, **settings}
        if role == "all":
            environment["PORTAL_RUN"] = str(self.home / "run" / f"{name}-{role}")
        log = (self.home / f"{name}.log").open("ab")
        self._hosts[name] = subprocess.Popen(
            [sys.executable, "-m", "ecgportal.supervisor"], cwd=home.REPOSITORY, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip

    def of(self, name: str) -> list[psutil.Process]:
        """Return all living processes of a host, its jobs included."""
        supervisor = psutil.Process(self._hosts[name].pid)
        found = {supervisor, *supervisor.children(recursive=True)}
        for folder in (self.home / "run").glob(f"{name}-*"):
            found.update(processes.marked_processes(folder))
        return [process for process in found if process.is_running()]

    def cut_power(self, name: str) -> int:
        """Kill every process of a host at once; returns how many."""
        victims = self.of(name)
        for process in victims:
            process.suspend()
        for process in victims:
            process.kill()
        self._hosts[name].wait(30)
        return len(victims)

    def runs(self, name: str) -> bool:
        return self._hosts[name].poll() is None

    def end(self, name: str, limit_s: float = 60.0) -> int:
        """Ask a host to end, as Ctrl-C does, and return its supervisor's exit status."""
        self._hosts[name].send_signal(signal.SIGTERM)
        return self._hosts[name].wait(limit_s)

    def left(self) -> list[psutil.Process]:
        """Return the living processes that have this home in their environment, and the database's."""
        found = {psutil.Process(pid)} if (pid := self._server.pid()) else set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PORTAL_HOME") == str(self.home) and processes.is_alive(process.pid):
                    found.add(process)
        return [process for process in found if process.pid != os.getpid()]

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")[-3000:]
