"""Label maps: the built-in ones against the published classes, and the rules of mapping."""

from __future__ import annotations

import csv
import re
from collections import Counter

import pytest

from datasets.ecg import SourceLabel
from datasets.labels import builtin
from datasets.labels.maps import ANY, RELATIONS, LabelMapSpec, apply_map, coverage
from datasets.labels.table import apply, guess_mapping, known_codes, read_table
from datasets.simulation.conditions import CONDITIONS
from datasets.simulation.conditions import labels as simulated_labels
from ecgportal.errors import InvalidInput
from tests.shared import needs_shared, shared_path


def labelled(dataset: str) -> list[dict[str, str]]:
    with shared_path("ecg", "labelled", "labels_all.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["dataset"] == dataset]


def native(row: dict[str, str]) -> list[SourceLabel]:
    """Return a record's labels as its source writes them."""
    text = row["native"]
    match row["dataset"]:
        case "ptbxl":
            return [SourceLabel(part.split(":")[0], "scp", float(part.split(":")[1]) / 100) for part in text.split(";")]
        case "cinc2021":
            return [SourceLabel(code, "snomed") for code in text.split(",")]
        case "sph":
            aha, snomed = re.fullmatch(r"AHA (\S+) / SNOMED (\S+)", text).groups()
            return [SourceLabel(c, "aha") for c in aha.split(";")] + [
                SourceLabel(c, "snomed") for c in snomed.split(",")
            ]
        case "ludb":
            # Statements begin with a capital; a comma before a small letter belongs to one.
            return [SourceLabel(part, "name") for part in re.split(r"; |, (?=[A-Z])", text)]
        case _:
            return [SourceLabel(word, "name") for word in text.split(",")]


@needs_shared
@pytest.mark.parametrize("dataset", ["ptbxl", "ludb", "cpsc2018", "cinc2021", "code15", "sph"])
def test_rhythm_and_conduction_gives_the_harmonised_classes(dataset: str) -> None:
    spec = builtin.rhythm_and_conduction()
    rows = labelled(dataset)
    assert rows
    for row in rows:
        assert apply_map(native(row), spec).classes == {name for name in spec.classes if row[name] == "1"}, row[
            "record"
        ]


@needs_shared
def test_ptbxl_superclasses_are_those_of_the_benchmark() -> None:
    spec = builtin.ptbxl_superclass()
    rows = labelled("ptbxl")
    counts: Counter[str] = Counter()
    for row in rows:
        result = apply_map(native(row), spec)
        assert result.classes == set(filter(None, row["superclass"].split(";"))) and result.unknown == ()
        counts.update(result.classes or {"(none)"})
    assert counts == {"NORM": 210, "STTC": 65, "CD": 55, "MI": 52, "HYP": 25, "(none)": 10}


def test_every_statement_counts_unless_a_likelihood_is_asked_for() -> None:
    spec = builtin.ptbxl_superclass()
    labels = [
        SourceLabel("IMI", "scp", 0.15),
        SourceLabel("NORM", "scp", 0.0),
        SourceLabel("LVH", "scp", 1.0),
        SourceLabel("LAFB", "scp"),
    ]
    assert apply_map(labels, spec).classes == {"MI", "NORM", "HYP", "CD"}
    assert apply_map(labels, spec, min_likelihood=0.5).classes == {"HYP", "CD"}


def test_ptbxl_maps() -> None:
    assert builtin.ptbxl_superclass().classes == ("NORM", "MI", "STTC", "CD", "HYP")
    subclass = builtin.ptbxl_subclass()
    assert len(subclass.classes) == 23
    assert subclass.entries["ALMI"] == ("AMI", "broader") and subclass.entries["IMI"] == ("IMI", "exact")
    assert subclass.entries["AFIB"] == (None, "unmapped")
    assert len(builtin.ptbxl_superclass().entries) == 71


def test_cinc_2021_has_26_classes_of_30_codes() -> None:
    spec = builtin.cinc2021_scored()
    assert len(spec.classes) == 26
    scored = {code: target for code, (target, _) in spec.entries.items() if target}
    assert len(scored) == 30
    for one, other in (
        ("733534002", "164909002"),
        ("713427006", "59118001"),
        ("284470004", "63593006"),
        ("427172004", "17338001"),
    ):
        assert scored[one] == scored[other]
    assert spec.entries["164873001"] == (None, "unmapped")


@needs_shared
def test_cinc_2021_classes_stand_in_the_order_of_the_reward_matrix() -> None:
    head = shared_path("labels", "weights_abbreviations.csv").read_text().splitlines()[0]
    assert builtin.cinc2021_scored().classes == tuple(head.split(",")[1:])


@needs_shared
def test_shipped_tables_agree_with_their_origin() -> None:
    with shared_path("labels", "scp_statements.csv").open(newline="") as stream:
        origin = {row[""]: row for row in csv.DictReader(stream)}
    shipped = builtin.scp_statements()
    assert list(shipped) == list(origin)
    assert all(
        (row["superclass"], row["subclass"], row["description"])
        == (origin[code]["diagnostic_class"], origin[code]["diagnostic_subclass"], origin[code]["description"])
        for code, row in shipped.items()
    )
    with shared_path("labels", "scp_crosswalk_snomed_icd10.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            label = SourceLabel(row["scp_code"], "scp")
            assert builtin.translate(label, "icd10") == tuple(filter(None, row["icd10_cm"].split(";")))
            assert builtin.translate(label, "snomed") == tuple(filter(None, [row["snomed_ct"]]))


def test_crosswalk_in_both_directions() -> None:
    assert builtin.translate(SourceLabel("164889003", "snomed"), "scp") == ("AFIB",)
    assert builtin.translate(SourceLabel("164889003", "snomed"), "icd10") == ("I48.91",)
    assert "AFIB" in builtin.translate(SourceLabel("I48.91", "icd10"), "scp")
    assert len(builtin.translate(SourceLabel("164865005", "snomed"), "scp")) > 1
    assert builtin.translate(SourceLabel("AFIB", "scp"), "scp") == ("AFIB",)
    assert builtin.translate(SourceLabel("nothing", "scp"), "icd10") == ()
    assert builtin.scp_to_icd10().entries["IMI"] == (None, "ambiguous")
    assert builtin.scp_to_icd10().entries["1AVB"] == ("I44.0", "exact")


@pytest.mark.parametrize("spec", builtin.all_maps(), ids=lambda spec: spec.name)
def test_built_in_maps_are_whole(spec: LabelMapSpec) -> None:
    assert spec.version == 1 and len(set(spec.classes)) == len(spec.classes) > 4
    reached = {target for target, _ in spec.entries.values() if target}
    assert reached == set(spec.classes)
    for key, (target, relation) in spec.entries.items():
        assert relation in RELATIONS and (target is None) == (relation in ("unmapped", "ambiguous")), key


def test_codes_of_the_simulator_are_known() -> None:
    spec = builtin.rhythm_and_conduction()
    codes = known_codes()
    for name, condition in CONDITIONS.items():
        labels = simulated_labels((name,))
        assert {(label.system, label.code) for label in labels} <= codes
        result = apply_map(labels, spec)
        assert result.unknown == ()
        if name in spec.classes:
            assert name in result.classes, condition


def test_names_match_without_capitals_and_punctuation() -> None:
    spec = builtin.rhythm_and_conduction()
    for name, target in (
        ("i-avb", "IAVB"),
        ("1DAVB", "IAVB"),
        ("Atrial Flutter, typical", "AFL"),
        ("sinus_rhythm", "SNR"),
    ):
        assert apply_map([SourceLabel(name, "name")], spec).classes == {target}


def test_unknown_codes_are_told_and_other_systems_are_not() -> None:
    spec = LabelMapSpec("x", 1, "scp", ("A",), {"NORM": ("A", "exact"), "SR": (None, "unmapped")})
    labels = [
        SourceLabel("NORM", "scp"),
        SourceLabel("SR", "scp"),
        SourceLabel("NEW", "scp"),
        SourceLabel("1", "snomed"),
    ]
    result = apply_map(labels, spec)
    assert result.classes == {"A"} and result.unknown == (SourceLabel("NEW", "scp"),)


def test_icd_codes_match_with_and_without_the_dot() -> None:
    spec = LabelMapSpec("x", 1, "icd10", ("A",), {"I4891": ("A", "exact")})
    assert apply_map([SourceLabel("I48.91", "icd10")], spec).classes == {"A"}
    dotted = LabelMapSpec("x", 1, "icd10", ("A",), {"I48.91": ("A", "exact")})
    assert apply_map([SourceLabel("I4891", "icd10")], dotted).classes == {"A"}


def test_coverage_before_use() -> None:
    spec = LabelMapSpec(
        "x", 1, ANY, ("A", "B"), {"scp:P": ("A", "exact"), "scp:Q": ("A", "broader"), "name:z*": ("B", "exact")}
    )
    records = [
        [SourceLabel("P", "scp"), SourceLabel("Q", "scp")],
        [SourceLabel("Q", "scp")],
        [SourceLabel("zeta", "name")],
        [SourceLabel("N", "scp")],
        [],
    ]
    report = coverage(records, spec)
    assert (report.records, report.classified, report.by_class) == (5, 3, {"A": 2, "B": 1})
    assert [(c.code, c.records, c.target) for c in report.codes] == [
        ("Q", 2, "A"),
        ("zeta", 1, "B"),
        ("N", 1, None),
        ("P", 1, "A"),
    ]
    assert [c.code for c in report.unknown] == ["N"] and report.many_to_one == {"A": ("Q", "P")}


def test_a_code_outside_the_map_is_told_from_one_of_a_system_the_map_does_not_speak() -> None:
    spec = LabelMapSpec("x", 1, ANY, ("A", "B"), {"scp:P": ("A", "exact"), "name:z*": ("B", "exact")})
    labels = [
        SourceLabel("P", "scp"),
        SourceLabel("Q", "scp"),
        SourceLabel("1", "snomed"),
        SourceLabel("other", "name"),
    ]
    spoken = {code.code: code.spoken for code in coverage([labels], spec).codes}
    assert spoken == {"P": True, "Q": True, "1": False, "other": True}
    assert {label.code for label in apply_map(labels, spec).unknown} == {"Q", "other"}


@pytest.mark.parametrize(
    ("classes", "entries"),
    [(("A", "A"), {}), (("A",), {"x": ("B", "exact")}), (("A",), {"x": ("A", "nearly")})],
)
def test_maps_that_contradict_themselves_are_refused(classes: tuple[str, ...], entries: dict) -> None:
    with pytest.raises(InvalidInput):
        LabelMapSpec("x", 1, "scp", classes, entries)


@needs_shared
def test_a_table_and_a_map_together() -> None:
    table = read_table(shared_path("ecg", "labelled", "ptbxl", "ptbxl_database.csv").read_bytes(), "ptbxl_database.csv")
    rows = apply(table, guess_mapping(table))
    report = coverage((row.labels for row in rows), builtin.ptbxl_superclass())
    assert report.records == len(rows) and report.unknown == ()
    assert set(report.many_to_one) == {"MI", "STTC", "CD", "HYP"}
    assert {code.system for code in report.codes} == {"scp"}


def test_words_for_codes() -> None:
    words = builtin.describe([SourceLabel("AFIB", "scp"), SourceLabel("426783006", "snomed"), SourceLabel("?", "name")])
    assert words == {("scp", "AFIB"): "atrial fibrillation", ("snomed", "426783006"): "sinus rhythm"}


def test_codes_are_told_in_words_and_numbers_by_their_abbreviation() -> None:
    assert (builtin.short_of("426783006"), builtin.words_of("426783006")) == ("NSR", "sinus rhythm")
    assert (builtin.short_of("LVH"), builtin.words_of("LVH")) == ("LVH", "left ventricular hypertrophy")
    assert (builtin.short_of("?"), builtin.words_of("?")) == ("?", "")
