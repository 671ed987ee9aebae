"""A training in the manner of ExChanGeAI, written from its published behaviour, to compare the defaults with.

What it does: a moving median is taken out of every lead; Adam with decoupled decay on every weight, batches of 4, at most
50 epochs, the rate falling by a factor 0.9 each epoch from what a linear sweep between 1e-4 and 1e-2 over training and
validation records suggests; cross entropy weighted by inverse class frequency; no augmentation. An epoch is kept when it
betters the validation loss by 1 % and the weighted F1 by 2 %; ten epochs without one end the run. The class with the largest output
is predicted. One class per record only. It differs in that the caller's split is used, not a random one by record.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import nn

from datasets.ecg import LEADS_12, Record
from datasets.preprocess.moving_median import MovingMedian
from datasets.preprocess.recipe import Recipe
from training.engine.device import resolve_device
from training.engine.network import Form
from training.problems.base import softmax

EPOCHS, BATCH, DECAY_OF_RATE, LOWEST, HIGHEST = 50, 4, 0.9, 1e-4, 1e-2
PATIENCE, EARLIEST, TOO_HIGH = 10, 10, 1.25


def train(
    net: nn.Module, signals: np.ndarray, classes: np.ndarray, fs_hz: float, train_rows: np.ndarray, val_rows: np.ndarray, test_rows: np.ndarray,
    *, seed: int, epochs: int | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:  # fmt: skip
    """Train on some rows and return class probabilities of ``test_rows``, and facts about the run.

    signals: float32 ``(records, 12, samples)`` in mV. classes: class number of each record.
    """
    place = resolve_device("auto")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(_without_median(signals, fs_hz)).to(place)
    y = torch.from_numpy(classes.astype(np.int64)).to(place)
    counts = np.maximum(np.bincount(classes[train_rows], minlength=int(classes.max()) + 1), 1)
    loss = nn.CrossEntropyLoss(torch.as_tensor(counts.min() / counts, dtype=torch.float32)).to(place)
    form = Form(net, place, (x.shape[1], x.shape[2]))
    rate = _swept_rate(copy.deepcopy(form.net), x, y, loss, np.concatenate([train_rows, val_rows]), rng)
    own = form.net
    optimiser = torch.optim.AdamW(own.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, DECAY_OF_RATE)
    best_loss, best_f1, best_epoch, kept = np.inf, 0.0, 0, None
    for epoch in range(epochs or EPOCHS):
        own.train()
        order = rng.permutation(train_rows)
        for rows in np.array_split(order, -(-len(order) // BATCH)):
            optimiser.zero_grad()
            loss(own(x[rows]), y[rows]).backward()
            optimiser.step()
        schedule.step()
        outputs = _outputs(own, x, val_rows)
        value = float(loss(outputs, y[val_rows]))
        f1 = f1_score(classes[val_rows], outputs.argmax(1).cpu(), average="weighted", zero_division=0)
        if value < 0.99 * best_loss and f1 > 1.02 * best_f1:
            best_loss, best_f1, best_epoch, kept = value, f1, epoch, copy.deepcopy(own.state_dict())
        elif (value > TOO_HIGH * best_loss and epoch > EARLIEST) or best_epoch + PATIENCE < epoch:
            break
    if kept is not None:
        own.load_state_dict(kept)
    facts = {"learning_rate": rate, "best_epoch": best_epoch + 1, "epochs": epoch + 1, "kept": kept is not None}
    return softmax(_outputs(own, x, test_rows).cpu().numpy()), facts


def _without_median(signals: np.ndarray, fs_hz: float) -> np.ndarray:
    recipe = Recipe((MovingMedian(),))
    return np.stack([recipe.apply(Record(signal, fs_hz, LEADS_12)).signal for signal in signals])


def _swept_rate(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: nn.Module, rows: np.ndarray, rng: np.random.Generator
) -> float:
    """Return the rate at the steepest fall of the smoothed loss while the rate rises linearly; the highest without one."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=LOWEST)
    batches = np.array_split(rng.permutation(rows), max(1, len(rows) // BATCH))
    net.train()
    rates, losses = [], []
    for number, own in enumerate(batches):
        rate = max(LOWEST, number / len(batches) * (HIGHEST - LOWEST))
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        value = loss(net(x[own]), y[own])
        value.backward()
        smooth = 0.05 * float(value.detach()) + 0.95 * losses[-1] if losses else float(value.detach())
        rates.append(rate)
        losses.append(smooth)
        if smooth > 5 * min(losses):
            break
        optimiser.step()
    inside = losses[1:-1]
    return rates[1:-1][int(np.gradient(inside).argmin())] if len(inside) > 1 else HIGHEST


def _outputs(net: nn.Module, x: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    net.eval()
    with torch.inference_mode():
        return torch.cat([net(part) for part in x[rows].split(64)])
