"""Several processes that train one network together, on one host or many.

The processes are started by PyTorch's launcher, which tells each its number; :func:`joined` makes them a team:

    torchrun --nproc-per-node 2 program.py            # one host
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-endpoint host:29500 --rdzv-backend c10d program.py

Every process calls :func:`training.engine.fit.fit` or :func:`training.engine.pretrain.pretrain` with the same arguments.
Each batch is read and changed at random by all of them alike, and each computes its share; gradients and the statistics of
batch normalisation are summed over the team, and what a loss compares over the whole batch is gathered from all. The weights
are therefore those of one process up to rounding, and all processes return the same result. Dropout (``nn.Dropout``) is drawn
for the whole batch by all alike; other layers that draw by themselves agree in distribution only. Where the memory of one
process runs out, all of them go on with smaller pieces of the batch.

The first process alone talks to callbacks and writes checkpoints; ``checkpoint_dir`` must be one folder for all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ecgportal.errors import TrainingFailed

TIMEOUT = timedelta(minutes=10)


class Team:
    """This process among those that train together; alone when no process group is joined."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def comes_second(self) -> bool:
        """Whether another process of the team has this one's accelerator already, there being fewer than processes."""
        return not self.alone and int(os.environ.get("LOCAL_RANK", "0")) >= max(1, torch.cuda.device_count())

    def own_rows(self, n: int) -> slice:
        """Return this process's share of ``n`` records of a batch."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def check_batch(self, n: int) -> None:
        """Raise TrainingFailed when a batch of ``n`` records cannot be shared out."""
        if n < 2 * self.size and not self.alone:
            raise TrainingFailed(
                f"A batch of {n} records is too small for {self.size} processes, which need two records each. "
                "Choose a larger batch size or fewer processes.",
                code="batch_too_small",
            )

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the team, in place; return it."""
        if not self.alone:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up gradients over the team in one exchange."""
        own = [] if self.alone else [p.grad for p in parameters if p.grad is not None]
        if own:
            flat = self.sum(torch.cat([gradient.reshape(-1) for gradient in own]))
            for gradient, part in zip(own, flat.split([g.numel() for g in own]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def said_by_first(self, number: int, device: torch.device) -> int:
        """Return the number that the first process gave."""
        if self.alone:
            return number
        tensor = torch.tensor([number if self.leads else 0], device=device)
        return int(self.sum(tensor))

    def text_by_first(self, text: str, device: torch.device) -> str:
        """Return the text that the first process gave."""
        letters = list(text.encode()) if self.leads else []
        length = self.said_by_first(len(letters), device)
        if self.alone or not length:
            return text if self.alone else ""
        tensor = torch.tensor(letters or [0] * length, device=device)
        return bytes(self.sum(tensor).tolist()).decode()

    def check_checkpoint(self, epoch: int, device: torch.device) -> None:
        """Raise TrainingFailed unless every process has found the checkpoint of this epoch, 0 for none."""
        if self.any_of(self.said_by_first(epoch, device) != epoch, device):
            raise TrainingFailed(
                "The processes of this run do not see the same checkpoint. Give them one folder on shared storage.",
                code="checkpoint_not_shared",
            )

    def any_of(self, said: bool, device: torch.device) -> bool:
        """Return whether any process of the team says so."""
        return said if self.alone else bool(self.sum(torch.tensor([float(said)], device=device)))

    def gathered(self, rows: np.ndarray, values: np.ndarray, n: int, device: torch.device) -> np.ndarray:
        """Return ``(n, ...)`` with ``values`` of every process at its ``rows``; each row is some process's own."""
        if self.alone and len(rows) == n:
            return values
        whole = torch.zeros((n, *values.shape[1:]), device=device)
        whole[torch.as_tensor(rows, device=device)] = torch.from_numpy(values).to(device)
        return self.sum(whole).cpu().numpy()

    def wait(self) -> None:
        """Wait until every process is here."""
        if not self.alone:
            dist.barrier()


