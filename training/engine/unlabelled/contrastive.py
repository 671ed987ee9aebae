"""Contrastive predictive coding over windows (van den Oord et al. 2018, arXiv 1807.03748).

A record is cut into windows. The network's trunk turns each into features; a small recurrent layer reads the windows so
far and predicts the features of the next ones, which must be told from those of other records' windows at the same
place (InfoNCE). Windows of the same record are no counter-examples, because a heart repeats itself (compare CLOCS,
Kiyasseh et al. 2021, arXiv 2005.13249).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgportal.errors import InvalidInput
from training.engine.augment import augment
from training.engine.team import Share
from training.engine.unlabelled.base import Batch, Objective, features_of
from training.engine.unlabelled.settings import Contrastive

TEMPERATURE = 0.1
HIDDEN = 64


class NextWindow(Objective):
    """Reads features of windows in their order and predicts those of the next ones. x: some records, to learn shapes from."""

    score = "accuracy"

    def __init__(self, how: Contrastive, net: nn.Module, x: Tensor, fs_hz: float) -> None:
        super().__init__()
        self.window = max(1, round(how.window_s * fs_hz))
        self.count = x.shape[2] // self.window
        if self.count < how.ahead + 1:
            raise InvalidInput(
                f"Records of {x.shape[2] / fs_hz:g} s hold {self.count} windows of {how.window_s:g} s; predicting {how.ahead} ahead "
                f"needs at least {how.ahead + 1}. Choose shorter windows.",
                code="window_too_long",
            )
        with torch.no_grad(), features_of(net) as features:
            net.eval()(x[:, :, : self.window])
        self.embed = nn.Linear(features[0].shape[1], HIDDEN)
        self.context = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.steps = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(how.ahead))

    def views(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the windows, ``(records, windows, leads, samples)``."""
        x, length = batch.x, self.count * self.window
        start = spare = x.shape[2] - length
        if batch.augmentation is None:
            start = spare // 2
        elif spare:
            start = int(torch.randint(0, spare + 1, (1,), device=x.device, generator=batch.generator))
        windows = x[:, :, start : start + length].unflatten(2, (self.count, self.window))
        flat = windows.transpose(1, 2).flatten(0, 1).contiguous()
        if batch.augmentation is not None:
            # Each window is changed by itself, so that what noise and scale have in common does not give the record away.
            flat = augment(flat, batch.augmentation, batch.fs_hz, batch.generator)
        return (flat.unflatten(0, (len(x), self.count)),)

    def forward(self, net: nn.Module, views: tuple[Tensor, ...], share: Share) -> tuple[Tensor, Tensor]:
        (windows,) = views
        with features_of(net) as features:
            net(windows.flatten(0, 1))
        return self.told_apart(features[0].float().unflatten(0, (len(windows), self.count)), share)

    def told_apart(self, features: Tensor, share: Share) -> tuple[Tensor, Tensor]:
        """Return InfoNCE loss and share of right answers for features ``(records, windows, n_features)``. The windows that
        the right one is told from are those of the whole batch, whichever process has computed them."""
        own = self.embed(features)
        seen, _ = self.context(own)
        z = share.gathered(own)
        truth = share.rows.start + torch.arange(len(own), device=own.device)
        losses, right = [], []
        for ahead, step in enumerate(self.steps, start=1):
            for at in range(z.shape[1] - ahead):
                guess = F.normalize(step(seen[:, at]), dim=1)
                scores = guess @ F.normalize(z[:, at + ahead], dim=1).T / TEMPERATURE
                losses.append(F.cross_entropy(scores, truth))
                right.append((scores.argmax(1) == truth).float().mean())
        return torch.stack(losses).mean(), torch.stack(right).mean()

    def guessing(self, batches: int, records: int) -> dict[str, float]:
        return {"chance": batches / records}
