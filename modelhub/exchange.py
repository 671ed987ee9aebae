"""Publish versions on WebDAV servers and pull them from there, as jobs. What is pulled waits in quarantine.

A transfer whose line breaks is tried again, and goes on where it stopped: a pull always where the server names the state
of its files, an upload where the server takes parts of files (``webdav_pieces``). What is there already is not sent again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from ecgportal import secrets, storage
from ecgportal.audit.trail import record as audit
from ecgportal.errors import Conflict, PortalError, RemoteError
from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import TERMINAL
from modelhub import importing
from modelhub.bundle import MAX_BUNDLE_BYTES
from modelhub.dav_bundles import bundle_file
from modelhub.models import Exchange, ModelVersion, Origin, Transfer, VersionState
from modelhub.services_exchanges import in_flight, pull_start, push_start, remote_name
from modelhub.statements import stated
from modelhub.webdav import Remote
from modelhub.webdav_entries import RemoteEntry
from modelhub.webdav_errors import CUT

log = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<slug>.+)-v(?P<number>\d+)-(?P<sha>[0-9a-f]{12})\.ecgmodel\.zip")
#: Seconds to wait after a line broke before the next try; each try that brings something begins the row anew.
WAITS_S = (2.0, 5.0, 15.0)
#: How long what a broken pull brought is kept for the next one.
_KEPT = timedelta(days=2)
#: How a published model stands against a project, with the tone in which pages say it.
STATES = {
    "same": ("same version here", "success"),
    "differs": ("another version here", "warning"),
    "remote_only": ("only on the exchange", "info"),
    "local_only": ("only here", "neutral"),
}


def connect(exchange: Exchange) -> Remote:
    """Return a connection to an exchange with its stored credentials."""
    return Remote(
        exchange.url,
        exchange.username,
        secrets.decrypt(exchange.password_encrypted),
        allow_private=settings.EXCHANGE_ALLOW_PRIVATE,
    )


def test(exchange: Exchange) -> dict[str, Any]:
    """Try the connection; RemoteError says what to correct."""
    with connect(exchange) as remote:
        found = remote.test()
    safe = "" if found.encrypted else " The connection is not encrypted; use https:// outside your own network."
    return {
        "ok": True,
        "message": f"{found.server or 'The server'} answered with {found.entries} entries. {found.on_cut}{safe}",
        "encrypted": found.encrypted,
    }


def listing(exchange: Exchange, project: Any = None) -> list[dict[str, Any]]:
    """Return the published models and, for a project, how each stands against its versions."""
    with connect(exchange) as remote:
        entries = remote.models()
    local: dict[str, ModelVersion] = {}
    pulled: dict[str, Transfer] = {}
    if project is not None:
        versions = ModelVersion.objects.filter(stated(), model__project=project, state=VersionState.READY)
        local = {remote_name(version): version for version in versions.select_related("model")}
        transfers = Transfer.objects.filter(
            project=project, exchange=exchange, direction="pull", version__isnull=False
        ).select_related("version__model")
        pulled = {row.remote_path: row for row in transfers.order_by("created_at") if row.version}
    stems = {name.rsplit("-", 1)[0]: version for name, version in local.items()}
    rows = []
    for entry in entries:
        came = pulled.get(entry.path)
        # A file that was changed there since it was pulled is not the one that is here.
        changed = came is not None and came.remote_state not in ("", _state_of(entry))
        here = local.get(entry.name) or (came.version if came is not None and not changed else None)
        match = _NAME.fullmatch(entry.name)
        other = stems.get(f"{match['slug']}-v{match['number']}") if match else None
        other = other or (came.version if came is not None and changed else None)
        state = "same" if here else "differs" if other else "remote_only"
        found = here or other
        rows.append(
            {
                "path": entry.path,
                "size": entry.size,
                "modified": entry.modified,
                "state": state,
                "version": str(found.pk) if found else None,
                "here": str(found) if found else "",
            }
        )
    published = {entry.name for entry in entries}
    rows += [
        {"path": "", "size": version.size, "modified": version.created_at, "state": "local_only", "version": str(version.pk), "here": str(version), "name": str(version)}
        for name, version in local.items() if name not in published and version.pk not in {row.version_id for row in pulled.values()}
    ]  # fmt: skip
    return [{**row, "state_title": STATES[row["state"]][0], "tone": STATES[row["state"]][1]} for row in rows]


def _state_of(entry: RemoteEntry) -> str:
    """Return what tells one state of a remote file from another: its tag, or its time and size."""
    return (entry.etag or f"{entry.modified} {entry.size}")[:200]


def sync_start(*, actor: Any, exchange: Exchange, project: Any) -> list[Transfer]:
    """Start to publish what only the project has and to pull what only the exchange has. Nothing is overwritten."""
    rows = listing(exchange, project)
    under_way = set(in_flight(exchange=exchange, project=project).values_list("direction", "remote_path"))
    local = {row["version"] for row in rows if row["state"] == "local_only"}
    versions = ModelVersion.objects.filter(pk__in=local).select_related("model__project").order_by("created_at", "pk")
    transfers = [
        push_start(actor=actor, exchange=exchange, version=version)
        for version in versions
        if ("push", remote_name(version)) not in under_way
    ]
    remote = [row["path"] for row in rows if row["state"] == "remote_only" and ("pull", row["path"]) not in under_way]
    return [
        *transfers,
        *(pull_start(actor=actor, exchange=exchange, project=project, remote_path=path) for path in remote),
    ]


class _Line:
    """A transfer over a line that may break: tells a job how much went over it, and tries again while it brings something."""

    def __init__(self, context: JobContext, low: float, high: float, word: str) -> None:
        self._context, self._low, self._high, self._word = context, low, high, word
        self._share, self._furthest = low, 0

    def progress(self, size: int | None) -> Callable[[int], None]:
        """Return what is told the bytes so far of a file of ``size`` bytes; it ends the job when that is to stop."""

        def tell(done: int) -> None:
            share = min(1.0, done / size) if size else 0.0
            self._share, self._furthest = self._low + (self._high - self._low) * share, max(self._furthest, done)
            self._context.progress(self._share, f"{self._word} {done / 1e6:.1f} MB")

        return tell

    def tried(self, call: Callable[[], Any]) -> Any:
        """Return what ``call`` returns; RemoteError when the line breaks again and again without bringing anything."""
        waits, reached = list(WAITS_S), 0
        while True:
            try:
                return call()
            except RemoteError as error:
                if self._furthest > reached:
                    waits, reached = list(WAITS_S), self._furthest
                if error.code not in CUT or not waits:
                    raise
                wait = waits.pop(0)
                self._context.progress(self._share, f"{error.message} Next try in {wait:.0f} s.")
                self._context.stopping.wait(wait)
                self._context.raise_if_stopping()


def _manifest(version: ModelVersion, sha256: str, size: int) -> bytes:
    """Return what stands beside a published bundle: enough to choose by, written last, so that the bundle is whole."""
    facts = {
        "file": remote_name(version), "sha256": sha256, "bytes": size, "name": version.model.name, "number": version.number,
        "task": version.task, "classes": version.named_classes, "architecture": version.architecture, "licence": version.card.get("licence", ""),
    }  # fmt: skip
    return json.dumps(facts, indent=1, ensure_ascii=False).encode()


def push(context: JobContext) -> dict[str, Any]:
    """The job: write the bundle and publish it under a name that holds its digest. A second run finds it there."""
    transfer = Transfer.objects.select_related("exchange", "version__model", "project", "created_by").get(
        pk=context.payload["transfer"]
    )
    version = transfer.version
    if version is None:
        raise Conflict("The version was deleted before it was published.", code="version_gone")
    context.progress(0.1, "Writing the bundle")
    # Kept in the store: a later try sends the same bytes, and can go on with what arrived of them.
    bundle = bundle_file(version)
    data, sha256 = storage.read_blob(bundle.sha256), bundle.sha256
    context.progress(0.4, f"Sending {len(data) / 1e6:.1f} MB")
    line = _Line(context, 0.4, 0.95, "Sent")
    with connect(transfer.exchange) as remote:
        had = line.tried(lambda: _published(remote, transfer, version, data, sha256, line))
        _tidy(remote, transfer.remote_path)
    with transaction.atomic():
        Transfer.objects.filter(pk=transfer.pk).update(sha256=sha256)
        audit(
            "exchange.pushed",
            version,
            actor=transfer.created_by,
            project=transfer.project,
            changes={"exchange": transfer.exchange.name, "sha256": sha256},
        )
    return {"path": transfer.remote_path, "sha256": sha256, "version": str(version.pk), "resumed_bytes": had}


def _published(remote: Remote, transfer: Transfer, version: ModelVersion, data: bytes, sha256: str, line: _Line) -> int:
    """Bring a bundle and its manifest to the server, whatever part of them is there; returns how many bytes were."""
    path, manifest = transfer.remote_path, _manifest(version, sha256, len(data))
    if remote.find(path) is None:
        upload = uuid.uuid5(version.pk, sha256)
        return remote.publish(path, data, manifest, progress=line.progress(len(data)), upload=upload)
    if hashlib.sha256(remote.download(path, MAX_BUNDLE_BYTES)).hexdigest() != sha256:
        raise Conflict(
            f"{transfer.exchange} has another file called {path}. It was not overwritten.", code="remote_differs"
        )
    remote.publish_manifest(path, manifest)
    return len(data)


def _tidy(remote: Remote, path: str) -> None:
    """Remove the parts of uploads that died long ago, where this account may."""
    try:
        remote.sweep(path.rpartition("/")[0])
    except RemoteError as error:
        # The version is published; what others left behind is no reason to say that it is not.
        log.info("Old parts beside %s were not removed: %s", path, error.message)


def pull(context: JobContext) -> dict[str, Any]:
    """The job: fetch a published file, check it as any import, and put it into quarantine."""
    transfer = Transfer.objects.select_related("exchange", "project", "created_by").get(pk=context.payload["transfer"])
    name = transfer.remote_path.rsplit("/", 1)[-1]
    context.progress(0.1, "Fetching")
    part = _begun(transfer)
    line = _Line(context, 0.1, 0.5, "Fetched")
    with connect(transfer.exchange) as remote:
        entry = line.tried(lambda: remote.find(transfer.remote_path))
        told = line.progress(entry.size if entry else None)
        line.tried(lambda: remote.fetch(transfer.remote_path, part, MAX_BUNDLE_BYTES, told))
    seen = _state_of(entry) if entry else ""
    data = part.read_bytes()
    storage.remove_area("checkpoints", transfer.pk, here_only=True)
    context.progress(0.5, "Checking")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        found = importing.examine(data, name, {})
    except PortalError as error:
        audit(
            "model_version.refused", name, actor=transfer.created_by, project=transfer.project, outcome="refused",
            changes={"code": error.code, "exchange": transfer.exchange.name, "sha256": sha256},
        )  # fmt: skip
        raise
    quarantined = replace(found, quarantined=True)
    with transaction.atomic():
        title = str(found.facts.get("name") or name.removesuffix(".ecgmodel.zip").removesuffix(".onnx"))[:120]
        version = importing.store(
            quarantined, actor=transfer.created_by, project=transfer.project, name=title, origin=Origin.PULLED
        )
        Transfer.objects.filter(pk=transfer.pk).update(version=version, sha256=sha256, remote_state=seen)
        audit(
            "exchange.pulled",
            version,
            actor=transfer.created_by,
            project=transfer.project,
            changes={"exchange": transfer.exchange.name, "sha256": sha256},
        )
    return {"version": str(version.pk), "state": version.state, "signature": found.checks.get("signature", "none")}


def _begun(transfer: Transfer) -> Path:
    """Return where what is fetched goes, with what the last broken pull of the same file left on this host; older leavings are
    removed."""
    part = storage.area("checkpoints", transfer.pk) / "incoming.part"
    broken = Transfer.objects.filter(direction="pull", version=None, job__state__in=TERMINAL).exclude(pk=transfer.pk)
    for row in broken.filter(job__finished_at__lt=timezone.now() - _KEPT):
        storage.remove_area("checkpoints", row.pk, here_only=True)
    same = broken.filter(exchange=transfer.exchange, project=transfer.project, remote_path=transfer.remote_path)
    last = same.order_by("-created_at").first()
    if last is not None and not part.exists():
        for left in storage.area("checkpoints", last.pk).glob("incoming.part*"):
            left.replace(part.with_name(left.name))
        storage.remove_area("checkpoints", last.pk, here_only=True)
    return part
