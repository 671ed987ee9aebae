"""S4D: diagonal state-space networks for ECG (Gu et al. 2022; Mehari and Strodthoff, arXiv 2211.07579)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgportal.errors import InvalidInput
from modelhub.architectures.base import LinearHeadNetwork
from modelhub.architectures.registry import architecture

_STATE = 8
_LAYERS = 4
_STEP_RANGE = (0.001, 0.1)


class StateSpace(nn.Module):
    """Bidirectional diagonal state space, one system per channel: ``(batch, channels, samples)`` to the same shape.

    Complex numbers are kept as pairs of real parameters, so that weights travel as plain float32 tensors.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        pairs = _STATE // 2
        low, high = (math.log(value) for value in _STEP_RANGE)
        self.log_step = nn.Parameter(torch.rand(channels) * (high - low) + low)
        self.log_decay = nn.Parameter(torch.full((channels, pairs), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(pairs, dtype=torch.float32).repeat(channels, 1))
        self.mixing = nn.Parameter(torch.randn(2, channels, pairs, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(channels))

    def kernels(self, samples: int) -> Tensor:
        """Return the impulse responses, forward and backward, ``(2, channels, samples)``.

        k[t] = 2 Re sum_n C (exp(A dt) - 1) / A exp(A dt t) with A = -exp(a) + i b (zero-order hold).
        """
        pole = torch.complex(-self.log_decay.exp(), self.frequency)
        exponent = pole * self.log_step.exp()[:, None]
        weight = torch.view_as_complex(self.mixing.contiguous()) * (torch.exp(exponent) - 1) / pole
        time = torch.arange(samples, device=exponent.device)
        powers = torch.exp(exponent[..., None] * time)
        return 2 * torch.einsum("dcn,cnt->dct", weight, powers).real

    def forward(self, x: Tensor) -> Tensor:
        samples = x.shape[-1]
        forward, backward = self.kernels(samples)
        # Circular over 2L: the forward answer fills 0..L-1, the backward one (flipped) wraps around from the end.
        both = F.pad(forward, (0, samples)) + F.pad(backward.flip(-1), (samples, 0))
        product = torch.fft.rfft(x, n=2 * samples) * torch.fft.rfft(both, n=2 * samples)
        return torch.fft.irfft(product, n=2 * samples)[..., :samples] + x * self.skip[:, None]


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
        if n_samples < 2:
            raise InvalidInput("S4D needs at least two samples.", code="bad_length")
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
    exports_onnx=False,
    advice="State-space network with few parameters; trains best on a GPU, is exchanged as safetensors.",
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
    exports_onnx=False,
    advice="State-space network of the best published family on PTB-XL; trains best on a GPU, exchanged as safetensors.",
)
def s4d_256(*, n_leads: int, n_samples: int, fs_hz: float, n_classes: int, dropout: float = 0.2) -> S4D:
    """Build S4D with 256 channels."""
    return S4D(n_leads=n_leads, n_samples=n_samples, n_classes=n_classes, width=256, dropout=dropout)
