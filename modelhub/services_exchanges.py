"""Manage exchanges, and start what is published there and pulled from there."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.db import transaction
from django.db.models import QuerySet
from django.utils.text import slugify

from ecgportal import secrets
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, InvalidInput
from ecgportal.jobs.models import OPEN
from ecgportal.jobs.services import enqueue
from ecgportal.validation import require_valid
from modelhub.models import Exchange, ModelVersion, Transfer
from modelhub.services import check_runnable
from modelhub.webdav_guard import never_reached


def _server_of(url: str) -> tuple[str, str, int | None]:
    """Return what a password is sent to: scheme, host and port of an address."""
    try:
        parts = urlsplit(url.strip())
        return parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError:
        return "", url, None


@transaction.atomic
def exchange_save(
    *,
    actor: Any,
    exchange: Exchange | None = None,
    name: str,
    url: str,
    username: str = "",
    password: str | None = None,
) -> Exchange:
    """Add or change an exchange; the password is stored encrypted and kept when None."""
    created = exchange is None
    exchange = exchange or Exchange(created_by=actor)
    if password is None and exchange.password_encrypted and _server_of(url) != _server_of(exchange.url):
        # Else whoever changes the address could have the password sent to a server of their own.
        raise InvalidInput(
            "The stored password belongs to another server.", fields={"password": "Enter the new server's password."}
        )
    exchange.name, exchange.url, exchange.username = name.strip(), url.strip(), username
    if password is not None:
        exchange.password_encrypted = secrets.encrypt(password)
    require_valid(exchange, "The exchange cannot be saved like this.")
    if not exchange.url.lower().startswith(("https://", "http://")):
        raise InvalidInput("The address must start with https:// or http://.", fields={"url": "Only http and https."})
    if reason := never_reached(exchange.url):
        raise InvalidInput(f"The portal does not connect there: it is {reason}.", fields={"url": "Another address."})
    exchange.save()
    audit(
        "exchange.created" if created else "exchange.changed",
        exchange,
        actor=actor,
        changes={"url": exchange.url, "username": username},
    )
    return exchange


@transaction.atomic
def exchange_delete(*, actor: Any, exchange: Exchange) -> None:
    exchange_id = exchange.pk
    exchange.delete()
    exchange.pk = exchange_id
    audit("exchange.deleted", exchange, actor=actor)


def in_flight(*, exchange: Exchange, project: Any) -> QuerySet[Transfer]:
    """Return the transfers between an exchange and a project that have not ended."""
    return Transfer.objects.filter(exchange=exchange, project=project, job__state__in=OPEN)


def _only_one(*, exchange: Exchange, project: Any, direction: str, remote_path: str) -> None:
    if in_flight(exchange=exchange, project=project).filter(direction=direction, remote_path=remote_path).exists():
        raise Conflict(f"{remote_path} is on its way already. Its job is under Jobs.", code="transfer_running")


@transaction.atomic
def push_start(*, actor: Any, exchange: Exchange, version: ModelVersion) -> Transfer:
    """Publish a version's bundle on an exchange."""
    check_runnable(version)
    project = version.model.project
    _only_one(exchange=exchange, project=project, direction="push", remote_path=remote_name(version))
    transfer = Transfer(
        project=project,
        created_by=actor,
        exchange=exchange,
        direction="push",
        version=version,
        remote_path=remote_name(version),
    )
    transfer.job = enqueue(
        "exchange_push",
        actor=actor,
        project=project,
        payload={"transfer": str(transfer.pk)},
        title=f"Publish {version} on {exchange}",
    )
    transfer.save(force_insert=True)
    return transfer


@transaction.atomic
def pull_start(*, actor: Any, exchange: Exchange, project: Any, remote_path: str) -> Transfer:
    """Fetch a published model into a project; it stays in quarantine until an owner accepts it."""
    if not remote_path or ".." in remote_path.split("/") or len(remote_path) > 400:
        raise InvalidInput("This is not the path of a published model.", fields={"path": "Choose one from the list."})
    _only_one(exchange=exchange, project=project, direction="pull", remote_path=remote_path)
    transfer = Transfer(project=project, created_by=actor, exchange=exchange, direction="pull", remote_path=remote_path)
    transfer.job = enqueue(
        "exchange_pull",
        actor=actor,
        project=project,
        payload={"transfer": str(transfer.pk)},
        title=f"Pull {remote_path} from {exchange}",
    )
    transfer.save(force_insert=True)
    return transfer


def remote_name(version: ModelVersion) -> str:
    """Return the file name under which a version is published: readable, safe, different for different weights."""
    return f"{slugify(version.model.name)[:80] or 'model'}-v{version.number}-{version.sha256[:12]}.ecgmodel.zip"
