"""The model card: facts the portal knows and prose a person wrote, as sections, as Markdown and as PDF."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelhub.contract import ModelContract

#: Sections of prose, in order, with their headings.
PROSE: dict[str, str] = {
    "intended_use": "Intended use",
    "limits": "Limits and risks",
    "training_data": "Training data",
    "ethics": "Ethics and data protection",
    "licence": "Licence",
    "contact": "Contact",
}
BLANK = "*Not stated.*"


@dataclass(frozen=True)
class Section:
    """A part of a card: a table of ``rows`` under ``head`` (empty for pairs of name and value), or a person's ``text``."""

    heading: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text: str = ""

    @property
    def is_blank(self) -> bool:
        return not self.rows and not self.text.strip()


def card_sections(
    contract: ModelContract, *, facts: Mapping[str, Any] | None = None, prose: Mapping[str, str] | None = None
) -> list[Section]:
    """Return the sections of a version's card, in order.

    facts: plain JSON values; ``metrics`` may be rows ``{name, part, class, value, low, high, n}``, ``calibration``,
    ``environment``, ``records``, ``lineage`` objects; what is not known here is listed under its own name. prose: text
    by the keys of ``PROSE``.
    """
    known, texts = dict(facts or {}), dict(prose or {})
    sections = [
        Section("Input", rows=_rows(_input_rows(contract))),
        Section("Output", rows=_rows(_output_rows(contract))),
    ]
    sections += [Section(PROSE[name], text=texts.get(name, "")) for name in ("intended_use", "limits", "training_data")]
    sections.append(Section("Records", rows=_mapping(_in_order(known.pop("records", None)))))
    sections.append(Section("Results", METRIC_HEAD, _metrics(known.pop("metrics", None))))
    sections.append(Section("Calibration", rows=_mapping(known.pop("calibration", None))))
    sections.append(Section("Lineage", rows=_mapping(_lineage(contract, known.pop("lineage", None)))))
    sections.append(Section("Environment", rows=_mapping(known.pop("environment", None))))
    sections.append(Section("Further facts", rows=_mapping(known)))
    return sections + [Section(PROSE[name], text=texts.get(name, "")) for name in ("ethics", "licence", "contact")]


def card_markdown(
    contract: ModelContract,
    *,
    title: str,
    facts: Mapping[str, Any] | None = None,
    prose: Mapping[str, str] | None = None,
) -> str:
    """Return the card of a model version as Markdown. A section without content says so."""
    parts = [f"# {_line(title)}", "Research use. Not a medical device."]
    for section in card_sections(contract, facts=facts, prose=prose):
        body = _prose(section.text) if section.text else _table(section.head, section.rows)
        parts.append(f"## {section.heading}\n\n{body or BLANK}")
    return "\n\n".join(parts) + "\n"


def card_pdf(title: str, sections: Sequence[Section]) -> bytes:
    """Return a card as a PDF document."""
    from ecgportal import pdf

    blocks: list[pdf.Block] = []
    for section in sections:
        blocks.append(pdf.Heading(section.heading))
        if section.is_blank:
            blocks.append(pdf.Text("Not stated.", quiet=True))
        elif section.text:
            blocks.append(pdf.Text(section.text))
        else:
            blocks.append(pdf.Table(section.head, section.rows))
    return pdf.render(f"Model card: {title}", blocks)


def _input_rows(contract: ModelContract) -> list[tuple[str, str]]:
    unit = "standardised" if contract.unit == "1" else contract.unit
    length = "fixed" if contract.fixed_length else "as trained"
    return [
        ("Leads, in order", ", ".join(contract.leads)),
        ("Sampling rate", f"{contract.fs_hz:g} Hz"),
        ("Length", f"{contract.n_samples:,} samples, {contract.duration_s:g} s ({length})"),
        ("Unit", unit),
        ("Normalisation", contract.normalisation.replace("_", " ")),
        ("Network", contract.architecture or "foreign graph"),
    ]


def _output_rows(contract: ModelContract) -> list[tuple[str, str]]:
    if contract.is_trunk:
        return [
            ("Task", "none: it learned from signals without labels, and is there to be fine-tuned"),
            ("Classes", "none"),
        ]
    rows = [("Task", contract.task), ("Activation", contract.activation)]
    for name in contract.classes:
        threshold = contract.thresholds.get(name)
        rows.append((name, "no threshold" if threshold is None else f"threshold {threshold:.3f}"))
    return rows


def _in_order(records: Any) -> Any:
    """Return counts by part in the order in which the parts are used; the database keeps its own order of names."""
    if not isinstance(records, Mapping):
        return records
    parts = ("train", "validation", "test")
    return {name: records[name] for name in (*parts, *(set(records) - set(parts))) if name in records}


def _lineage(contract: ModelContract, lineage: Any) -> dict[str, Any]:
    found = dict(lineage) if isinstance(lineage, Mapping) else {}
    if contract.parent:
        found.setdefault("parent", contract.parent)
    return found


def metric_title(name: str) -> str:
    """Return a metric's name as people write it."""
    return name.replace("_", " ").replace("auroc", "AUROC").replace("auprc", "AUPRC").replace("f1", "F1")


METRIC_HEAD = ("Metric", "Part", "Class", "Value", "95 % interval", "n")


def _metrics(rows: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return ()
    found = []
    for row in rows:
        low, high = row.get("low"), row.get("high")
        interval = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "not computed"
        value = row.get("value")
        shown = "not computed" if value is None else f"{value:.3f}"
        cells = (row.get("name", ""), row.get("part", ""), row.get("class") or "all", shown, interval, row.get("n", ""))
        found.append(tuple(str(cell) for cell in cells))
    return tuple(found)


def _mapping(value: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, Mapping):
        return () if value in (None, "", [], ()) else (("", str(value)),)
    return tuple(
        (str(key).replace("_", " "), _value(entry)) for key, entry in value.items() if entry not in (None, "", {}, [])
    )


def _rows(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(pairs)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_value(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(entry) for entry in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    names = head or [""] * len(rows[0])
    lines = [f"| {' | '.join(names)} |" if head else "| | |", f"| {' | '.join(['---'] * len(names))} |"]
    return "\n".join([*lines, *("| " + " | ".join(_line(cell) for cell in row) + " |" for row in rows)])


def _line(value: Any) -> str:
    """Return one line of Markdown text in which nothing is markup."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return re.sub(r"([\\`*_{}\[\]|#!])", r"\\\1", html.escape(text, quote=False))


def _prose(text: str) -> str:
    """Return a person's paragraphs: Markdown stays, HTML is shown as text, headings cannot start a section."""
    lines = [html.escape(line.rstrip(), quote=False) for line in text.strip().splitlines()]
    return "\n".join("\\" + line if re.match(r"\s{0,3}#{1,6}\s", line) else line for line in lines)
