"""Ask for a password on the command line."""

from __future__ import annotations

import getpass
import os
import secrets

from ecgportal.errors import InvalidInput


def new_password(username: str, generate: bool) -> tuple[str, str]:
    """Return a password for a user, and once more where it was made here and has to be told. InvalidInput: typed in two ways."""
    if generate:
        made = secrets.token_urlsafe(12)
        return made, made
    if given := os.environ.get("PORTAL_NEW_PASSWORD", ""):
        return given, ""
    typed = getpass.getpass(f"Password of {username}: ")
    if getpass.getpass("The same again: ") != typed:
        raise InvalidInput("The two passwords differ. Start again.")
    return typed, ""
