"""One training step: forward, backward, and what to do when memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ecgportal.errors import TrainingFailed
from modelhub.runtime.pieces import free_cached_memory, is_out_of_memory
from training.engine.recorded import Recorder
from training.engine.team import Exchange

if TYPE_CHECKING:
    from training.problems.base import Loss

T = TypeVar("T")

#: The code of a loss that is no number any more, and why a training ended that kept what it had before.
NOT_FINITE = "loss_not_finite"


class Stopped(Exception):
    """The run was asked to stop; ``reason`` is ``cancelled`` or ``interrupted``."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class NotFinite(TrainingFailed):
    """The loss is no number any more; where an epoch was finished before, what it gave is kept."""

    code = NOT_FINITE


@contextmanager
def interruptible(net: nn.Module, check: Callable[[], None], *, on: bool = True) -> Iterator[None]:
    """Call ``check`` while each layer's output and gradient are computed.

    A batch of some hundred records takes a processor up to a minute; a request to stop, raised by ``check``,
    then need not wait for its end. On accelerators a batch is short and ``on`` is False.
    """

    def after(_layer: nn.Module, _inputs: object, output: object) -> None:
        check()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda _gradient: check())

    handles = [layer.register_forward_hook(after) for layer in net.modules() if on and not list(layer.children())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def while_asking(work: Callable[[], T], check: Callable[[], None]) -> T:
    """Return what ``work`` gives, done in a thread of its own; what ``check`` raises meanwhile, asked five times a second,
    ends the wait. The thread then works on until it is done or the process ends.
    """
    answer: Future[T] = Future()
    threads = torch.get_num_threads()

    def run() -> None:
        # The number of threads is each thread's own, and what is compiled under one is compiled anew under another.
        torch.set_num_threads(threads)
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="while-asking", daemon=True).start()
    while not wait([answer], timeout=0.2).done:
        check()
    return answer.result()


