"""How a run's records are divided: the settings with their sentences, and the stored split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from datasets.fingerprint import same_signal
from datasets.holding_out import cross_validation, fold_rounds, split_by_site, split_by_time
from datasets.splits import Split as Dealt
from datasets.splits import SplitItem, merged_groups, split, split_digest, with_folds
from ecgportal.errors import InvalidInput
from modelhub.contract import MOST_NETWORKS, PRETRAINING
from training.models import PARTS, Split, SplitGroup, SplitMember, TrainingRun
from training.targets import Labelled

METHODS = {
    "fractions": "By patient, at random, with the classes spread evenly",
    "k_fold": "Into k folds by patient",
    "given_folds": "By the folds that the data brings along",
    "site": "By hospital",
    "time": "By time: the latest are held back",
}
_OF_METHOD = {
    "fractions": ("test", "validation"),
    "k_fold": ("folds", "fold", "validation"),
    "given_folds": ("test_folds", "validation_folds"),
    "site": ("test_sites", "validation"),
    "time": ("test", "since", "validation"),
}
# Each fold that is held out has a network of its own.
_MOST_FOLDS = MOST_NETWORKS
# A record without a time cannot be held back as late; with more of them the development part would hold later records.
_MOST_UNTIMED = 0.1


@dataclass(frozen=True)
class SplitSettings:
    """How records are divided; what the method does not use keeps its default and is not stored.

    test: share of all records that is held back. validation: share of the development part that chooses the epoch and the
    thresholds. test_sites: hospitals of ``site`` whose patients are held back. folds: k of ``k_fold``; fold: the one held
    out, or None for a network per fold, each judged on the fold that it has not seen. test_folds, validation_folds: of ``given_folds``.
    since: of ``time``, a day or time from which on is held back, as the records show it; empty holds back the share ``test`` of
    the latest.
    """

    method: str = "fractions"
    test: float = 0.20
    validation: float = 0.15
    folds: int = 5
    fold: int | None = None
    test_folds: tuple[int, ...] = (10,)
    validation_folds: tuple[int, ...] = (9,)
    test_sites: tuple[str, ...] = ()
    since: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise _bad({"method": f"A split is one of {', '.join(METHODS)}, not {self.method!r}."})
        problems = {name: _problem(name, getattr(self, name)) for name in _OF_METHOD[self.method]}
        problems = {name: sentence for name, sentence in problems.items() if sentence}
        if not problems and self.method == "k_fold" and self.fold is not None and self.fold > self.folds:
            problems["fold"] = f"There are {self.folds} folds; fold {self.fold} is not one of them."
        if not problems and self.method == "given_folds" and set(self.test_folds) & set(self.validation_folds):
            problems["validation_folds"] = "A fold is named for the test and for the validation."
        if problems:
            raise _bad(problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SplitSettings:
        """Build the settings from JSON; what the method does not take is named in the error."""
        method = values.get("method", "fractions")
        if not isinstance(method, str) or method not in METHODS:
            raise _bad({"method": f"A split is one of {', '.join(METHODS)}, not {method!r}."})
        taken = _OF_METHOD[method]
        unknown = [name for name in values if name != "method" and name not in taken]
        if unknown:
            raise _bad(dict.fromkeys(unknown, f"A split by {method} takes {', '.join(taken)}."))
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return what the method uses, as JSON."""
        own = {name: getattr(self, name) for name in _OF_METHOD[self.method]}
        return {"method": self.method} | {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}

    @property
    def holds_out_every_fold(self) -> bool:
        return self.method == "k_fold" and self.fold is None

    def sentence(self) -> str:
        """Return the split in words."""
        if self.method == "k_fold":
            which = "every fold held out in turn" if self.fold is None else f"fold {self.fold} held out"
            return f"{self.folds} folds by patient, {which}"
        rest = f"{100 * self.validation:.0f} % of the rest for validation"
        if self.method == "time":
            late = f"recorded from {self.since} on" if self.since else f"the latest {100 * self.test:.0f} %"
            return f"by time, {late} held back, {rest}"
        if self.method == "site":
            return f"by hospital, {', '.join(self.test_sites)} held back, {rest}"
        if self.method == "given_folds":
            test, validation = (", ".join(map(str, own)) for own in (self.test_folds, self.validation_folds))
            return f"the data's own folds: {test} held back, {validation} for validation"
        return f"by patient, {100 * self.test:.0f} % held back, {rest}"


