"""A few processes that read files side by side; their answers come back in the order of the tasks.

A file that kills its process (or keeps silent for too long) is tried once more by itself and then refused; the others
are read by a new process. At most a few tasks are under way, so memory stays bounded however large the upload is.

A *task* is ``(key, files)``: some files to read one after another, under a key that comes back with their answers.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from datasets.file_index import FileIndex
from datasets.formats.base import ReadOptions
from datasets.identity import Identity
from datasets.reading import Answer, FileTask, Spool, Unpacker, read_file, refused

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parent.parent
_TURN_S = 0.25
_SILENT_S = 900.0
_AHEAD = 3


Task = tuple[Any, list[FileTask]]


@dataclass
class Batch:
    """Answers in order, and the file with their signals (None when there are none).

    key: of the task. is_last: nothing else of the task follows.
    """

    answers: list[Answer]
    spool: Path | None
    key: Any = None
    is_last: bool = True


@dataclass
class _Slot:
    files: list[FileTask]
    key: Any = None
    is_last: bool = True
    tries: int = 0
    answers: list[Answer] = field(default_factory=list)
    finished: int = 0
    spool: Path | None = None
    state: str = "waiting"


def read_here(
    tasks: Iterable[Task], index: Mapping[str, Path], options: ReadOptions, spool_folder: Path, check: Callable[[], None],
    identity: Identity | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Do the same in this process: for a handful of files, for which starting others takes longer than the work."""
    unpacker = Unpacker()
    for number, (key, files) in enumerate(tasks):
        spool = Spool(spool_folder / f"here-{number}.f32")
        answers: list[Answer] = []
        for task in files:
            check()
            task.may_split = False
            answers += read_file(task, index, options, spool, _trouble, identity, unpacker)
        spool.close()
        yield Batch(answers, spool.path if spool.path.exists() else None, key)
        spool.path.unlink(missing_ok=True)
    unpacker.close()


def _trouble(name: str, trace: str) -> None:
    logger.error("a reader failed: %s", trace)


