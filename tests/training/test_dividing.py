"""The same files are divided alike in every portal: ids, pseudonyms and the order in which they came decide nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest

from datasets.identity import pseudonym
from datasets.models import LabelSource, Record, RecordLabel, Subject
from datasets.signals import read_signal
from ecgportal.projects.services import pseudonym_key
from tests import factories
from tests.acceptance.conftest import few_threads as few_threads  # a fixture
from tests.datasets.test_ingest import many, upload
from tests.ecgfiles import zip_of
from tests.training.test_setting_up import FAST
from tests.training.test_setting_up import ward as ward  # a fixture
from tests.working import work_off
from training.choices import choose
from training.engine.data import cross_parts
from training.growing import part_of
from training.models import DrawnBy
from training.problems.registry import get_problem
from training.run_records import records_of
from training.services import run_again
from training.splitting import deal, make_split, rounds
from training.targets import division_digest

RECORDS = 36


def _files() -> dict[str, bytes]:
    """Return WFDB pairs by name; two signals are there once more, in files that are named after a person."""
    files = many(RECORDS)
    for number in (2, 4):
        for end in ("hea", "dat"):
            data = files[f"part{number % 3}/r{number:04d}.{end}"]
            name = f"Meier_Hans_{number:04d}"
            files[f"named/{name}.{end}"] = data.replace(f"r{number:04d}".encode(), name.encode())
    return files


class Portal:
    """A project of its own with the same files, labels and persons in two datasets, which came in an order of their own."""

    def __init__(self, seed: int) -> None:
        self.user = factories.make_user()
        self.project = factories.make_project({self.user: "owner"})
        self.label_map = factories.make_label_map(self.project)
        self.datasets = [factories.make_dataset(self.project) for _ in range(2)]
        files, rng = _files(), random.Random(seed)
        stems = sorted({name.rpartition(".")[0] for name in files})
        rng.shuffle(stems)
        for place in rng.sample((0, 1), 2):
            own = [stem for stem in stems if int(stem[-4:]) % 2 == place or int(stem[-4:]) == 7]
            for half in (own[::2], own[1::2]):
                archive = zip_of({f"{stem}.{end}": files[f"{stem}.{end}"] for stem in half for end in ("hea", "dat")})
                upload(self.datasets[place], {"a.zip": archive})
            work_off()
        key = pseudonym_key(self.project)
        numbers = {files[f"{stem}.dat"]: int(stem[-4:]) for stem in stems}
        for record in Record.objects.filter(dataset__in=self.datasets):
            digits = np.round(read_signal(record) * 1000).T.astype("<i2").tobytes()
            number = numbers[digits]
            if number % 3:
                person = pseudonym(key, f"person {number // 4}")
                record.subject = Subject.objects.get_or_create(dataset=record.dataset, key=person)[0]
                record.save()
            codes = ["NORM"] if number % 5 else ["IMI", "NORM"] if number % 2 else ["IMI"]
            RecordLabel.objects.bulk_create(
                RecordLabel(record=record, system="scp", code=code, source=LabelSource.FILE) for code in codes
            )

    def choices(self, **asked):
        values = {"architecture": "xresnet1d18", "settings": {**FAST, "seed": 3}} | asked
        return choose(project=self.project, datasets=self.datasets, label_map=self.label_map, **values)


@pytest.fixture
def portals(db, few_threads) -> tuple[Portal, Portal]:
    return Portal(1), Portal(2)


def test_the_same_files_with_the_same_seed_are_divided_alike(portals):
    ways = [
        ({}, {}),
        ({"method": "k_fold", "folds": 3}, {}),
        ({"method": "k_fold", "folds": 4, "fold": 2}, {}),
        ({}, {"balanced": True, "cap": 12}),
        ({}, {"cap": 20}),
    ]
    hidden = [
        set(Record.objects.filter(dataset__in=p.datasets, key__contains="F-").values_list("key", flat=True))
        for p in portals
    ]
    assert len(hidden[0]) == 2 and not hidden[0] & hidden[1]
    for split, selection in ways:
        found, digests = [], []
        for portal in portals:
            choices = portal.choices(split=split, selection=selection)
            items = choices.items()
            dealt = deal(items, choices.split, 3).parts
            seen = rounds(items, dealt, choices.split, 3)
            # WFDB files are read one record each, so that a record's content is its file's.
            found.append([[(item.content, own[str(item.record)]) for item in items] for own in (dealt, *seen)])
            digests.append(
                division_digest(
                    {part: [i for i in items if seen[0][str(i.record)] == part] for part in set(seen[0].values())}
                )
            )
        assert len(found[0][0]) >= 10 and len({part for _, part in found[0][0]}) > 2
        assert found[0] == found[1], (split, selection)
        assert digests[0] == digests[1] != ""


def test_folds_of_an_ensemble_and_parts_of_a_learning_curve_are_alike_too(portals):
    folds, parts = [], []
    for portal in portals:
        items = portal.choices().items()
        truth = np.array([[name in item.classes for name in ("NORM", "MI")] for item in items], np.float32)
        crossed = cross_parts(truth, [item.group for item in items], get_problem("multilabel"), ("NORM", "MI"), 3, 1)
        assert crossed is not None
        folds.append([[items[row].content for row in part.validation] for part in crossed])
        parts.append([[item.content for item in part_of(items, share, 1)] for share in (0.25, 0.5)])
    assert folds[0] == folds[1] and parts[0] == parts[1]
    assert 0 < len(parts[0][0]) < len(parts[0][1]) < len(items)


def _by_content(run) -> dict[str, str]:
    items = records_of(run)
    parts, _ = make_split(run, items)
    return {item.content: parts[str(item.record)] for item in items}


def test_a_run_of_an_earlier_version_is_done_again_as_it_was(ward):
    asked = {"settings": {**FAST, "seed": 3}, "selection": {"balanced": True, "cap": 16}}
    old = ward.start(**asked, drawn_by=DrawnBy.RECORD_ID)
    items = records_of(old)
    # As earlier versions drew: by key and id.
    assert [(i.key, i.record) for i in items] == sorted((i.key, i.record) for i in items) and not any(
        i.order for i in items
    )
    divided = _by_content(old)
    again = run_again(actor=ward.user, run=old)
    assert again.drawn_by == DrawnBy.RECORD_ID and _by_content(again) == divided
    assert again.split.digest == old.split.digest
    new = ward.start(**asked)
    assert new.drawn_by == DrawnBy.CONTENT and _by_content(new) != divided
    assert run_again(actor=ward.user, run=new).drawn_by == DrawnBy.CONTENT


def test_what_learns_on_from_a_model_of_an_earlier_version_holds_back_the_same_records(ward):
    version = ward.train(drawn_by=DrawnBy.RECORD_ID).produced_version
    asked = {
        "project": ward.project,
        "label_map": ward.label_map,
        "base_version": version,
        "mode": "full",
        "settings": FAST,
    }
    assert choose(datasets=[ward.first], **asked).drawn_by == DrawnBy.RECORD_ID
    strange = factories.make_dataset(ward.project)
    factories.make_record(strange, labels=("NORM",))
    assert choose(datasets=[strange], **asked).drawn_by == DrawnBy.CONTENT


@pytest.mark.parametrize(
    "asked",
    [
        {"task": "multiclass"},
        {"task": "binary"},
        {"task": "regression", "target": "age", "label_map": None},
        {"task": "multilabel", "drawn_by": DrawnBy.RECORD_ID, "selection": {"balanced": True, "cap": 16}},
        {"task": "pretraining"},
    ],
)
def test_a_divided_run_keeps_what_was_known_of_its_records(ward, asked):
    run = ward.start(**asked)
    items = records_of(run)
    make_split(run, items)
    assert records_of(run) == items
    RecordLabel.objects.all().delete()
    Record.objects.update(quality_score=0.1)
    if asked["task"] != "pretraining":
        assert records_of(run) == items
