"""A network on its way to another process: how it is made, and its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

#: Makes a network with the layers of the one that is sent, with whatever weights.
Make = Callable[[], nn.Module]


class CannotBeSent(Exception):
    """A network could not be made again in another process."""


class Parcel:
    """Holds a network. What other processes get is ``make``, by its name and plain values, and the weights as safetensors; the
    network is made again there by :meth:`opened`. Without ``make`` the network goes as ``multiprocessing`` sends objects, which
    serves classes that other processes can import."""

    def __init__(self, module: nn.Module, make: Make | None):
        self.module: nn.Module | None = module
        self.make, self.weights = make, b""

    def __getstate__(self) -> dict[str, Any]:
        if self.make is None:
            return vars(self)
        assert self.module is not None
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.module.state_dict().items()}
        return {"module": None, "make": self.make, "weights": save(state)}

    def opened(self) -> nn.Module:
        """Return the network; CannotBeSent with the reason when it is not the same here."""
        if self.module is not None:
            return self.module
        assert self.make is not None
        try:
            with torch.random.fork_rng(devices=[]):
                module = self.make()
            module.load_state_dict(load(self.weights), strict=True)
        # The code of a network may fail in any way; the training then goes on without sending it.
        except Exception as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise CannotBeSent(lines[0][:200]) from error
        return module
