"""Features of an ECG that are not learned, for linear models: a few hundred records teach those more than a deep network.

The features are not learned. *Kernels*: for how much of the time the response of each of 84 fixed kernels, at several dilations
and over leads drawn by chance, exceeds a level (MiniRocket, Dempster et al. 2021, arXiv 2012.08791; here the step at the level is
a ramp, so that rounding moves no feature by much). *Beat*: each lead's mean beat around the QRS peak. *Rhythm*: figures of the RR
intervals, and how much beats differ from their mean in each lead. *Course*: the energy of the mean beat's slope over all leads in
steps of 20 ms, which shows when waves begin and end whatever their sign. *Odd beats*: how far the beats that differ most from the
mean beat do, and when they came. All are plain tensor operations, so that the model remains one graph.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The ECG is looked at with about this rate; a higher one costs time and memory and tells little more.
RATE_HZ = 100.0
N_DILATIONS, N_LEVELS, TAPS = 11, 3, 9
#: Seconds of a beat in front of and behind the QRS peak, and what is looked at of the time in front for its own spread.
BEFORE_S, AFTER_S, ATRIAL_S = 0.4, 0.6, (0.3, 0.08)
#: QRS complexes lie at least so far from each other.
APART_S = 0.2
#: A shorter ECG has no beat and no rhythm to speak of.
SHORTEST_S = 3.0
LONGEST_RR_S = 3.0
#: Half of the time around the QRS peak that odd beats are looked at by, and what keeps logarithms finite, in square mV.
QRS_S, FLOOR_MV2 = 0.12, 1e-6
#: A feature whose deviation is smaller (shares, mV, seconds) is taken for constant: what is left is mostly rounding.
CONSTANT = 1e-4
_TINY = 1e-10
_SEED = 2021


class FixedFeatures(nn.Module):
    """ECG ``(batch, leads, samples)`` to features ``(batch, n_features)``, the ``views`` one after the other.

    The kernels' levels come from training data (:meth:`set_levels`).
    """

    kernels: Tensor
    levels: Tensor
    steepness: Tensor
    span: Tensor
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
            self.n_beats = min(inner, inner // round(APART_S * self.fs_hz) + 1)
            self.register_buffer("span", torch.arange(span) - self.before, persistent=False)
            # From 1 s on, so that 0 stands for no time.
            self.register_buffer("time_s", 1.0 + torch.arange(self.n_samples) / self.fs_hz, persistent=False)
            half = round(QRS_S * self.fs_hz)
            around = (self.before - half, self.before + half + 1)
            self.windows = ((0, span), around, (around[1], span), (0, around[0]))
            self.views |= {
                "beat": n_leads * span, "rhythm": 11 + 2 * n_leads, "course": (span - 1) // 2 + 1, "odd beats": 5 * len(self.windows) + 4
            }  # fmt: skip

    @property
    def is_set(self) -> bool:
        """Whether the levels have been taken from data."""
        return bool(self.levels.any())

    @property
    def n_features(self) -> int:
        return sum(self.views.values())

    @property
    def own_macs(self) -> int:
        """Multiply-accumulates for one ECG, of convolutions."""
        return self.kernels.numel() * self.n_samples

    def forward(self, x: Tensor) -> Tensor:
        x = self._slow(x)
        found = [self._shares(number, x) for number in range(len(self.dilations))]
        if self.has_beats:
            peaks = self._peaks(x)
            beats, there, at = self._beats(x, peaks)
            beat, spread = _mean_beat(beats, there)
            found += [beat.flatten(1), self._rhythm(peaks), *self._spreads(spread), _course(beat)]
            found += [self._odd_beats(beats - beats.mean(-1, keepdim=True), beat, there, peaks, at)]
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
            found = self._responses(number, x, self.kernels[number]).transpose(0, 1).flatten(1)
            ranked = found.sort(dim=1).values
            places = ((order + 0.5) / count * ranked.shape[1]).long().to(ranked.device)
            self.levels[number, :, :, 0] = ranked.gather(1, places.T).T
            self.steepness[number, :, 0] = 10.0 / found.std(dim=1).clamp(min=1e-3)

    def _slow(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x, self.step)[..., : self.n_samples] if self.step > 1 else x

    def _responses(self, number: int, x: Tensor, kernels: Tensor) -> Tensor:
        """Return what kernels of one dilation answer, ``(batch, kernels, samples)``."""
        wide = self.dilations[number]
        return F.conv1d(x, kernels, dilation=wide, padding=wide * (TAPS // 2))

    def _shares(self, number: int, x: Tensor) -> Tensor:
        """Return for how much of the time the responses of one dilation lie above each level, ``(batch, levels * kernels)``."""
        steep = self.steepness[number]
        # Steepness in the kernels, and limits instead of shifts, spare most of the passes over the responses.
        responses = self._responses(number, x, self.kernels[number] * steep[:, None])
        begins = [level * steep - 0.5 for level in self.levels[number]]
        return torch.cat([(responses.clamp(low, low + 1.0) - low).mean(-1) for low in begins], dim=1)

    def _peaks(self, x: Tensor) -> Tensor:
        """Return 1 at QRS peaks and 0 elsewhere, ``(batch, samples)``: where the energy of the slope is a maximum of its
        surroundings and no small part of what it usually rises to.

        In double precision, and with a thousandth taken off each second, so that of places that rise to the same, or nearly,
        every machine takes the same one.
        """
        wide, half = max(1, round(0.01 * self.fs_hz)), round(0.06 * self.fs_hz)
        apart, far = round(APART_S * self.fs_hz), round(self.fs_hz)
        fine = x.double()
        slope = F.pad(fine[..., 2 * wide :] - fine[..., : -2 * wide], (wide + half + 1, wide + half))
        sums = (slope * slope).sum(1).cumsum(-1)
        energy = (sums[:, 2 * half + 1 :] - sums[:, : -(2 * half + 1)])[:, None] * (1.0 - 0.001 * self.time_s.double())
        top = F.max_pool1d(energy, 2 * apart + 1, 1, padding=apart)
        usual = F.max_pool1d(energy, 2 * far + 1, 1, padding=far).mean(-1, keepdim=True)
        return ((energy >= top) & (energy > 0.25 * usual)).to(x.dtype)[:, 0]

    def _beats(self, x: Tensor, peaks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the beats that lie in the ECG as a whole, the last one first: samples ``(batch, leads, beats, span)``; for each
        place 1 where there is a beat; and where its peak is, both ``(batch, beats)``."""
        whole = F.pad(peaks[:, self.before : self.n_samples - self.after], (self.before, self.after))
        rank, at = (whole * self.time_s).topk(self.n_beats, dim=1)
        there = (rank > 0).to(x.dtype)
        at = torch.where(rank > 0, at, torch.full_like(at, self.before))
        places = (at[:, :, None] + self.span).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return x.gather(2, places).unflatten(2, (self.n_beats, -1)), there, at

    def _spreads(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much beats differ, in mV: over the whole beat, and where the P wave lies; each ``(batch, leads)``."""
        first, last = (self.before - round(second * self.fs_hz) for second in ATRIAL_S)
        # A root of 0 has no gradient, which is asked for where an answer is explained.
        return (variance.mean(-1) + _TINY).sqrt(), (variance[..., first:last].mean(-1) + _TINY).sqrt()

    def _odd_beats(self, beats: Tensor, beat: Tensor, there: Tensor, peaks: Tensor, at: Tensor) -> Tensor:
        """Return figures of the beats that differ most from the mean ``beat``, ``(batch, 5 for each window + 4)``: of a window
        the largest difference and the mean one, and the two largest and the mean as shares of the mean beat, as logarithms; of
        the QRS complex's size the largest and the smallest as shares of the mean; and the time before and after odd beats as
        shares of the usual one. beats, there, at: as from :meth:`_beats`."""
        apart = (beats - beat[:, :, None]).square().mean(1)
        size = beat.square().mean(1)
        count = there.sum(1).clamp(min=1.0)
        parts = []
        for start, end in self.windows:
            each = apart[..., start:end].mean(-1) * there
            first, second = each.topk(2, dim=1).values.unbind(1)
            mean, own = each.sum(1) / count, _log(size[:, start:end].mean(-1))
            parts += [_log(first), _log(mean), _log(first) - own, _log(second) - own, _log(mean) - own]
        start, end = self.windows[1]
        heights = beats[..., start:end].square().mean((1, 3))
        usual = _log((heights * there).sum(1) / count)
        lowest = (heights + (1.0 - there) * heights.amax(1, keepdim=True)).amin(1)
        parts += [_log((heights * there).amax(1)) - usual, _log(lowest) - usual]
        # The more a beat differs, the more it counts: which one differs most may be decided by rounding.
        odd = apart[..., start:end].mean(-1).square() * there
        for seconds in (self._since(peaks)[0], self._since(peaks.flip(1))[0].flip(1)):
            known = (seconds > 0).to(odd.dtype)
            mean = seconds.sum(1) / known.sum(1).clamp(min=1.0) + _TINY
            weight, near = odd * known.gather(1, at), seconds.gather(1, at)
            parts.append(((weight * near).sum(1) + _TINY * mean) / (weight.sum(1) + _TINY) / mean)
        return torch.stack(parts, dim=1)

    def _since(self, peaks: Tensor) -> tuple[Tensor, Tensor]:
        """Return, where a peak is, the seconds since the one before, else and for the first one 0; and when that was, from 1 s on."""
        reach = round(LONGEST_RR_S * self.fs_hz)
        # The latest peak before each sample, its own left out.
        before = F.max_pool1d(F.pad((peaks * self.time_s)[:, None], (reach, 0)), reach, 1)[:, 0, : self.n_samples]
        return (self.time_s - before) * peaks * (before > 0).to(peaks.dtype), before

    def _rhythm(self, peaks: Tensor) -> Tensor:
        """Return figures of the RR intervals, ``(batch, 11)``, in seconds or as shares of the mean."""
        rr_s, before = self._since(peaks)
        known = (rr_s > 0).to(rr_s.dtype)
        count = known.sum(1).clamp(min=1.0)
        mean = rr_s.sum(1) / count
        sd = ((rr_s - mean[:, None]).square() * known).sum(1).div(count).sqrt()
        place = ((before - 1.0) * self.fs_hz).round().long().clamp(0, self.n_samples - 1)
        last = rr_s.gather(1, place)
        both = known * (last > 0).to(rr_s.dtype)
        change = (rr_s - last) * both
        pairs = both.sum(1).clamp(min=1.0)
        rmssd = change.square().sum(1).div(pairs).sqrt()
        jumps = (change.abs() > 0.1).to(rr_s.dtype).sum(1) / pairs
        longest = rr_s.amax(1)
        shortest = (rr_s + (1.0 - known) * LONGEST_RR_S).amin(1)
        usual = mean.clamp(min=0.2)
        parts = (
            mean, sd, rmssd, jumps, longest, shortest, longest / usual, shortest / usual, sd / usual, rmssd / usual,
            peaks.sum(1) / (self.n_samples / self.fs_hz),
        )  # fmt: skip
        return torch.stack(parts, dim=1)


def _mean_beat(beats: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return each lead's mean beat less its mean, and the beats' variance, both ``(batch, leads, span)``."""
    share = (there / there.sum(1, keepdim=True).clamp(min=1.0))[:, None, None, :]
    mean = torch.matmul(share, beats)[:, :, 0]
    square = torch.matmul(share, beats * beats)[:, :, 0]
    return mean - mean.mean(-1, keepdim=True), (square - mean * mean).clamp(min=0.0)


def _course(beat: Tensor) -> Tensor:
    """Return the energy of the mean beat's slope over all leads, as logarithms, in steps of two samples as shares of the whole, and
    the whole, ``(batch, steps + 1)``."""
    energy = (beat[..., 1:] - beat[..., :-1]).square().mean(1, keepdim=True)
    whole = torch.log(energy.mean(-1) + FLOOR_MV2)
    return torch.cat([torch.log(F.avg_pool1d(energy, 2)[:, 0] + FLOOR_MV2) - whole, whole], dim=1)


def _log(square: Tensor) -> Tensor:
    """Return the logarithm of an amplitude from its square."""
    return 0.5 * torch.log(square + FLOOR_MV2)


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