class ReadingPool:
    """Use as a context: leaving it ends the processes, whatever they do. index: may be changed between two runs."""

    def __init__(
        self, workers: int, index: FileIndex, options: dict[str, Any], spool_folder: Path, memory_bytes: int = 0,
        silent_s: float = _SILENT_S, identity: dict[str, Any] | None = None,
    ):  # fmt: skip
        self._count = max(1, workers)
        self._folder = spool_folder
        self._silent_s = silent_s
        self.index = index
        self._setup = {"options": options, "memory_bytes": memory_bytes, "identity": identity}
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._spools = 0

    def __enter__(self) -> ReadingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()
        self._selector.close()

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def run(self, tasks: Iterable[Task], check: Callable[[], None]) -> Iterator[Batch]:
        """Yield one batch per task (several where a process died), in their order. ``check`` is called several times a second
        and may raise."""
        coming = iter(tasks)
        slots: deque[_Slot] = deque()
        exhausted = False
        while True:
            check()
            while not exhausted and len(slots) < _AHEAD * self._count:
                task = next(coming, None)
                exhausted = task is None
                if task is not None:
                    slots.append(_Slot(task[1], task[0]))
            if not slots:
                return
            self._assign(slots)
            self._listen(slots)
            while slots and slots[0].state == "done":
                slot = slots.popleft()
                spool = slot.spool if slot.spool and slot.spool.exists() else None
                yield Batch(slot.answers, spool, slot.key, slot.is_last)
                if slot.spool:
                    slot.spool.unlink(missing_ok=True)

    def _assign(self, slots: deque[_Slot]) -> None:
        waiting = [slot for slot in slots if slot.state == "waiting"]
        free = [worker for worker in self._workers if worker.slot is None]
        while len(free) < len(waiting) and len(self._workers) < self._count:
            worker = _Worker(self._setup)
            self._workers.append(worker)
            self._selector.register(worker.out, selectors.EVENT_READ, worker)
            free.append(worker)
        for worker, slot in zip(free, waiting):
            self._spools += 1
            slot.spool = self._folder / f"task-{self._spools}.f32"
            slot.state = "running"
            worker.slot = slot
            files = [{**task.to_json(), "place": self.index.place(task.name)} for task in slot.files]
            worker.send({"spool": str(slot.spool), "files": files})

    def _listen(self, slots: deque[_Slot]) -> None:
        for key, _ in self._selector.select(_TURN_S):
            worker: _Worker = key.data
            for message in worker.messages():
                self._take(message, worker, slots)
            if worker.is_dead:
                self._bury(worker, slots, "reader_died")
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.slot is not None and now - worker.heard > self._silent_s:
                self._bury(worker, slots, "reader_timeout")

    def _take(self, message: dict[str, Any], worker: _Worker, slots: deque[_Slot]) -> None:
        slot = worker.slot
        assert slot is not None
        kind = message["kind"]
        if kind == "trouble":
            _trouble(message["name"], message["trace"])
        elif kind == "file_end":
            slot.finished += 1
        elif kind == "end":
            slot.state, worker.slot = "done", None
        else:
            slot.answers.append(message)

    def _bury(self, worker: _Worker, slots: deque[_Slot], code: str) -> None:
        """Take what a dead process had finished, and give the rest to others."""
        self._selector.unregister(worker.out)
        self._workers.remove(worker)
        worker.end()
        slot = worker.slot
        if slot is None:
            return
        done, rest = slot.files[: slot.finished], slot.files[slot.finished :]
        names = {task.name for task in done}
        answers = [answer for answer in slot.answers if answer["name"] in names]
        key = slot.key
        new = [_Slot(done, key, False, answers=answers, spool=slot.spool, state="done")] if answers else []
        if not answers and slot.spool:
            slot.spool.unlink(missing_ok=True)
        if rest:
            victim = rest[0]
            if len(slot.files) == 1 and slot.tries:
                logger.error("a file ended its reader twice (%s)", code)
                new.append(_Slot([victim], key, False, answers=[_fatal(victim.name, code)], state="done"))
            else:
                new.append(_Slot([victim], key, False, tries=1))
            if rest[1:]:
                new.append(_Slot(rest[1:], key, False))
        if not new:
            # Every file was done and gave nothing.
            new.append(_Slot([], key, state="done"))
        new[-1].is_last = slot.is_last
        self._replace(slots, slot, new)

    @staticmethod
    def _replace(slots: deque[_Slot], slot: _Slot, new: list[_Slot]) -> None:
        place = next(i for i, other in enumerate(slots) if other is slot)
        del slots[place]
        for offset, other in enumerate(new):
            slots.insert(place + offset, other)


def _fatal(name: str, code: str) -> Answer:
    what = "took too long to read" if code == "reader_timeout" else "ended the process that read it, twice"
    return refused(
        name, code, f"{name} {what}. It was left out; it is damaged or needs more memory than one file may take."
    )


class _Worker:
    """One reading process and what it is doing."""

    def __init__(self, setup: dict[str, Any]):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "datasets.reading_worker"], cwd=_ROOT, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.out = self.process.stdout
        os.set_blocking(self.out.fileno(), False)
        self.slot: _Slot | None = None
        self.heard = time.monotonic()
        self.is_dead = False
        self._rest: list[bytes] = []
        self.send(setup)

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.heard = time.monotonic()
        try:
            data = memoryview(json.dumps(message).encode() + b"\n")
            while len(data):
                data = data[self.process.stdin.write(data) :]
        except BrokenPipeError:
            # Its end is seen at its output, where the task is given to another.
            pass

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what it has said since."""
        while True:
            try:
                data = os.read(self.out.fileno(), 1 << 20)
            except BlockingIOError:
                return
            if not data:
                self.is_dead = True
                return
            self.heard = time.monotonic()
            *lines, last = data.split(b"\n")
            if lines:
                self._rest.append(lines[0])
                lines[0] = b"".join(self._rest)
                self._rest.clear()
            self._rest.append(last)
            for line in lines:
                yield json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.out):
            if stream is not None:
                stream.close()
