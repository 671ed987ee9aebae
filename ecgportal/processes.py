"""Find, end and guard the processes that belong to one portal.

Every process that the supervisor starts carries a mark in its environment, which its
children inherit however they detach themselves. The mark names the run folder, so that
portals with different homes never touch each other's processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil

MARK = "PORTAL_SUPERVISED_BY"
#: Programs that write their own title (the web server's, the queue's, a spare's) would otherwise write it over the mark.
KEEPS_ENVIRONMENT = {"SPT_NOENV": "1"}

# A job gets time for its checkpoint, its worker then time to write down how the job ended.
JOB_PATIENCE_S = 10.0
PATIENCE_S = 15.0


def marked_processes(run_dir: Path) -> list[psutil.Process]:
    """Return the living processes that a supervisor of this run folder started, directly or not."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(run_dir) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def command_line(process: psutil.Process) -> str:
    """Return a process's command line, "" when it is gone. A process that wrote its own has it in one piece."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def does_a_job(process: psutil.Process) -> bool:
    """Tell whether a process does a job or is kept ready for one."""
    return "run_job" in command_line(process).split()


def _leads(process: psutil.Process) -> bool:
    """Whether the process leads its session, or is left of a session whose leader is gone."""
    try:
        session = os.getsid(process.pid)
    except ProcessLookupError:
        return False
    return session == process.pid or not psutil.pid_exists(session)


def end_processes(
    run_dir: Path, *, hurry: Callable[[], bool] = lambda: False, reap: Callable[[], None] = lambda: None
) -> int:
    """End all processes of the portal: SIGTERM to the leaders of sessions, SIGKILL to what stays.

    Parameters
    ----------
    hurry: asked all the time; True skips the rest of the patience.
    reap: called all the time, to collect the status of own children.

    Returns the number of processes that had to be killed.
    """
    began = time.monotonic()
    asked: dict[psutil.Process, float] = {}
    killed: set[psutil.Process] = set()
    while True:
        reap()
        processes = marked_processes(run_dir)
        if not processes:
            return len(killed)
        now = time.monotonic()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                job = does_a_job(process)
                if process not in asked and (job or _leads(process)):
                    # A worker may start one more job after it was asked to end: each is asked once, when first seen.
                    asked[process] = now
                    process.terminate()
                patience = asked.get(process, began) + JOB_PATIENCE_S if job else began + PATIENCE_S
                if hurry() or now > min(patience, began + PATIENCE_S):
                    killed.add(process)
                    process.kill()
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process has this id and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class AlreadyRunning(RuntimeError):
    """Another supervisor holds the run folder."""


def take_lock(path: Path, *, wait_s: float = 40.0, say: Callable[[str], None] = lambda line: None) -> IO[str]:
    """Return the open, locked file; it is held until every process that has it open ends.

    A lock whose owner is gone is waited for: its guardian still clears up.

    Raises
    ------
    AlreadyRunning: with the sentence for the operator.
    """
    stream = path.open("a+", encoding="ascii")
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = stream.read().strip()
            if (owner.isdigit() and is_alive(int(owner))) or time.monotonic() > deadline:
                stream.close()
                raise AlreadyRunning(
                    f"A portal already runs over this folder: process {owner or 'unknown'} holds {path}. Stop it "
                    f"(Ctrl-C in its terminal, or kill {owner or 'its process'}), or set PORTAL_HOME to another folder."
                ) from None
            if not told:
                say("A former portal is still clearing up; waiting for it ...")
                told = True
            time.sleep(0.1)
        else:
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            return stream


class Guardian:
    """A small process that runs ``clear_up`` when this process is gone without having said goodbye.

    It sits in a session of its own and reads a pipe whose other end only this process holds,
    so it notices every kind of death, SIGKILL included.
    """

    def __init__(self, clear_up: Callable[[], None]):
        reader, self._writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writer)
            os._exit(self._watch(reader, clear_up))
        os.close(reader)

    @staticmethod
    def _watch(reader: int, clear_up: Callable[[], None]) -> int:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        # The terminal or the pipe of the caller may be gone when it is needed, and must not be held open either.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        if os.read(reader, 1) == b"":
            clear_up()
        return 0

    def is_alive(self) -> bool:
        """Whether the guardian still watches."""
        try:
            return os.waitpid(self.pid, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False

    def abandon(self) -> None:
        """Let go of a dead guardian's pipe."""
        os.close(self._writer)

    def dismiss(self) -> None:
        """Tell the guardian that all is cleared up, and wait for its end."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writer, b".")
        os.close(self._writer)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
