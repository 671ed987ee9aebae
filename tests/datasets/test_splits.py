"""Splits keep patients and equal signals on one side and spread the classes."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.holding_out import cross_validation, fold_rounds, split_by_site, split_by_time
from datasets.splits import PTBXL_FOLDS, SplitItem, merged_groups, split, split_digest, with_folds
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


ordered = st.lists(
    st.tuples(
        st.none() | st.integers(0, 20), labels, st.none() | st.integers(0, 8), st.integers(0, 40), st.sampled_from("XYZ"),
        st.none() | st.integers(0, 9),
    ),
    min_size=12, max_size=60,
).map(
    lambda rows: [
        SplitItem(
            f"r{i}", None if g is None else f"p{g}", own, same_signal=None if s is None else f"s{s}", site=site, order=f"{o:03d}",
            recorded_at=None if day is None else datetime(2001, 1, 1, tzinfo=UTC) + timedelta(days=day),
        )
        for i, (g, own, s, o, site, day) in enumerate(rows)
    ]
)  # fmt: skip


def _elsewhere(entries, rng: random.Random):
    """Return the same records as another portal has them: other ids and pseudonyms, another order."""
    numbers = list(range(3 * len(entries)))
    rng.shuffle(numbers)
    names: dict[tuple[str, str], str] = defaultdict(lambda: f"{numbers.pop():04d}")
    moved = [
        replace(
            item, key=names["key", item.key], group=item.group and names["group", item.group],
            same_signal=item.same_signal and names["signal", item.same_signal],
        )
        for item in entries
    ]  # fmt: skip
    rng.shuffle(moved)
    return moved


@settings(max_examples=60, deadline=None)
@given(ordered, st.integers(0, 5), st.randoms(use_true_random=False))
def test_other_ids_and_another_order_change_no_division(entries, seed, rng: random.Random):
    ways = [
        lambda own: [split(own, seed=seed)],
        lambda own: [split(own, k_folds=4, seed=seed)],
        lambda own: cross_validation(own, 3, seed=seed),
        lambda own: [split_by_site(own, ["X"], seed=seed)],
        lambda own: [split_by_time(own, share=0.3, seed=seed)],
    ]
    elsewhere = _elsewhere(entries, rng)
    for way in ways:
        found = []
        for own in (entries, elsewhere):
            of = {item.key: item.order for item in own}
            try:
                found.append([sorted((of[key], part) for key, part in one.parts.items()) for one in way(own)])
            except InvalidInput as error:
                found.append(error.code)
        assert found[0] == found[1]


def test_records_of_equal_order_stay_together_and_without_one_the_key_decides():
    same = [SplitItem(f"{i}", f"p{i}", frozenset("A"), order="one") for i in range(3)]
    rest = [SplitItem(f"x{i}", None, frozenset("A")) for i in range(20)]
    assert [len(members) for members in merged_groups(same + rest)] == [3] + [1] * 20
    assert [members[0].key for members in merged_groups(rest)] == sorted(item.key for item in rest)


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
    assert any("A (1), B (1)" in w for w in two.warnings)
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


def _described(n=600, seed=3):
    """Records with patients, some twin signals, sites, times and folds; some of each unknown."""
    rng = random.Random(seed)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return [
        SplitItem(
            f"r{i}",
            f"p{rng.randrange(n // 2)}" if rng.random() < 0.9 else None,
            frozenset(name for name, p in (("N", 0.5), ("MI", 0.2), ("CD", 0.1)) if rng.random() < p),
            fold=rng.randrange(1, 11),
            same_signal=f"s{rng.randrange(20)}" if rng.random() < 0.05 else None,
            site=rng.choice((None, "north", "south", "west", "west")),
            recorded_at=start + timedelta(hours=rng.randrange(20_000)) if rng.random() < 0.95 else None,
        )
        for i in range(n)
    ]


def _check(entries, result):
    assert result.parts.keys() == {item.key for item in entries}
    assert set(result.parts.values()) == {"train", "validation", "test"}
    for attribute in ("group", "same_signal"):
        assert all(len(sides) == 1 for sides in _sides(entries, result.parts, attribute).values())
    development = sum(part != "test" for part in result.parts.values())
    assert abs(Counter(result.parts.values())["validation"] / development - 0.15) < 0.05


def test_cross_validation_tests_each_record_once():
    entries = _described()
    rounds = cross_validation(entries, 5, seed=2)
    tested = Counter(key for result in rounds for key in result.keys("test"))
    assert len(rounds) == 5 and tested == Counter(item.key for item in entries)
    for result in rounds:
        _check(entries, result)
    assert [r.digest for r in cross_validation(entries, 5, seed=2)] == [r.digest for r in rounds]
    assert [r.digest for r in cross_validation(entries, 5, seed=3)] != [r.digest for r in rounds]


def test_each_given_fold_is_held_back_once():
    entries = [SplitItem(f"r{i}", f"p{i}", frozenset("A")) for i in range(100)]
    given = with_folds(entries, {f"r{i}": i % 10 + 1 for i in range(100)})
    rounds = fold_rounds(given, seed=1)
    assert [result.keys("test") for result in rounds] == [
        sorted(item.key for item in given if item.fold == number) for number in range(1, 11)
    ]
    torn = _described()
    for result in fold_rounds(torn):
        _check(torn, result)
        assert any("were moved" in warning for warning in result.warnings)
    with pytest.raises(InvalidInput, match="no fold"):
        fold_rounds([*given, SplitItem("new", None, frozenset())])
    with pytest.raises(InvalidInput, match="fewer than two folds"):
        fold_rounds(with_folds(entries, dict.fromkeys((e.key for e in entries), 1)))


def test_a_held_out_hospital_shares_no_patient_with_development():
    entries = _described()
    result = split_by_site(entries, {"north"}, seed=1)
    _check(entries, result)
    for item in entries:
        if result.parts[item.key] != "test":
            assert item.site != "north"
    own = {item.key for item in entries if item.site == "north"}
    assert own <= set(result.keys("test"))
    assert any("do not say where" in w for w in result.warnings) and any("other sites" in w for w in result.warnings)
    with pytest.raises(InvalidInput, match="No record comes from east"):
        split_by_site(entries, {"east"})
    with pytest.raises(InvalidInput, match="All records"):
        split_by_site([e for e in entries if e.site == "west"], {"west"})
    with pytest.raises(InvalidInput, match="a held-out site"):
        split_by_site(entries, ())


def test_the_latest_records_are_held_back():
    entries = _described()
    result = split_by_time(entries, share=0.2, seed=1)
    _check(entries, result)
    times = {item.key: item.recorded_at for item in entries}
    learned = [times[key] for key, part in result.parts.items() if part != "test" and times[key]]
    for members in merged_groups(entries):
        if result.parts[members[0].key] == "test":
            assert max(times[item.key] for item in members if times[item.key]) >= max(learned)
    known = [key for key, moment in times.items() if moment]
    assert 0.19 < sum(result.parts[key] == "test" for key in known) / len(known) < 0.3
    border = datetime(2021, 6, 1, tzinfo=UTC)
    by_moment = split_by_time(entries, since=border)
    assert all(moment is None or moment < border for key, moment in times.items() if by_moment.parts[key] != "test")
    assert all(by_moment.parts[key] == "test" for key, moment in times.items() if moment and moment >= border)
    same = [SplitItem(str(i), str(i), frozenset("A"), recorded_at=border) for i in range(9)]
    for arguments in ({}, {"share": 0.2, "since": border}, {"share": 1.0}, {"since": border + timedelta(days=9999)}):
        with pytest.raises(InvalidInput):
            split_by_time(entries, **arguments)
    with pytest.raises(InvalidInput, match="All records"):
        split_by_time(same, share=0.1)
    with pytest.raises(InvalidInput, match="No record says when"):
        split_by_time([SplitItem("a", "a", frozenset())], share=0.1)


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
