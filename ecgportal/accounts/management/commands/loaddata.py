from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    """Stands in the place of Django's command, whose rows, users and roles among them, would leave no audit event."""

    help = "Refused: rows from a file would stand in no audit trail. Use restore, create_user or import_folder."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("files", nargs="*")

    def handle(self, *args: Any, **options: Any) -> NoReturn:
        raise CommandError(
            "Nothing was loaded: rows from a file would stand in no audit trail. A whole portal comes back by restore, users "
            "are made by create_user, records by import_folder."
        )
