from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from ecgportal import backup
from ecgportal.audit.trail import record
from ecgportal.commands import PortalCommand, ProgressBar


class Command(PortalCommand):
    help = "Write the whole portal (database, files, key) to one tar file. The portal may run meanwhile. Keep the file safe."
    takes_user = False

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("output", type=Path)

    def do(self, **options: Any) -> dict[str, Any]:
        target = options["output"].absolute()
        backup.check_target(target)
        with backup.database(), ProgressBar(self.stderr, quiet=self.as_json) as bar:
            # Before the dump, so that the backup itself tells of it.
            record("backup.started", target.name)
            return backup.write(target, bar.show)
