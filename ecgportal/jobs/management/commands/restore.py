from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from ecgportal import backup
from ecgportal.audit.trail import record, verify
from ecgportal.commands import PortalCommand, ProgressBar
from ecgportal.errors import PortalError


class Command(PortalCommand):
    help = "Bring a backup back into an empty PORTAL_HOME and an empty database, and check the audit trail. Stop the portal first."
    takes_user = False

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("input", type=Path)

    def do(self, **options: Any) -> dict[str, Any]:
        with backup.database():
            with ProgressBar(self.stderr, quiet=self.as_json) as bar:
                manifest = backup.read(options["input"].absolute(), bar.show)
            problems = list(verify())
            if problems:
                raise PortalError(
                    f"The audit trail of the backup is not whole: {' '.join(problems[:5])}", code="audit_broken"
                )
            record("backup.restored", options["input"].name)
            return {**manifest, "audit_trail": "whole"}
