"""A computation on an accelerator, recorded once and then started as a whole.

A step of a small network is some hundred kernels that an accelerator computes in less time than a processor takes to start
them one after the other. A recording (a CUDA graph, https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-graphs)
starts them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modelhub.runtime.pieces import free_cached_memory

#: So often a shape is computed plainly first, while libraries choose their kernels.
PLAIN_STEPS = 3

Inputs = tuple[Tensor, ...]


class Recorder:
    """Plays back what ``compute`` does for inputs of a shape that it has met often enough.

    compute: from inputs on an accelerator to a scalar; leaves gradients in the parameters of ``net``. It must start the same
    kernels each time and draw random numbers from torch alone. family: recorders, this one among them, that play one after
    the other, so that their computations may use the same memory.
    """

    def __init__(self, net: nn.Module, compute: Callable[..., Tensor]):
        self.parameters, self.compute = list(net.parameters()), compute
        self.possible = bool(getattr(net, "has_fixed_steps", False))
        self.family = [self]
        self._met: dict[tuple[torch.Size, ...], int] = {}
        self._recordings: dict[tuple[torch.Size, ...], _Recording] = {}

    def play(self, *inputs: Tensor) -> Tensor | None:
        """Return the value, with the gradients in place; None where the inputs are to be computed plainly.

        What cannot be recorded, since the memory does not hold a recording or the network reads values back, is computed
        plainly from then on.
        """
        if not self.possible or not inputs[0].is_cuda:
            return None
        shapes = tuple(each.shape for each in inputs)
        met = self._met[shapes] = self._met.get(shapes, 0) + 1
        if met <= PLAIN_STEPS:
            return None
        if shapes not in self._recordings:
            others = (known for recorder in self.family for known in recorder._recordings.values())
            pool = next((known.graph.pool() for known in others), None)
            try:
                self._recordings[shapes] = _Recording(self.parameters, self.compute, inputs, pool)
            except RuntimeError:
                # The plain computation that follows raises it again where it is more than that.
                self.stop()
                return None
        return self._recordings[shapes].play(inputs)

    def forget(self) -> None:
        """Drop the recordings, for other parameters are trained from now on."""
        self._recordings.clear()
        self._met.clear()

    def stop(self) -> None:
        """Drop the recordings and make no more."""
        self.possible = False
        self.forget()
        for p in self.parameters:
            p.grad = None
        free_cached_memory()


class _Recording:
    def __init__(self, parameters: list[nn.Parameter], compute: Callable[..., Tensor], inputs: Inputs, pool: Any):
        self.inputs = tuple(each.clone() for each in inputs)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that reads signals, may use the accelerator meanwhile.
        with (
            _as_before_when_it_fails(inputs[0].device),
            torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"),
        ):
            self.value = compute(*self.inputs)
        self.gradients = [(p, p.grad) for p in parameters]

    def play(self, inputs: Inputs) -> Tensor:
        torch._foreach_copy_(list(self.inputs), list(inputs))
        for p, gradient in self.gradients:
            p.grad = gradient
        self.graph.replay()
        return self.value.clone()


@contextmanager
def _as_before_when_it_fails(device: torch.device) -> Iterator[None]:
    """Put back the stream, and the source of random numbers, which a recording that fails leaves in the state of one."""
    stream, source = torch.cuda.current_stream(device), torch.cuda.default_generators[torch.cuda.current_device()]
    seed, offset = source.initial_seed(), source.get_offset()
    try:
        yield
    except RuntimeError:
        torch.cuda.set_stream(stream)
        fresh = torch.Generator(device).manual_seed(seed)
        fresh.set_offset(offset)
        source.graphsafe_set_state(fresh.graphsafe_get_state())
        raise
