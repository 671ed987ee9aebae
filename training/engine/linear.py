"""Fits linear models on fixed features: ridge regressions, each view of the features by itself, then one weight for each view and
for the networks that the model answers beside, if any, judged on records that were not learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from modelhub.architectures.fixed_features import CONSTANT, FixedFeatures
from training.engine.data import Data
from training.engine.seeding import one_thread
from training.engine.source import Feed

if TYPE_CHECKING:
    from training.problems.base import Loss

#: Ridge penalties that are tried, as multiples of the number of features, which are standardised.
PENALTIES = np.logspace(-2.5, 2.5, 11)
#: What the weights are pulled to: of the networks, which say too much when they have learned briefly, and of all views together,
#: which say too little of classes; and by how many records, counted by their loss where only shares of classes are known. Beside
#: networks by more: they are judged one by one and answer together, which is better than the judged records show.
NETWORKS, VIEWS_OF_CLASSES, VIEWS_OF_NUMBERS = 0.5, 1.0, 0.5
PULL_ALONE, PULL_BESIDE = 1.0, 50.0
#: Records that the kernels' levels are taken from, and whose features are computed at once.
_FOR_LEVELS, _AT_ONCE = 128, 16
#: Outputs that differ by less are the same.
_SAME = 1e-5


def for_levels(feed: Feed, data: Data) -> Tensor:
    """Return the signals, of records that are learned from, that the features' levels are taken from."""
    chosen = np.random.default_rng(0).permutation(data.usable)[:_FOR_LEVELS]
    return next(iter(feed.batches([np.sort(chosen)]))).cpu()


def features_of(made: FixedFeatures, feed: Feed, data: Data, tell: Callable[[int], None]) -> np.ndarray:
    """Return features ``(records, features)``, float32, of all records of the data. tell: called with the number of records done,
    may raise.

    On the processor on every machine: it takes some seconds, and in double precision, which not every device has. With one
    thread: the steps are small, and where others are busy several threads wait for each other most of the time.
    """
    numbers = np.arange(len(data.truth))
    orders = [numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE)]
    found = np.empty((len(numbers), made.n_features), np.float32)
    with torch.inference_mode(), one_thread():
        for rows, x in zip(orders, feed.batches(orders), strict=True):
            tell(int(rows[0]))
            found[rows] = made(x.cpu()).numpy()
    return found


@dataclass(frozen=True, eq=False)
class Linear:
    """A fitted linear model.

    weight, bias: from raw features to outputs ``(outputs, features)``, ``(outputs,)``. share: what the networks' outputs are
    multiplied with. outputs: of both together for the judged records; alone: of the features alone. weights: by view, for reading. is_silent: the features
    say the same of every judged record, if anything.
    """

    weight: np.ndarray
    bias: np.ndarray
    share: float
    outputs: np.ndarray
    alone: np.ndarray
    weights: dict[str, float]
    is_silent: bool

    def tensors(self, centre: np.ndarray, spread: np.ndarray) -> dict[str, Tensor]:
        """Return weight and bias by their names, answering in the targets' own unit."""
        weight = spread[:, None] * self.weight
        bias = spread * self.bias + centre * (1 - self.share)
        return {"linear.weight": torch.from_numpy(weight).float(), "linear.bias": torch.from_numpy(bias).float()}


# The order of sums, and with it the last bits of the weights, must not depend on the number of threads.
@threadpool_limits.wrap(limits=1)
def fit_linear(
    features: np.ndarray, views: Mapping[str, int], data: Data, networks: np.ndarray | None, loss: Loss, *, is_classes: bool,
    ask: Callable[[], None],
) -> Linear:  # fmt: skip
    """Fit beside networks that have answered for ``data.judged`` with ``networks`` ``(judged, outputs)``, None where there are none.

    features: ``(records, features)`` of all records, ``views`` their names and widths in order. data: its parts tell which
    records may be learned from for which records to judge. loss: of the run. ask: called between steps, may raise.
    """
    parts = [(part.train, part.validation) for part in (data.parts if data.crossed else data.parts[:1])]
    learned = np.unique(np.concatenate([train for train, _ in parts]))
    truth = data.targets.astype(np.float64)
    centre, width = np.nanmean(truth[learned], axis=0), np.ones(truth.shape[1])
    if is_classes:
        # The slope of a linear discriminant that explains little: its scores are then logarithms of odds.
        width = np.maximum(centre * (1 - centre), 1e-3)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    start = 0
    for size in views.values():
        x = features[:, start : start + size].astype(np.float64)
        middle, scale = x[learned].mean(0), x[learned].std(0)
        scale[scale < CONSTANT] = np.inf
        weight, bias, judged = _ridge((x - middle) / scale, truth, parts, ask)
        weight /= scale
        bias -= weight @ middle
        found.append((weight / width[:, None], (bias - centre) / width, (judged - centre) / width))
        start += size
    rows = data.judged
    beside = np.zeros((len(rows), truth.shape[1])) if networks is None else networks
    said = np.stack([beside, *(judged[rows] for _, _, judged in found)]).astype(np.float64)
    goal = np.full(len(said), (VIEWS_OF_CLASSES if is_classes else VIEWS_OF_NUMBERS) / len(found))
    goal[0] = NETWORKS
    weights, offset = _weigh(said, truth[rows], loss, goal, PULL_ALONE if networks is None else PULL_BESIDE)
    alone = np.tensordot(weights[1:], said[1:], 1) + offset
    named = dict(zip(("networks", *views), weights.tolist(), strict=True))
    if networks is None:
        named["networks"] = 0.0
    return Linear(
        weight=np.concatenate([w * own for w, (own, _, _) in zip(weights[1:], found, strict=True)], axis=1),
        bias=offset + sum(w * own for w, (_, own, _) in zip(weights[1:], found, strict=True)),
        share=named["networks"], outputs=(alone + weights[0] * said[0]).astype(np.float32), alone=alone.astype(np.float32),
        weights={name: round(weight, 4) for name, weight in named.items()},
        is_silent=bool(np.ptp(alone, axis=0).max() < _SAME),
    )  # fmt: skip


