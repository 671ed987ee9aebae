"""The groups of records of one dataset that hold the same signal, found once and kept until a signal comes or goes.

They lie in a table of their own, because a collection may hold each of its signals twice; whether they hold is kept with the
figures of the dataset (``datasets.tallies``).
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from django.db import connection
from django.db.models import QuerySet

from datasets import tallies
from datasets.fingerprint import BITS, clusters
from datasets.models import Dataset, TwinGroup

# All fingerprints of a dataset as one value of 32 bytes each, read from their index alone.
_SIGNS = """
SELECT string_agg(decode(fingerprint, 'hex'), ''::bytea) FROM (
  SELECT fingerprint FROM datasets_record WHERE dataset_id = %s AND fingerprint > '' ORDER BY fingerprint
) held
"""
_HOLDERS = "SELECT id, key, fingerprint FROM datasets_record WHERE dataset_id = %s AND fingerprint = ANY(%s)"
# What was deleted in the meantime is left aside.
_INSERT = """
INSERT INTO datasets_twingroup (dataset_id, place, records, is_decided)
SELECT %s, held.place, array_agg(r.id ORDER BY held.number), bool_and(r.is_kept_twin)
FROM unnest(%s::uuid[], %s::int[]) WITH ORDINALITY AS held(id, place, number) JOIN datasets_record r ON r.id = held.id
GROUP BY held.place HAVING count(*) > 1
"""
_SETTLE = """
UPDATE datasets_twingroup g
SET is_decided = NOT EXISTS (SELECT 1 FROM datasets_record r WHERE r.id = ANY(g.records) AND NOT r.is_kept_twin)
WHERE g.dataset_id = %s AND g.records && %s::uuid[]
"""


def groups(dataset: Dataset) -> QuerySet[TwinGroup]:
    """Return the groups as they are now, in the order of their first records' keys; found anew where a signal came or went."""
    tallies.kept(dataset.pk, [tallies.TWINS], lambda _: {tallies.TWINS: _find(dataset.pk)})
    return TwinGroup.objects.filter(dataset=dataset).order_by("place")


def holding(dataset: Dataset, records: Collection[uuid.UUID]) -> list[TwinGroup]:
    """Return the groups that hold any of these records."""
    return list(groups(dataset).filter(records__overlap=list(records))) if records else []


def settle(dataset: Dataset, kept: Collection[uuid.UUID]) -> None:
    """Note in the groups that somebody decided to keep these records, in the transaction that does so."""
    if kept:
        # Whoever finds the groups meanwhile does not see that decision yet.
        tallies.wait_for(dataset.pk)
        with connection.cursor() as cursor:
            cursor.execute(_SETTLE, [dataset.pk, list(kept)])


def drop(records: Collection[uuid.UUID]) -> None:
    """Take away the groups that name records which are deleted; the deletion has them found anew."""
    TwinGroup.objects.filter(records__overlap=list(records)).delete()


def _find(dataset: uuid.UUID) -> int:
    """Put the groups into their table; return how many there are."""
    with connection.cursor() as cursor:
        cursor.execute(_SIGNS, [dataset])
        signs = np.frombuffer(cursor.fetchone()[0] or b"", np.uint8).reshape(-1, BITS // 8)
        found = clusters(signs)
        shared = np.flatnonzero(np.bincount(found, minlength=1)[found] > 1)
        cluster_of = {signs[row].tobytes().hex(): int(found[row]) for row in shared}
        members: dict[int, list[tuple[str, uuid.UUID]]] = defaultdict(list)
        cursor.execute(_HOLDERS, [dataset, list(cluster_of)])
        for pk, key, code in cursor.fetchall():
            members[cluster_of[code]].append((key, pk))
        ordered: Sequence[list[tuple[str, uuid.UUID]]] = sorted(sorted(own) for own in members.values())
        places = [(pk, place) for place, own in enumerate(ordered) for _, pk in own]
        cursor.execute("DELETE FROM datasets_twingroup WHERE dataset_id = %s", [dataset])
        cursor.execute(_INSERT, [dataset, [pk for pk, _ in places], [place for _, place in places]])
        return cursor.rowcount