@contextmanager
def told_of_memory() -> Iterator[None]:
    """Turn memory that runs out where no smaller pieces help into a sentence."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        free_cached_memory()
        raise TrainingFailed(
            "Memory ran out beside the computing of a batch, where smaller pieces do not help. Choose a smaller network, shorter "
            "signals or a smaller batch size, or train when less is running. What was stored of whole epochs stays.",
            code="out_of_memory",
        ) from error


class Undo:
    """Takes back what an attempt at a batch that does not count has moved beside gradients: the statistics of batch
    normalisation, and the random numbers that dropout has drawn."""

    def __init__(self, net: nn.Module):
        self.net = net
        self._kept: dict[torch.dtype, list[Tensor]] = {}

    def keep(self) -> None:
        """Note where things stand. The copies lie where those of the step before lay, and are made by one kernel for all
        buffers of a type: on an accelerator single copies would cost more than they weigh."""
        own = self._buffers()
        if not self._kept:
            self._kept = {dtype: [torch.empty_like(buffer) for buffer in buffers] for dtype, buffers in own.items()}
        for dtype, buffers in own.items():
            torch._foreach_copy_(self._kept[dtype], buffers)
        self._random = torch.get_rng_state(), torch.cuda.get_rng_state() if self._on_cuda(own) else None

    def restore(self) -> None:
        own = self._buffers()
        for dtype, buffers in own.items():
            torch._foreach_copy_(buffers, self._kept[dtype])
        torch.set_rng_state(self._random[0])
        if self._random[1] is not None:
            torch.cuda.set_rng_state(self._random[1])

    def _buffers(self) -> dict[torch.dtype, list[Tensor]]:
        found: dict[torch.dtype, list[Tensor]] = {}
        for buffer in self.net.buffers():
            found.setdefault(buffer.dtype, []).append(buffer.detach())
        return found

    @staticmethod
    def _on_cuda(own: dict[torch.dtype, list[Tensor]]) -> bool:
        return any(buffer.is_cuda for buffers in own.values() for buffer in buffers[:1])


class Stepper:
    """Computes gradients of a batch in pieces small enough for the memory.

    When memory runs out the piece is halved and the batch repeated; gradients add up over the pieces, so the
    optimiser still sees the whole batch. Processes that train together halve together, whichever of them ran out.
    """

    def __init__(
        self, net: nn.Module, loss: Loss, *, autocast: bool, piece: int, note: Callable[[str], None], exchange: Exchange | None = None
    ):  # fmt: skip
        self.net, self.loss, self.autocast, self.piece, self.note = net, loss, autocast, piece, note
        self.exchange = exchange or Exchange()
        self.undo = Undo(net)
        self.recorder = Recorder(net, self._whole)
        self._answer: Callable[..., Tensor] = net

    def gradients(
        self, x: Tensor, targets: Tensor, whole: Tensor | None = None, beside: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """Leave the batch's gradients in the parameters and return its mean loss, detached.

        whole: the targets of the batch that ``x`` is the process's share of; loss and gradients are then the
        share's part of the whole batch's mean. beside: what the network takes beside ``x``, one row per record.
        """
        if self.exchange.size == 1 and len(x) <= self.piece:
            found = self.recorder.play(x, targets, *beside)
            if found is not None:
                return found
        # Every process computes as many pieces, so that their exchanges meet.
        largest = len(x) if whole is None else -(-len(whole) // self.exchange.size)
        known = None if whole is None else _known(whole)
        self.undo.keep()
        while True:
            self.exchange.begin(None if whole is None else len(whole))
            pieces = -(-largest // self.piece)
            total = self._tried(x, targets, known, beside, pieces)
            if total is None and self.exchange.size > 1 and whole is not None:
                self._clear()
                self.exchange.catch_up()
                hardly = (x[:1], targets[:1], tuple(each[:1] for each in beside))
                for _ in range(pieces):
                    self._attempt(hardly[0], hardly[1], None, hardly[2], 1)
            if not self.exchange.any_of(total is None, x.device):
                assert total is not None
                return total
            self.undo.restore()
            self._halve(largest)

    def compile(self, *batches: tuple[Tensor, Tensor, tuple[Tensor, ...]]) -> str:
        """Have PyTorch's compiler join layers into fewer kernels; return why it could not, or "".

        Takes some 20 seconds for each batch size, and hardly any for a network like one that was compiled before. batches:
        signals, targets and what the network takes beside them, one for each size of batch that will come, for kernels made for
        one size are faster; the batches do not count.
        """
        self.undo.keep()
        self._answer, reason = torch.compile(self.net, dynamic=False), ""
        try:
            for x, targets, beside in batches:
                self._whole(x, targets, *beside)
        except Exception as error:
            self._answer, reason = self.net, f"{type(error).__name__}: {_first_line(error)}"
        self._clear()
        self.undo.restore()
        self.recorder.forget()
        return reason

    def _tried(
        self, x: Tensor, targets: Tensor, known: Tensor | None, beside: tuple[Tensor, ...], pieces: int
    ) -> Tensor | None:
        """Return what :meth:`_attempt` does, None when memory ran out."""
        try:
            return self._attempt(x, targets, known, beside, pieces)
        except ValueError as error:
            # Batch normalisation of pooled features has no variance in a batch of one.
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingFailed(
                "This network cannot learn from one record at a time. Choose a batch size of at least 2.",
                code="batch_of_one",
            ) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _whole(self, x: Tensor, targets: Tensor, *beside: Tensor) -> Tensor:
        return self._attempt(x, targets, None, beside, 1)

    def _attempt(
        self, x: Tensor, targets: Tensor, known: Tensor | None, beside: tuple[Tensor, ...], pieces: int
    ) -> Tensor:
        """Compute the gradients in so many pieces. known: how many targets of the whole batch are, None where ``x`` is all of
        it. A loss is the mean over known targets, so a piece counts by those that it has."""
        for p in self.net.parameters():
            p.grad = None
        total = torch.zeros((), device=x.device)
        if known is None and pieces > 1:
            known = _known(targets)
        for part, truth, *others in zip(*(each.tensor_split(pieces) for each in (x, targets, *beside)), strict=True):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
                outputs = self._answer(part, *others)
            value = self.loss(outputs, truth)
            if known is not None:
                value = value * (_known(truth) / known.clamp(min=1))
            value.backward()
            total += value.detach()
        return total

    def _clear(self) -> None:
        for p in self.net.parameters():
            p.grad = None
        free_cached_memory()

    def _halve(self, batch: int) -> None:
        # What was compiled is for batches of another size.
        self._answer = self.net
        self.recorder.stop()
        self._clear()
        size = min(self.piece, batch)
        if size <= 2:
            few = "one record does" if size == 1 else "two records at once do"
            raise TrainingFailed(
                f"Even {few} not fit into memory. Choose a smaller network or shorter signals, or train when less is running.",
                code="out_of_memory",
            )
        self.piece = -(-size // 2)
        each = " in each process" if self.exchange.size > 1 else ""
        self.note(f"Memory ran out; batches are now computed in pieces of {self.piece} records{each}.")


def _known(targets: Tensor) -> Tensor:
    return torch.isfinite(targets).sum()


def not_finite(epoch: int, batch: int | None, rate: float) -> NotFinite:
    """Return the error for a loss that is no number; ``batch`` is 0-based, None for validation."""
    where = f"epoch {epoch}" + ("'s validation" if batch is None else f", batch {batch + 1}")
    return NotFinite(
        f"The loss is no longer a finite number ({where}, learning rate {rate:.2g}). Choose a smaller learning rate, or look for "
        "damaged records in the training part."
    )


def first_forward(net: nn.Module, x: Tensor, n_outputs: int | None = None) -> None:
    """Run one forward pass in eval mode and turn a network that does not fit the data into a sentence.

    n_outputs: how many outputs the task needs; None: any number will do.
    """
    mode = net.training
    try:
        with torch.no_grad():
            outputs = net.eval()(x[:2])
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise TrainingFailed(
            f"The network does not take signals with {x.shape[1]} leads and {x.shape[2]} samples ({_first_line(error)}). "
            "Prepare the data as the network needs it, or choose another network.",
            code="network_does_not_fit",
        ) from error
    finally:
        net.train(mode)
    if outputs.ndim != 2 or n_outputs not in (None, outputs.shape[1]):
        raise TrainingFailed(
            f"The network gives outputs of shape {tuple(outputs.shape[1:])}, but the task needs {n_outputs or 'one row'}. "
            "Replace its head for these classes.",
            code="network_does_not_fit",
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
