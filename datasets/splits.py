"""Split records into parts by patient, with the classes spread evenly.

Patients, not records, are dealt out: a patient's records, and records with the same signal, are always on one side.
Classes are balanced by iterative stratification over the patients (K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the
stratification of multi-label data", ECML PKDD 2011): the rarest class is dealt first, each patient to the part that
still wants most of it. Chance draws from the patients in an order that the records themselves give (``SplitItem.order``), so
that the same records are divided alike wherever they lie.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from ecgportal.errors import InvalidInput

DEFAULT_FRACTIONS: dict[str, float] = {"train": 0.70, "val": 0.15, "test": 0.15}
# The recommendation of PTB-XL's authors for its ten folds.
PTBXL_FOLDS: dict[str, tuple[int, ...]] = {"train": (1, 2, 3, 4, 5, 6, 7, 8), "val": (9,), "test": (10,)}
# Shares of what is not held back for the test.
DEVELOPMENT: dict[str, float] = {"train": 0.85, "validation": 0.15}
_UNLABELLED = "\0unlabelled"


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
    groups = _checked_groups(items)
    warnings: list[str] = []
    if folds is not None:
        parts = _by_given_folds(groups, folds, warnings)
        names = list(folds)
    else:
        shares = _shares(fractions, k_folds)
        names = list(shares)
        chosen = _stratify(groups, np.array(list(shares.values())), seed)
        parts = {item.key: names[part] for members, part in zip(groups, chosen, strict=True) for item in members}
    return _finished(items, groups, parts, names, warnings)


def with_folds(items: Sequence[SplitItem], folds: Mapping[str, int]) -> list[SplitItem]:
    """Return the items with the fold that ``folds`` gives their key; a key that it does not name has no fold."""
    return [replace(item, fold=folds.get(item.key)) for item in items]


def cross_validation(
    items: Sequence[SplitItem],
    k_folds: int,
    *,
    validation_share: float = DEVELOPMENT["validation"],
    seed: int = 0,
) -> list[Split]:
    """Return ``k_folds`` splits into ``train``, ``validation`` and ``test``; each record is tested exactly once.

    The folds are those of ``split(items, k_folds=k_folds, seed=seed)``. validation_share: the part of what is not
    tested that chooses epoch and thresholds, above 0 and below 1.
    """
    folds = split(items, k_folds=k_folds, seed=seed).parts
    numbers = {name: number for number, name in enumerate(_shares(None, k_folds), start=1)}
    given = with_folds(items, {key: numbers[name] for key, name in folds.items()})
    return fold_rounds(given, validation_share=validation_share, seed=seed)


def fold_rounds(
    items: Sequence[SplitItem], *, validation_share: float = DEVELOPMENT["validation"], seed: int = 0
) -> list[Split]:
    """Return one split for each fold that the items carry, in the order of the folds' numbers: that fold is the test.

    Patients and signals that lie in several folds are moved to the fold that holds most of their records, with a
    warning. Raises InvalidInput when a record has no fold, or all have the same.
    """
    groups = _checked_groups(items)
    numbers = sorted({item.fold for item in items if item.fold is not None})
    if len(numbers) < 2:
        raise InvalidInput(
            "The records carry fewer than two folds. Choose a number of folds instead, or give each record its fold.",
            code="fold_unknown",
        )
    moved: list[str] = []
    own = _by_given_folds(groups, {str(number): (number,) for number in numbers}, moved)

    def lies_in(fold: str) -> Callable[[Sequence[SplitItem]], bool]:
        return lambda members: own[members[0].key] == fold

    return [_held_out(items, groups, lies_in(str(number)), validation_share, seed, moved) for number in numbers]


def split_by_site(
    items: Sequence[SplitItem],
    sites: Collection[str],
    *,
    validation_share: float = DEVELOPMENT["validation"],
    seed: int = 0,
) -> Split:
    """Hold back whole hospitals: ``test`` is what comes from ``sites``, the rest is ``train`` and ``validation``.

    A patient seen at a held-back site is tested with all records. Records without a site are for development.
    Raises InvalidInput when no record comes from ``sites``, or all do.
    """
    groups = _checked_groups(items)
    known = {item.site for item in items if item.site is not None}
    strange = sorted(set(sites) - known)
    if strange or not sites:
        raise InvalidInput(
            f"No record comes from {strange[0] if strange else 'a held-out site'}; the sites are "
            f"{', '.join(sorted(known)) or 'not known for any record'}.",
            code="site_unknown",
        )
    wanted = frozenset(sites)
    warnings: list[str] = []
    unknown = sum(item.site is None for item in items)
    if unknown:
        warnings.append(f"{unknown} records do not say where they come from; they are used for development.")
    also = sum(item.site not in wanted for members in groups if _from(members, wanted) for item in members)
    if also:
        warnings.append(
            f"{also} records of other sites are tested, too, because the same patient or the same signal comes from a "
            "held-out site."
        )
    return _held_out(items, groups, lambda members: _from(members, wanted), validation_share, seed, warnings)


def split_by_time(
    items: Sequence[SplitItem],
    *,
    share: float | None = None,
    since: datetime | None = None,
    validation_share: float = DEVELOPMENT["validation"],
    seed: int = 0,
) -> Split:
    """Hold back the latest part: nothing that is trained on was recorded later than the first test patient's last record.

    Exactly one of: share: about this part of the records with a time, [0, 1], the latest; since: what was recorded at or
    after this moment. A patient goes by the latest record, and is tested with all of them. Records without a time are
    for development. Raises InvalidInput when one side would be empty.
    """
    if (share is None) == (since is None):
        raise InvalidInput("Choose either the share of the latest records or the moment from which they are held back.")
    if share is not None and not 0 < share < 1:
        raise InvalidInput(f"The share of the latest records must lie between 0 and 1, not {share}.")
    groups = _checked_groups(items)
    timed = [(last, len(members)) for members in groups if (last := _latest(members)) is not None]
    if not timed:
        raise InvalidInput("No record says when it was recorded, so none is the latest.", code="time_unknown")
    if since is None:
        assert share is not None
        newest_first = sorted(timed, reverse=True)
        reached = np.cumsum([size for _, size in newest_first]) >= share * sum(size for _, size in timed)
        since = newest_first[int(reached.argmax())][0]
    border = since
    warnings: list[str] = []
    unknown = sum(item.recorded_at is None for item in items)
    if unknown:
        warnings.append(f"{unknown} records do not say when they were recorded; they are used for development.")

    def is_late(members: Sequence[SplitItem]) -> bool:
        last = _latest(members)
        return last is not None and last >= border

    return _held_out(items, groups, is_late, validation_share, seed, warnings)


def _latest(members: Sequence[SplitItem]) -> datetime | None:
    return max((item.recorded_at for item in members if item.recorded_at is not None), default=None)


def _from(members: Sequence[SplitItem], sites: Collection[str]) -> bool:
    return any(item.site in sites for item in members)


def _held_out(
    items: Sequence[SplitItem],
    groups: Sequence[Sequence[SplitItem]],
    is_test: Callable[[Sequence[SplitItem]], bool],
    validation_share: float,
    seed: int,
    warnings: Sequence[str],
) -> Split:
    """Return a split whose test part is given, and the rest dealt out to training and validation."""
    if not 0 < validation_share < 1:
        raise InvalidInput(f"The share of the validation part must lie between 0 and 1, not {validation_share}.")
    tested = [is_test(members) for members in groups]
    rest = [members for members, test in zip(groups, tested, strict=True) if not test]
    if not rest or len(rest) == len(groups):
        raise InvalidInput(
            f"{'All' if not rest else 'No'} records would be held back for the test. Choose another border.",
            code="nothing_to_split",
        )
    names = ("train", "validation")
    chosen = _stratify(rest, np.array([1 - validation_share, validation_share]), seed)
    parts = {item.key: "test" for members, test in zip(groups, tested, strict=True) if test for item in members}
    parts |= {item.key: names[part] for members, part in zip(rest, chosen, strict=True) for item in members}
    return _finished(items, groups, parts, (*names, "test"), warnings)


def _checked_groups(items: Sequence[SplitItem]) -> list[list[SplitItem]]:
    """Return what must stay together; InvalidInput when there is nothing to split or a record comes twice."""
    if not items:
        raise InvalidInput("There are no records to split.", code="nothing_to_split")
    repeated = [key for key, count in Counter(item.key for item in items).items() if count > 1]
    if repeated:
        raise InvalidInput(f"The record {repeated[0]} is given more than once.")
    return merged_groups(items)


def _finished(
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
