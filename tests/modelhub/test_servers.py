"""The exchange against servers as they are installed: Apache mod_dav, nginx, rclone, and the path of a Nextcloud.

Each server is really started, from Debian's packages: ``apt-get install --no-install-recommends apache2-bin nginx-light
libnginx-mod-http-dav-ext rclone``. A server that is not installed is skipped, with this command as the reason.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ecgportal.errors import RemoteError
from modelhub import webdav_pieces
from modelhub.webdav import Remote
from tests.modelhub.breaking_line import breaking
from tests.modelhub.dav_server import serve

PACKAGES = "apt-get install --no-install-recommends apache2-bin nginx-light libnginx-mod-http-dav-ext rclone"
USER, PASSWORD = "ward", "correct horse"


@dataclass(frozen=True)
class Server:
    url: str
    folder: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def password_file(folder: Path) -> Path:
    digest = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
    path = folder / "passwords"
    path.write_text(f"{USER}:{{SHA}}{digest}\n")
    return path


APACHE = """
ServerRoot {work}
Listen 127.0.0.1:{port}
ServerName localhost
PidFile {work}/pid
ErrorLog {work}/error.log
{user}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authn_core_module {modules}/mod_authn_core.so
LoadModule authn_file_module {modules}/mod_authn_file.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule authz_user_module {modules}/mod_authz_user.so
LoadModule auth_basic_module {modules}/mod_auth_basic.so
LoadModule dav_module {modules}/mod_dav.so
LoadModule dav_fs_module {modules}/mod_dav_fs.so
DavLockDB {work}/locks
DocumentRoot {share}
<Directory {share}>
  Dav On
  AuthType Basic
  AuthName models
  AuthUserFile {passwords}
  Require valid-user
</Directory>
"""
NGINX = """
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
{user}
pid {work}/pid;
error_log {work}/error.log;
daemon off;
events {{}}
http {{
  access_log off;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port};
    root {share};
    auth_basic models;
    auth_basic_user_file {passwords};
    location / {{
      dav_methods PUT DELETE MKCOL COPY MOVE;
      dav_ext_methods PROPFIND OPTIONS;
      create_full_put_path on;
    }}
  }}
}}
"""


def command_of(kind: str, work: Path, share: Path, port: int) -> list[str]:
    """Write the server's configuration and return the command that runs it in the foreground."""
    values = {
        "work": work,
        "share": share,
        "port": port,
        "passwords": password_file(work),
        "modules": "/usr/lib/apache2/modules",
    }
    is_root = os.geteuid() == 0
    if kind == "apache2":
        values["user"] = "User www-data\nGroup www-data" if is_root else ""
        (work / "conf").write_text(APACHE.format(**values))
        return ["apache2", "-X", "-f", str(work / "conf")]
    if kind == "nginx":
        values["user"] = "user root;" if is_root else ""
        (work / "conf").write_text(NGINX.format(**values))
        return ["nginx", "-c", str(work / "conf"), "-e", str(work / "error.log")]
    return [
        "rclone",
        "serve",
        "webdav",
        str(share),
        "--addr",
        f"127.0.0.1:{port}",
        "--user",
        USER,
        "--pass",
        PASSWORD,
        "--config",
        str(work / "none"),
    ]


@dataclass(frozen=True)
class Stand:
    """A server of ours with an extension of WebDAV: its folder of files, and whether it goes on with a cut upload."""

    mount: str
    extension: str


STANDS = {
    "wsgidav": Stand("/", ""),
    "nextcloud": Stand(f"/remote.php/dav/files/{USER}/", "chunks"),
    "partial updates": Stand("/", "patch"),
}
INSTALLED = ["apache2", "nginx", "rclone"]
#: The servers on which a cut upload goes on; on the others it starts again.
GOES_ON = {"apache2", "nextcloud", "partial updates"}


@pytest.fixture(params=[*INSTALLED, "nextcloud"])
def server(request) -> Iterator[Server]:
    with running(request.param) as found:
        yield found


@contextmanager
def running(kind: str) -> Iterator[Server]:
    """Start a server of a kind; the test is skipped where its package is not installed."""
    # Apache's own user has to reach the folder, which it cannot below a test's private one.
    with tempfile.TemporaryDirectory() as name:
        work, share = Path(name), Path(name, "share")
        work.chmod(0o755)
        share.mkdir()
        if kind in STANDS:
            with serve(share, STANDS[kind].mount, STANDS[kind].extension) as found:
                yield Server(found.url, share)
            return
        binary = shutil.which(kind) or shutil.which(kind, path="/usr/sbin")
        if binary is None:
            pytest.skip(f"{kind} is not installed: {PACKAGES}")
        if kind == "apache2" and os.geteuid() == 0:
            shutil.chown(share, "www-data")
            shutil.chown(work, "www-data")
        port = free_port()
        command = command_of(kind, work, share, port)
        process = subprocess.Popen([binary, *command[1:]], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            _wait(process, port)
            yield Server(f"http://127.0.0.1:{port}/", share)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen, port: int) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise AssertionError(process.stdout.read().decode())
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server did not start")


