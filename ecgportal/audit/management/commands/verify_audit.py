import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ecgportal.audit.models import AuditEvent
from ecgportal.audit.trail import verify


class Command(BaseCommand):
    help = "Check the whole audit trail; status 1 when a row was changed, removed or inserted, naming each."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        problems = list(verify())
        last = AuditEvent.objects.filter(sequence__isnull=False).order_by("-sequence").first()
        rows, digest = (last.sequence, last.hash) if last else (0, "")
        if options["json"]:
            self.stdout.write(json.dumps({"ok": not problems, "rows": rows, "last_hash": digest, "problems": problems}))
        elif problems:
            self.stderr.write("\n".join(problems))
        else:
            self.stdout.write(f"The audit trail is whole: {rows} rows, the last with the hash {digest}.")
        if problems:
            sys.exit(1)
