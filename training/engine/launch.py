"""Training by several processes of this host, started, watched and told by one that trains nothing itself.

The processes are started by PyTorch's own launcher (``torch.multiprocessing``) and form a team (:mod:`training.engine.team`).
What the first of them tells comes back through a queue to the callbacks of the process that started them, and the answer
of ``should_stop`` goes to it, so that a callback may use a database that the others know nothing of. The result comes
back as files of safetensors and JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from safetensors.torch import load_file, save_file

from ecgportal.errors import InvalidInput, JobCancelled, PortalError, TrainingFailed
from training.engine.callbacks import Callback, Callbacks, Progress
from training.engine.fit import fit
from training.engine.result import FitResult
from training.engine.seeding import kept_random_state
from training.engine.team import TIMEOUT, joined

#: So often a run whose process was lost is taken up again from its checkpoint.
MOST_RESTARTS = 2
_ANSWERS = ("", "cancelled", "interrupted")
_ERRORS: dict[str, type[PortalError]] = {e.__name__: e for e in (InvalidInput, JobCancelled, TrainingFailed)}
_TELLS = frozenset({"on_start", "on_batch", "on_epoch_end", "on_note"})
_ERROR = "error"


def processes_for(wanted: int | None, n_records: int, batch_size: int) -> int:
    """Return how many processes to train with: ``wanted``, or one for each accelerator; fewer where a batch is too small.

    n_records: of the smallest training part. Each process needs two records of every batch.
    """
    count = wanted or (torch.cuda.device_count() if torch.cuda.is_available() else 1)
    batches = -(-max(1, n_records) // batch_size)
    return max(1, min(count, n_records // batches // 2))


def fit_together(
    count: int, *args: Any, callbacks: Sequence[Callback] = (), checkpoint_dir: Path | None = None, resume: bool = True, **options: Any
) -> FitResult:  # fmt: skip
    """Do what :func:`training.engine.fit.fit` does with these arguments, by ``count`` processes.

    Network, sources and problem go to processes of their own, as ``multiprocessing`` sends them. A process that is lost is
    started again with the others and the run goes on after its last whole epoch, where there is a ``checkpoint_dir``.
    Raises what ``fit`` raises, and TrainingFailed ``process_lost`` when processes are lost again and again.
    """
    if count < 2:
        return fit(*args, callbacks=callbacks, checkpoint_dir=checkpoint_dir, resume=resume, **options)
    told = Callbacks(callbacks)
    try:
        with kept_random_state(), tempfile.TemporaryDirectory(prefix="ecg-portal-team-") as folder:
            for again in range(MOST_RESTARTS + 1):
                more = options | {"checkpoint_dir": checkpoint_dir, "resume": resume or again > 0}
                lost = _Team(count, args, more, Path(folder), told).train()
                if not lost:
                    return load_result(Path(folder))
                if checkpoint_dir is None or again == MOST_RESTARTS:
                    break
                told.on_note(f"One of the {count} processes ended ({lost}); the run went on from its last whole epoch.")
    finally:
        told.on_end()
    raise TrainingFailed(
        f"One of the {count} processes of the training ended ({lost}), most likely because the machine's memory ran out. "
        "Resume the run, which goes on after its last whole epoch, or choose a smaller batch size.",
        code="process_lost",
    )


class _Team:
    """One start of the processes."""

    def __init__(self, count: int, args: Sequence[Any], options: Mapping[str, Any], folder: Path, told: Callbacks):
        self.count, self.told = count, told
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        self.answer: Any = context.Value("i", 0)
        # Each process takes its share of the processors.
        threads = str(max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) // count))
        self.store = dist.TCPStore("127.0.0.1", 0, count, True, TIMEOUT, False)
        place = {
            "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": threads,
        }  # fmt: skip
        senders = [sender for _, sender in pipes]
        self.running = processes.start_processes(
            _member, (args, options, place, folder, senders, self.answer), nprocs=count, join=False,
            start_method="spawn",
        )  # fmt: skip
        # A pipe ends with its process when nobody else can write into it.
        for sender in senders:
            sender.close()
        self.open = [receiver for receiver, _ in pipes]

    def train(self) -> str:
        """Watch the processes until they have ended; return how one was lost, empty when none was."""
        error: PortalError | None = None
        failure: Exception | None = None
        try:
            ended = False
            while not ended:
                error = self._listen(0.2) or error
                reason = self.told.should_stop()
                self.answer.value = _ANSWERS.index(reason) if isinstance(reason, str) else int(bool(reason))
                try:
                    ended = self.running.join(timeout=0)
                except (processes.ProcessExitedException, processes.ProcessRaisedException) as gone:
                    failure, ended = gone, True
            while self.open:
                error = self._listen(0.0) or error
        finally:
            for process in self.running.processes:
                if process.is_alive():
                    process.kill()
                process.join()
        if error is not None:
            raise error
        # When one is lost the others fail, too, in exchanges that it does not answer, and are told to end.
        codes = [process.exitcode or 0 for process in self.running.processes]
        lost = next((-code for code in codes if code < 0 and code != -signal.SIGTERM), 0)
        if failure is not None and not lost:
            raise failure
        return signal.Signals(lost).name if lost else ""

    def _listen(self, longest_s: float) -> PortalError | None:
        """Tell the callbacks what has come in, one message of each process; return an error that ended the run."""
        for pipe in multiprocessing.connection.wait(self.open, longest_s):
            try:
                name, content = json.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except (EOFError, OSError):
                self.open.remove(pipe)  # type: ignore[arg-type]
                continue
            if name == _ERROR:
                kind, message, code, fields = content
                return _ERRORS[kind](message, code=code, fields=fields)
            if name in _TELLS:
                getattr(self.told, name)(Progress(**content) if name == "on_batch" else content)
        return None


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

    def on_note(self, sentence: str) -> None:
        _send(self.pipe, "on_note", sentence)

    def should_stop(self) -> bool | str:
        return _ANSWERS[self.answer.value] or False


def _member(
    rank: int, args: Sequence[Any], options: Mapping[str, Any], place: Mapping[str, str], folder: Path, pipes: Sequence[Any], answer: Any,
) -> None:  # fmt: skip
    """Train as one process of the team; exit with 3 when an error was told."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own = pipes[rank]
    for pipe in pipes:
        if pipe is not own:
            pipe.close()
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    try:
        with joined() as team:
            result = fit(*args, callbacks=[_Teller(own, answer)], **options)
            if team.leads:
                save_result(folder, result)
    except tuple(_ERRORS.values()) as error:
        _send(own, _ERROR, (type(error).__name__, error.message, error.code, error.fields))
        sys.exit(3)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, however that was."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(4)


def save_result(folder: Path, result: FitResult) -> None:
    """Write a result into a folder, as safetensors and JSON."""
    arrays = {"validation_outputs": result.validation_outputs, "thresholds": result.thresholds}
    tensors = {f"best/{name}": tensor.detach().cpu().contiguous() for name, tensor in result.best_state.items()}
    tensors |= {name: torch.as_tensor(array).contiguous() for name, array in arrays.items() if array is not None}
    save_file(tensors, folder / "result.safetensors")
    plain = {name: value for name, value in vars(result).items() if name not in ("best_state", *arrays)}
    (folder / "result.json").write_text(json.dumps(plain))


def load_result(folder: Path) -> FitResult:
    """Read what :func:`save_result` wrote."""
    tensors = load_file(folder / "result.safetensors")
    plain = json.loads((folder / "result.json").read_text())
    plain["notes"] = tuple(plain["notes"])
    best = {name.removeprefix("best/"): tensor for name, tensor in tensors.items() if name.startswith("best/")}
    thresholds = tensors["thresholds"].numpy() if "thresholds" in tensors else None
    return FitResult(
        best_state=best, validation_outputs=tensors["validation_outputs"].numpy(), thresholds=thresholds, **plain
    )
