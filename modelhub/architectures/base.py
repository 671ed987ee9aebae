"""What all networks share: the interface, global pooling, the fully connected head.

Layers are written so that the same ``forward`` works on ``(batch, channels, samples)`` and, in the fast form of
``fast.py``, on ``(batch, channels, 1, samples)``: only the last axis is time, the second is channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class EcgNetwork(nn.Module):
    """A network from ECG to logits.

    ``forward`` takes float32 ``(batch, n_leads, n_samples)`` in the unit of the model's contract and returns logits
    ``(batch, n_classes)``.
    """

    #: False where the forward pass cannot run with a height axis of one.
    has_2d_form = True
    #: False where one set of weights serves the length it was built for only.
    dynamic_length = True
    #: False where the forward pass reads values back from an accelerator, or draws by chance other than with torch.
    has_fixed_steps = True
    #: True where PyTorch's compiler was found to make training on an accelerator faster.
    worth_compiling = False
    #: Features of the person that ``forward`` takes as a second argument, ``(batch, n)``; 0 where it takes the ECG alone.
    n_person_features = 0

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        self.n_samples = n_samples
        self.n_classes = n_classes

    def head_modules(self) -> list[nn.Module]:
        """Return the layers that turn features into classes; training "head only" leaves the others as they are."""
        raise NotImplementedError

    def replace_head(self, n_classes: int) -> None:
        """Put a freshly initialised classification layer for ``n_classes`` outputs in place of the present one."""
        raise NotImplementedError

    def class_layers(self) -> list[nn.Module]:
        """Return the layers of the head that have one output, or channel, for each class: the last that mixes features, and the
        norms behind it."""
        layers: list[nn.Module] = [
            m for head in self.head_modules() for m in head.modules() if isinstance(m, (*MIXING, *NORMS))
        ]
        last = max((k for k, layer in enumerate(layers) if isinstance(layer, MIXING)), default=len(layers))
        return layers[last:]

    def reorder_head(self, order: Sequence[int]) -> bool:
        """Let output ``k`` be what output ``order[k]`` was, in place. False, with everything as it was, where the class layers
        cannot be told."""
        reference = next(self.parameters())
        drawn = torch.randn(2, self.n_leads, self.n_samples, generator=torch.Generator().manual_seed(0))
        inputs = [drawn.to(reference.device)]
        if self.n_person_features:
            inputs.append(torch.zeros(2, self.n_person_features, device=reference.device))
        was_training = self.training
        with torch.no_grad():
            before = self.eval()(*inputs)
            _take_rows(self.class_layers(), order)
            done = torch.allclose(self(*inputs), before[:, list(order)], rtol=1e-3, atol=1e-5)
            if not done:
                _take_rows(self.class_layers(), [list(order).index(k) for k in range(len(order))])
        self.train(was_training)
        return done

    def prepare(self, x: Tensor) -> None:
        """Take from training signals ``(records, n_leads, n_samples)`` what is settled before anything is learned; of most
        networks nothing is."""

    def idle_tensors(self) -> frozenset[str]:
        """Return the names of tensors that exist for the exchange of weights only and do not act on the output."""
        return frozenset()


def _take_rows(layers: Sequence[nn.Module], order: Sequence[int]) -> None:
    """Put the rows of weights and statistics that have as many as there are outputs into another order, in place."""
    for layer in layers:
        for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
            if tensor.dim() and len(tensor) == len(order):
                tensor.copy_(tensor[list(order)])


class LinearHeadNetwork(EcgNetwork):
    """A network whose class layer is one linear layer called ``head``."""

    head: nn.Linear

    def head_modules(self) -> list[nn.Module]:
        return [self.head]

    def replace_head(self, n_classes: int) -> None:
        old = self.head
        self.head = nn.Linear(old.in_features, n_classes, bias=old.bias is not None, device=old.weight.device)
        self.n_classes = n_classes


def mean_over_time(x: Tensor) -> Tensor:
    """Average the last axis: ``(batch, channels[, 1], samples)`` -> ``(batch, channels)``."""
    return drop_height(x).mean(-1)


def max_over_time(x: Tensor) -> Tensor:
    """Take the maximum of the last axis: ``(batch, channels[, 1], samples)`` -> ``(batch, channels)``."""
    return drop_height(x).amax(-1)


def drop_height(x: Tensor) -> Tensor:
    """Return ``(batch, channels, samples)`` whether or not there is a height axis of one."""
    return x if x.dim() == 3 else x.squeeze(2)


def append_zero_channels(x: Tensor, before: int, after: int) -> Tensor:
    """Add channels of zeros in front of and behind those of ``x``."""
    parts = [x]
    if before:
        parts.insert(0, torch.zeros_like(x[:, :1]).repeat_interleave(before, dim=1))
    if after:
        parts.append(torch.zeros_like(x[:, :1]).repeat_interleave(after, dim=1))
    return torch.cat(parts, dim=1) if len(parts) > 1 else x


def conv(n_in: int, n_out: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False) -> nn.Conv1d:
    """Return a convolution padded by half its kernel on both sides."""
    return nn.Conv1d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)
