"""What the files of an upload leave open, in groups that one answer fits.

Files whose guesses contradict each other (millivolt here, microvolt there) are in different groups: one answer for both
would be wrong for one of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Min, QuerySet

from datasets.models import Ingest, IngestItem, Outcome

# Questions that differ in a word (another length, another number of rows) are asked as one; more of them wait for the next round.
_MOST_VARIANTS = 200
_GUESS = re.compile(r"Guess: (.+?)\. ")


@dataclass
class Group:
    """Files that one answer fits. guesses: field to guess, empty where there is none; first: the name of one of the files."""

    guesses: dict[str, str]
    first: str
    count: int = 0
    sentences: dict[tuple[str, str], int] = field(default_factory=dict)
    variants: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        """The name of the group in a form; the same as long as its questions are."""
        return hashlib.sha256(_canonical(self.guesses).encode()).hexdigest()[:12]

    @property
    def questions(self) -> list[tuple[str, str, int]]:
        """Field, sentence, and how many files ask so; the most frequent first."""
        found = [(name, sentence, n) for (name, sentence), n in self.sentences.items()]
        return sorted(found, key=lambda each: (-each[2], each[0], each[1]))


def guess_in(sentence: str) -> str:
    """Return the guess that a question offers, empty where it offers none."""
    found = _GUESS.match(f"{sentence} ")
    return found[1] if found else ""


def groups(ingest: Ingest) -> list[Group]:
    """Return the groups of an upload's files that wait for an answer, the largest first."""
    rows = _waiting(ingest).order_by().values("asks").annotate(n=Count("pk"), first=Min("name"))
    found: list[Group] = []
    for row in rows.order_by("-n", "first")[:_MOST_VARIANTS]:
        asks = row["asks"]
        guesses = {name: guess_in(sentence) for name, sentence in asks.items()}
        group = next((each for each in found if _agree(each.guesses, guesses)), None)
        if group is None:
            group = Group({}, row["first"])
            found.append(group)
        group.guesses |= guesses
        group.count += row["n"]
        group.variants.add(_canonical(asks))
        for pair in asks.items():
            group.sentences[pair] = group.sentences.get(pair, 0) + row["n"]
    return found


def names_in(ingest: Ingest, group: Group) -> list[str]:
    """Return the names of a group's files, as the upload's report shows them."""
    rows = _waiting(ingest).order_by("position").values_list("name", "asks")
    return [name for name, asks in rows.iterator() if _canonical(asks) in group.variants]


def _waiting(ingest: Ingest) -> QuerySet[IngestItem]:
    return IngestItem.objects.filter(ingest=ingest, outcome=Outcome.REFUSED, code="needs_answer").exclude(asks={})


def _agree(one: dict[str, str], other: dict[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)
