"""Insert many rows by PostgreSQL's COPY, which spares the building and parsing of a statement as long as the rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from django.db import connection, models


@cache
def _plan(model: type[models.Model]) -> tuple[str, tuple[models.Field[Any, Any], ...]]:
    """Return the statement for a table and the fields that its rows give, in order; the database fills the others."""
    fields = tuple(
        field
        for field in model._meta.local_concrete_fields
        if not field.generated and not isinstance(field, models.AutoField)
    )
    quote = connection.ops.quote_name
    columns = ", ".join(quote(field.column) for field in fields)
    return f"COPY {quote(model._meta.db_table)} ({columns}) FROM STDIN", fields


def copy_rows(rows: Sequence[models.Model]) -> None:
    """Insert new objects of one model as ``bulk_create`` does: constraints, triggers and defaults hold alike.

    IntegrityError and its relatives as from any other statement. What the database itself fills (numbered keys, generated
    columns) is not read back.
    """
    if not rows:
        return
    statement, fields = _plan(type(rows[0]))
    with connection.cursor() as cursor, connection.wrap_database_errors, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row([field.get_db_prep_save(field.pre_save(row, True), connection) for field in fields])
    for row in rows:
        row._state.adding, row._state.db = False, connection.alias
