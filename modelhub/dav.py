"""The portal's own versions under ``/dav/``, read-only: ``/dav/<project>/<model>/<bundle>``.

A WebDAV client, or another portal's exchange, signs in with a user's name and an API token and sees what that user may
download. Sessions do not count here, so that no page of another site can make a browser ask.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, BinaryIO

from django.contrib.auth.decorators import login_not_required
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.decorators import method_decorator
from django.utils.http import http_date
from django.utils.text import slugify
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from ecgportal import storage
from ecgportal.accounts.models import User
from ecgportal.accounts.tokens import token_of
from ecgportal.audit.trail import record as audit
from ecgportal.errors import NotFound, PortalError
from ecgportal.projects import access
from ecgportal.projects.access import Action
from ecgportal.projects.models import Project
from modelhub.dav_bundles import bundle_file
from modelhub.dav_xml import MAX_BODY_BYTES, Resource, multistatus, read_propfind
from modelhub.models import Model, ModelVersion, VersionState
from modelhub.services_exchanges import remote_name
from modelhub.statements import stated

ALLOW = "OPTIONS, PROPFIND, GET, HEAD"
_WRITING = {"PUT", "DELETE", "MKCOL", "MOVE", "COPY", "PROPPATCH", "LOCK", "UNLOCK"}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_INFINITE = b'<?xml version="1.0" encoding="utf-8"?>\n<D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>'


def user_of(request: HttpRequest) -> User | None:
    """Return the user of ``Authorization: Token <key>``, or of basic authentication with the token as the password."""
    kind, _, rest = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "token":
        token = token_of(rest.strip())
        return token.user if token else None
    if kind.lower() != "basic":
        return None
    try:
        name, _, key = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    token = token_of(key)
    return token.user if token and token.user.get_username() == name else None


class Tree:
    """What one user may download, as folders: projects, their models, and the bundles of ready versions."""

    def __init__(self, user: User):
        self._user = user
        self._projects = access.visible(Project.objects.filter(archived_at=None), user, Action.MODEL_DOWNLOAD)
        self._root = reverse("dav")

    def find(self, path: str) -> tuple[Resource, Any]:
        """Return the resource at a path with the row behind it; NotFound when there is none."""
        parts = [part for part in path.split("/") if part]
        if not parts:
            first = self._projects.order_by("created_at").first()
            moment = first.created_at if first else _epoch()
            return Resource(self._root, "models", True, moment, moment), None
        project = self._projects.filter(slug=parts[0]).first()
        if project is None:
            access.note_hidden(Project, self._user, slug=parts[0])
        if project is None or len(parts) > 3:
            raise _missing()
        if len(parts) == 1:
            return self._folder(project, project.slug, project.name), project
        model = self._models(project).get(parts[1])
        if model is None:
            raise _missing()
        folder = f"{project.slug}/{parts[1]}"
        if len(parts) == 2:
            return self._folder(model, folder, model.name), (folder, model)
        for version in self._versions(model):
            if remote_name(version) == parts[2]:
                return self._file(version, folder), version
        raise _missing()

    def children(self, row: Any) -> list[Resource]:
        """Return what lies in a folder that ``find`` returned."""
        if row is None:
            return [self._folder(project, project.slug, project.name) for project in self._projects]
        if isinstance(row, Project):
            named = self._models(row).items()
            return [self._folder(model, f"{row.slug}/{name}", model.name) for name, model in named]
        folder, model = row
        return [self._file(version, folder) for version in self._versions(model)]

    def _models(self, project: Project) -> dict[str, Model]:
        """Return the models with a ready version by folder name; the younger of two equal names carries its id."""
        named: dict[str, Model] = {}
        ready = ModelVersion.objects.filter(stated(), state=VersionState.READY).values("model")
        for model in Model.objects.filter(project=project, pk__in=ready).order_by("created_at", "id"):
            slug = slugify(model.name)[:80] or "model"
            named[slug if slug not in named else f"{slug}-{str(model.pk)[:8]}"] = model
        return named

    def _versions(self, model: Model) -> list[ModelVersion]:
        rows = ModelVersion.objects.filter(stated(), model=model, state=VersionState.READY)
        return list(rows.select_related("model__project", "parent").order_by("number"))

    def _folder(self, row: Any, path: str, name: str) -> Resource:
        return Resource(f"{self._root}{path}/", name, True, row.created_at, row.created_at)

    def _file(self, version: ModelVersion, folder: str) -> Resource:
        name = remote_name(version)
        href = f"{self._root}{folder}/{name}"
        try:
            row = bundle_file(version)
        except PortalError:
            # It is listed without a size; who fetches it is told the reason.
            return Resource(href, name, False, version.created_at, version.created_at)
        return Resource(href, name, False, version.created_at, row.created_at, row.size, f'"{row.sha256}"')


def _missing() -> NotFound:
    return NotFound("There is no such file or folder, or you may not download it.")


def _epoch() -> Any:
    from datetime import UTC, datetime

    return datetime(2000, 1, 1, tzinfo=UTC)


@method_decorator([csrf_exempt, login_not_required], name="dispatch")
class DavView(View):
    """OPTIONS, PROPFIND (depth 0 and 1), GET and HEAD; whatever writes is refused."""

    tokens_only = True

    def dispatch(self, request: HttpRequest, path: str = "") -> HttpResponseBase:
        user = user_of(request)
        if user is None:
            answer: HttpResponseBase = _plain("Sign in with your user name and an API token as the password.", 401)
            answer["WWW-Authenticate"] = 'Basic realm="ECG Portal models", charset="UTF-8"'
            return answer
        try:
            answer = self._answer(request, user, path)
        except PortalError as error:
            answer = _plain(error.message, error.status)
        answer["DAV"] = "1"
        answer["Cache-Control"] = "private, no-cache"
        return answer

    def _answer(self, request: HttpRequest, user: User, path: str) -> HttpResponseBase:
        method = request.method or ""
        if method == "OPTIONS":
            return HttpResponse(headers={"Allow": ALLOW, "MS-Author-Via": "DAV"})
        if method == "PROPFIND":
            return self._propfind(request, Tree(user), path)
        if method in ("GET", "HEAD"):
            return self._file(request, Tree(user), path, user)
        if method in _WRITING:
            answer = _plain("This portal's models can be read here; they are not changed from outside.", 403)
            answer["Allow"] = ALLOW
            return answer
        return HttpResponseNotAllowed(ALLOW.split(", "))

    def _propfind(self, request: HttpRequest, tree: Tree, path: str) -> HttpResponse:
        # A client that names no depth gets one level, as other servers without endless listings answer.
        depth = request.headers.get("Depth", "1").lower()
        resource, row = tree.find(path)
        if depth not in ("0", "1") and resource.is_folder:
            return HttpResponse(_INFINITE, status=403, content_type='application/xml; charset="utf-8"')
        if int(request.headers.get("Content-Length") or 0) > MAX_BODY_BYTES:
            return _plain("The request is too large.", 413)
        asked = read_propfind(request.body)
        rows = [resource]
        if depth == "1" and resource.is_folder:
            rows += tree.children(row)
        return HttpResponse(multistatus(rows, asked), status=207, content_type='application/xml; charset="utf-8"')

    def _file(self, request: HttpRequest, tree: Tree, path: str, user: User) -> HttpResponseBase:
        resource, row = tree.find(path)
        if resource.is_folder:
            lines = "".join(f"{entry.href}\n" for entry in tree.children(row))
            return _plain(lines, 200)
        stored = bundle_file(row)
        etag, modified = f'"{stored.sha256}"', int(stored.created_at.timestamp())
        unchanged = get_conditional_response(request, etag=etag, last_modified=modified)
        if unchanged is not None:
            return unchanged
        start, end, status = _part(request, stored.size, etag)
        headers = {
            "ETag": etag,
            "Last-Modified": http_date(modified),
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
        }
        if status == 416:
            return HttpResponse(status=416, headers={"Content-Range": f"bytes */{stored.size}"})
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
        if request.method == "HEAD":
            return HttpResponse(status=status, content_type=resource.content_type, headers=headers)
        stream = storage.open_blob(stored.sha256)
        stream.seek(start)
        changes = {"format": "bundle", "sha256": stored.sha256, "bytes": end - start}
        audit("model_version.downloaded", row, actor=user, project=row.model.project, changes=changes)
        answer = FileResponse(
            stream if status == 200 else _Window(stream, end - start),
            as_attachment=True,
            filename=resource.name,
            content_type=resource.content_type,
            status=status,
        )
        for name, value in headers.items():
            answer[name] = value
        return answer


class _Window:
    """The next ``size`` bytes of a stream, read like a file."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._left = stream, size

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._stream.close()


def _part(request: HttpRequest, size: int, etag: str) -> tuple[int, int, int]:
    """Return first byte, byte after the last, and status of what a Range header asks for; the whole file without one."""
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None or not any(match.groups()) or request.headers.get("If-Range", etag) != etag:
        return 0, size, 200
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    return (start, end, 206) if start < end else (0, 0, 416)


def _plain(text: str, status: int) -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")
