"""Figures of a dataset that are counted once and kept until the dataset changes.

Triggers of the database (migrations ``0012`` and ``0016``) leave a mark in ``datasets_change`` with every statement that touches
records, labels, subjects or measures, whoever made it. What was counted holds as long as no mark of the dataset is visible; who finds
one counts again and takes the marks away that were there before. A mark becomes visible with the change itself, so a kept
figure is never older than the rows beside it. A mark also says whether signals may have come or gone: what goes by the
signals alone holds beside the other marks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db import connection, transaction

Parts = dict[str, Any]

#: How many groups of records of one signal there are (``datasets.twins``).
TWINS = "twins"
_BY_SIGNALS = (TWINS,)

_KEPT = """
SELECT d.id, t.content, EXISTS (SELECT 1 FROM datasets_change c WHERE c.dataset_id = d.id),
  EXISTS (SELECT 1 FROM datasets_change c WHERE c.dataset_id = d.id AND c.signals)
FROM datasets_dataset d LEFT JOIN datasets_datasettally t ON t.dataset_id = d.id WHERE d.id = ANY(%s)
"""
_STORE = """
INSERT INTO datasets_datasettally (dataset_id, content) SELECT id, %s::jsonb FROM datasets_dataset WHERE id = %s
ON CONFLICT (dataset_id) DO UPDATE SET content = EXCLUDED.content
"""


def kept_of_many(datasets: Iterable[uuid.UUID]) -> dict[uuid.UUID, Parts]:
    """Return what still holds of what is kept of datasets, in one query; those of which nothing does are not in it."""
    with connection.cursor() as cursor:
        cursor.execute(_KEPT, [list(datasets)])
        found = {pk: _holding(content, changed, signals) for pk, content, changed, signals in cursor.fetchall()}
    return {pk: parts for pk, parts in found.items() if parts}


def kept(dataset: uuid.UUID, names: Sequence[str], count: Callable[[list[str]], Parts]) -> Parts:
    """Return the named parts of a dataset's figures; ``count(names)`` is asked for those that are not kept, as JSON values."""
    found = kept_of_many([dataset]).get(dataset, {})
    if all(name in found for name in names):
        return {name: found[name] for name in names}
    with transaction.atomic(), connection.cursor() as cursor:
        # Whoever counts first spares the others the work, and an older count never replaces a newer one.
        wait_for(dataset)
        cursor.execute("SELECT array_agg(id), bool_or(signals) FROM datasets_change WHERE dataset_id = %s", [dataset])
        marks, signals = cursor.fetchone()
        cursor.execute("SELECT content FROM datasets_datasettally WHERE dataset_id = %s", [dataset])
        row = cursor.fetchone()
        parts = _holding(row and row[0], bool(marks), bool(signals))
        if missing := [name for name in names if name not in parts]:
            parts |= count(missing)
        if missing or marks:
            cursor.execute(_STORE, [json.dumps(parts), dataset])
        if marks:
            cursor.execute("DELETE FROM datasets_change WHERE id = ANY(%s)", [marks])
    return {name: parts[name] for name in names}


def wait_for(dataset: uuid.UUID) -> None:
    """Wait until nobody else counts this dataset, and let nobody until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 12))", [str(dataset)])


def forget(dataset: uuid.UUID) -> None:
    """Take away the marks of a dataset that is deleted."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM datasets_change WHERE dataset_id = %s", [dataset])


def _holding(content: Any, changed: bool, signals: bool) -> Parts:
    """Return the parts that hold. changed: a mark is there; signals: one that says so of signals."""
    if content is None or signals:
        return {}
    parts = json.loads(content) if isinstance(content, str) else dict(content)
    return {name: part for name, part in parts.items() if name in _BY_SIGNALS} if changed else parts