def _bad(problems: dict[str, str]) -> InvalidInput:
    fields = {f"split.{name}": sentence for name, sentence in problems.items()}
    return InvalidInput(" ".join(problems.values()), code="bad_split", fields=fields)


def _problem(name: str, value: Any) -> str | None:
    """Return a sentence when the value of one setting cannot be used."""
    if name in ("test", "validation"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0.05 <= value <= 0.5:
            return f"The {name} share must be a number between 0.05 and 0.5, not {value!r}."
    elif name in ("folds", "fold"):
        low = 3 if name == "folds" else 1
        if name == "fold" and value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _MOST_FOLDS:
            return f"The {'number of folds' if low == 3 else 'fold'} must be a whole number from {low} to {_MOST_FOLDS}, not {value!r}."
    elif name == "since":
        if not isinstance(value, str) or (value and _moment(value) is None):
            return f"Since must be a day or a time such as 2019-01-01, not {value!r}."
    elif name == "test_sites":
        if not isinstance(value, tuple) or not value or not all(isinstance(x, str) and x for x in value):
            return "Name at least one hospital whose records are held back."
    elif not isinstance(value, tuple) or not value or not all(isinstance(x, int) and x is not True for x in value):
        return f"{name.replace('_', ' ').capitalize()} must be a list of fold numbers such as [10], not {value!r}."
    return None


def entries_of(items: Sequence[Labelled]) -> list[SplitItem]:
    """Return the records as they are dealt out: twins of a signal, also across datasets, share a name."""
    twins = same_signal({str(item.record): item.fingerprint or None for item in items})
    return [
        SplitItem(
            str(item.record),
            item.group,
            item.classes,
            item.fold,
            twins.get(str(item.record)),
            item.site or None,
            item.recorded_at,
            item.order or None,
        )
        for item in items
    ]


def too_few_for_folds(settings: SplitSettings, patients: int) -> str | None:
    """Return a sentence when so many patients leave a fold empty. Patients with the same signal count as one."""
    if settings.method != "k_fold" or patients >= settings.folds:
        return None
    return (
        f"{settings.folds} folds need as many patients, for no patient lies in two of them; the data comes from {patients}. "
        "Choose fewer folds."
    )


def deal(items: Sequence[Labelled], settings: SplitSettings, seed: int) -> Dealt:
    """Return the part of every record, by its id; the fold when every fold is held out in turn.

    InvalidInput when the records cannot be divided in this way.
    """
    entries, share = entries_of(items), settings.validation
    if settings.method == "given_folds":
        named = {*settings.test_folds, *settings.validation_folds}
        there = {entry.fold for entry in entries if entry.fold is not None}
        for part, folds_of in (("test", settings.test_folds), ("validation", settings.validation_folds)):
            if there and there.isdisjoint(folds_of):
                raise _bad(
                    {
                        f"{part}_folds": f"No record is of fold {', '.join(map(str, folds_of))}, so the {part} part would be empty. The "
                        f"data has the folds {', '.join(map(str, sorted(there)))}."
                    }
                )
        rest = sorted(there - named)
        if not rest:
            raise _bad({"test_folds": "No fold is left for training. Look which folds the dataset has."})
        folds = {"train": rest, "validation": settings.validation_folds, "test": settings.test_folds}
        return split(entries, folds=folds, seed=seed)
    if settings.method == "site":
        try:
            return split_by_site(entries, settings.test_sites, validation_share=share, seed=seed)
        except InvalidInput as error:
            raise _bad({"test_sites": error.message}) from error
    if settings.method == "time":
        return _by_time(entries, settings, seed)
    if settings.method == "k_fold":
        if sentence := too_few_for_folds(settings, len(merged_groups(entries))):
            raise _bad({"folds": sentence})
        if settings.fold is None:
            return split(entries, k_folds=settings.folds, seed=seed)
        return cross_validation(entries, settings.folds, validation_share=share, seed=seed)[settings.fold - 1]
    rest_share = 1 - settings.test
    fractions = {"train": rest_share * (1 - share), "validation": rest_share * share, "test": settings.test}
    return split(entries, fractions=fractions, seed=seed)


def deal_for(task: str, items: Sequence[Labelled], settings: SplitSettings, seed: int) -> Dealt:
    """Return the part of every record as a run of this task divides them."""
    return deal_unlabelled(items, settings, seed) if task == PRETRAINING else deal(items, settings, seed)


def deal_unlabelled(items: Sequence[Labelled], settings: SplitSettings, seed: int) -> Dealt:
    """Divide records that are learned from without labels.

    Those with a known label are dealt as a later run with the same map, split and seed deals them, so that what it holds
    back is not learned from here either; the others are for training, unless a patient or signal ties them to a record
    that is held back. Without any known label all are for training.
    """
    labelled = [item for item in items if item.label is not None]
    dealt = deal(labelled, settings, seed) if labelled else None
    known = dict(dealt.parts) if dealt else {}
    parts: dict[str, str] = {}
    for members in merged_groups(entries_of(items)):
        found = {known[entry.key] for entry in members if entry.key in known}
        part = next((name for name in ("test", "validation") if name in found), "train")
        parts |= {entry.key: part for entry in members}
    ordered = dict(sorted(parts.items()))
    return Dealt(ordered, dealt.warnings if dealt else (), split_digest(ordered))


def _by_time(entries: Sequence[SplitItem], settings: SplitSettings, seed: int) -> Dealt:
    """Hold back the latest. InvalidInput when more than a tenth of the records do not say when they were recorded."""
    untimed = sum(entry.recorded_at is None for entry in entries)
    if untimed > _MOST_UNTIMED * len(entries):
        raise _bad(
            {
                "method": f"{untimed} of {len(entries)} records do not say when they were recorded, more than "
                f"{100 * _MOST_UNTIMED:.0f} %: a split by time would not be one. Bring their times in with a label table, or choose "
                "another way."
            }
        )
    since = _moment(settings.since)
    try:
        return split_by_time(
            entries,
            share=None if since else settings.test,
            since=since,
            validation_share=settings.validation,
            seed=seed,
        )
    except InvalidInput as error:
        raise _bad({"since" if since else "test": error.message}) from error


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def rounds(
    items: Sequence[Labelled], parts: Mapping[str, str], settings: SplitSettings, seed: int
) -> list[dict[str, str]]:
    """Return the parts as each network sees them: one round, or one per fold that is held out."""
    if not settings.holds_out_every_fold:
        return [dict(parts)]
    folds = {key: int(part.removeprefix("fold-")) for key, part in parts.items()}
    entries = with_folds(entries_of(items), folds)
    return [dealt.parts for dealt in fold_rounds(entries, validation_share=settings.validation, seed=seed)]


@transaction.atomic
def make_split(run: TrainingRun, items: Sequence[Labelled]) -> tuple[dict[str, str], list[str]]:
    """Return ``{record id: part or fold}`` of the run's split, drawn and stored at the first call; and warnings."""
    if run.split_id is not None:
        rows = SplitMember.objects.filter(split=run.split_id).values_list("record_id", "group__part")
        return {str(record): part for record, part in rows}, []
    settings, seed = SplitSettings.from_dict(run.split_settings), run.settings["seed"]
    result = deal_for(run.task, items, settings, seed)
    seen = [counts_of(items, parts) for parts in rounds(items, result.parts, settings, seed)]
    row = Split.objects.create(
        digest=result.digest, settings=settings.to_dict() | {"seed": seed}, counts=seen if len(seen) > 1 else []
    )
    # A group is named after its first record, which is unique; its members share a subject or a signal.
    members = merged_groups(entries_of(items))
    truths = {str(item.record): item.truth(run.task, run.classes) for item in items}
    groups = SplitGroup.objects.bulk_create(
        SplitGroup(split=row, key=group[0].key, part=result.parts[group[0].key]) for group in members
    )
    SplitMember.objects.bulk_create(
        SplitMember(split=row, group=group, record_id=item.key, truth=truths[item.key])
        for group, items_of in zip(groups, members, strict=True)
        for item in items_of
    )
    run.split = row
    run.save(update_fields=["split"])
    return dict(result.parts), list(result.warnings)


def counts_of(items: Sequence[Labelled], parts: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Return records and subjects of each part."""
    answer = {}
    for part in PARTS:
        own = [item for item in items if parts.get(str(item.record)) == part]
        answer[part] = {"records": len(own), "subjects": len({item.group for item in own})}
    return answer