def test_models_are_published_listed_and_brought_back(server, tmp_path):
    data = bytes(range(256)) * 4096
    with Remote(server.url, USER, PASSWORD, allow_private=True) as remote:
        assert remote.test().entries == 0
        told: list[int] = []
        assert remote.publish("clinic one/net.onnx", data, b'{"n": 1}', progress=told.append) == 0
        assert remote.find("clinic one/net.onnx").size == len(data) and told[-1] >= len(data)
        assert [found.path for found in remote.models()] == ["clinic one/net.onnx"]
        with pytest.raises(RemoteError) as caught:
            remote.publish("clinic one/net.onnx", b"other")
        assert caught.value.code == "remote_exists"
        assert remote.download("clinic one/net.onnx", 2 * len(data)) == data
        names = sorted(path.name for path in (server.folder / "clinic one").iterdir() if not path.name.startswith("."))
        assert names == ["net.onnx", "net.onnx.json"]
        assert remote.find("clinic one/other.onnx") is None
        target = tmp_path / "part"
        whole = remote.fetch("clinic one/net.onnx", target, 2 * len(data))
        assert whole.sha256 == hashlib.sha256(data).hexdigest()
        if target.with_name("part.etag").exists():
            # The second half alone goes over the line.
            target.write_bytes(data[: len(data) // 2])
            seen: list[int] = []
            assert remote.fetch("clinic one/net.onnx", target, 2 * len(data), seen.append).sha256 == whole.sha256
            assert seen[0] > len(data) // 2
            # Once it is whole, nothing goes over the line any more.
            seen.clear()
            assert remote.fetch("clinic one/net.onnx", target, 2 * len(data), seen.append).sha256 == whole.sha256
            assert not seen
        remote.remove("clinic one/net.onnx")
        assert remote.models() == []
    with Remote(server.url, USER, "wrong", allow_private=True) as remote, pytest.raises(RemoteError) as caught:
        remote.test()
    assert caught.value.code == "remote_refused"


@pytest.mark.parametrize("kind", [*INSTALLED, *STANDS])
def test_a_cut_upload_goes_on_where_the_server_takes_parts_and_starts_again_elsewhere(kind, monkeypatch):
    monkeypatch.setattr(webdav_pieces, "PIECE", 200_000)
    data, upload = random.Random(3).randbytes(2_000_000), uuid.uuid4()
    with running(kind) as server, breaking(server.url) as line:
        with Remote(line.url, USER, PASSWORD, allow_private=True) as remote:
            line.breaks_after(1_100_000)
            with pytest.raises(RemoteError) as caught:
                remote.publish("net.onnx", data, b"{}", upload=upload)
            assert caught.value.code == "remote_unreachable" and remote.models() == []
            line.breaks_after(None)
            sent: list[int] = []
            had = remote.publish("net.onnx", data, b"{}", progress=sent.append, upload=upload)
            visible = sorted(path.name for path in server.folder.iterdir() if not path.name.startswith("."))
            assert visible == ["net.onnx", "net.onnx.json"]
            assert (server.folder / "net.onnx").read_bytes() == data
        if kind in GOES_ON:
            assert 600_000 <= had < 1_100_000
            # What went over the line is what was missing, not the whole file.
            assert line.sent_up < len(data) - had + 50_000
        else:
            assert had == 0 and line.sent_up > len(data)
        assert sent[-1] == len(data)


@pytest.mark.parametrize("kind", ["apache2", "partial updates", "nextcloud"])
def test_what_was_gone_on_with_is_compared_before_it_counts(kind, monkeypatch):
    """The first part on the server is not what was sent: the file is sent whole."""
    monkeypatch.setattr(webdav_pieces, "PIECE", 200_000)
    data, upload = random.Random(4).randbytes(900_000), uuid.uuid4()
    with running(kind) as server, breaking(server.url) as line:
        with Remote(line.url, USER, PASSWORD, allow_private=True) as remote:
            line.breaks_after(500_000)
            with pytest.raises(RemoteError):
                remote.publish("net.onnx", data, upload=upload)
            line.breaks_after(None)
            [left, *_] = sorted(
                path for path in server.folder.parent.rglob("*") if path.is_file() and 150_000 < path.stat().st_size
            )
            with left.open("r+b") as stream:
                stream.write(b"spoiled")
            assert remote.publish("net.onnx", data, upload=upload) == 0
            assert (server.folder / "net.onnx").read_bytes() == data


def test_a_server_that_is_off_is_told_in_a_sentence():
    with Remote(f"http://127.0.0.1:{free_port()}/", allow_private=True) as remote, pytest.raises(RemoteError) as caught:
        remote.list()
    assert caught.value.code == "remote_unreachable"
    assert "does not answer on port" in caught.value.message and "Errno" not in caught.value.message
