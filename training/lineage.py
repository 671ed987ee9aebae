"""What a version, or one of those that it came from, has been trained on.

A version is followed through the whole portal: to its parents, and to every version with the same file, such as the entry
of the catalogue that was copied or what another project sent through an exchange. Records count as the same by the rule
that splits are dealt by (:func:`datasets.splits.merged_groups`): the same patient, signal or file, also in chains. Keys of
patients mean nothing beyond their project, so records of other projects are compared by signal and file alone.

Across projects this tells something: who has been given a model and holds a recording learns that this very recording was
trained on. It is told nevertheless, for figures on such records would be wrong without anybody's knowing, and to give a
model away is to let its training data be asked for like this. What is told is how many of the asker's own records are
concerned, never whose they were. Nothing can be asked of a model that one does not have: a digest that a file merely names
as its parent is followed within its own project only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace

from django.db.models import Q

from datasets.splits import merged_groups
from modelhub.models import ModelVersion
from training.models import SplitMember
from training.splitting import entries_of
from training.targets import Labelled, order_of


def forebears(version: ModelVersion) -> set[uuid.UUID]:
    """Return the ids of a version and of all that it came from in this portal, one query for each generation."""
    found: set[uuid.UUID] = set()
    named = Q(pk=version.pk)
    while True:
        rows = ModelVersion.objects.filter(named).exclude(pk__in=found).values_list(
            "pk", "parent", "sha256", "weights_sha256", "model__project", "facts__parent_sha256", "contract__parent"
        )  # fmt: skip
        named = Q(pk__in=[])
        for pk, parent, sha256, weights, project, *claims in rows:
            found.add(pk)
            named |= Q(pk=parent) | Q(sha256=sha256)
            if weights:
                named |= Q(weights_sha256=weights)
            for claim in claims:
                if isinstance(claim, str) and claim:
                    named |= Q(sha256=claim, model__project=project)
        if not named.children or not rows:
            return found


def trained_on(version: ModelVersion) -> list[Labelled]:
    """Return the records, without their labels, that a version was trained on; with folds, all of the data."""
    rows = SplitMember.objects.filter(split__training_run__produced_version__in=forebears(version))
    rows = rows.exclude(group__part="test").order_by("record").distinct("record")
    found = []
    for pk, dataset, key, subject, fingerprint, content, project in rows.values_list(
        "record", "record__dataset", "record__key", "record__subject__key", "record__fingerprint", "record__content_sha256",
        "split__training_run__project",
    ):  # fmt: skip
        group = f"s:{subject}" if subject and project == version.model.project_id else f"r:{pk}"
        order = order_of(key, content, fingerprint)
        found.append(Labelled(pk, dataset, key, group, fingerprint, None, content, None, frozenset(), order=order))
    return found


def known_to(version: ModelVersion, items: Iterable[Labelled]) -> set[uuid.UUID]:
    """Return which of the records a version was trained on: themselves, their patients, signals or files."""
    trained = trained_on(version)
    if not trained:
        return set()
    learned = {str(item.record) for item in trained}
    # A run that goes by the ids of its records does not say what they have elsewhere.
    rows = [replace(item, order=order_of(item.key, item.content, item.fingerprint)) for item in items]
    groups = merged_groups(entries_of([*trained, *rows]))
    held = {entry.key for members in groups if any(each.key in learned for each in members) for entry in members}
    return {item.record for item in rows if str(item.record) in held}


def unseen(items: Iterable[Labelled], version: ModelVersion) -> tuple[list[Labelled], int]:
    """Return the records that the version was not trained on in any way, and how many were left out."""
    rows = list(items)
    known = known_to(version, rows)
    return [item for item in rows if item.record not in known], len(known)
