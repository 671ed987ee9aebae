import sys
import time
from typing import Any

from django.core.management.base import CommandParser

from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput, PortalError


class Command(PortalCommand):
    help = (
        "Check the networks installed by PORTAL_ARCHITECTURES (or those named) against every promise a network keeps."
    )
    takes_user = False

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", help="networks by name; by default those that were installed")

    def handle(self, *args: Any, **options: Any) -> None:
        self.all_kept = True
        super().handle(*args, **options)
        if not self.all_kept:
            sys.exit(1)

    def do(self, **options: Any) -> list[dict[str, Any]]:
        from modelhub.architectures.catalog import built_in, catalog
        from modelhub.architectures.installed import definitions

        rows = definitions(tuple(built_in()))
        found: list[dict[str, Any]] = [
            {"network": row.path.name, "definition": row.sha256, "passed": [], "failed": {"definition": row.problem}}
            for row in rows
            if row.problem
        ]
        names = options["names"] or [facts.name for row in rows for facts in row.networks]
        if not names and not found:
            raise InvalidInput("No network is installed. Set PORTAL_ARCHITECTURES, or name networks of the portal.")
        for name in names:
            if not self.as_json:
                self.stderr.write(f"Checking {name}")
            facts = catalog().get(name)
            found.append({"network": name, "definition": facts.definition if facts else "", **self._check(name)})
        self.all_kept = not any(row["failed"] for row in found)
        return found

    def _check(self, name: str) -> dict[str, Any]:
        from modelhub.architecture_checks import CHECKS, Subject, promise
        from modelhub.architectures.registry import find_architecture

        passed: list[str] = []
        failed: dict[str, str] = {}
        try:
            subject = Subject(find_architecture(name))
        except PortalError as error:
            return {"passed": [], "failed": {"definition": error.message}}
        for check, run in CHECKS.items():
            start = time.monotonic()
            try:
                run(subject)
            except Exception as error:  # a network may fail in any way; the row says how.
                failed[check] = getattr(error, "message", "") or f"{type(error).__name__}: {error}"[:300]
            else:
                passed.append(check)
            if not self.as_json:
                word = f"NO   {failed[check]}" if check in failed else "yes"
                self.stdout.write(f"  {promise(check)} ({time.monotonic() - start:.1f} s) {word}")
        return {"passed": passed, "failed": failed}

    def show(self, result: Any) -> None:
        for row in result:
            verdict = "keeps every promise" if not row["failed"] else f"fails: {', '.join(row['failed'])}"
            self.stdout.write(f"{row['network']} {row['definition'][:16]}: {verdict}")
            if not row["passed"]:
                for sentence in row["failed"].values():
                    self.stdout.write(f"  {sentence}")
