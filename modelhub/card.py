"""The model card: facts the portal knows, prose a person wrote, as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
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


def card_markdown(
    contract: ModelContract,
    *,
    title: str,
    facts: Mapping[str, Any] | None = None,
    prose: Mapping[str, str] | None = None,
) -> str:
    """Return the card of a model version.

    facts: plain JSON values; ``metrics`` may be rows ``{name, part, class, value, low, high, n}``, ``calibration``,
    ``environment``, ``records``, ``lineage`` objects; what is not known here is listed under its own name. prose: text
    by the keys of ``PROSE``. A section without content says so.
    """
    known = dict(facts or {})
    texts = dict(prose or {})
    parts = [
        f"# {_line(title)}",
        "Research use. Not a medical device.",
        _section("Input", _table(_input_rows(contract))),
    ]
    parts.append(_section("Output", _table(_output_rows(contract))))
    for name in ("intended_use", "limits", "training_data"):
        parts.append(_section(PROSE[name], _prose(texts.get(name, ""))))
    parts.append(_section("Records", _mapping(known.pop("records", None))))
    parts.append(_section("Results", _metrics(known.pop("metrics", None))))
    parts.append(_section("Calibration", _mapping(known.pop("calibration", None))))
    parts.append(_section("Lineage", _mapping(_lineage(contract, known.pop("lineage", None)))))
    parts.append(_section("Environment", _mapping(known.pop("environment", None))))
    parts.append(_section("Further facts", _mapping(known)))
    for name in ("ethics", "licence", "contact"):
        parts.append(_section(PROSE[name], _prose(texts.get(name, ""))))
    return "\n\n".join(parts) + "\n"


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
    rows = [("Task", contract.task), ("Activation", contract.activation)]
    for name in contract.classes:
        threshold = contract.thresholds.get(name)
        rows.append((name, "no threshold" if threshold is None else f"threshold {threshold:.3f}"))
    return rows


def _lineage(contract: ModelContract, lineage: Any) -> dict[str, Any]:
    found = dict(lineage) if isinstance(lineage, Mapping) else {}
    if contract.parent:
        found.setdefault("parent", contract.parent)
    return found


def _metrics(rows: Any) -> str:
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        return ""
    lines = ["| Metric | Part | Class | Value | 95 % interval | n |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        low, high = row.get("low"), row.get("high")
        interval = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "not computed"
        value = row.get("value")
        shown = "not computed" if value is None else f"{value:.3f}"
        cells = (row.get("name", ""), row.get("part", ""), row.get("class") or "all", shown, interval, row.get("n", ""))
        lines.append("| " + " | ".join(_line(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _mapping(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "" if value in (None, "", [], ()) else _line(value)
    rows = [
        (str(key).replace("_", " "), _value(entry)) for key, entry in value.items() if entry not in (None, "", {}, [])
    ]
    return _table(rows)


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


def _table(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {_line(name)} | {_line(value)} |" for name, value in rows)])


def _section(heading: str, body: str) -> str:
    return f"## {heading}\n\n{body or BLANK}"


def _line(value: Any) -> str:
    """Return one line of Markdown text in which nothing is markup."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return re.sub(r"([\\`*_{}\[\]|#!])", r"\\\1", html.escape(text, quote=False))


def _prose(text: str) -> str:
    """Return a person's paragraphs: Markdown stays, HTML is shown as text, headings cannot start a section."""
    lines = [html.escape(line.rstrip(), quote=False) for line in text.strip().splitlines()]
    return "\n".join("\\" + line if re.match(r"\s{0,3}#{1,6}\s", line) else line for line in lines)
