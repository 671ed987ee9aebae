"""Processes of this host that train together, started, watched and told by one that trains nothing itself.

They are started by PyTorch's own launcher (``torch.multiprocessing``) and form a team (:mod:`training.engine.team`). Work and
answers go through pipes; what the first of them tells comes back to the callbacks of the process that started them, and the
answer of ``should_stop`` goes to it, so that a callback may use a database that the others know nothing of. Results come back as
files (:mod:`training.engine.outcome`).
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from ecgportal.errors import InvalidInput, JobCancelled, PortalError, TrainingFailed
from modelhub.runtime.pieces import free_cached_memory
from training.engine.callbacks import Callback, Callbacks, Progress
from training.engine.outcome import save_result
from training.engine.parcel import CannotBeSent, Parcel
from training.engine.team import TIMEOUT, Team, joined

#: So long a team that is asked to stop may take to the end of its batch, where what it has done so far is stored.
GRACE_S = 2.0
_ERRORS: dict[str, type[PortalError]] = {e.__name__: e for e in (InvalidInput, JobCancelled, TrainingFailed)}
_TELLS = frozenset({"on_start", "on_batch", "on_epoch_end", "on_note", "on_wait"})
_ERROR, _NOT_SENT, _DONE = "error", "not_sent", "done"
_LONGEST_REASON = 64


@dataclass(frozen=True)
class Work:
    """What each process of a team calls: ``function(module, *args, callbacks=..., **options)``, by its name. The first saves what
    comes out in ``folder``."""

    function: Any
    network: Parcel
    args: Sequence[Any]
    options: Mapping[str, Any]
    folder: Path


class ProcessLost(Exception):
    """A process of the team has ended before its work; the text says how."""


class StoppedWithin(Exception):
    """The team was ended within a batch, as it was asked to stop; the text is the reason."""


class Crew:
    """Processes that do one work after another, each in as many of them as are asked for.

    Starting takes some seconds, so they are kept until the end of the ``with`` block; after a work without a result and for
    another number of processes they are started anew.
    """

    def __init__(self) -> None:
        self._running: Any = None
        self._pipes: list[Any] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def idle(self) -> bool:
        """Whether there is no process."""
        return self._running is None

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        if self.idle:
            return
        for pipe in self._pipes:
            pipe.close()
        for process in self._running.processes:
            process.kill()
        for process in self._running.processes:
            process.join()
        self._running, self._pipes = None, []

    def do(self, count: int, work: Work, told: Callbacks, *, stored: bool) -> None:
        """Do a work in ``count`` processes and tell the callbacks; what comes out lies in its folder afterwards.

        stored: what is done is stored after each epoch, so that a team which is asked to stop need not end its batch.
        Raises what the work raises, ProcessLost, StoppedWithin, and CannotBeSent where the network cannot go to others.
        """
        self._start(count)
        try:
            self._answer.value = b""
            for pipe in self._pipes:
                self._put(pipe, work)
            self._watch(told, stored)
        except BaseException:
            self.close()
            raise

    def _start(self, count: int) -> None:
        if len(self._pipes) == count:
            return
        self.close()
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(count)]
        self._answer: Any = context.Array("c", _LONGEST_REASON)
        # Each process takes its share of the processors.
        threads = str(max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) // count))
        self._store = dist.TCPStore("127.0.0.1", 0, count, True, TIMEOUT, False)
        place = {
            "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": threads,
        }  # fmt: skip
        theirs = [pipe for _, pipe in pairs]
        self._running = processes.start_processes(
            _member, (place, theirs, self._answer), nprocs=count, join=False, start_method="spawn"
        )
        # A pipe ends with its process when nobody else can write into it.
        for pipe in theirs:
            pipe.close()
        self._pipes = [pipe for pipe, _ in pairs]

    def _watch(self, told: Callbacks, stored: bool) -> None:
        """Tell the callbacks what comes in, until every process has done its work."""
        busy: list[Any] = list(self._pipes)
        asked: float | None = None
        while busy:
            for pipe in multiprocessing.connection.wait(busy, 0.2):
                message = _heard(pipe)
                if message is None:
                    self._lost()
                    return
                name, content = message
                if name == _DONE:
                    busy.remove(pipe)
                elif name in _TELLS:
                    getattr(told, name)(Progress(**content) if name == "on_batch" else content)
                    if name == "on_epoch_end":
                        self._ask(told)
                        self._put(pipe, None)
            reason = self._ask(told)
            asked = (asked or time.monotonic()) if reason else None
            if busy and stored and asked is not None and time.monotonic() - asked > GRACE_S:
                raise StoppedWithin(reason)

    def _ask(self, told: Callbacks) -> str:
        answer = told.should_stop()
        reason = answer if isinstance(answer, str) else "cancelled" if answer else ""
        self._answer.value = reason.encode()[: _LONGEST_REASON - 1]
        return reason

    def _put(self, pipe: Any, content: Any) -> None:
        try:
            pipe.send(content)
        except OSError:
            self._lost()

    def _lost(self) -> None:
        """Raise the error that a process told before it ended, else how it was lost."""
        failure: Exception | None = None
        try:
            while not self._running.join(timeout=1):
                pass
        except (processes.ProcessExitedException, processes.ProcessRaisedException) as gone:
            failure = gone
        for pipe in self._pipes:
            # Raises what was told.
            while pipe.poll() and _heard(pipe) is not None:
                pass
        # When one is lost the others fail, too, in exchanges that it does not answer, and are told to end.
        codes = [process.exitcode or 0 for process in self._running.processes]
        lost = next((-code for code in codes if code < 0 and code != -signal.SIGTERM), 0)
        if failure is not None and not lost:
            raise failure
        raise ProcessLost(signal.Signals(lost).name if lost else "without a reason")


def _heard(pipe: Any) -> tuple[str, Any] | None:
    """Return what a process told, None when it has ended; raise the error that it told."""
    try:
        name, content = json.loads(pipe.recv_bytes())
    except (EOFError, OSError):
        return None
    if name == _NOT_SENT:
        raise CannotBeSent(content)
    if name == _ERROR:
        kind, message, code, fields = content
        raise _ERRORS[kind](message, code=code, fields=fields)
    return name, content


def _send(pipe: Any, name: str, content: Any) -> None:
    pipe.send_bytes(json.dumps([name, content]).encode())


class _Teller(Callback):
    """Sends what the first process tells to the one that started it, and asks it whether to stop."""

    def __init__(self, pipe: Any, answer: Any):
        self.pipe, self.answer = pipe, answer

    def on_start(self, info: Mapping[str, Any]) -> None:
        _send(self.pipe, "on_start", dict(info))

    def on_batch(self, progress: Progress) -> None:
        _send(self.pipe, "on_batch", asdict(progress))

    def on_epoch_end(self, row: Mapping[str, Any]) -> None:
        _send(self.pipe, "on_epoch_end", dict(row))
        # As in one process an epoch has been told, and the wish to stop after it heard, before the next begins.
        self.pipe.recv()

    def on_note(self, sentence: str) -> None:
        _send(self.pipe, "on_note", sentence)

    def on_wait(self, sentence: str) -> None:
        _send(self.pipe, "on_wait", sentence)

    def should_stop(self) -> bool | str:
        return self.answer.value.decode() or False


def _member(rank: int, place: Mapping[str, str], pipes: Sequence[Any], answer: Any) -> None:
    """Do work as one process of the team until there is none any more; exit with 3 when an error was told."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own = pipes[rank]
    for pipe in pipes:
        if pipe is not own:
            pipe.close()
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    with joined() as team:
        while True:
            try:
                work: Work = own.recv()
            except EOFError:
                return
            try:
                _do(work, own, answer, team)
            except CannotBeSent as error:
                _send(own, _NOT_SENT, str(error))
                sys.exit(3)
            except tuple(_ERRORS.values()) as error:
                _send(own, _ERROR, (type(error).__name__, error.message, error.code, error.fields))
                sys.exit(3)
            free_cached_memory()
            _send(own, _DONE, None)


def _do(work: Work, pipe: Any, answer: Any, team: Team) -> None:
    result = work.function(work.network.opened(), *work.args, callbacks=[_Teller(pipe, answer)], **work.options)
    if team.leads:
        save_result(work.folder, result)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however that was."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(4)
