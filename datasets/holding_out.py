"""Hold a part of the records back for the test: each fold in its turn, whole hospitals, or what was recorded last.

What is not held back is dealt out to training and validation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

import numpy as np

from datasets.splits import (
    DEVELOPMENT,
    Split,
    SplitItem,
    by_given_folds,
    checked_groups,
    deal,
    finished,
    split,
    with_folds,
)
from ecgportal.errors import InvalidInput


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
    numbers = {f"fold-{number}": number for number in range(1, k_folds + 1)}
    given = with_folds(items, {key: numbers[name] for key, name in folds.items()})
    return fold_rounds(given, validation_share=validation_share, seed=seed)


def fold_rounds(
    items: Sequence[SplitItem], *, validation_share: float = DEVELOPMENT["validation"], seed: int = 0
) -> list[Split]:
    """Return one split for each fold that the items carry, in the order of the folds' numbers: that fold is the test.

    Patients and signals that lie in several folds are moved to the fold that holds most of their records, with a
    warning. Raises InvalidInput when a record has no fold, or all have the same.
    """
    groups = checked_groups(items)
    numbers = sorted({item.fold for item in items if item.fold is not None})
    if len(numbers) < 2:
        raise InvalidInput(
            "The records carry fewer than two folds. Choose a number of folds instead, or give each record its fold.",
            code="fold_unknown",
        )
    moved: list[str] = []
    own = by_given_folds(groups, {str(number): (number,) for number in numbers}, moved)

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
    groups = checked_groups(items)
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
    groups = checked_groups(items)
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
    shares = {"train": 1 - validation_share, "validation": validation_share}
    parts = {item.key: "test" for members, test in zip(groups, tested, strict=True) if test for item in members}
    parts |= deal(rest, shares, seed)
    return finished(items, groups, parts, (*shares, "test"), warnings)
