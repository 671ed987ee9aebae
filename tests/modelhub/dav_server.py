"""A real WebDAV server for tests: wsgidav behind cheroot on a free loopback port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


@contextmanager
def serve(folder: Path, mount: str = "/") -> Iterator[DavServer]:
    """Serve a folder at the path ``mount`` until the block ends."""
    app = WsgiDAVApp(
        {
            "provider_mapping": {mount: FilesystemProvider(str(folder))},
            "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "verbose": 0,
            "logging": {"enable": False},
            "property_manager": False,
            "lock_storage": True,
        }
    )
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
