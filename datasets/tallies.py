"""Figures of a dataset that are counted once and kept until the dataset changes.

Triggers of the database (migrations ``0012`` and ``0013``) leave a mark in ``datasets_change`` with every statement that touches
records, labels, subjects or measures, whoever made it. What was counted holds as long as no mark of the dataset is visible; who finds
one counts again and takes the marks away that were there before. A mark becomes visible with the change itself, so a kept
figure is never older than the rows beside it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db import connection, transaction

Parts = dict[str, Any]

_KEPT = """
SELECT d.id, t.content FROM datasets_dataset d LEFT JOIN datasets_datasettally t ON t.dataset_id = d.id
WHERE d.id = ANY(%s) AND NOT EXISTS (SELECT 1 FROM datasets_change c WHERE c.dataset_id = d.id)
"""
_STORE = """
INSERT INTO datasets_datasettally (dataset_id, content) SELECT id, %s::jsonb FROM datasets_dataset WHERE id = %s
ON CONFLICT (dataset_id) DO UPDATE SET content = EXCLUDED.content
"""


def kept_of_many(datasets: Iterable[uuid.UUID]) -> dict[uuid.UUID, Parts]:
    """Return what is kept of datasets that did not change since it was counted, in one query."""
    with connection.cursor() as cursor:
        cursor.execute(_KEPT, [list(datasets)])
        return {pk: _loaded(content) for pk, content in cursor.fetchall()}


def kept(dataset: uuid.UUID, names: Sequence[str], count: Callable[[list[str]], Parts]) -> Parts:
    """Return the named parts of a dataset's figures; ``count(names)`` is asked for those that are not kept, as JSON values."""
    found = kept_of_many([dataset]).get(dataset, {})
    if all(name in found for name in names):
        return {name: found[name] for name in names}
    with transaction.atomic(), connection.cursor() as cursor:
        # Whoever counts first spares the others the work, and an older count never replaces a newer one.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 12))", [str(dataset)])
        cursor.execute("SELECT array_agg(id) FROM datasets_change WHERE dataset_id = %s", [dataset])
        marks = cursor.fetchone()[0]
        cursor.execute("SELECT content FROM datasets_datasettally WHERE dataset_id = %s", [dataset])
        row = cursor.fetchone()
        parts = {} if marks or row is None else _loaded(row[0])
        if missing := [name for name in names if name not in parts]:
            parts |= count(missing)
            cursor.execute(_STORE, [json.dumps(parts), dataset])
        if marks:
            cursor.execute("DELETE FROM datasets_change WHERE id = ANY(%s)", [marks])
    return {name: parts[name] for name in names}


def forget(dataset: uuid.UUID) -> None:
    """Take away the marks of a dataset that is deleted."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM datasets_change WHERE dataset_id = %s", [dataset])


def _loaded(content: Any) -> Parts:
    if content is None:
        return {}
    return json.loads(content) if isinstance(content, str) else dict(content)