@contextmanager
def joined(backend: str | None = None) -> Iterator[Team]:
    """Join the team that the launcher started (``RANK`` and ``WORLD_SIZE`` in the environment), and leave it at the end.

    Without a launcher, or with one process, the team has one member. backend: ``nccl`` where each process has an
    accelerator, else ``gloo``. Each process takes the accelerator of its number on the host.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Team()
        return
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if count:
        torch.cuda.set_device(local % count)
    chosen = backend or ("nccl" if count >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")) else "gloo")
    dist.init_process_group(chosen, timeout=TIMEOUT)
    try:
        yield Team()
    finally:
        dist.destroy_process_group()


class Exchange:
    """The sums over the team inside a network's forward and backward pass, each of which all processes must take part in.

    They are counted from :meth:`begin` on, so that a process whose memory ran out in the middle does not leave the others
    waiting: after :meth:`catch_up` it computes the same again with hardly any records, silent in the sums that it has taken
    part in and with the others in the rest. What comes out is thrown away by all.

    team: None where nothing is shared.
    """

    def __init__(self, team: Team | None = None) -> None:
        self.team = team
        self.whole: int | None = None
        self._done = self._silent = 0

    @property
    def size(self) -> int:
        return 1 if self.team is None else self.team.size

    def begin(self, whole: int | None) -> None:
        """Begin a batch of ``whole`` records that the processes share, or that each of them has for itself, with None."""
        self.whole, self._done, self._silent = whole, 0, 0

    def catch_up(self) -> None:
        self._done, self._silent = 0, self._done

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over the team, in place; return it."""
        if self.team is not None and self._done >= self._silent:
            self.team.sum(tensor)
        self._done += 1
        return tensor

    def any_of(self, said: bool, device: torch.device) -> bool:
        return said if self.team is None else self.team.any_of(said, device)


class _Sum(torch.autograd.Function):
    """The sum over the team; the gradient of a part is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.sum(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.sum(gradients[0].clone(memory_format=torch.contiguous_format)), None


@dataclass(frozen=True)
class Share:
    """This process's records of a batch of ``n``: those of ``rows``."""

    n: int
    rows: slice
    exchange: Exchange

    def gathered(self, own: Tensor) -> Tensor:
        """Return what all processes have, ``(n, ...)``, from each one's ``own`` rows; gradients flow back to their owner."""
        if self.exchange.size == 1:
            return own
        before, after = (
            own.new_zeros(size, *own.shape[1:]) for size in (self.rows.start, self.n - self.rows.start - len(own))
        )
        return _Sum.apply(torch.cat([before, own, after]), self.exchange)


class TeamNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the mean and variance of the whole team's batch, on any device.

    ``nn.SyncBatchNorm`` does the same on accelerators only. Names and values of the state are those of the layer it
    stands for. Records of all processes count alike, whatever their numbers.
    """

    exchange: Exchange

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 axes, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.exchange.whole is None:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        own = torch.full((1,), float(input.numel() // input.shape[1]), device=input.device)
        sums = _Sum.apply(torch.cat([input.float().sum(axes), own]), self.exchange)
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centred = input.float() - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes), self.exchange) / n
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * n / (n - 1), share)
        answer = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            answer = answer * self.weight.view(shape) + self.bias.view(shape)
        return answer.to(input.dtype)


class TeamDropout(nn.Dropout):
    """Dropout that every process draws for the whole team's batch, with the same generator, and takes its rows of."""

    exchange: Exchange

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1:
            return super().forward(input)
        first, total = self._rows(len(input))
        # The same draws as one process makes: of a tensor of the whole batch, in the memory order of the layer's input.
        strides = input.stride()
        order = sorted(range(input.dim()), key=lambda axis: -strides[axis])
        whole = torch.empty_permuted((total, *input.shape[1:]), order, dtype=input.dtype, device=input.device).fill_(1)
        return input * super().forward(whole)[first : first + len(input)]

    def _rows(self, n: int) -> tuple[int, int]:
        """Return where this process's ``n`` rows begin among those of all, and how many these are."""
        team, whole = self.exchange.team, self.exchange.whole
        if team is None or whole is None:
            return 0, n
        rows = team.own_rows(whole)
        # Of a record there may be several rows, its windows; of a batch in pieces there are fewer.
        each, rest = divmod(n, rows.stop - rows.start)
        if rest or not each:
            return team.rank * n, team.size * n
        return rows.start * each, whole * each


def with_team_layers(net: nn.Module, exchange: Exchange) -> nn.Module:
    """Put :class:`TeamNorm` in place of every batch normalisation, with the same parameters and buffers, and
    :class:`TeamDropout` in place of dropout; return the net."""
    for name, layer in net.named_children():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, TeamNorm):
            own = TeamNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
            own.exchange = exchange
            own.weight, own.bias = layer.weight, layer.bias
            own.running_mean, own.running_var = layer.running_mean, layer.running_var
            own.num_batches_tracked = layer.num_batches_tracked
            net.register_module(name, own.train(layer.training))
        elif type(layer) is nn.Dropout:
            drop = TeamDropout(layer.p)
            drop.exchange = exchange
            net.register_module(name, drop.train(layer.training))
        else:
            with_team_layers(layer, exchange)
    return net
