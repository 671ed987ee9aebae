"""Splits keep patients and equal signals on one side and spread the classes."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.splits import PTBXL_FOLDS, SplitItem, split, split_digest
from ecgportal.errors import InvalidInput
from tests.shared import needs_shared, shared_path

THREE = {"train": 0.7, "val": 0.15, "test": 0.15}
labels = st.frozensets(st.sampled_from("ABCDE"), max_size=3)
items = st.lists(
    st.tuples(st.none() | st.integers(0, 30), labels, st.none() | st.integers(0, 8)), min_size=1, max_size=80
).map(
    lambda rows: [
        SplitItem(f"r{i}", None if g is None else f"p{g}", own, same_signal=None if s is None else f"s{s}")
        for i, (g, own, s) in enumerate(rows)
    ]
)


def _sides(entries, parts, attribute):
    found = defaultdict(set)
    for item in entries:
        if getattr(item, attribute) is not None:
            found[getattr(item, attribute)].add(parts[item.key])
    return found


@settings(max_examples=150, deadline=None)
@given(items, st.integers(0, 5), st.sampled_from([None, 2, 5]))
def test_no_patient_and_no_signal_is_on_two_sides_whatever_comes(entries, seed, k_folds):
    result = split(entries, fractions=None if k_folds else THREE, k_folds=k_folds, seed=seed)
    assert result.parts.keys() == {item.key for item in entries}
    for attribute in ("group", "same_signal"):
        assert all(len(sides) == 1 for sides in _sides(entries, result.parts, attribute).values())


@settings(max_examples=50, deadline=None)
@given(items, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(entries, seed, shuffler: random.Random):
    first = split(entries, seed=seed)
    shuffled = list(entries)
    shuffler.shuffle(shuffled)
    second = split(shuffled, seed=seed)
    assert first == second and first.digest == split_digest(second.parts)


def test_chains_of_patients_and_signals_stay_together():
    chain = [
        SplitItem("a", "p1", frozenset("A"), same_signal="s1"),
        SplitItem("b", "p2", frozenset("A"), same_signal="s1"),
        SplitItem("c", "p2", frozenset("B"), same_signal="s2"),
        SplitItem("d", None, frozenset("B"), same_signal="s2"),
    ]
    rest = [SplitItem(f"x{i}", f"q{i}", frozenset("AB")) for i in range(20)]
    for seed in range(10):
        parts = split(chain + rest, seed=seed).parts
        assert len({parts[key] for key in "abcd"}) == 1


def _population(n=3000, seed=1):
    rng = random.Random(seed)
    out = []
    for patient in range(n):
        own = frozenset(name for name, p in (("N", 0.5), ("MI", 0.2), ("RARE", 0.01), ("CD", 0.1)) if rng.random() < p)
        out += [SplitItem(f"{patient}-{i}", f"p{patient}", own) for i in range(rng.choice((1, 1, 1, 2, 5)))]
    return out


def test_parts_and_classes_have_their_shares():
    entries = _population()
    for shares in (THREE, {"train": 0.8, "test": 0.2}):
        result = split(entries, fractions=shares, seed=3)
        assert result.warnings == ()
        sizes = Counter(result.parts.values())
        for part, share in shares.items():
            assert abs(sizes[part] / len(entries) - share) < 0.01
            for label in ("N", "MI", "CD", "RARE"):
                total = sum(label in item.labels for item in entries)
                own = sum(label in item.labels and result.parts[item.key] == part for item in entries)
                assert abs(own / total - share) < (0.04 if label == "RARE" else 0.01), (label, part)


def test_folds_are_equal_and_another_seed_gives_another_split():
    entries = _population(500)
    result = split(entries, k_folds=5, seed=1)
    sizes = Counter(result.parts.values())
    assert set(sizes) == {f"fold-{i}" for i in range(1, 6)} and max(sizes.values()) - min(sizes.values()) < 12
    assert split(entries, k_folds=5, seed=1).digest == result.digest != split(entries, k_folds=5, seed=2).digest


def test_a_class_with_as_many_patients_as_parts_is_seen_in_every_part():
    entries = [SplitItem(f"n{i}", f"n{i}", frozenset("N")) for i in range(60)]
    entries += [SplitItem(f"r{i}", f"r{i}", frozenset("R")) for i in range(3)]
    for seed in range(10):
        result = split(entries, seed=seed)
        assert {result.parts[f"r{i}"] for i in range(3)} == set(THREE)
        assert result.warnings == ()


def test_tiny_data_is_split_with_warnings_that_name_the_class():
    two = split([SplitItem("a", "p", frozenset("A")), SplitItem("b", "q", frozenset("B"))], seed=0)
    assert len(set(two.parts.values())) == 2
    assert any("stays empty" in w for w in two.warnings)
    assert any("class A has 1 patient" in w for w in two.warnings)
    one = split([SplitItem("a", "p", frozenset()), SplitItem("b", "p", frozenset())], seed=0)
    assert set(one.parts.values()) == {"train"}
    three = split([SplitItem(k, k, frozenset("A")) for k in "abc"], seed=0)
    assert set(three.parts.values()) == set(THREE)


def test_given_folds_are_kept_unless_a_patient_lies_in_two_parts():
    entries = [SplitItem(f"r{i}", f"p{i}", frozenset("A"), fold=i % 10 + 1) for i in range(100)]
    result = split(entries, folds=PTBXL_FOLDS)
    assert all(result.parts[e.key] == ("test" if e.fold == 10 else "val" if e.fold == 9 else "train") for e in entries)
    assert result.warnings == ()
    torn = entries + [SplitItem("extra", "p9", frozenset("A"), fold=1)]
    result = split(torn, folds=PTBXL_FOLDS)
    assert result.parts["extra"] == result.parts["r9"]
    assert any("1 records were moved" in w for w in result.warnings)
    with pytest.raises(InvalidInput, match="has fold 11"):
        split([*entries, SplitItem("z", None, frozenset(), fold=11)], folds=PTBXL_FOLDS)
    with pytest.raises(InvalidInput, match="no fold"):
        split([*entries, SplitItem("z", None, frozenset())], folds=PTBXL_FOLDS)


def test_arguments_that_make_no_sense_are_refused():
    item = SplitItem("a", None, frozenset())
    for arguments in ({"fractions": {"train": 0}}, {"fractions": {}}, {"k_folds": 1}, {"k_folds": 2, "folds": {}}):
        with pytest.raises(InvalidInput):
            split([item], **arguments)
    with pytest.raises(InvalidInput, match="no records"):
        split([])
    with pytest.raises(InvalidInput, match="more than once"):
        split([item, item])


@needs_shared
def test_the_real_ptbxl_part_is_split_evenly_by_patient():
    with open(shared_path("ecg", "labelled", "labels_all.csv"), newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == "ptbxl"]
    entries = [
        SplitItem(row["record"], row["patient"], frozenset(filter(None, row["superclass"].split(";")))) for row in rows
    ]
    assert len(entries) == 353 and len({item.group for item in entries}) == 328
    result = split(entries, fractions=THREE, seed=0)
    assert all(len(sides) == 1 for sides in _sides(entries, result.parts, "group").values())
    for label in ("NORM", "MI", "STTC", "CD", "HYP"):
        total = sum(label in item.labels for item in entries)
        for part, share in THREE.items():
            own = sum(label in item.labels and result.parts[item.key] == part for item in entries)
            assert abs(own - share * total) <= max(2.0, 0.05 * total), (label, part, own, total)
