"""What a check of a run says: its sentences, the counts of the division, and the cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ecgportal.errors import PortalError
from training.costs import Cost


@dataclass(frozen=True)
class Finding:
    """level: ``error`` (the run would fail), ``warning`` (it is risky) or ``info``. field: the choice it is about."""

    level: str
    code: str
    message: str
    field: str = ""


@dataclass
class Checked:
    """What a check found. split: records and subjects by part; classes: records by class and part, and patients."""

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    subjects: int = 0
    split: dict[str, dict[str, int]] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    cost: Cost | None = None

    @property
    def ok(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def notes(self) -> list[str]:
        """What is neither wrong nor risky."""
        return [finding.message for finding in self.findings if finding.level == "info"]

    def add(self, level: str, code: str, message: str, about: str = "") -> None:
        self.findings.append(Finding(level, code, message, about))

    def take(self, error: PortalError) -> None:
        """Note an error, once for each field that it names."""
        if not error.fields:
            self.add("error", error.code, error.message)
        for name, sentence in error.fields.items():
            text = error.message if len(error.fields) == 1 and sentence not in error.message else ""
            self.add("error", error.code, f"{text} {sentence}".strip(), name)

    def to_json(self) -> dict[str, Any]:
        order = ("error", "warning", "info")
        return {
            "ok": self.ok, "findings": [asdict(row) for row in sorted(self.findings, key=lambda row: order.index(row.level))],
            "records": self.records, "subjects": self.subjects, "split": self.split, "classes": self.classes,
            "cost": self.cost.to_json() if self.cost else None,
        }  # fmt: skip
