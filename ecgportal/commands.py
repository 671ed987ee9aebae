"""What all commands of the shell share: acting as a user, foreground jobs with a progress bar, output for people or programs."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from typing import Any, TypeVar

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import OperationalError
from django.db.models import Model, QuerySet

from ecgportal.accounts.models import User
from ecgportal.audit.context import AuditContext, acting
from ecgportal.errors import InvalidInput, NotFound, PortalError
from ecgportal.jobs import runner, services
from ecgportal.jobs.models import Job, JobState
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project

M = TypeVar("M", bound=Model)

_LOOK_S = 0.3
_LINE_S = 10.0


class PortalCommand(BaseCommand):
    """Subclasses write ``arguments`` and ``do``; ``do`` returns plain data.

    An error of the portal ends the command with status 1 and its sentence (with ``--json`` the API's error object).
    ``self.user`` is whom ``--as-user`` names; what they may not do on a page they may not do here.
    """

    takes_user = True
    as_user_required = True
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        if self.takes_user:
            parser.add_argument(
                "--as-user", required=self.as_user_required, metavar="NAME", help="the user who does this"
            )
        parser.add_argument("--json", action="store_true", help="print the result as JSON and no progress")
        self.arguments(parser)

    def arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""

    def do(self, **options: Any) -> Any:
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        self.as_json: bool = options["json"]
        with acting(AuditContext(channel="shell")):
            try:
                self.user = _user(options.get("as_user"))
                result = self.do(**options)
            except PortalError as error:
                if self.as_json:
                    told = {"error": {"code": error.code, "message": error.message, "fields": error.fields}}
                    self.stdout.write(json.dumps(told, cls=DjangoJSONEncoder))
                    sys.exit(1)
                raise CommandError(" ".join([error.message, *error.fields.values()])) from error
            except OperationalError as error:
                raise CommandError(
                    f"The database does not answer; start the portal (make run). It said: {error}"
                ) from error
        if self.as_json:
            self.stdout.write(json.dumps(result, cls=DjangoJSONEncoder, ensure_ascii=False))
        else:
            self.show(result)

    def show(self, result: Any) -> None:
        """Print the result for a person."""
        for name, value in result.items():
            if value not in (None, "", [], {}):
                text = (
                    json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)
                    if isinstance(value, dict | list)
                    else value
                )
                self.stdout.write(f"{name.replace('_', ' ')}: {text}")

    def find(self, queryset: QuerySet[M], action: Action, text: str, **by_name: Any) -> M:
        """Return the one row that ``text`` names by its id or by ``by_name``, on which the user may do ``action``."""
        lookup = {"pk": uuid.UUID(text)} if _is_uuid(text) else by_name
        title = queryset.model._meta.verbose_name
        found = list(access.visible(queryset, self.user).filter(**lookup)[:2])
        if not found:
            raise NotFound(f"{self.user} sees no {title} called {text}.")
        if len(found) > 1:
            raise InvalidInput(f"There are several of the name {text}; give the id of one, or say --project.")
        access.require(self.user, action, access.project_of(found[0]))
        return found[0]

    def project(self, text: str, action: Action) -> Project:
        """Return the project of an id, a short name or a name."""
        if not _is_uuid(text) and Project.objects.filter(slug=text).exists():
            return self.find(Project.objects.all(), action, text, slug=text)
        return self.find(Project.objects.all(), action, text, name__iexact=text)

    def follow(self, job: Job) -> Job:
        """Do a queued job now, show how far it is, and return it when it has succeeded; PortalError when it has not.

        The work is done by a process of its own that names the job. A worker of a running portal may be quicker; then
        this only watches. Ctrl-C asks the job to stop, as the page's button does.
        """
        bar = ProgressBar(self.stderr, quiet=self.as_json)
        doing: threading.Thread | None = None
        while True:
            try:
                row = Job.objects.get(pk=job.pk)
                bar.show(row.progress, row.message or row.title)
                if not row.is_open:
                    break
                if row.state == JobState.QUEUED and (doing is None or not doing.is_alive()):
                    doing = start(row)
                time.sleep(_LOOK_S)
            except KeyboardInterrupt:
                bar.end()
                self.stderr.write("Asking the job to stop; press Ctrl-C again to leave it alone.")
                services.cancel(actor=self.user, job=job)
        bar.end()
        if doing is not None:
            doing.join(10)
        if row.state != JobState.SUCCEEDED:
            raise PortalError(row.error_message or f"The job was {row.state}.", code=row.error_code or row.state)
        return row


def start(job: Job) -> threading.Thread:
    """Begin to do a job in a process of its own; the thread waits for it."""
    return runner.start_beside(job.pk)


class ProgressBar:
    """A progress bar on a terminal; a line now and then elsewhere."""

    def __init__(self, stream: Any, *, quiet: bool):
        self.stream, self.quiet = stream, quiet
        self._is_terminal = bool(getattr(stream, "isatty", lambda: False)())
        self._told, self._at = "", 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def show(self, fraction: float, message: str) -> None:
        text = f"[{'=' * round(30 * fraction):<30}] {100 * fraction:3.0f} %  {message}"
        if self.quiet or text == self._told:
            return
        if self._is_terminal:
            self.stream.write(f"\r\x1b[K{text[:118]}", ending="")
            self.stream.flush()
        elif time.monotonic() - self._at > _LINE_S:
            self._at = time.monotonic()
            self.stream.write(text)
        self._told = text

    def end(self) -> None:
        if self._is_terminal and self._told and not self.quiet:
            self.stream.write("")
        self._told = ""


def _user(name: str | None) -> User | None:
    if name is None:
        return None
    user = User.objects.filter(username__iexact=name, is_active=True).first()
    if user is None:
        raise NotFound(f"There is no active user called {name}.")
    return user


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
