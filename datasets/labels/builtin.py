"""The label maps and crosswalks that come with the portal, made from the tables in ``data`` (see its SOURCES.md)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib import resources

from datasets.ecg import SourceLabel
from datasets.labels.maps import ANY, LabelMapSpec

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
RHYTHM_CLASSES = (
    "SNR", "SB", "STACH", "SA", "AF", "AFL", "IAVB", "RBBB", "IRBBB", "LBBB", "LAFB", "PAC", "PVC", "STD", "STE", "LVH",
    "MI", "PACE",
)  # fmt: skip
# Of a text that several systems know, the first is meant.
_ORDER = ("scp", "snomed", "icd10", "aha", "icd9")
_ICD_RELATIONS = {"exact": "exact", "broader": "broader", "approximate": "broader", "finding": "broader"}


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    text = resources.files("datasets.labels").joinpath("data", name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def scp_statements() -> dict[str, dict[str, str]]:
    """Return PTB-XL's SCP-ECG statements by code: description, kind, superclass, subclass, aha_code."""
    return {row["scp_code"]: row for row in _rows("scp_statements.csv")}


@cache
def ptbxl_superclass() -> LabelMapSpec:
    """SCP-ECG to the five diagnostic superclasses of PTB-XL; form and rhythm statements have none."""
    return _of_statements("PTB-XL superclass", "superclass", SUPERCLASSES)


@cache
def ptbxl_subclass() -> LabelMapSpec:
    """SCP-ECG to the 23 diagnostic subclasses of PTB-XL."""
    found = dict.fromkeys(row["subclass"] for row in _rows("scp_statements.csv") if row["subclass"])
    return _of_statements("PTB-XL subclass", "subclass", tuple(sorted(found)))


def _of_statements(name: str, column: str, classes: tuple[str, ...]) -> LabelMapSpec:
    rows = scp_statements()
    targets = [row[column] for row in rows.values()]
    entries: dict[str, tuple[str | None, str]] = {}
    for code, row in rows.items():
        target = row[column]
        relation = "exact" if targets.count(target) == 1 or target == code else "broader"
        entries[code] = (target, relation) if target else (None, "unmapped")
    return LabelMapSpec(name, 1, "scp", classes, entries)


@cache
def cinc2021_scored() -> LabelMapSpec:
    """SNOMED CT to the 26 scored classes of the PhysioNet/CinC Challenge 2021; four pairs of codes score as one."""
    rows = _rows("cinc2021_diagnoses.csv")
    entries: dict[str, tuple[str | None, str]] = {}
    for row in rows:
        group = row["scoring_group"]
        entries[row["snomed_ct"]] = (group, "broader" if "|" in group else "exact") if group else (None, "unmapped")
    classes = tuple(sorted({row["scoring_group"] for row in rows if row["scoring_group"]}))
    return LabelMapSpec("CinC 2021 scored", 1, "snomed", classes, entries)


@cache
def rhythm_and_conduction() -> LabelMapSpec:
    """SNOMED CT, SCP-ECG, AHA codes and common names to 18 classes of rhythm, conduction, ectopy, ST and infarction."""
    entries = {
        f"{row['system']}:{row['code']}": (row["class"] or None, row["relation"])
        for row in _rows("rhythm_and_conduction.csv")
    }
    return LabelMapSpec("Rhythm and conduction", 1, ANY, RHYTHM_CLASSES, entries)


@cache
def scp_to_snomed() -> LabelMapSpec:
    """SCP-ECG to the SNOMED CT codes that the CinC Challenges use for the same finding."""
    rows = _rows("scp_crosswalk.csv")
    sources = [row["snomed_ct"] for row in rows]
    entries: dict[str, tuple[str | None, str]] = {
        row["scp_code"]: (row["snomed_ct"], "exact" if sources.count(row["snomed_ct"]) == 1 else "broader")
        if row["snomed_ct"]
        else (None, "unmapped")
        for row in rows
    }
    return LabelMapSpec("SCP-ECG to SNOMED CT", 1, "scp", tuple(sorted({s for s in sources if s})), entries)


@cache
def scp_to_icd10() -> LabelMapSpec:
    """SCP-ECG to ICD-10-CM. Where the ECG alone cannot decide between codes, the entry is ambiguous and has no class."""
    return _to_icd("SCP-ECG to ICD-10-CM", "scp", "scp_code", "scp_crosswalk.csv")


@cache
def snomed_to_icd10() -> LabelMapSpec:
    """The scored SNOMED CT codes of CinC 2021 to ICD-10-CM."""
    return _to_icd("SNOMED CT (CinC 2021) to ICD-10-CM", "snomed", "snomed_ct", "cinc2021_to_icd10.csv")


def _to_icd(name: str, system: str, column: str, file: str) -> LabelMapSpec:
    entries: dict[str, tuple[str | None, str]] = {}
    for row in _rows(file):
        code = row["icd10_cm"]
        if not code:
            entries[row[column]] = (None, "unmapped")
        elif ";" in code:
            entries[row[column]] = (None, "ambiguous")
        else:
            entries[row[column]] = (code, _ICD_RELATIONS[row["icd_relation"]])
    classes = tuple(sorted({target for target, _ in entries.values() if target}))
    return LabelMapSpec(name, 1, system, classes, entries)


