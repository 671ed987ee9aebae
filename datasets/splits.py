"""Split records into parts by patient, with the classes spread evenly.

Patients, not records, are dealt out: a patient's records, and records with the same signal, are always on one side.
Chance draws from the patients in an order that the records themselves give (``SplitItem.order``), so that the same records
are divided alike wherever they lie.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from datasets.stratification import stratify
from ecgportal.errors import InvalidInput

DEFAULT_FRACTIONS: dict[str, float] = {"train": 0.70, "val": 0.15, "test": 0.15}
# The recommendation of PTB-XL's authors for its ten folds.
PTBXL_FOLDS: dict[str, tuple[int, ...]] = {"train": (1, 2, 3, 4, 5, 6, 7, 8), "val": (9,), "test": (10,)}
# Shares of what is not held back for the test.
DEVELOPMENT: dict[str, float] = {"train": 0.85, "validation": 0.15}


@dataclass(frozen=True)
class SplitItem:
    """One record to be dealt out.

    group: the patient; None when unknown, then the record stands for itself. labels: its classes. fold: the fold that
    its source gives it, or None. same_signal: anything that records with the same signal share (a cluster's name).
    site: the hospital or device it comes from, None when unknown. recorded_at: when it was recorded, None when unknown.
    order: what the record has wherever it is imported, such as the digest of its content; it puts the records in order, and
    equal ones stay together. None: the key puts it in order.
    """

    key: str
    group: str | None
    labels: frozenset[str]
    fold: int | None = None
    same_signal: str | None = None
    site: str | None = None
    recorded_at: datetime | None = None
    order: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Where the record comes among others."""
        return self.key if self.order is None else self.order, self.key


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
    """Return the sets of items that must stay together, in their order: same group, signal or ``order``, also in chains."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for item in items:
        own = root(("key", item.key))
        for kind, value in (("group", item.group), ("signal", item.same_signal), ("order", item.order)):
            if value is not None:
                first, second = sorted((own, root((kind, value))))
                parent[second] = own = first
    found: dict[tuple[str, str], list[SplitItem]] = defaultdict(list)
    for item in sorted(items, key=lambda entry: entry.place):
        found[root(("key", item.key))].append(item)
    # The sets were begun in the order of their first items.
    return list(found.values())


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
    groups = checked_groups(items)
    warnings: list[str] = []
    if folds is not None:
        parts = by_given_folds(groups, folds, warnings)
        names = list(folds)
    else:
        shares = _shares(fractions, k_folds)
        names = list(shares)
        parts = deal(groups, shares, seed)
    return finished(items, groups, parts, names, warnings)


def deal(groups: Sequence[Sequence[SplitItem]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the part of each key, with the classes spread evenly; ``shares`` of the parts have the sum 1."""
    names = list(shares)
    labels = [[item.labels for item in members] for members in groups]
    chosen = stratify(labels, np.array(list(shares.values())), seed)
    return {item.key: names[part] for members, part in zip(groups, chosen, strict=True) for item in members}


def with_folds(items: Sequence[SplitItem], folds: Mapping[str, int]) -> list[SplitItem]:
    """Return the items with the fold that ``folds`` gives their key; a key that it does not name has no fold."""
    return [replace(item, fold=folds.get(item.key)) for item in items]


def checked_groups(items: Sequence[SplitItem]) -> list[list[SplitItem]]:
    """Return what must stay together; InvalidInput when there is nothing to split or a record comes twice."""
    if not items:
        raise InvalidInput("There are no records to split.", code="nothing_to_split")
    repeated = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if repeated:
        raise InvalidInput(f"The record {repeated[0]} is given more than once.")
    return merged_groups(items)


def finished(
    items: Sequence[SplitItem],
    groups: Sequence[Sequence[SplitItem]],
    parts: Mapping[str, str],
    names: Sequence[str],
    warnings: Sequence[str],
) -> Split:
    """Return the split with its warnings and digest, after proving it."""
    _prove(items, parts)
    ordered = dict(sorted(parts.items()))
    return Split(ordered, (*warnings, *_warnings(groups, parts, names)), split_digest(ordered))


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


def by_given_folds(
    groups: Sequence[Sequence[SplitItem]], folds: Mapping[str, Sequence[int]], warnings: list[str]
) -> dict[str, str]:
    """Return the part of each key by the source's folds, and add a warning when records had to leave theirs."""
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
    few = [label for label in sorted(patients) if patients[label] < 3]
    if len(few) == 1:
        count = patients[few[0]]
        found.append(
            f"The class {few[0]} has {count} patient{'s' if count > 1 else ''}: too few to learn and judge it. "
            "Merge it into another class or leave it out."
        )
    elif few:
        named = ", ".join(f"{label} ({patients[label]})" for label in few)
        found.append(
            f"Classes with one or two patients: {named}. These are too few to learn and judge them. "
            "Merge them into other classes or leave them out."
        )
    missing: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for label in sorted(patients):
        absent = tuple(name for name in names if name in used and name not in where[label])
        if absent and patients[label] >= 3:
            missing[absent].append(label)
    for absent, labels in missing.items():
        if len(labels) == 1:
            found.append(
                f"The class {labels[0]} has {patients[labels[0]]} patients but none of them in {', '.join(absent)}."
            )
        else:
            named = ", ".join(f"{label} ({patients[label]})" for label in labels)
            found.append(f"Classes with patients, but none of them in {', '.join(absent)}: {named}.")
    return found


def _prove(items: Sequence[SplitItem], parts: Mapping[str, str]) -> None:
    """Check by itself, whatever was done before, that no patient and no signal is on two sides."""
    for kind in ("group", "same_signal", "order"):
        seen: dict[str, str] = {}
        for item in items:
            value = getattr(item, kind)
            if value is not None and seen.setdefault(value, parts[item.key]) != parts[item.key]:
                raise RuntimeError(f"The split puts {kind} {value} on two sides.")
    if len(parts) != len(items):
        raise RuntimeError("The split does not give every record exactly one part.")
