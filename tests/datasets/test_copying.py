"""Rows that are inserted by COPY are the rows that the ORM would write, under the same rules."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from datasets.copying import copy_rows
from datasets.models import LabelSource, OriginalFile, Record, RecordLabel
from tests.factories import make_dataset, make_project, make_record

pytestmark = pytest.mark.django_db


def _like(record: Record, **changes: object) -> Record:
    """Return a new object like a stored one."""
    names = [
        f.attname for f in Record._meta.local_concrete_fields if not f.generated and f.name not in ("id", "created_at")
    ]
    return Record(**{**{name: getattr(record, name) for name in names}, **changes})


def test_copied_rows_equal_those_of_the_orm() -> None:
    first = make_record(make_dataset(make_project()))
    odd = {"notes": ['tab\t, line\nend, \\N, "quotes", snow ☃'], "empty": None, "list": [1, {"a": []}]}
    changes = {
        "meta": odd,
        "leads": ["I", 'odd "\\{},\t name'],
        "recorded_at": timezone.now(),
        "fingerprint": "ab" * 32,
    }
    quality = {"flags": ["no_beats"], "leads": [{"flags": ["flat"]}]}
    by_orm, by_copy = (_like(first, key=key, content_sha256=key, quality=quality, **changes) for key in ("orm", "copy"))
    Record.objects.bulk_create([by_orm])
    copy_rows([by_copy])
    assert not by_copy._state.adding
    one, other = Record.objects.get(key="orm"), Record.objects.get(pk=by_copy.pk)
    for field in Record._meta.local_concrete_fields:
        if field.name not in ("id", "created_at", "key", "content_sha256"):
            assert getattr(one, field.attname) == getattr(other, field.attname), field.name
    assert other.quality_flags == ["no_beats"] and other.lead_flags == ["flat"] and len(other.fingerprint_buckets) == 10
    assert abs((other.created_at - one.created_at).total_seconds()) < 60


def test_constraints_hold_and_nothing_of_a_refused_batch_stays() -> None:
    record = make_record(make_dataset(make_project()))
    good, twice = (
        _like(record, key="a", content_sha256="a"),
        _like(record, key="b", content_sha256=record.content_sha256),
    )
    with pytest.raises(IntegrityError, match="record_content_once"), transaction.atomic():
        copy_rows([good, twice])
    with pytest.raises(IntegrityError, match="record_fs_positive"), transaction.atomic():
        copy_rows([_like(record, key="c", content_sha256="c", fs_hz=0.0)])
    assert Record.objects.filter(dataset=record.dataset).count() == 1


def test_the_marks_for_the_tallies_are_set() -> None:
    record = make_record(make_dataset(make_project()))
    other = _like(record, key="other", content_sha256="other")
    with connection.cursor() as cursor:
        for rows in ([other], [RecordLabel(record=other, system="scp", code="NORM", source=LabelSource.FILE)]):
            cursor.execute("DELETE FROM datasets_change")
            copy_rows(rows)
            cursor.execute("SELECT DISTINCT dataset_id FROM datasets_change")
            assert cursor.fetchall() == [(record.dataset_id,)]


def test_no_rows_and_rows_with_numbers_of_the_database() -> None:
    copy_rows([])
    record = make_record(make_dataset(make_project()))
    copy_rows([OriginalFile(record=record, name="a.dat", sha256="0" * 64, size=3)])
    assert OriginalFile.objects.get(record=record).name == "a.dat"
