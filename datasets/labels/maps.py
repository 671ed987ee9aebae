"""Label maps: from the codes that sources state to the classes that models learn."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from datasets.ecg import SourceLabel
from ecgportal.errors import InvalidInput

RELATIONS = ("exact", "broader", "ambiguous", "unmapped")
ANY = "any"


@dataclass(frozen=True)
class LabelMapSpec:
    """A versioned map from codes to classes.

    system: the code system of ``entries``, or ``any`` when each key carries its own (``snomed:426783006``).
    classes: in the order that models use. entries: code to ``(class or None, relation)``; None leaves the code out on
    purpose. Relations: ``exact`` (same concept), ``broader`` (the class holds more than the code), ``ambiguous``
    (the code alone cannot decide), ``unmapped``. Names match without regard to capitals and punctuation; a key that
    ends in ``*`` matches every name that begins so.
    """

    name: str
    version: int
    system: str
    classes: tuple[str, ...]
    entries: Mapping[str, tuple[str | None, str]]
    _lookup: dict[tuple[str, str], tuple[str | None, str]] = field(init=False, repr=False, compare=False)
    _prefixes: tuple[tuple[str, tuple[str | None, str]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lookup: dict[tuple[str, str], tuple[str | None, str]] = {}
        prefixes = []
        known = set(self.classes)
        if len(known) != len(self.classes):
            raise InvalidInput(f"The map {self.name} names a class twice.")
        for key, (target, relation) in self.entries.items():
            if target is not None and target not in known:
                raise InvalidInput(f"The map {self.name} sends {key} to {target}, which is not one of its classes.")
            if relation not in RELATIONS:
                raise InvalidInput(
                    f"The map {self.name} gives {key} the relation {relation!r}; use one of {', '.join(RELATIONS)}."
                )
            system, _, code = key.partition(":") if self.system == ANY else (self.system, "", key)
            if system == "name" and code.endswith("*"):
                prefixes.append((name_key(code), (target, relation)))
            else:
                lookup[system, _comparable(system, code)] = (target, relation)
        object.__setattr__(self, "_lookup", lookup)
        object.__setattr__(self, "_prefixes", tuple(sorted(prefixes, key=lambda entry: -len(entry[0]))))

    def systems(self) -> frozenset[str]:
        """Return the code systems that the map speaks."""
        return frozenset(system for system, _ in self._lookup) | ({"name"} if self._prefixes else frozenset())

    def find(self, label: SourceLabel) -> tuple[str | None, str] | None:
        """Return ``(class or None, relation)`` of a label, or None when the map does not know its code."""
        key = _comparable(label.system, label.code)
        found = self._lookup.get((label.system, key))
        if found is None and label.system == "name":
            found = next((entry for prefix, entry in self._prefixes if key.startswith(prefix)), None)
        return found


def _comparable(system: str, code: str) -> str:
    if system == "name":
        return name_key(code)
    # ICD codes are written with and without the dot.
    return code.replace(".", "").upper() if system in ("icd10", "icd9") else code


def name_key(text: str) -> str:
    """Return the form in which names are compared: lower case letters and digits only."""
    return re.sub(r"[\W_]+", "", text.casefold())


@dataclass(frozen=True)
class MapResult:
    """classes: the classes that a record bears. unknown: its labels whose code the map does not know."""

    classes: frozenset[str]
    unknown: tuple[SourceLabel, ...]


def apply_map(labels: Iterable[SourceLabel], spec: LabelMapSpec, *, min_likelihood: float | None = None) -> MapResult:
    """Return the classes of one record.

    min_likelihood: leave out labels whose stated likelihood is lower. None counts every label, as the published PTB-XL
    benchmark does (Strodthoff et al. 2021); note that PTB-XL states 0 where the likelihood is not known.
    Labels of code systems that the map does not speak are neither classes nor unknown.
    """
    systems = spec.systems()
    classes: set[str] = set()
    unknown: list[SourceLabel] = []
    for label in labels:
        if min_likelihood is not None and label.likelihood is not None and label.likelihood < min_likelihood:
            continue
        found = spec.find(label)
        if found is None:
            if label.system in systems:
                unknown.append(label)
        elif found[0] is not None:
            classes.add(found[0])
    return MapResult(frozenset(classes), tuple(unknown))


@dataclass(frozen=True)
class CodeCoverage:
    """How a code of the data fares under a map.

    target None: left out, or unknown when relation is None too. spoken: the map speaks the code's system at all.
    """

    system: str
    code: str
    records: int
    target: str | None
    relation: str | None
    spoken: bool = True


@dataclass(frozen=True)
class Coverage:
    """What a map makes of a collection.

    records: all records. classified: those with one class at least. by_class: records of each class. codes: every code
    of the data, the most frequent first. many_to_one: classes that several codes of the data lead to.
    """

    records: int
    classified: int
    by_class: dict[str, int]
    codes: tuple[CodeCoverage, ...]
    many_to_one: dict[str, tuple[str, ...]]

    @property
    def unknown(self) -> tuple[CodeCoverage, ...]:
        return tuple(code for code in self.codes if code.relation is None)


def coverage(
    records: Iterable[Iterable[SourceLabel]] | Mapping[frozenset[SourceLabel], int],
    spec: LabelMapSpec,
    *,
    min_likelihood: float | None = None,
) -> Coverage:
    """Report before use what a map would do with the labels of a collection.

    records: one iterable of labels a record, or how many records bear each set of labels.
    """
    sets = records if isinstance(records, Mapping) else Counter(frozenset(labels) for labels in records)
    total, classified = 0, 0
    by_class = dict.fromkeys(spec.classes, 0)
    seen: Counter[tuple[str, str]] = Counter()
    for labels, count in sets.items():
        total += count
        for pair in {(label.system, label.code) for label in labels}:
            seen[pair] += count
        classes = apply_map(labels, spec, min_likelihood=min_likelihood).classes
        classified += count if classes else 0
        for name in classes:
            by_class[name] += count
    return assembled(total, classified, by_class, seen, spec)


def assembled(
    records: int, classified: int, by_class: dict[str, int], seen: Mapping[tuple[str, str], int], spec: LabelMapSpec
) -> Coverage:
    """Return the report out of its counts. seen: how many records bear each ``(system, code)``."""
    codes, systems = [], spec.systems()
    sources: dict[str, list[str]] = defaultdict(list)
    for (system, code), count in sorted(seen.items(), key=lambda item: (-item[1], item[0])):
        target, relation = spec.find(SourceLabel(code, system)) or (None, None)
        codes.append(CodeCoverage(system, code, count, target, relation, system in systems))
        if target is not None:
            sources[target].append(code)
    many = {name: tuple(sources[name]) for name in spec.classes if len(sources.get(name, ())) > 1}
    return Coverage(records, classified, by_class, tuple(codes), many)