def _ridge(
    x: np.ndarray, truth: np.ndarray, parts: Sequence[tuple[np.ndarray, np.ndarray]], ask: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights ``(outputs, features)`` and biases, the mean over the parts, and what each part says of the records that it
    did not learn from ``(records, outputs)``. The penalty is the one with the smallest squared error there, for each output."""
    penalties = PENALTIES * x.shape[1]
    n_outputs = truth.shape[1]
    judged = np.full((len(penalties), *truth.shape), np.nan)
    made = np.zeros((len(penalties), n_outputs, x.shape[1] + 1))
    for columns in _alike(np.isfinite(truth)):
        for train, validation in parts:
            ask()
            rows = train[np.isfinite(truth[train, columns[0]])]
            if len(rows) < 2:
                judged[:, validation[:, None], columns] = 0.0
                continue
            x_mean, y_mean = x[rows].mean(0), truth[np.ix_(rows, columns)].mean(0)
            own = x[rows]
            own -= x_mean
            for number, weight in enumerate(_ridges(own, truth[np.ix_(rows, columns)] - y_mean, penalties)):
                bias = y_mean - weight @ x_mean
                judged[number, validation[:, None], columns] = x[validation] @ weight.T + bias
                made[number, columns] += np.concatenate([weight, bias[:, None]], axis=1) / len(parts)
    best = np.nanmean((judged - truth) ** 2, axis=1).argmin(0)
    chosen = made[best, np.arange(n_outputs)]
    return chosen[:, :-1], chosen[:, -1], judged[best, :, np.arange(n_outputs)].T


def _ridges(x: np.ndarray, y: np.ndarray, penalties: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for each penalty the weights ``(outputs, features)`` of centred ``x`` and ``y``, from the eigenvalues of the smaller
    one of the two products of ``x`` with itself."""
    tall = len(x) > x.shape[1]
    values, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    inner = vectors.T @ (x.T @ y if tall else y)
    for penalty in penalties:
        found = vectors @ (inner / (np.maximum(values, 0.0) + penalty)[:, None])
        yield (found if tall else x.T @ found).T


def _alike(known: np.ndarray) -> list[np.ndarray]:
    """Return groups of columns that are known for the same records."""
    _, group = np.unique(known, axis=1, return_inverse=True)
    return [np.flatnonzero(group.ravel() == number) for number in range(group.max() + 1)]


def _weigh(
    said: np.ndarray, truth: np.ndarray, loss: Loss, goal: np.ndarray, pull: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight for each source of ``said`` ``(sources, records, outputs)``, the networks first, none below 0, and an offset
    for each output: those of the smallest loss and pull towards ``goal``. A view that would be subtracted is left out."""
    known = np.isfinite(truth).any(axis=1)
    x, y = torch.from_numpy(said[:, known]), torch.from_numpy(truth[known])
    taken = torch.ones(len(said), dtype=torch.float64)
    _, offset = _least_loss(x, y, loss, torch.from_numpy(goal), torch.zeros_like(taken), pull)
    # A record of rare classes, whose loss is small whatever is said, tells less of the weights than one of frequent classes.
    pull *= float(loss(torch.from_numpy(offset).expand_as(y), y))
    while True:
        weights, offset = _least_loss(x, y, loss, torch.from_numpy(goal), taken, pull)
        worst = int(weights[1:].argmin()) + 1
        if weights[worst] >= 0:
            # The networks stay, however little they add.
            return np.maximum(weights, 0.0), offset
        taken[worst] = 0.0


def _least_loss(
    x: Tensor, y: Tensor, loss: Loss, goal: Tensor, taken: Tensor, pull: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the sources that are ``taken`` (1, else 0), and the offsets, with the smallest loss and pull."""
    n_sources, n_records, n_outputs = x.shape
    goal = goal * taken
    values = torch.cat([goal, torch.zeros(n_outputs, dtype=torch.float64)]).requires_grad_()
    solver = torch.optim.LBFGS([values], max_iter=200, tolerance_change=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        weights, offset = values[:n_sources] * taken, values[n_sources:]
        apart = pull * (weights - goal).square().sum() + 0.01 * offset.square().sum()
        value = loss(torch.tensordot(weights, x, 1) + offset, y) + apart / (2 * n_records)
        value.backward()
        return value

    solver.step(closure)
    found = values.detach()
    return (found[:n_sources] * taken).numpy(), found[n_sources:].numpy()
