"""A host keeps so much of the bucket as it is allowed: what it did not need for longest goes, and comes back when it is needed."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command

from datasets import signals
from datasets.models import OriginalFile, Record
from ecgportal import copies, storage
from tests.datasets.test_two_hosts import take_in
from tests.factories import make_dataset, make_project
from tests.hosts import hosts as hosts  # a fixture
from tests.hosts import s3_server as s3_server  # a fixture

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def records(hosts) -> list[Record]:
    """One record in each of three datasets, so in packs of their own, stored by the host ``a``, on which this is."""
    project = make_project()
    return [take_in(make_dataset(project), 1)[0] for _ in range(3)]


def pack_of(record: Record) -> Path:
    return storage.folder_of("signals", record.dataset_id) / f"{record.pack}.f32"


def rest(*paths: Path, hours: float) -> None:
    """Let some files not have been needed for hours."""
    at = time.time() - 3600 * hours
    for path in paths:
        os.utime(path, (at, at))


def all_copies() -> list[Path]:
    home = storage.folder_of("signals").parent
    return [path for kind in ("blobs", "signals") for path in (home / kind).rglob("*") if path.is_file()]


def taken() -> int:
    return sum(path.stat().st_size for path in all_copies())


def allow(settings, n_bytes: float) -> None:
    settings.COPIES_GB = n_bytes / 1e9


def test_what_was_not_needed_for_longest_goes_first_and_comes_back(hosts, settings, records):
    old, older, oldest = records
    before = {record.pk: signals.read_signal(record) for record in records}
    rest(*all_copies(), hours=2)
    rest(pack_of(older), hours=30)
    rest(pack_of(oldest), hours=50)
    size = pack_of(old).stat().st_size
    # Room is made for a tenth of what is allowed, too.
    allow(settings, (taken() - size))
    in_bucket = hosts.keys()
    copies.bound()
    assert not pack_of(oldest).exists() and pack_of(old).exists() and hosts.keys() == in_bucket
    assert taken() <= 0.9 * settings.COPIES_GB * 1e9 + size
    allow(settings, 1)
    rest(*all_copies(), hours=2)
    assert copies.bound() is False and all_copies() == [] and hosts.keys() == in_bucket
    for record in records:
        assert np.array_equal(signals.read_signal(record), before[record.pk])
    for original in OriginalFile.objects.all():
        assert len(storage.read_blob(original.sha256)) == original.size


def test_reading_counts_as_need_whatever_the_file_system_notes(hosts, settings, records):
    rest(*all_copies(), hours=2)
    used = records[0]
    original = used.originals.first()
    signals.read_signal(used)
    storage.read_blob(original.sha256)
    allow(settings, 1)
    copies.bound()
    assert set(all_copies()) == {pack_of(used), storage.blob_path(original.sha256)}


def test_what_the_bucket_does_not_have_stays(hosts, settings, records, caplog):
    lost, shorter, made = pack_of(records[0]), pack_of(records[1]), signals.derived_path(records[2], "overview-0.npz")
    storage.shared().delete([storage.key_of(lost)])
    storage.shared().put(storage.key_of(shorter), b"less")
    made.write_bytes(b"made again when it is needed")
    coming = lost.with_suffix(".part")
    coming.write_bytes(b"a pack that is being written")
    rest(*all_copies(), hours=2)
    allow(settings, 1)
    with caplog.at_level(logging.WARNING):
        copies.bound()
    assert set(all_copies()) == {lost, shorter, coming}
    assert "PORTAL_COPIES_GB" in caplog.text


def test_a_signal_that_is_being_read_stays_readable(hosts, settings, records):
    whole = signals.read_signal(records[0])
    mapped = signals.mapped(records[0])
    rest(*all_copies(), hours=2)
    allow(settings, 1)
    copies.bound()
    assert not pack_of(records[0]).exists() and np.array_equal(mapped.signal, whole)


def test_one_that_is_needed_while_others_are_looked_at_stays(hosts, settings, records, monkeypatch):
    rest(*all_copies(), hours=2)
    allow(settings, 1)
    holds = type(storage.shared()).holds

    def meanwhile(self, sizes):
        signals.read_signal(records[0])
        return holds(self, sizes)

    monkeypatch.setattr(type(storage.shared()), "holds", meanwhile)
    copies.bound()
    assert all_copies() == [pack_of(records[0])]


def test_nothing_goes_without_a_limit_or_an_answer_of_the_bucket(hosts, settings, records):
    rest(*all_copies(), hours=2)
    found = set(all_copies())
    for allowed in (0, 1e15):
        allow(settings, allowed)
        assert copies.bound() is False and set(all_copies()) == found
    allow(settings, 1)
    hosts.cut()
    assert copies.bound() is False and set(all_copies()) == found
    hosts.mend()
    settings.STORAGE_URL = ""
    assert copies.bound() is False and set(all_copies()) == found


def test_unless_it_is_told_a_host_keeps_half_of_its_disk(settings):
    settings.COPIES_GB = None
    assert copies.limit_bytes() == shutil.disk_usage(settings.PORTAL_HOME).total // 2


def test_the_storage_is_tended_so(hosts, settings, records):
    rest(*all_copies(), hours=2)
    allow(settings, 1)
    call_command("tend_storage", once=True)
    assert all_copies() == []