def all_maps() -> tuple[LabelMapSpec, ...]:
    """Return every built-in map, those for training first."""
    return (
        ptbxl_superclass(), ptbxl_subclass(), cinc2021_scored(), rhythm_and_conduction(), scp_to_snomed(), scp_to_icd10(),
        snomed_to_icd10(),
    )  # fmt: skip


@cache
def known_codes() -> frozenset[tuple[str, str]]:
    """Return the ``(system, code)`` pairs that a built-in table knows."""
    found = {("scp", code) for code in scp_statements()}
    found |= {("snomed", row["snomed_ct"]) for row in _rows("cinc2021_diagnoses.csv")}
    found |= {("snomed", row["snomed_ct"]) for row in _rows("chapman_ningbo_names.csv")}
    found |= {(row["system"], row["code"]) for row in _rows("rhythm_and_conduction.csv")}
    for file in ("scp_crosswalk.csv", "cinc2021_to_icd10.csv"):
        for row in _rows(file):
            for column in ("icd10_who", "icd10_cm"):
                found |= {("icd10", code) for code in row[column].split(";") if code}
    return frozenset(found)


@cache
def _crosswalk() -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """Return for each SCP and SNOMED CT code its counterparts by system."""
    links: dict[tuple[str, str], dict[str, dict[str, None]]] = {}

    def link(source: tuple[str, str], target: tuple[str, str]) -> None:
        for one, other in ((source, target), (target, source)):
            links.setdefault(one, {}).setdefault(other[0], {})[other[1]] = None

    for row in _rows("scp_crosswalk.csv"):
        if row["snomed_ct"]:
            link(("scp", row["scp_code"]), ("snomed", row["snomed_ct"]))
        for code in filter(None, row["icd10_cm"].split(";")):
            link(("scp", row["scp_code"]), ("icd10", code))
    for row in _rows("cinc2021_to_icd10.csv"):
        for code in filter(None, row["icd10_cm"].split(";")):
            link(("snomed", row["snomed_ct"]), ("icd10", code))
    return {key: {system: tuple(codes) for system, codes in found.items()} for key, found in links.items()}


def translate(label: SourceLabel, system: str) -> tuple[str, ...]:
    """Return the codes of another system (``scp``, ``snomed``, ``icd10`` as ICD-10-CM) that stand beside a label's code.

    Several codes mean that the label alone cannot decide. The rows are not reviewed by a cardiologist.
    """
    if label.system == system:
        return (label.code,)
    return _crosswalk().get((label.system, label.code), {}).get(system, ())


@cache
def _described() -> dict[tuple[str, str], str]:
    words = {("scp", code): row["description"] for code, row in scp_statements().items()}
    words |= {("snomed", row["snomed_ct"]): row["name"] for row in _rows("chapman_ningbo_names.csv")}
    return words | {("snomed", row["snomed_ct"]): row["description"] for row in _rows("cinc2021_diagnoses.csv")}


def describe(labels: Iterable[SourceLabel]) -> dict[tuple[str, str], str]:
    """Return the plain words for those labels whose code a built-in table describes."""
    words = _described()
    keys = {(label.system, label.code) for label in labels}
    return {key: words[key] for key in keys if key in words}


def words_of(code: str) -> str:
    """Return the plain words of a code of any system, empty where no built-in table describes it."""
    words = _described()
    return words.get(("scp", code)) or words.get(("snomed", code), "")


@cache
def _abbreviations() -> dict[str, str]:
    return {row["snomed_ct"]: row["abbreviation"] for row in _rows("cinc2021_diagnoses.csv")}


def short_of(code: str) -> str:
    """Return what people call a code: the Challenge's abbreviation of a SNOMED CT number, any other code as it is."""
    return _abbreviations().get(code, code)


def named(code: str) -> str:
    """Return what stands for a code where there is room for one name: what people call it, of another number its words."""
    short = short_of(code)
    return (words_of(code) or short) if short.isdigit() else short


@cache
def offered() -> tuple[tuple[str, str, str], ...]:
    """Return ``(system, code, words)`` of every SCP-ECG and SNOMED CT code that a built-in table describes, by their words."""
    return tuple(
        sorted(
            ((system, code, words) for (system, code), words in _described().items()), key=lambda row: row[2].casefold()
        )
    )


@cache
def _typed() -> dict[str, tuple[tuple[str, str], ...]]:
    """Return what may be meant by a text (casefolded): a code comes before an abbreviation, that before plain words."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    codes = [pair for pair in known_codes() if pair[0] != "name"]
    pairs = [
        (code, (system, code)) for system, code in sorted(codes, key=lambda pair: (_ORDER.index(pair[0]), pair[1]))
    ]
    pairs += [(text, ("snomed", code)) for code, text in _abbreviations().items()]
    pairs += [(words, pair) for pair, words in _described().items()]
    for text, pair in pairs:
        found.setdefault(_plain(text), {})[pair] = None
    return {text: tuple(meant) for text, meant in found.items()}


def resolve(text: str, system: str = "") -> tuple[str, str] | None:
    """Return system and code of what a person typed: a code in upper or lower case, its abbreviation or its plain words.

    system: only codes of this one. None where no built-in table knows the text.
    """
    return next((pair for pair in _typed().get(_plain(text), ()) if not system or pair[0] == system), None)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
