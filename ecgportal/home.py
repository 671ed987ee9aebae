"""Where the portal keeps its data and what the environment says about it.

Standard library only: the settings, the launcher of the embedded database and the
supervisor import this module before anything else can be imported.

The real environment wins over the ``.env`` file at the top of the checkout (or the one
that ``PORTAL_ENV_FILE`` names).
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

REPOSITORY = Path(__file__).resolve().parent.parent
DATABASE_NAME = "ecgportal"
DATABASE_ROLE = "ecgportal"


class SettingsError(RuntimeError):
    """The environment asks for something that cannot be; the sentence says what to change."""


def load_env(path: Path | None = None) -> dict[str, str]:
    """Read ``KEY=VALUE`` lines into ``os.environ`` without touching names that are set.

    Empty lines and lines that start with ``#`` are skipped, ``export`` before a name and
    one pair of quotes around a value are taken off; nothing is expanded.

    Returns the names and values that were taken.

    Raises
    ------
    SettingsError: a line is not ``KEY=VALUE``.
    """
    if path is None:
        path = Path(os.environ.get("PORTAL_ENV_FILE") or REPOSITORY / ".env")
    if not path.is_file():
        return {}
    taken: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.removeprefix("export ").strip()
        if not equals or not name.isidentifier():
            raise SettingsError(f"Line {number} of {path} is not KEY=VALUE; correct or remove it.")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        if name not in os.environ:
            os.environ[name] = taken[name] = value
    return taken


def is_production() -> bool:
    """Whether ``PORTAL_ENV`` is ``production``: then no secret has a default."""
    return os.environ.get("PORTAL_ENV", "").strip().lower() == "production"


def portal_home() -> Path:
    """Return the data folder: ``PORTAL_HOME``, by default ``var`` at the top of the checkout.

    A relative path counts from the top of the checkout, so that every process means the
    same folder wherever it was started. The folder is made (0750) when it is missing.
    """
    home = REPOSITORY / Path(os.environ.get("PORTAL_HOME") or "var").expanduser()
    if not home.is_dir():
        try:
            home.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"The data folder {home} cannot be made ({error.strerror}); set PORTAL_HOME to a folder "
                "that you may write to."
            ) from error
    return home.resolve()


def host_name() -> str:
    """Return the name under which this host does jobs: ``PORTAL_HOST_NAME``, by default the machine's."""
    return (os.environ.get("PORTAL_HOST_NAME") or socket.gethostname())[:120]


def run_dir() -> Path:
    """Return the folder of locks and process ids: ``PORTAL_RUN``, by default ``run`` under the home.

    Process ids mean something on one machine only. A supervisor of ``web`` or ``workers`` may share the home with those of
    other hosts, so its folder is named by its host and role.
    """
    given = os.environ.get("PORTAL_RUN")
    folder = REPOSITORY / Path(given).expanduser() if given else _own(portal_home() / "run")
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    return folder.resolve()


def logs_dir() -> Path:
    """Return the folder of log files: ``logs`` under the home, for a host that may share the home a folder in it."""
    folder = _own(portal_home() / "logs")
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    return folder


def _own(folder: Path) -> Path:
    """Return the folder itself, or the part of it that belongs to this host and its role."""
    role = os.environ.get("PORTAL_PROCESSES") or "all"
    name = "".join(ch if ch.isalnum() or ch in "-." else "_" for ch in host_name())
    return folder if role == "all" else folder / f"{name}-{role}"


def secret_key() -> str:
    """Return the key that signs sessions and queue messages.

    ``PORTAL_SECRET_KEY`` when set. Otherwise, outside production, a random key that is made
    once and kept in ``PORTAL_HOME/secret_key`` (0600).

    Raises
    ------
    SettingsError: production without ``PORTAL_SECRET_KEY``.
    """
    given = os.environ.get("PORTAL_SECRET_KEY")
    if given:
        return given
    if is_production():
        raise SettingsError(
            "PORTAL_ENV is production but PORTAL_SECRET_KEY is not set. Set it to at least 50 random characters, "
            "the same ones for every process of this portal."
        )
    path = portal_home() / "secret_key"
    if not path.exists():
        # Written aside and linked into place: of several processes that start at once all
        # read the one key that won, and none reads half a key.
        draft = path.with_name(f".secret_key.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(secrets.token_urlsafe(64))
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
        finally:
            draft.unlink()
    key = path.read_text(encoding="ascii").strip()
    if len(key) < 50:
        raise SettingsError(f"{path} is damaged (too short for a key). Remove it; everybody then has to sign in again.")
    return key


def embedded_dir() -> Path:
    """Return the folder of the embedded PostgreSQL (data, log, note of the socket's folder)."""
    return portal_home() / "postgres"


def embedded_socket_dir() -> Path:
    """Return the folder of the embedded server's socket.

    The launcher records another folder in ``socket_dir`` when this one's path is too long
    for a socket or its file system has no sockets.
    """
    note = embedded_dir() / "socket_dir"
    if note.is_file():
        return Path(note.read_text(encoding="utf-8").strip())
    return embedded_dir() / "s"


def embedded_url(socket_dir: Path | None = None) -> str:
    """Return the URL of the embedded server's database (whether it runs or not)."""
    host = quote(str(socket_dir or embedded_socket_dir()), safe="")
    return f"postgresql://{DATABASE_ROLE}@/{DATABASE_NAME}?host={host}"


def uses_embedded() -> bool:
    """Whether the portal runs its own PostgreSQL because ``DATABASE_URL`` is unset."""
    return not os.environ.get("DATABASE_URL")


def database_url() -> str:
    """Return ``DATABASE_URL``, or the embedded server's URL when it is unset."""
    return os.environ.get("DATABASE_URL") or embedded_url()


def database_settings(url: str | None = None) -> dict[str, Any]:
    """Split a PostgreSQL URL into Django's ``DATABASES`` entry (ENGINE, NAME, USER, ..., OPTIONS).

    The query's ``host`` and ``port`` become HOST and PORT (a socket's folder can only stand
    there); what else it holds (``sslmode``, ...) goes to psycopg as an option.

    Raises
    ------
    SettingsError: the URL is not one of PostgreSQL, or names no database.
    """
    url = url or database_url()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL cannot be read ({error}).") from error
    if parts.scheme not in {"postgres", "postgresql"}:
        raise SettingsError(
            f"DATABASE_URL starts with {parts.scheme or 'nothing'!r}; the portal needs PostgreSQL: "
            "postgresql://user:password@host:5432/database"
        )
    name = unquote(parts.path.lstrip("/"))
    if not name:
        raise SettingsError("DATABASE_URL names no database: postgresql://user:password@host:5432/database")
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", unquote(parts.hostname or "")),
        "PORT": str(options.pop("port", port or "")),
        "OPTIONS": options,
    }


# At import, so that every process of the portal sees the same environment from its first line on.
load_env()
