"""Deal groups of labelled records out to parts so that each class is spread evenly.

By iterative stratification (K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the stratification of multi-label data",
ECML PKDD 2011): the rarest class is dealt first, each group to the part that still wants most of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

_UNLABELLED = "\0unlabelled"


def stratify(groups: Sequence[Sequence[frozenset[str]]], shares: np.ndarray, seed: int) -> list[int]:
    """Return the number of the part of each group.

    groups: the labels of each record of each group. shares: of each part, with sum 1. seed: decides ties.
    """
    names = sorted({label for members in groups for labels in members for label in labels}) + [_UNLABELLED]
    column = {name: index for index, name in enumerate(names)}
    counts: list[dict[int, int]] = []
    holders: list[list[int]] = [[] for _ in names]
    for index, members in enumerate(groups):
        own = Counter(column[label] for labels in members for label in (labels or {_UNLABELLED}))
        counts.append(dict(own))
        for label in own:
            holders[label].append(index)
    totals = np.zeros(len(names))
    for row in counts:
        for label, count in row.items():
            totals[label] += count
    wanted = np.outer(totals, shares)
    for label, owners in enumerate(holders):
        if len(owners) >= len(shares):
            wanted[label] = _at_least_one(wanted[label], totals[label] / len(owners))
    sizes = np.array([len(members) for members in groups])
    room = shares * sizes.sum()
    rng = np.random.default_rng(seed)
    luck = rng.random(len(groups))
    tie = rng.random((len(names), len(shares))) * 1e-6
    chosen = np.full(len(groups), -1)
    left = np.array([len(owners) for owners in holders])
    while (left > 0).any():
        # The rarest class that still has patients; those without a class come last.
        rarity = np.where(left[:-1] > 0, left[:-1], np.iinfo(np.int64).max)
        label = int(rarity.argmin()) if (left[:-1] > 0).any() else len(names) - 1
        waiting = [index for index in holders[label] if chosen[index] < 0]
        for index in sorted(waiting, key=lambda i: (-counts[i][label], -sizes[i], luck[i])):
            # By what the class wants, then by room, then by the seed. Who has no class only makes the sizes even.
            wish = room if label == column[_UNLABELLED] else wanted[label] + 1e-3 * room / max(room.sum(), 1)
            part = int((wish + tie[label]).argmax())
            chosen[index] = part
            room[part] -= sizes[index]
            for other, count in counts[index].items():
                wanted[other, part] -= count
                left[other] -= 1
    return _fill_empty(chosen, sizes, len(shares)).tolist()


def _at_least_one(wanted: np.ndarray, one: float) -> np.ndarray:
    """Raise each part's wish to one patient's worth, at the cost of the largest: a class should be seen everywhere."""
    raised = np.maximum(wanted, one)
    raised[wanted.argmax()] -= raised.sum() - wanted.sum()
    return raised if raised[wanted.argmax()] >= one * 0.999 else wanted


def _fill_empty(chosen: np.ndarray, sizes: np.ndarray, parts: int) -> np.ndarray:
    """Give every empty part the smallest group of the part with most groups, as long as that keeps one itself."""
    for part in range(parts):
        if not (chosen == part).any():
            donors = np.bincount(chosen, minlength=parts)
            donor = int(donors.argmax())
            if donors[donor] > 1:
                own = np.flatnonzero(chosen == donor)
                chosen[own[sizes[own].argmin()]] = part
    return chosen
