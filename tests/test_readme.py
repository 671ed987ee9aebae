"""What the README states about roles, settings and files is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from ecgportal.projects.access import ROLE_ALLOWS, Action
from ecgportal.projects.models import Role

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def role_table() -> str:
    """Return the table of roles and actions as the README shows it."""
    rows = ["| action | " + " | ".join(Role.values) + " |", "|---|" + "---|" * len(Role.values)]
    for action in Action:
        rows.append(
            f"| {action.value} | "
            + " | ".join("yes" if action in ROLE_ALLOWS[role] else "" for role in Role.values)
            + " |"
        )
    return "\n".join(rows)


def test_the_role_table_is_the_code_s_own():
    shown = README.split("<!-- roles -->")[1].split("<!-- /roles -->")[0].strip()
    assert shown == role_table()


def test_every_file_that_is_named_exists():
    names = re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|md|yaml))`", README)
    assert len(names) > 5
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_picture_that_is_shown_exists():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 2
    assert [name for name in pictures if not (ROOT / name).is_file()] == []


def test_every_setting_of_the_code_is_in_the_readme():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "ecgportal").glob("*.py"))
    used = set(re.findall(r"environ(?:\.get\(|\[)\s*\"(PORTAL_\w+|PORT|DATABASE_URL)\"", text))
    internal = {"PORTAL_RUN", "PORTAL_ENV_FILE", "PORTAL_LOGS", "PORTAL_SUPERVISED_BY"}
    assert used and not [name for name in used - internal if f"`{name}`" not in README]


def test_every_command_of_make_is_listed_by_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)
    assert phony and all(re.search(rf"^{name}:.*## ", makefile, re.M) for name in phony[1].split())
