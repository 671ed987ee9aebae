"""One training step: forward, backward, and what to do when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ecgportal.errors import TrainingFailed
from training.engine.team import Exchange

if TYPE_CHECKING:
    from training.problems.base import Loss


class Stopped(Exception):
    """The run was asked to stop; ``reason`` is ``cancelled`` or ``interrupted``."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator, an accelerator's or the processor's, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # The processor's allocator reports through a plain RuntimeError.
    said = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


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

    def gradients(
        self, x: Tensor, targets: Tensor, whole: int | None = None, beside: tuple[Tensor, ...] = ()
    ) -> Tensor:
        """Leave the batch's gradients in the parameters and return its mean loss, detached.

        whole: the number of records in the batch that ``x`` is the process's share of; loss and gradients are then the
        share's part of the whole batch's mean. beside: what the network takes beside ``x``, one row per record.
        """
        # Every process computes as many pieces, so that their exchanges meet.
        largest = len(x) if whole is None else -(-whole // self.exchange.size)
        buffers = [buffer.clone() for buffer in self.net.buffers()]
        while True:
            self.exchange.begin()
            pieces = -(-largest // self.piece)
            total = self._tried(x, targets, whole or len(x), beside, pieces)
            if total is None and self.exchange.size > 1:
                self._clear()
                self.exchange.catch_up()
                hardly = (x[:1], targets[:1], tuple(each[:1] for each in beside))
                for _ in range(pieces):
                    self._attempt(hardly[0], hardly[1], len(x), hardly[2], 1)
            if not self.exchange.any_of(total is None, x.device):
                assert total is not None
                return total
            # Statistics of batch normalisation have moved in an attempt that does not count.
            with torch.no_grad():
                for buffer, kept in zip(self.net.buffers(), buffers, strict=True):
                    buffer.copy_(kept)
            self._halve(largest)

    def _tried(self, x: Tensor, targets: Tensor, whole: int, beside: tuple[Tensor, ...], pieces: int) -> Tensor | None:
        """Return what :meth:`_attempt` does, None when memory ran out."""
        try:
            return self._attempt(x, targets, whole, beside, pieces)
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

    def _attempt(self, x: Tensor, targets: Tensor, whole: int, beside: tuple[Tensor, ...], pieces: int) -> Tensor:
        for p in self.net.parameters():
            p.grad = None
        total = torch.zeros((), device=x.device)
        for part, truth, *others in zip(*(each.tensor_split(pieces) for each in (x, targets, *beside)), strict=True):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
                outputs = self.net(part, *others)
            share = len(part) / whole
            value = self.loss(outputs, truth) * share
            value.backward()
            total += value.detach()
        return total

    def _clear(self) -> None:
        for p in self.net.parameters():
            p.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _halve(self, batch: int) -> None:
        self._clear()
        size = min(self.piece, batch)
        if size <= 2:
            raise TrainingFailed(
                "Even two records at once do not fit into memory. Choose a smaller network or shorter signals.",
                code="out_of_memory",
            )
        self.piece = -(-size // 2)
        each = " in each process" if self.exchange.size > 1 else ""
        self.note(f"Memory ran out; batches are now computed in pieces of {self.piece} records{each}.")


def not_finite(epoch: int, batch: int | None, rate: float, kept_epoch: int) -> TrainingFailed:
    """Return the error for a loss that is no number; ``batch`` is 0-based, None for validation; kept_epoch 0: none."""
    where = f"epoch {epoch}" + ("'s validation" if batch is None else f", batch {batch + 1}")
    best = f" The weights of epoch {kept_epoch} are kept in the checkpoint." if kept_epoch else ""
    return TrainingFailed(
        f"The loss is no longer a finite number ({where}, learning rate {rate:.2g}). "
        f"Choose a smaller learning rate, or look for damaged records in the training part.{best}",
        code="loss_not_finite",
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
