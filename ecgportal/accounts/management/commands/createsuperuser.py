import os
from typing import Any

from django.core.management.base import CommandParser

from ecgportal.accounts.asking import new_password
from ecgportal.accounts.services import user_create
from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput


class Command(PortalCommand):
    """Stands in the place of Django's command, which writes past the audit trail; its arguments and variables are kept."""

    help = (
        "Create an administrator, as create_user --administrator does. With --noinput name, e-mail and password come from "
        "DJANGO_SUPERUSER_USERNAME, DJANGO_SUPERUSER_EMAIL and DJANGO_SUPERUSER_PASSWORD."
    )
    takes_user = False

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", default=os.environ.get("DJANGO_SUPERUSER_USERNAME", ""))
        parser.add_argument("--email", default=os.environ.get("DJANGO_SUPERUSER_EMAIL", ""))
        parser.add_argument("--noinput", "--no-input", action="store_false", dest="interactive", help="ask for nothing")

    def do(self, **options: Any) -> dict[str, Any]:
        name, asks = options["username"], options["interactive"]
        if not name and asks:
            name = input("User name: ")
        if not name:
            raise InvalidInput("The administrator needs a name. Say it by --username.")
        password = os.environ.get("DJANGO_SUPERUSER_PASSWORD", "")
        if not password and asks:
            password, _ = new_password(name, generate=False)
        if not password:
            raise InvalidInput("The administrator needs a password. Put it into DJANGO_SUPERUSER_PASSWORD.")
        user = user_create(actor=None, username=name, password=password, email=options["email"], is_administrator=True)
        return {"id": str(user.pk), "username": user.username}
