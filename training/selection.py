"""Which records of the chosen datasets a run uses: filtered as the record list is, balanced and capped by the seed."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db.models import QuerySet

from datasets.formats.registry import title_of
from datasets.models import Record
from datasets.record_filters import FILTERS, BadFilter, asked
from datasets.selectors import filtered
from ecgportal.errors import InvalidInput
from training.targets import Labelled


@dataclass(frozen=True)
class Selection:
    """filter: names of ``datasets.record_filters`` with their values; an empty one takes every record.

    balanced: equally many records of every class. cap: at most this many records. Both draw by the run's seed.
    """

    filter: Mapping[str, Any] = field(default_factory=dict)
    balanced: bool = False
    cap: int | None = None

    def __post_init__(self) -> None:
        problems = {f"selection.filter.{name}": sentence for name, sentence in _filter_problems(self.filter).items()}
        if not isinstance(self.balanced, bool):
            problems["selection.balanced"] = f"Balanced must be true or false, not {self.balanced!r}."
        if self.cap is not None and (isinstance(self.cap, bool) or not isinstance(self.cap, int) or self.cap < 10):
            problems["selection.cap"] = f"The cap must be a whole number of at least 10 records, not {self.cap!r}."
        if problems:
            raise InvalidInput(" ".join(problems.values()), code="bad_selection", fields=problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Selection:
        """Build a selection from JSON; unknown names are named in one error."""
        unknown = [name for name in values if name not in ("filter", "balanced", "cap")]
        if unknown:
            raise InvalidInput(
                f"A selection has no {', '.join(unknown)}; it takes filter, balanced and cap.",
                fields={f"selection.{name}": "Unknown." for name in unknown},
            )
        given = values.get("filter") or {}
        if not isinstance(given, Mapping):
            raise InvalidInput("The filter must be an object.", fields={"selection.filter": "Give names and values."})
        kept = {name: value for name, value in given.items() if value not in (None, "")}
        return cls(kept, values.get("balanced") or False, values.get("cap"))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"filter": dict(self.filter)}

    @property
    def is_everything(self) -> bool:
        return not (self.filter or self.balanced or self.cap)

    def records(self, queryset: QuerySet[Record]) -> QuerySet[Record]:
        """Narrow records to those that pass the filter."""
        return filtered(queryset, self.filter)

    def draw(self, items: Sequence[Labelled], outputs: Sequence[str], task: str, seed: int) -> list[Labelled]:
        """Return the balanced and capped part of ``items``, in their order; all of them when neither is asked for."""
        kept = list(items)
        if self.balanced and task != "regression":
            kept = _balanced(kept, outputs, seed, self.cap)
        if self.cap is not None and len(kept) > self.cap:
            chosen = set(random.Random(f"cap {seed}").sample(range(len(kept)), self.cap))
            kept = [item for number, item in enumerate(kept) if number in chosen]
        return kept

    def sentence(self) -> str:
        """Return the selection in words; empty for all records."""
        words = [
            f"{name.replace('_', ' ')} {title_of(str(value)) if name == 'format' else value}" for name, value in self.filter.items()
        ]  # fmt: skip
        words += ["as many records of each class"] if self.balanced else []
        words += [f"at most {self.cap} records"] if self.cap else []
        return ", ".join(words)


def _filter_problems(values: Mapping[str, Any]) -> dict[str, str]:
    problems = {}
    for name, value in values.items():
        if name not in FILTERS:
            problems[name] = f"There is no filter '{name}'; there are {', '.join(FILTERS)}."
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            problems[name] = f"The filter '{name}' must be a text or a number, not {value!r}."
    try:
        asked({name: value for name, value in values.items() if name not in problems})
    except BadFilter as error:
        problems |= error.fields
    return problems


def _balanced(items: list[Labelled], outputs: Sequence[str], seed: int, cap: int | None) -> list[Labelled]:
    """Return as many records of every class as the rarest has, or as a cap leaves to each, the rarest class first.

    A record with several classes counts for each of them. Records without any of the classes count as a class of their
    own where there are such.
    """
    holders: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        for name in item.classes or {""}:
            holders[name].append(number)
    present = [name for name in (*outputs, "") if holders[name]]
    if not present:
        return items
    wanted = min(len(holders[name]) for name in present)
    if cap is not None:
        wanted = min(wanted, max(1, cap // len(present)))
    rng = random.Random(f"balance {seed}")
    taken: set[int] = set()
    counts: Counter[str] = Counter()
    for name in sorted(present, key=lambda each: (len(holders[each]), each)):
        waiting = [number for number in holders[name] if number not in taken]
        rng.shuffle(waiting)
        # Records of no class that is full already come first, so that the classes stay near each other.
        waiting.sort(key=lambda number: sum(counts[each] >= wanted for each in items[number].classes))
        for number in waiting[: max(0, wanted - counts[name])]:
            taken.add(number)
            counts.update(items[number].classes or {""})
    return [item for number, item in enumerate(items) if number in taken]
