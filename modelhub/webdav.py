"""Exchange models with a WebDAV server.

Files are uploaded under a temporary name and then moved, so that a reader never sees half of one; nothing that is
there already is overwritten unless it is the state that was seen before. Layout that is read: models as
``<folder>/<model>.onnx`` (that of ExChanGeAI) or bundles as ``<folder>/<model>.ecgmodel.zip``. How a cut upload goes
on is the matter of ``webdav_pieces``.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from webdav4.client import Client
from webdav4.http import Client as DavHttpClient

from ecgportal.errors import RemoteError
from modelhub import webdav_pieces
from modelhub.webdav_entries import RemoteEntry, checked_path, listed_entry, server_address
from modelhub.webdav_errors import CUT, check_answer, exists, troubles
from modelhub.webdav_guard import MAX_ANSWER_BYTES, GuardedTransport

log = logging.getLogger(__name__)
MODEL_SUFFIXES = (".onnx", ".ecgmodel.zip")
MAX_ENTRIES = 5_000
MAX_FOLDERS = 200
LIST_SECONDS = 60.0
TRANSFER_SECONDS = 3600.0
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_CHUNK = 1024 * 1024

#: What an upload is called until it is whole.
_PART = re.compile(r"\.(onnx|ecgmodel\.zip)(\.json)?\.part-[0-9a-f]{32}$")

Progress = Callable[[int], None]
# The method ``Remote.list`` hides the type's name inside the class.
Entries = list[RemoteEntry]


@dataclass(frozen=True)
class RemoteCheck:
    """What a test of the connection found."""

    address: str
    server: str
    entries: int
    encrypted: bool
    on_cut: str


@dataclass(frozen=True)
class Download:
    """What was received."""

    size: int
    sha256: str
    etag: str | None


class Remote:
    """One WebDAV folder, addressed by URL, with basic authentication.

    allow_private: whether loopback and private addresses may be used; link-local and metadata addresses never are.
    Every trouble is a RemoteError with a sentence and a code.
    """

    def __init__(self, url: str, username: str = "", password: str = "", allow_private: bool = False) -> None:
        self.url = server_address(url)
        self._signed_in = (username, password, allow_private)
        self._transport = GuardedTransport(self.url, allow_private=allow_private)
        self._http = DavHttpClient(
            base_url=self.url,
            auth=(username, password) if username or password else None,
            transport=self._transport,
            timeout=_TIMEOUT,
            trust_env=False,
            follow_redirects=False,
            max_redirects=5,
        )
        self._dav = Client(self.url, http_client=self._http, retry=False)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def test(self) -> RemoteCheck:
        """Connect, sign in and list the folder."""
        answer = self.request("OPTIONS", "")
        server, on_cut = answer.headers.get("Server", ""), webdav_pieces.says_how(self, answer.headers.get("DAV", ""))
        entries = self.list()
        return RemoteCheck(str(self.url), server[:200], len(entries), self.url.scheme == "https", on_cut)

    def request(
        self, method: str, path: str, *, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send one request for a path and return the answer, whatever its status."""
        path = checked_path(path)
        with self._operation(path, MAX_ANSWER_BYTES, TRANSFER_SECONDS if content else LIST_SECONDS):
            return self._http.request(method, self.address_of(path), content=content, headers=headers)

    def require(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Send one request; RemoteError when its answer is a refusal."""
        answer = self.request(method, path, **how)
        check_answer(answer, path)
        return answer

    def put(self, path: str, data: bytes, progress: Progress | None = None) -> None:
        """Write a whole file, over what is there."""
        path = checked_path(path)
        with self._operation(path, MAX_ANSWER_BYTES, TRANSFER_SECONDS):
            self._dav.upload_fileobj(
                io.BytesIO(data), path, overwrite=True, callback=_total(progress), chunk_size=_CHUNK, size=len(data)
            )

    def address_of(self, path: str) -> str:
        """Return the whole address of a path."""
        return str(self._dav.join_url(path)) if path else str(self.url)

    def dav_header(self, path: str) -> str:
        """Return which extensions of WebDAV the server announces for a path."""
        return str(self.request("OPTIONS", path).headers.get("DAV", ""))

    def beside(self, path: str) -> Remote:
        """Return another folder of the same server, with the same account."""
        return Remote(str(self.url.copy_with(path=path)), *self._signed_in)

    def list(self, folder: str = "") -> Entries:
        """Return what lies in a folder, sorted by path; at most 5000 entries, 8 MB of answer, one minute."""
        path = checked_path(folder)
        with self._operation(path, MAX_ANSWER_BYTES, LIST_SECONDS):
            found = self._dav.ls(path or "/", detail=True, allow_listing_resource=False)
        if len(found) > MAX_ENTRIES:
            raise RemoteError(
                f"The folder {path or '/'} has {len(found)} entries; at most {MAX_ENTRIES} are read. Use a smaller folder.",
                code="remote_too_large",
            )
        entries = [entry for row in found if isinstance(row, dict) and (entry := listed_entry(row, path)) is not None]
        return sorted(entries, key=lambda entry: entry.path)

    def models(self) -> Entries:
        """Return the model files in the remote's folder and in the folders directly below it."""
        top = self.list()
        folders = [entry for entry in top if entry.is_folder]
        if len(folders) > MAX_FOLDERS:
            raise RemoteError(
                f"The remote has {len(folders)} folders; at most {MAX_FOLDERS} are searched for models.",
                code="remote_too_large",
            )
        files = top + [entry for folder in folders for entry in self.list(folder.path)]
        return [entry for entry in files if not entry.is_folder and entry.name.lower().endswith(MODEL_SUFFIXES)]

    def find(self, path: str) -> RemoteEntry | None:
        """Return one file's or folder's entry, or None when it is not there."""
        path = checked_path(path)
        try:
            with self._operation(path, MAX_ANSWER_BYTES, LIST_SECONDS):
                row: dict[str, Any] = self._dav.info(path)
        except RemoteError as error:
            if error.code == "remote_not_found":
                return None
            raise
        return listed_entry({**row, "name": path}, path.rpartition("/")[0])

    def download(self, path: str, limit: int) -> bytes:
        """Return a file's bytes; RemoteError (``remote_too_large``) as soon as it passes ``limit`` bytes."""
        buffer = io.BytesIO()
        self.download_to(path, buffer, limit)
        return buffer.getvalue()

    def download_to(self, path: str, stream: BinaryIO, limit: int, progress: Progress | None = None) -> Download:
        """Write a file into ``stream`` piece by piece; ``progress`` is told the bytes so far."""
        path = checked_path(path)
        digest, size = hashlib.sha256(), 0
        with (
            self._operation(path, limit, TRANSFER_SECONDS),
            self._http.stream("GET", self._dav.join_url(path)) as answer,
        ):
            check_answer(answer, path)
            for part in answer.iter_bytes(_CHUNK):
                digest.update(part)
                size += len(part)
                stream.write(part)
                if progress is not None:
                    progress(size)
            declared = answer.headers.get("Content-Length", "")
            if declared.isdigit() and int(declared) != size:
                raise RemoteError(
                    f"The server ended {path} after {size} of {declared} bytes.", code="remote_bad_answer"
                )
            return Download(size, digest.hexdigest(), answer.headers.get("ETag"))

    def fetch(self, path: str, target: Path, limit: int, progress: Progress | None = None) -> Download:
        """Bring a file into ``target``; what an earlier try left there is gone on with while the server's file is the same.

        The state that the first bytes belong to is kept beside it as ``<target>.etag``.
        """
        path = checked_path(path)
        note = target.with_name(target.name + ".etag")
        have = target.stat().st_size if target.exists() and note.exists() else 0
        headers = {"Range": f"bytes={have}-", "If-Range": note.read_text(encoding="utf-8")} if have else {}
        with (
            self._operation(path, limit, TRANSFER_SECONDS),
            self._http.stream("GET", self._dav.join_url(path), headers=headers) as answer,
        ):
            # Nothing is missing: the state is the noted one (or the answer would be whole) and so is the length.
            complete = answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}"
            unusable = answer.status_code == 416 and not complete
            if not complete and not unusable:
                check_answer(answer, path)
                goes_on = answer.status_code == 206 and have > 0
                etag = answer.headers.get("ETag", "")
                note.unlink(missing_ok=True)
                if etag and not etag.startswith("W/"):
                    note.write_text(etag, encoding="utf-8")
                size = have if goes_on else 0
                with target.open("ab" if goes_on else "wb") as stream:
                    for part in answer.iter_bytes(_CHUNK):
                        stream.write(part)
                        size += len(part)
                        if size > limit:
                            raise RemoteError(
                                f"{path} is larger than {limit} bytes; it was not read.", code="remote_too_large"
                            )
                        if progress is not None:
                            progress(size)
        if unusable:
            target.unlink()
            note.unlink(missing_ok=True)
            return self.fetch(path, target, limit, progress)
        with target.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Download(target.stat().st_size, digest, None)

    def publish(
        self, path: str, data: bytes, manifest: bytes | None = None, progress: Progress | None = None, upload: uuid.UUID | None = None,
    ) -> int:  # fmt: skip
        """Upload a new file; RemoteError (``remote_exists``) when one of that name is there.

        The bytes go to ``<path>.part-<upload>`` first and are then moved without overwriting; folders on the way are
        made; ``manifest`` follows last as ``<path>.json``, so that who sees it sees the whole file. upload: the same for
        every try with the same bytes; what a cut try left is gone on with where the server allows it, and written over
        elsewhere (``webdav_pieces``). Returns how many bytes had arrived before.
        """
        path, part = checked_path(path), (upload or uuid.uuid4()).hex
        self._make_folders(path)
        had = self._put_new(path, data, progress, part)
        if manifest is not None:
            self._put_new(f"{path}.json", manifest, None, part)
        return had

    def publish_manifest(self, path: str, manifest: bytes) -> None:
        """Add the manifest of a published file whose upload was cut just before it."""
        path = f"{checked_path(path)}.json"
        if self.find(path) is None:
            self._put_new(path, manifest, None, uuid.uuid4().hex)

    def replace(self, path: str, data: bytes, etag: str) -> None:
        """Overwrite a file only while its state is still ``etag``; RemoteError (``remote_changed``) otherwise."""
        path = checked_path(path)
        with self._operation(path, MAX_ANSWER_BYTES, TRANSFER_SECONDS):
            answer = self._http.request(
                "PUT", self._dav.join_url(path), content=data, headers={"If-Match": _quoted(etag)}
            )
            check_answer(answer, path)

    def remove(self, path: str) -> None:
        """Delete a file."""
        path = checked_path(path)
        if not path:
            raise RemoteError("The remote's own folder is not deleted.", code="remote_bad_path")
        with self._operation(path, MAX_ANSWER_BYTES, LIST_SECONDS):
            self._dav.remove(path)

    def sweep(self, folder: str = "", older_than: timedelta = timedelta(days=1)) -> Entries:
        """Remove the parts of uploads that ended long ago from a folder; returns them. Other files are never touched."""
        until = datetime.now(UTC) - older_than
        dead = [
            entry for entry in self.list(folder)
            if not entry.is_folder and _PART.search(entry.name) and entry.modified is not None and _utc(entry.modified) < until
        ]  # fmt: skip
        for entry in dead:
            self.remove(entry.path)
        return dead

    def _put_new(self, path: str, data: bytes, progress: Progress | None, upload: str) -> int:
        if self.find(path) is not None:
            raise exists(path)
        part = f"{path}.part-{upload}"
        try:
            had = webdav_pieces.send(self, part, data, progress)
            entry = self.find(part)
            if entry is None or (entry.size is not None and entry.size != len(data)):
                raise RemoteError(f"The server does not hold {path} as it was sent.", code="remote_bad_answer")
            with self._operation(path, MAX_ANSWER_BYTES, LIST_SECONDS):
                self._dav.move(part, path, overwrite=False)
        except RemoteError as error:
            if error.code not in CUT:
                self._discard(part)
            raise
        return had

    def _discard(self, part: str) -> None:
        try:
            self.remove(part)
        except RemoteError as error:
            # The upload's own error is what the caller needs; a leftover part is swept away a day later.
            log.info("%s was not removed: %s", part, error.message)

    def _make_folders(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if self.find(folder) is None:
                try:
                    with self._operation(folder, MAX_ANSWER_BYTES, LIST_SECONDS):
                        self._dav.mkdir(folder)
                except RemoteError as error:
                    if error.code != "remote_exists":
                        raise

    def _operation(self, path: str, max_bytes: int, seconds: float) -> AbstractContextManager[None]:
        self._transport.start(max_bytes=max_bytes, seconds=seconds)
        return troubles(path, self.url)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _total(progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    total = 0

    def tell(size: int) -> None:
        nonlocal total
        total += size
        progress(total)

    return tell


def _quoted(etag: str) -> str:
    return etag if etag.startswith(('"', "W/")) else f'"{etag}"'
