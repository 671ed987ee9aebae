"""A real WebDAV server for tests: wsgidav behind cheroot on a free loopback port.

By itself it takes whole files only. Two extensions are put before it, after their published descriptions: the partial
updates of sabre/dav (PATCH), and the chunks of a Nextcloud.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from cheroot import wsgi
from wsgidav.fs_dav_provider import FilesystemProvider
from wsgidav.wsgidav_app import WsgiDAVApp

USER, PASSWORD = "ward", "correct horse"


@dataclass(frozen=True)
class DavServer:
    """url: root of the share. user, password: of its one account. folder: what it serves."""

    url: str
    user: str
    password: str
    folder: Path


class _Patches:
    """Takes ``PATCH`` with ``X-Update-Range: bytes=a-b`` and announces it; the rest is left to the server behind."""

    def __init__(self, app: Any, folder: Path, mount: str) -> None:
        self.app, self.folder = app, folder

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "PATCH":
            first, _, last = environ["HTTP_X_UPDATE_RANGE"].removeprefix("bytes=").partition("-")
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            right = (
                environ["CONTENT_TYPE"] == "application/x-sabredav-partialupdate"
                and len(body) == int(last) - int(first) + 1
            )
            if right:
                with (self.folder / environ["PATH_INFO"].strip("/")).open("r+b") as stream:
                    stream.seek(int(first))
                    stream.write(body)
            start_response("204 No Content" if right else "416 Range Not Satisfiable", [("Content-Length", "0")])
            return [b""]

        def announce(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            told = [(name, f"{value}, sabredav-partialupdate" if name == "DAV" else value) for name, value in headers]
            return start_response(status, told, *rest)

        return self.app(environ, announce)


class _Chunks:
    """Puts the chunks of an upload folder together when ``.file`` is moved out of it."""

    def __init__(self, app: Any, folder: Path, mount: str) -> None:
        self.app, self.folder, self.mount = app, folder, mount

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if "/uploads/" in path and method in ("MKCOL", "PUT", "MOVE"):
            assert self.mount in unquote(environ["HTTP_DESTINATION"])
        if method != "MOVE" or not path.endswith("/.file"):
            return self.app(environ, start_response)
        chunks = self.folder.with_name("uploads") / path.split("/")[-2]
        target = unquote(urlsplit(environ["HTTP_DESTINATION"]).path).removeprefix(self.mount)
        data = b"".join(chunk.read_bytes() for chunk in sorted(chunks.iterdir()))
        whole = len(data) == int(environ["HTTP_OC_TOTAL_LENGTH"])
        if whole:
            (self.folder / target).write_bytes(data)
            shutil.rmtree(chunks)
        start_response("201 Created" if whole else "400 Bad Request", [("Content-Length", "0")])
        return [b""]


@contextmanager
def serve(folder: Path, mount: str = "/", extension: str = "") -> Iterator[DavServer]:
    """Serve a folder at the path ``mount`` until the block ends. extension: ``patch``, ``chunks`` (of a Nextcloud), or none."""
    shares = {mount: FilesystemProvider(str(folder))}
    if extension == "chunks":
        collected = folder.with_name("uploads")
        collected.mkdir()
        shares[mount.replace("/files/", "/uploads/")] = FilesystemProvider(str(collected))
    app: Any = WsgiDAVApp(
        {
            "provider_mapping": shares,
            "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "verbose": 0,
            "logging": {"enable": False},
            "property_manager": False,
            "lock_storage": True,
        }
    )
    if extension:
        app = {"patch": _Patches, "chunks": _Chunks}[extension](app, folder, mount)
    server = wsgi.Server(("127.0.0.1", 0), app, numthreads=4)
    server.prepare()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        host, port = server.bind_addr
        yield DavServer(f"http://{host}:{port}{mount}", USER, PASSWORD, folder)
    finally:
        server.stop()
        thread.join(timeout=10)


@pytest.fixture
def dav_server(tmp_path: Path) -> Iterator[DavServer]:
    """A running WebDAV server on an empty folder."""
    folder = tmp_path / "dav"
    folder.mkdir()
    with serve(folder) as server:
        yield server
