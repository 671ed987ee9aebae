import os
import sys
import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ecgportal import home
from ecgportal.jobs import runner, spare


class Command(BaseCommand):
    help = "Do one claimed job in this process (started by a worker)."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", type=uuid.UUID, nargs="?")
        parser.add_argument("--attempt", type=int)
        parser.add_argument(
            "--spare", action="store_true", help="load all that is needed and wait for the worker's word"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        # PyTorch's compiler keeps what it has made; by default in a shared folder, where any account could lay something ready.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.portal_home() / "cache" / "compiled"))
        given = (options["job"], options["attempt"])
        if options["spare"]:
            waited = spare.wait_for_job()
            if waited is None:
                return
            given = waited
        elif None in given:
            raise CommandError("Name the job and --attempt, or --spare.")
        sys.exit(runner.run(*given))
