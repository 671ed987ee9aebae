"""A process that has loaded what a job needs before there is a job.

Most of the time between a click and a training's first batch goes into loading Python packages. Each worker of the
queue ``train`` therefore keeps one spare while it has nothing to do: ``manage.py run_job --spare``, a fresh interpreter
in a session of its own. The spare's standard input is one end of a pair of sockets whose other end its worker holds.
The spare writes ``ready`` when it has loaded all, then reads one line, ``<job id> <attempt>``, and is from then on the
process of that job; its command line says the one and then names the other. It ends when its worker does. It holds no
database connection while it waits, and is not used when code or settings have changed since it was started.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import socket
import subprocess
import sys
import sysconfig
import threading
import uuid
from pathlib import Path

import psutil
from django.conf import settings
from django.db import connections
from setproctitle import setproctitle

from ecgportal.jobs.registry import KINDS
from ecgportal.processes import KEEPS_ENVIRONMENT, MARK, command_line, marked_processes

logger = logging.getLogger(__name__)

QUEUE = "train"
READY = b"ready\n"
#: A worker that has just started, or just ended a job, first sees whether a job waits; loading would slow that one down.
PAUSE_S = 1.0
#: Less memory than this must stay free beside a spare.
_FREE_BYTES = 1 << 30
_LONGEST_LINE = 200
#: Keeps the room in the command line in which the id of the job will stand.
_NO_JOB = str(uuid.UUID(int=0))
#: Stands in the command line of a process that has loaded all, where ``--spare`` stood.
_SAYS_READY = "ready"
_PACKAGES = ("ecgportal", "datasets", "modelhub", "training", "viz")
_NICENESS = 10


def code_stamp() -> tuple[int, ...]:
    """Return figures that change when the portal's code, its settings file or an installed package does."""
    root = settings.BASE_DIR
    files = [path for part in _PACKAGES for path in sorted((root / part).rglob("*.py"))]
    files += [Path(os.environ.get("PORTAL_ENV_FILE") or root / ".env"), Path(sysconfig.get_path("purelib"))]
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in files)


class Spare:
    """A waiting process, as its worker sees it."""

    def __init__(self) -> None:
        self.stamp = code_stamp()
        self._line, theirs = socket.socketpair()
        self._line.setblocking(False)
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "run_job", _NO_JOB, "--spare"]
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=theirs,
                start_new_session=True,
                cwd=settings.BASE_DIR,
                env=dict(os.environ) | KEEPS_ENVIRONMENT,
            )
        self._said = b""

    @property
    def is_ready(self) -> bool:
        """True when it lives and has loaded all, and what it has loaded is still what lies on disk."""
        with contextlib.suppress(OSError):
            self._said += self._line.recv(len(READY))
        return self.process.poll() is None and self._said == READY and self.stamp == code_stamp()

    def give(self, job_id: uuid.UUID, attempt: int) -> bool:
        """Hand it a job; False when it is gone."""
        with self._line:
            try:
                self._line.sendall(f"{job_id} {attempt}\n".encode())
            except OSError:
                return False
        return True

    def end(self) -> None:
        """End it at once."""
        self._line.close()
        self.process.kill()
        self.process.wait()


class Keeper:
    """Keeps one spare for the worker it lives in, while that worker has no job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._spare: Spare | None = None

    def prepare(self, after_s: float = PAUSE_S) -> None:
        """Start a spare after a pause, unless a job comes before or there is too little memory for one."""
        if not settings.WARM_START:
            return
        with self._lock:
            self._timer = threading.Timer(after_s, self._start)
            self._timer.daemon = True
            self._timer.start()

    def _start(self) -> None:
        with self._lock:
            if self._timer is None or self._spare is not None:
                return
            if psutil.virtual_memory().available < _FREE_BYTES:
                logger.info("too little free memory to keep a process ready")
                return
            self._spare = Spare()

    @property
    def pid(self) -> int | None:
        """The id of the spare's process; None without a spare."""
        return self._spare.process.pid if self._spare is not None else None

    @property
    def is_ready(self) -> bool:
        return self._spare is not None and self._spare.is_ready

    def stop(self) -> None:
        """End the spare and start none."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            spare, self._spare, self._timer = self._spare, None, None
        if spare is not None:
            spare.end()

    def take(self, job_id: uuid.UUID, attempt: int) -> subprocess.Popen[bytes] | None:
        """Give a job to the spare and return its process; None when no spare is ready, and one that is not is ended."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            spare, self._spare, self._timer = self._spare, None, None
        if spare is None:
            return None
        if spare.is_ready and spare.give(job_id, attempt):
            return spare.process
        spare.end()
        return None


keeper = Keeper()


def wait_for_job() -> tuple[uuid.UUID, int] | None:
    """Load what jobs of the queue need, wait, and return the job that the worker hands over; None when it is gone."""
    _warm_up()
    connections.close_all()
    _write_command_line(f"{_NO_JOB} {_SAYS_READY}")
    try:
        os.write(0, READY)
        line = b""
        while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
            more = os.read(0, _LONGEST_LINE)
            if not more:
                return None
            line += more
    except ConnectionError:
        return None
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    job_id, attempt = line.decode().split()
    # An operator finds the process of a job by the job's id, whoever does it.
    _write_command_line(job_id)
    return uuid.UUID(job_id), int(attempt)


def _write_command_line(arguments: str) -> None:
    setproctitle(f"{sys.executable} {settings.BASE_DIR / 'manage.py'} run_job {arguments}")


def another_is_ready() -> bool:
    """Tell whether some worker under this worker's launcher keeps a process that has loaded all."""
    found = marked_processes(Path(mark)) if (mark := os.environ.get(MARK)) else []
    return any(_SAYS_READY in command_line(process).split() for process in found)


def _warm_up() -> None:
    """Load what the kinds of the queue need, at low priority: in a thread, as a process that has lowered its priority may
    not raise it again."""
    # The threads that NumPy's library starts when it is loaded keep the priority of the thread that loads it.
    importlib.import_module("numpy")
    calls = dict.fromkeys(kind.warm_up for kind in KINDS.values() if kind.queue == QUEUE and kind.warm_up)
    problems: list[Exception] = []

    def work() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            for call in calls:
                call()
        except Exception as error:
            problems.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work, name="warm-up")
    thread.start()
    while thread.is_alive():
        # The worker says nothing before it has heard READY, so there is something to read only when it is gone.
        if select.select([0], [], [], 0.1)[0]:
            os._exit(0)
    if problems:
        raise problems[0]
