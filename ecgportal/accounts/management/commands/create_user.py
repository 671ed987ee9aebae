from typing import Any

from django.core.management.base import CommandParser

from ecgportal.accounts.asking import new_password
from ecgportal.accounts.services import user_create
from ecgportal.commands import PortalCommand
from ecgportal.projects.access import require_administrator


class Command(PortalCommand):
    help = "Create a user. The password comes from PORTAL_NEW_PASSWORD, from the terminal, or is made and printed."
    as_user_required = False

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--email", default="")
        parser.add_argument("--administrator", action="store_true")
        parser.add_argument("--generate", action="store_true", help="make a password and print it")

    def do(self, **options: Any) -> dict[str, Any]:
        if self.user is not None:
            require_administrator(self.user)
        password, made = new_password(options["username"], options["generate"])
        user = user_create(
            actor=self.user, username=options["username"], password=password, email=options["email"], is_administrator=options["administrator"]
        )  # fmt: skip
        return {
            "id": str(user.pk),
            "username": user.username,
            "is_administrator": user.is_administrator,
            "password": made,
        }
