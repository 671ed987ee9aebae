"""A linear model of fixed features that answers beside a network: a few hundred records teach it more than a deep network.

The features are not learned. *Kernels*: for how much of the time the response of each of 84 fixed kernels, at several dilations
and over leads drawn by chance, exceeds a level (MiniRocket, Dempster et al. 2021, arXiv 2012.08791; here the step at the level is
a ramp, so that rounding moves no feature by much). *Beat*: each lead's mean beat around the QRS peak. *Rhythm*: figures of the RR
intervals, and how much beats differ from their mean. All are plain tensor operations, so that the model remains one graph.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelhub.architectures.base import EcgNetwork

#: The ECG is looked at with about this rate; a higher one costs time and memory and tells little more.
RATE_HZ = 100.0
N_DILATIONS, N_LEVELS, TAPS = 11, 3, 9
#: Seconds of a beat in front of and behind the QRS peak, and what is looked at of the time in front for its own spread.
BEFORE_S, AFTER_S, ATRIAL_S = 0.4, 0.6, (0.3, 0.08)
#: A shorter ECG has no beat and no rhythm to speak of.
SHORTEST_S = 3.0
LONGEST_RR_S = 3.0
#: A feature whose deviation is smaller (shares, mV, seconds) is taken for constant: what is left is mostly rounding.
CONSTANT = 1e-4
_SEED = 2021


class FixedFeatures(nn.Module):
    """ECG ``(batch, leads, samples)`` to features ``(batch, n_features)``, the ``views`` one after the other.

    The kernels' levels come from training data (:meth:`set_levels`).
    """

    kernels: Tensor
    levels: Tensor
    steepness: Tensor
    inside: Tensor
    time_s: Tensor

    def __init__(self, *, n_leads: int, n_samples: int, fs_hz: float) -> None:
        super().__init__()
        self.n_leads, self.step = n_leads, max(1, round(fs_hz / RATE_HZ))
        self.fs_hz, self.n_samples = fs_hz / self.step, n_samples // self.step
        patterns = torch.full((84, TAPS), -1.0)
        for row, places in enumerate(itertools.combinations(range(TAPS), 3)):
            patterns[row, list(places)] = 2.0
        self.dilations = _dilations(self.n_samples)
        draw = torch.Generator().manual_seed(_SEED)
        chosen = torch.stack([_some_leads(len(patterns), n_leads, draw) for _ in self.dilations])
        self.register_buffer("kernels", patterns[None, :, None, :] * chosen[:, :, :, None])
        self.register_buffer("levels", torch.zeros(len(self.dilations), N_LEVELS, len(patterns), 1))
        self.register_buffer("steepness", torch.ones(len(self.dilations), len(patterns), 1))
        self.views = {"kernels": len(self.dilations) * N_LEVELS * len(patterns)}
        self.has_beats = self.n_samples >= SHORTEST_S * self.fs_hz
        if self.has_beats:
            self.before, self.after = round(BEFORE_S * self.fs_hz), round(AFTER_S * self.fs_hz)
            span, inner = self.before + self.after + 1, self.n_samples - self.before - self.after
            self.register_buffer("inside", torch.arange(inner)[:, None] + torch.arange(span), persistent=False)
            # From 1 s on, so that 0 stands for no time.
            self.register_buffer("time_s", 1.0 + torch.arange(self.n_samples) / self.fs_hz, persistent=False)
            self.views |= {"beat": n_leads * span, "rhythm": 11 + 2 * n_leads}

    @property
    def is_set(self) -> bool:
        """Whether the levels have been taken from data."""
        return bool(self.levels.any())

    @property
    def n_features(self) -> int:
        return sum(self.views.values())

    @property
    def own_macs(self) -> int:
        """Multiply-accumulates for one ECG."""
        beats = 2 * self.n_leads * self.inside.numel() if self.has_beats else 0
        return self.kernels.numel() * self.n_samples + beats

    def forward(self, x: Tensor) -> Tensor:
        x = self._slow(x)
        found = [self._shares(number, self._responses(number, x)) for number in range(len(self.dilations))]
        if self.has_beats:
            peaks = self._peaks(x)
            beat, spread = self._mean_beat(x, peaks)
            found += [beat.flatten(1), self._rhythm(peaks), *self._spreads(spread)]
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def set_levels(self, x: Tensor) -> None:
        """Take the levels, quantiles of the responses, from signals ``(records, leads, samples)``; once only."""
        if self.is_set:
            return
        x = self._slow(x)
        count = N_LEVELS * self.levels.shape[2]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED)).reshape(N_LEVELS, -1)
        for number in range(len(self.dilations)):
            found = self._responses(number, x).transpose(0, 1).flatten(1)
            ranked = found.sort(dim=1).values
            places = ((order + 0.5) / count * ranked.shape[1]).long().to(ranked.device)
            self.levels[number, :, :, 0] = ranked.gather(1, places.T).T
            self.steepness[number, :, 0] = 10.0 / found.std(dim=1).clamp(min=1e-3)

    def _slow(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x, self.step)[..., : self.n_samples] if self.step > 1 else x

    def _responses(self, number: int, x: Tensor) -> Tensor:
        """Return what kernels of one dilation answer, ``(batch, kernels, samples)``."""
        wide = self.dilations[number]
        return F.conv1d(x, self.kernels[number], dilation=wide, padding=wide * (TAPS // 2))

    def _shares(self, number: int, responses: Tensor) -> Tensor:
        """Return for how much of the time responses lie above each level, ``(batch, levels * kernels)``."""
        steep = self.steepness[number]
        above = [((responses - level) * steep + 0.5).clamp(0.0, 1.0).mean(-1) for level in self.levels[number]]
        return torch.cat(above, dim=1)

    def _peaks(self, x: Tensor) -> Tensor:
        """Return 1 at QRS peaks and 0 elsewhere, ``(batch, samples)``: where the energy of the slope is a maximum of its
        surroundings and no small part of what it usually rises to.

        In double precision, and with a thousandth taken off each second, so that of places that rise to the same, or nearly,
        every machine takes the same one.
        """
        wide, half = max(1, round(0.01 * self.fs_hz)), round(0.06 * self.fs_hz)
        apart, far = round(0.2 * self.fs_hz), round(self.fs_hz)
        fine = x.double()
        slope = F.pad(fine[..., 2 * wide :] - fine[..., : -2 * wide], (wide + half + 1, wide + half))
        sums = (slope * slope).sum(1).cumsum(-1)
        energy = (sums[:, 2 * half + 1 :] - sums[:, : -(2 * half + 1)])[:, None] * (1.0 - 0.001 * self.time_s.double())
        top = F.max_pool1d(energy, 2 * apart + 1, 1, padding=apart)
        usual = F.max_pool1d(energy, 2 * far + 1, 1, padding=far).mean(-1, keepdim=True)
        return ((energy >= top) & (energy > 0.25 * usual)).to(x.dtype)[:, 0]

    def _mean_beat(self, x: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor]:
        """Return each lead's mean beat less its mean, and the beats' variance, both ``(batch, leads, span)``."""
        whole = peaks[:, self.before : self.n_samples - self.after]
        share = (whole / whole.sum(1, keepdim=True).clamp(min=1.0))[:, None, None, :]
        beats = x[:, :, self.inside]
        mean = torch.matmul(share, beats)[:, :, 0]
        square = torch.matmul(share, beats * beats)[:, :, 0]
        return mean - mean.mean(-1, keepdim=True), (square - mean * mean).clamp(min=0.0)

    def _spreads(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much beats differ, in mV: over the whole beat, and where the P wave lies; each ``(batch, leads)``."""
        first, last = (self.before - round(second * self.fs_hz) for second in ATRIAL_S)
        return variance.mean(-1).sqrt(), variance[..., first:last].mean(-1).sqrt()

    def _rhythm(self, peaks: Tensor) -> Tensor:
        """Return figures of the RR intervals, ``(batch, 11)``, in seconds or as shares of the mean."""
        at = peaks * self.time_s
        reach = round(LONGEST_RR_S * self.fs_hz)
        # The latest peak before each sample, its own left out.
        before = F.max_pool1d(F.pad(at[:, None], (reach, 0)), reach, 1)[:, 0, : self.n_samples]
        known = peaks * (before > 0).to(at.dtype)
        rr_s = (self.time_s - before) * known
        count = known.sum(1).clamp(min=1.0)
        mean = rr_s.sum(1) / count
        sd = ((rr_s - mean[:, None]).square() * known).sum(1).div(count).sqrt()
        place = ((before - 1.0) * self.fs_hz).round().long().clamp(0, self.n_samples - 1)
        last = rr_s.gather(1, place)
        both = known * (last > 0).to(at.dtype)
        change = (rr_s - last) * both
        pairs = both.sum(1).clamp(min=1.0)
        rmssd = change.square().sum(1).div(pairs).sqrt()
        jumps = (change.abs() > 0.1).to(at.dtype).sum(1) / pairs
        longest = rr_s.amax(1)
        shortest = (rr_s + (1.0 - known) * LONGEST_RR_S).amin(1)
        usual = mean.clamp(min=0.2)
        parts = (
            mean, sd, rmssd, jumps, longest, shortest, longest / usual, shortest / usual, sd / usual, rmssd / usual,
            peaks.sum(1) / (self.n_samples / self.fs_hz),
        )  # fmt: skip
        return torch.stack(parts, dim=1)


