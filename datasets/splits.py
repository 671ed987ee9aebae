"""Split records into parts by patient, with the classes spread evenly.

Patients, not records, are dealt out: a patient's records, and records with the same signal, are always on one side.
Classes are balanced by iterative stratification over the patients (K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the
stratification of multi-label data", ECML PKDD 2011): the rarest class is dealt first, each patient to the part that
still wants most of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecgportal.errors import InvalidInput

DEFAULT_FRACTIONS: dict[str, float] = {"train": 0.70, "val": 0.15, "test": 0.15}
# The recommendation of PTB-XL's authors for its ten folds.
PTBXL_FOLDS: dict[str, tuple[int, ...]] = {"train": (1, 2, 3, 4, 5, 6, 7, 8), "val": (9,), "test": (10,)}
_UNLABELLED = "\0unlabelled"


@dataclass(frozen=True)
class SplitItem:
    """One record to be dealt out.

    group: the patient; None when unknown, then the record stands for itself. labels: its classes. fold: the fold that
    its source gives it, or None. same_signal: anything that records with the same signal share (a cluster's name).
    """

    key: str
    group: str | None
    labels: frozenset[str]
    fold: int | None = None
    same_signal: str | None = None


@dataclass(frozen=True)
class Split:
    """A part for every key. ``warnings`` are sentences; ``digest`` is the same for the same assignment."""

    parts: dict[str, str]
    warnings: tuple[str, ...]
    digest: str

    def keys(self, part: str) -> list[str]:
        """Return the keys of one part, sorted."""
        return sorted(key for key, own in self.parts.items() if own == part)


def split_digest(parts: Mapping[str, str]) -> str:
    """Return the SHA-256 of an assignment, independent of its order."""
    return hashlib.sha256(json.dumps(sorted(parts.items()), separators=(",", ":")).encode()).hexdigest()


def merged_groups(items: Sequence[SplitItem]) -> list[list[SplitItem]]:
    """Return the sets of items that must stay together, sorted: same group, or same signal, also in chains."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for item in items:
        own = root(("key", item.key))
        for kind, value in (("group", item.group), ("signal", item.same_signal)):
            if value is not None:
                first, second = sorted((own, root((kind, value))))
                parent[second] = own = first
    found: dict[tuple[str, str], list[SplitItem]] = defaultdict(list)
    for item in sorted(items, key=lambda entry: entry.key):
        found[root(("key", item.key))].append(item)
    return sorted(found.values(), key=lambda members: members[0].key)


def split(
    items: Sequence[SplitItem],
    *,
    fractions: Mapping[str, float] | None = None,
    k_folds: int | None = None,
    folds: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> Split:
    """Deal records out.

    Parameters
    ----------
    items: the records, in any order; their order does not matter.
    Exactly one of (``fractions`` by default):
    fractions: share of the records by part, as ``{"train": 0.7, "val": 0.15, "test": 0.15}``; scaled to sum 1.
    k_folds: number of equal parts, named ``fold-1`` to ``fold-k``.
    folds: the source's own folds by part, as ``PTBXL_FOLDS``. Items must carry ``fold``; groups that would lie in two
    parts are moved as a whole to the part that holds most of their records, with a warning.
    seed: decides ties; the same arguments give the same split.

    Raises InvalidInput when nothing can be dealt out or the arguments contradict each other.
    """
    if sum(choice is not None for choice in (fractions, k_folds, folds)) > 1:
        raise InvalidInput("Choose one way to split: fractions, a number of folds, or the folds of the source.")
    if not items:
        raise InvalidInput("There are no records to split.", code="nothing_to_split")
    repeated = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if repeated:
        raise InvalidInput(f"The record {repeated[0]} is given more than once.")
    groups = merged_groups(items)
    warnings: list[str] = []
    if folds is not None:
        parts = _by_given_folds(groups, folds, warnings)
        names = list(folds)
    else:
        shares = _shares(fractions, k_folds)
        names = list(shares)
        chosen = _stratify(groups, np.array(list(shares.values())), seed)
        parts = {item.key: names[part] for members, part in zip(groups, chosen, strict=True) for item in members}
    warnings += _warnings(groups, parts, names)
    _prove(items, parts)
    ordered = dict(sorted(parts.items()))
    return Split(ordered, tuple(warnings), split_digest(ordered))


def _shares(fractions: Mapping[str, float] | None, k_folds: int | None) -> dict[str, float]:
    if k_folds is not None:
        if not 2 <= k_folds <= 100:
            raise InvalidInput(f"The number of folds must lie between 2 and 100, not {k_folds}.")
        return {f"fold-{number}": 1 / k_folds for number in range(1, k_folds + 1)}
    fractions = DEFAULT_FRACTIONS if fractions is None else fractions
    if not fractions or any(not (np.isfinite(share) and share > 0) for share in fractions.values()):
        raise InvalidInput("Each part needs a share above 0; leave out parts that are not wanted.")
    total = sum(fractions.values())
    return {name: share / total for name, share in fractions.items()}


def _stratify(groups: Sequence[Sequence[SplitItem]], shares: np.ndarray, seed: int) -> list[int]:
    """Return the part of each group."""
    names = sorted({label for members in groups for item in members for label in item.labels}) + [_UNLABELLED]
    column = {name: index for index, name in enumerate(names)}
    counts: list[dict[int, int]] = []
    holders: list[list[int]] = [[] for _ in names]
    for index, members in enumerate(groups):
        own = Counter(column[label] for item in members for label in (item.labels or {_UNLABELLED}))
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


def _by_given_folds(
    groups: Sequence[Sequence[SplitItem]], folds: Mapping[str, Sequence[int]], warnings: list[str]
) -> dict[str, str]:
    part_of = {fold: part for part, own in folds.items() for fold in own}
    if len(part_of) < sum(len(own) for own in folds.values()):
        raise InvalidInput("A fold is named in two parts.")
    parts: dict[str, str] = {}
    moved = 0
    for members in groups:
        for item in members:
            if item.fold not in part_of:
                raise InvalidInput(
                    f"The record {item.key} has {'no fold' if item.fold is None else f'fold {item.fold}'}; the parts name "
                    f"the folds {', '.join(map(str, sorted(part_of)))}. Choose fractions, or name all folds.",
                    code="fold_unknown",
                )
        votes = Counter(part_of[item.fold] for item in members if item.fold is not None)
        order = list(folds)
        winner = min(votes, key=lambda part: (-votes[part], order.index(part)))
        moved += len(members) - votes[winner]
        parts.update({item.key: winner for item in members})
    if moved:
        warnings.append(
            f"{moved} records were moved out of the part of their fold, because the same patient or the same signal "
            "lies in another part."
        )
    return parts


def _warnings(groups: Sequence[Sequence[SplitItem]], parts: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Say what the split cannot give: empty parts, classes with too few patients, classes missing in a part."""
    found = []
    used = set(parts.values())
    empty = [name for name in names if name not in used]
    if empty:
        found.append(f"There are {len(groups)} patients for {len(names)} parts: {', '.join(empty)} stays empty.")
    patients: Counter[str] = Counter()
    where: dict[str, set[str]] = defaultdict(set)
    for members in groups:
        for label in {label for item in members for label in item.labels}:
            patients[label] += 1
            where[label].add(parts[members[0].key])
    for label in sorted(patients):
        count, absent = patients[label], [name for name in names if name in used and name not in where[label]]
        if count < 3:
            found.append(
                f"The class {label} has {count} patient{'s' if count > 1 else ''}: too few to learn and judge it. "
                "Merge it into another class or leave it out."
            )
        elif absent:
            found.append(f"The class {label} has {count} patients but none of them in {', '.join(absent)}.")
    return found


def _prove(items: Sequence[SplitItem], parts: Mapping[str, str]) -> None:
    """Check by itself, whatever was done before, that no patient and no signal is on two sides."""
    for kind in ("group", "same_signal"):
        seen: dict[str, str] = {}
        for item in items:
            value = getattr(item, kind)
            if value is not None and seen.setdefault(value, parts[item.key]) != parts[item.key]:
                raise RuntimeError(f"The split puts {kind} {value} on two sides.")
    if len(parts) != len(items):
        raise RuntimeError("The split does not give every record exactly one part.")
