import sys
import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ecgportal.jobs import runner


class Command(BaseCommand):
    help = "Do one claimed job in this process (started by a worker)."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("job", type=uuid.UUID)
        parser.add_argument("--attempt", type=int, required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(runner.run(options["job"], options["attempt"]))