class Accompanied(EcgNetwork):
    """A network and a linear model of fixed features: ``share * network(x) + linear(features(x))``.

    Until the linear part is fitted (``training.engine.companion``) it says nothing and the network answers alone.
    """

    has_2d_form = False
    dynamic_length = False
    share: Tensor

    def __init__(self, network: EcgNetwork, *, fs_hz: float) -> None:
        super().__init__(n_leads=network.n_leads, n_samples=network.n_samples, n_classes=network.n_classes)
        self.network = network
        self.n_person_features = network.n_person_features
        self.features = FixedFeatures(n_leads=network.n_leads, n_samples=network.n_samples, fs_hz=fs_hz)
        self._renew()

    def _renew(self) -> None:
        self.linear = _silent(self.features.n_features, self.n_classes)
        self.register_buffer("share", torch.ones(()))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.linear(self.features(x)) + self.share * self.network(x, *others)

    def head_modules(self) -> list[nn.Module]:
        return [*self.network.head_modules(), self.linear]

    def replace_head(self, n_classes: int) -> None:
        self.network.replace_head(n_classes)
        self.n_classes = n_classes
        self._renew()

    def idle_tensors(self) -> frozenset[str]:
        return frozenset(f"network.{name}" for name in self.network.idle_tensors())


def _silent(n_in: int, n_out: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _dilations(n_samples: int) -> tuple[int, ...]:
    """Return the kernels' dilations, evenly by their logarithm up to where a kernel reaches over the whole signal."""
    most = max(1, (n_samples - 1) // (TAPS - 1))
    return tuple(sorted({int(most ** (k / (N_DILATIONS - 1))) for k in range(N_DILATIONS)}))


def _some_leads(n_kernels: int, n_leads: int, draw: torch.Generator) -> Tensor:
    """Return which leads each kernel looks at, ``(kernels, leads)`` of 0 and 1: seldom many, as a sum of many says little."""
    top = torch.log2(torch.tensor(float(min(n_leads, 9) + 1)))
    counts = (2 ** (torch.rand(n_kernels, generator=draw) * top)).long().clamp(1, n_leads)
    ranks = torch.rand(n_kernels, n_leads, generator=draw).argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]).float()
