from typing import Any

from django.core.management.base import CommandParser

from ecgportal.accounts.asking import new_password
from ecgportal.accounts.models import User
from ecgportal.accounts.services import password_change
from ecgportal.commands import PortalCommand
from ecgportal.errors import NotFound
from ecgportal.projects.access import require_administrator


class Command(PortalCommand):
    help = (
        "Set a user's password, which ends all that the former one signed in. It comes from PORTAL_NEW_PASSWORD, from the "
        "terminal, or is made and printed."
    )
    as_user_required = False

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--generate", action="store_true", help="make a password and print it")

    def do(self, **options: Any) -> dict[str, Any]:
        user = User.objects.filter(username__iexact=options["username"]).first()
        if self.user is not None and self.user != user:
            require_administrator(self.user)
        if user is None:
            raise NotFound(f"There is no user called {options['username']}.")
        password, made = new_password(user.username, options["generate"])
        revoked = password_change(actor=self.user, user=user, password=password)
        return {"username": user.username, "tokens_revoked": revoked, "password": made}
