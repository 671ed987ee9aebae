"""S4D: diagonal state-space networks for ECG (Gu et al. 2022; Mehari and Strodthoff, arXiv 2211.07579)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelhub.architectures.base import LinearHeadNetwork
from modelhub.architectures.registry import architecture

_STATE = 8
_PAIRS = _STATE // 2
_LAYERS = 4
# Samples a block: with half as many, prediction took 1.15 times as long, training as long.
_BLOCK = 100
_STEP_RANGE = (0.001, 0.1)


class StateSpace(nn.Module):
    """Bidirectional diagonal state space, one system per channel: ``(batch, channels, samples)`` to the same shape.

    The impulse response forward is k[t] = 2 Re sum_n C (exp(A dt) - 1) / A exp(A dt t) with A = -exp(a) + i b
    (zero-order hold); backward it has a C of its own and begins one sample away. Complex numbers are kept and computed
    with as pairs of real ones, so that weights travel as plain float32 tensors and ONNX can hold the graph.

    The signal is answered in blocks: inside one by the response itself, as a matrix; what earlier and later blocks
    leave in the states reaches it through those. So everything is a product of small matrices, which costs less on
    processors than transforms of the whole length, and the weights alone settle every matrix.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        low, high = (math.log(value) for value in _STEP_RANGE)
        self.log_step = nn.Parameter(torch.rand(channels) * (high - low) + low)
        self.log_decay = nn.Parameter(torch.full((channels, _PAIRS), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(_PAIRS, dtype=torch.float32).repeat(channels, 1))
        self.mixing = nn.Parameter(torch.randn(2, channels, _PAIRS, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        channels, samples = self.channels, x.shape[-1]
        blocks = (samples + _BLOCK - 1) // _BLOCK
        padded = F.pad(x, (0, blocks * _BLOCK - samples)).transpose(0, 1).reshape(channels, -1, _BLOCK)
        within, enter, leave = self._matrices()
        # States in the order direction, real and imaginary part, pair; each goes from block to block by itself.
        states = (padded @ enter).reshape(channels, -1, blocks, 2, 2, _PAIRS).permute(0, 3, 5, 1, 4, 2)
        carried = states.reshape(channels, 2, _PAIRS, -1, 2 * blocks) @ self._between(blocks)
        carried = carried.reshape(channels, 2, _PAIRS, -1, 2, blocks).permute(0, 3, 5, 1, 4, 2)
        answer = padded @ within + carried.reshape(channels, -1, 2 * _STATE) @ leave
        return answer.reshape(channels, -1, blocks * _BLOCK).transpose(0, 1)[..., :samples]

    def _powers(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return exp(A dt t), real and imaginary, ``(channels, pairs, times)``."""
        step = self.log_step.exp()[:, None]
        size = torch.exp(-(self.log_decay.exp() * step)[..., None] * time)
        angle = (self.frequency * step)[..., None] * time
        return size * torch.cos(angle), size * torch.sin(angle)

    def _weights(self, first: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return C (exp(A dt) - 1) / A, ``(2, channels, pairs)``. first: exp(A dt)."""
        real, imaginary = -self.log_decay.exp(), self.frequency
        norm = real.square() + imaginary.square()
        rise, turn = first[0] - 1, first[1]
        return _product(
            (self.mixing[..., 0], self.mixing[..., 1]),
            ((rise * real + turn * imaginary) / norm, (turn * real - rise * imaginary) / norm),
        )

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a block answers to its own samples ``(channels, block, block)``, to the states its samples leave
        ``(channels, block, states)``, and the states to its answer ``(channels, states, block)``.

        States are in the order direction, real and imaginary part, pair.
        """
        powers = self._powers(torch.arange(_BLOCK + 1, dtype=self.skip.dtype, device=self.skip.device))
        weights = self._weights((powers[0][..., 1], powers[1][..., 1]))
        forward, backward = (_product((weights[0][d, ..., None], weights[1][d, ..., None]), powers) for d in (0, 1))
        ahead, behind = 2 * forward[0].sum(1), 2 * backward[0].sum(1)
        now = ahead[:, :1] + self.skip[:, None]
        within = _toeplitz(torch.cat([behind[:, : _BLOCK - 1].flip(-1), now, ahead[:, 1:_BLOCK]], -1), _BLOCK)
        enter = torch.cat([*(part[..., 1:].flip(-1) for part in forward), *(part[..., :-1] for part in backward)], 1)
        real, imaginary = 2 * powers[0][..., :-1], -2 * powers[1][..., :-1]
        leave = torch.cat([real, imaginary, real.flip(-1), imaginary.flip(-1)], 1)
        return within, enter.transpose(1, 2), leave

    def _between(self, blocks: int) -> Tensor:
        """Return what the states that blocks leave become at each block, ``(channels, 2, pairs, 2 blocks, 2 blocks)``."""
        time = _BLOCK * torch.arange(blocks, dtype=self.skip.dtype, device=self.skip.device)
        lags = (torch.cat([torch.zeros_like(part), part[..., :-1]], -1) for part in self._powers(time))
        earlier = (_toeplitz(part, blocks).reshape(self.channels, _PAIRS, blocks, blocks) for part in lags)
        # What comes from later blocks is the transpose of what comes from earlier ones.
        real, imaginary = (torch.stack([part, part.transpose(-1, -2)], 1) for part in earlier)
        return torch.cat([torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)], -2)


def _product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the product of complex numbers given as real and imaginary parts."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _toeplitz(values: Tensor, size: int) -> Tensor:
    """Return ``(n, size, size)`` with ``values[..., size - 1 + column - row]`` from ``(..., 2 size - 1)``, n in all."""
    # Rows of one value more, read one value shorter, each begin one place later than the row before.
    longer = torch.cat([values, values[..., :1]], -1).reshape(-1, 1, 2 * size)
    rows = longer.expand(-1, size, -1).flatten(1)[:, : size * (2 * size - 1)]
    return rows.reshape(-1, size, 2 * size - 1)[..., size - 1 :]


class Layer(nn.Module):
    """State space, GELU, gated mixture of channels, residual, LayerNorm."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.system = StateSpace(channels)
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Conv1d(channels, 2 * channels, 1)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.mix(self.dropout(F.gelu(self.system(x)))), dim=1)
        return self.norm((x + y).transpose(1, 2)).transpose(1, 2)


class S4D(LinearHeadNetwork):
    """Encoder, four bidirectional S4D layers, mean over time, one linear layer."""

    has_2d_form = False

    def __init__(self, *, n_leads: int, n_samples: int, n_classes: int, width: int, dropout: float) -> None:
        super().__init__(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes)
        self.encoder = nn.Conv1d(n_leads, width, 1)
        self.layers = nn.Sequential(*(Layer(width, dropout) for _ in range(_LAYERS)))
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.encoder(x)).mean(-1))

    def slow_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that want a rate of at most 1e-3 and no weight decay: poles and time steps."""
        return [
            value
            for module in self.modules()
            if isinstance(module, StateSpace)
            for value in (module.log_step, module.log_decay, module.frequency)
        ]


@architecture(
    name="s4d_128",
    title="S4D-128",
    paper="Mehari and Strodthoff 2022, arXiv 2211.07579; Gu et al. 2022",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=148_741,
    million_macs=132.6,
    shortest_samples=2,
    advice="State-space network with few parameters.",
)
def s4d_128(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, dropout: float = 0.2) -> S4D:
    """Build S4D with 128 channels."""
    return S4D(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, width=128, dropout=dropout)


@architecture(
    name="s4d_256",
    title="S4D-256",
    paper="Mehari and Strodthoff 2022, arXiv 2211.07579; Gu et al. 2022",
    varies=("n_leads", "n_samples", "fs_hz", "n_classes"),
    parameters=559_621,
    million_macs=527.4,
    shortest_samples=2,
    advice="State-space network of the best published family on PTB-XL; trains best on a GPU.",
)
def s4d_256(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, dropout: float = 0.2) -> S4D:
    """Build S4D with 256 channels."""
    return S4D(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, width=256, dropout=dropout)
