"""A training, with labels or without, by several processes of this host: in how many, and what happens when one is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ecgportal.errors import TrainingFailed
from training.engine.callbacks import Callback, Callbacks
from training.engine.crew import Crew, ProcessLost, StoppedWithin, Work
from training.engine.device import resolve_device
from training.engine.fit import FitResult, fit
from training.engine.outcome import load_result
from training.engine.parcel import CannotBeSent, Make, Parcel
from training.engine.pretrain import PretrainResult, pretrain
from training.engine.seeding import kept_random_state, one_thread

#: So often a run whose process was lost is taken up again from its checkpoint.
MOST_RESTARTS = 2
_RESULTS: dict[Callable[..., Any], type] = {fit: FitResult, pretrain: PretrainResult}
Result = TypeVar("Result", FitResult, PretrainResult)


def processes_for(wanted: int | None, n_records: int, batch_size: int) -> int:
    """Return how many processes to train with: ``wanted``, or one for each accelerator; fewer where a batch is too small.

    n_records: of the smallest training part. Each process needs two records of every batch.
    """
    count = wanted or (torch.cuda.device_count() if torch.cuda.is_available() else 1)
    batches = -(-max(1, n_records) // batch_size)
    return max(1, min(count, n_records // batches // 2))


def together(
    function: Callable[..., Result], count: int, module: nn.Module, *args: Any, make: Make | None = None, crew: Crew | None = None,
    callbacks: Sequence[Callback] = (), checkpoint_dir: Path | None = None, resume: bool = True, **options: Any,
) -> Result:  # fmt: skip
    """Do what ``function``, :func:`~training.engine.fit.fit` or :func:`~training.engine.pretrain.pretrain`, does with these
    arguments, by ``count`` processes.

    make: makes a network like ``module`` in another process (:mod:`training.engine.parcel`); a network that cannot be made
    there is trained in this process, and a note says so. crew: processes that are kept from one training to the next.

    A process that is lost is started again with the others and the run goes on after its last whole epoch, where there is a
    ``checkpoint_dir``. Raises what ``function`` raises, and TrainingFailed ``process_lost`` when processes are lost again and
    again.
    """
    kept: dict[str, Any] = {"checkpoint_dir": checkpoint_dir, "resume": resume}
    if count < 2:
        return function(module, *args, callbacks=callbacks, **kept, **options)
    told = Callbacks(callbacks)
    parcel, stored = Parcel(module, make), checkpoint_dir is not None
    try:
        with (
            kept_random_state(),
            tempfile.TemporaryDirectory(prefix="ecg-portal-team-") as folder,
            nullcontext(crew) if crew is not None else Crew() as workers,
        ):
            for again in range(MOST_RESTARTS + 1):
                work = Work(function, parcel, args, options | kept | {"resume": resume or again > 0}, Path(folder))
                try:
                    workers.do(count, work, told, stored=stored)
                    return load_result(Path(folder), _RESULTS[function])
                except ProcessLost as error:
                    lost = str(error)
                if not stored or again == MOST_RESTARTS:
                    break
                told.on_note(f"One of the {count} processes ended ({lost}); the run went on from its last whole epoch.")
    except StoppedWithin as stop:
        # What was stored is taken up here and given back without another step.
        here = options | kept | {"resume": True, "device": "cpu"}
        with one_thread():
            given = function(module, *args, callbacks=[_NoFurther(str(stop))], **here)
        return replace(given, device=str(resolve_device(options.get("device", "auto"))))
    except CannotBeSent as error:
        sentence = f"This network could not go to {count} processes ({error}); one process trained it."
        told.on_note(sentence)
        result: Result = function(module, *args, callbacks=[_Unended(told)], **options, **kept)
        return replace(result, notes=(*result.notes, sentence))
    finally:
        told.on_end()
    raise TrainingFailed(
        f"One of the {count} processes of the training ended ({lost}), most likely because the machine's memory ran out. "
        "Resume the run, which goes on after its last whole epoch, or choose a smaller batch size.",
        code="process_lost",
    )


class _NoFurther(Callback):
    """Stops a training at once."""

    def __init__(self, reason: str):
        self.reason = reason

    def should_stop(self) -> bool | str:
        return self.reason


class _Unended(Callbacks):
    """Tells everything but the end, which is told by whoever made it."""

    def __init__(self, told: Callbacks):
        super().__init__(told.members)

    def on_end(self) -> None:
        return
