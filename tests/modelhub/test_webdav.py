"""The WebDAV client against a real server, and against servers that mean harm."""

from __future__ import annotations

import http.server
import io
import ipaddress
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgportal.errors import RemoteError
from modelhub import webdav, webdav_guard
from modelhub.webdav import Remote
from modelhub.webdav_guard import refusal


@pytest.fixture
def remote(dav_server) -> Iterator[Remote]:
    with Remote(dav_server.url, dav_server.user, dav_server.password, allow_private=True) as client:
        yield client


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(RemoteError) as caught:
        call()
    assert len(caught.value.message) > 15
    return caught.value.code


def test_connection_is_tested(remote, dav_server):
    (dav_server.folder / "hospital").mkdir()
    found = remote.test()
    assert (found.entries, found.encrypted) == (1, False)


def test_wrong_password_and_wrong_address(dav_server):
    assert code_of(Remote(dav_server.url, "ward", "wrong", allow_private=True).test) == "remote_refused"
    assert (
        code_of(Remote(dav_server.url + "nowhere", "ward", "correct horse", allow_private=True).test)
        == "remote_not_found"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
        assert code_of(Remote(address, allow_private=True).test) == "remote_unreachable"
    assert code_of(Remote("http://no-such-host.invalid/").test) == "remote_unknown_host"


def test_reads_the_layout_of_exchangeai(remote, dav_server):
    for name in ("ptbxl/xc super.onnx", "ptbxl/notes.txt", "charité/inception.onnx", "top.onnx"):
        path = dav_server.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"model" * 10)
    found = {entry.path: entry.size for entry in remote.models()}
    assert found == {"ptbxl/xc super.onnx": 50, "charité/inception.onnx": 50, "top.onnx": 50}
    assert remote.download("ptbxl/xc super.onnx", limit=1000) == b"model" * 10


def test_publish_then_list_then_download(remote, dav_server):
    data = bytes(range(256)) * 9000
    seen: list[int] = []
    remote.publish("clinic/net v1.ecgmodel.zip", data, manifest=b"{}", progress=seen.append)
    entry = remote.find("clinic/net v1.ecgmodel.zip")
    assert entry.size == len(data)
    assert seen[-1] == len(data)
    assert sorted(p.name for p in (dav_server.folder / "clinic").iterdir()) == [
        "net v1.ecgmodel.zip",
        "net v1.ecgmodel.zip.json",
    ]
    assert remote.download(entry.path, limit=len(data)) == data
    assert [e.path for e in remote.models()] == [entry.path]


def test_nothing_is_overwritten(remote, dav_server):
    remote.publish("a/model.onnx", b"first")
    assert code_of(lambda: remote.publish("a/model.onnx", b"second")) == "remote_exists"
    assert (dav_server.folder / "a/model.onnx").read_bytes() == b"first"
    assert [p.name for p in (dav_server.folder / "a").iterdir()] == ["model.onnx"]


def test_a_file_that_appears_between_look_and_move_is_kept(remote, dav_server, monkeypatch):
    (dav_server.folder / "a").mkdir()
    upload = remote._dav.upload_fileobj

    def slow_upload(*arguments, **options):
        upload(*arguments, **options)
        (dav_server.folder / "a/model.onnx").write_bytes(b"theirs")

    monkeypatch.setattr(remote._dav, "upload_fileobj", slow_upload)
    assert code_of(lambda: remote.publish("a/model.onnx", b"ours")) == "remote_exists"
    assert {p.name: p.read_bytes() for p in (dav_server.folder / "a").iterdir()} == {"model.onnx": b"theirs"}


def test_an_upload_that_was_cut_starts_again_cleanly(remote, dav_server, monkeypatch):
    """The process dies in the middle: nothing can be tidied up, and the next try of the same upload leaves no part."""
    upload, data = uuid.uuid4(), bytes(range(256)) * 4000
    send = remote._dav.upload_fileobj

    def dies(stream, part, **options):
        send(io.BytesIO(data[:1000]), part, **{**options, "size": 1000})
        raise KeyboardInterrupt

    monkeypatch.setattr(remote._dav, "upload_fileobj", dies)
    with pytest.raises(KeyboardInterrupt):
        remote.publish("a/net.onnx", data, b"{}", upload=upload)
    folder = dav_server.folder / "a"
    assert [path.name for path in folder.iterdir()] == [f"net.onnx.part-{upload.hex}"]
    assert remote.models() == []
    monkeypatch.setattr(remote._dav, "upload_fileobj", send)
    remote.publish("a/net.onnx", data, b"{}", upload=upload)
    assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", "net.onnx.json"]
    assert (folder / "net.onnx").read_bytes() == data


def test_parts_of_dead_uploads_are_removed_and_nothing_else(remote, dav_server):
    folder, dead = dav_server.folder, uuid.uuid4().hex
    old = time.time() - 2 * 86_400
    kept = ["net.onnx", "net.onnx.part-mine", f"notes.txt.part-{dead}", f"young.onnx.part-{uuid.uuid4().hex}"]
    for name in [*kept, f"net.onnx.part-{dead}", f"b.ecgmodel.zip.json.part-{dead}"]:
        (folder / name).write_bytes(b"x")
        if not name.startswith("young"):
            os.utime(folder / name, (old, old))
    assert len(remote.sweep()) == 2
    assert sorted(path.name for path in folder.iterdir()) == sorted(kept)


def test_conditional_replace_loses_no_update(remote, dav_server):
    remote.publish("model.onnx", b"one")
    etag = remote.find("model.onnx").etag
    remote.replace("model.onnx", b"two!", etag)
    assert code_of(lambda: remote.replace("model.onnx", b"three", etag)) == "remote_changed"
    assert (dav_server.folder / "model.onnx").read_bytes() == b"two!"


def test_download_stops_at_its_limit(remote, dav_server):
    (dav_server.folder / "big.onnx").write_bytes(b"x" * 100_000)
    assert code_of(lambda: remote.download("big.onnx", limit=99_999)) == "remote_too_large"
    assert code_of(lambda: remote.download("missing.onnx", limit=10)) == "remote_not_found"


@pytest.mark.parametrize("path", ["../secret", "a/../../b", "a//b", "a/%2e%2e/b", "a\\b", "a\x00b", "a?b", "./a"])
def test_paths_that_leave_the_remote_are_refused(remote, path):
    assert code_of(lambda: remote.download(path, limit=10)) == "remote_bad_path"
    assert code_of(lambda: remote.publish(path, b"")) == "remote_bad_path"


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://x/", "gopher://x/", "//host/x", "http://", "http://u:p@h/", "http://h/?x=1", ""],
)
def test_only_plain_web_addresses(url):
    assert code_of(lambda: Remote(url)) == "remote_bad_url"


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fd00:ec2::254", "100.100.100.200",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_metadata_and_link_local_addresses_are_always_refused(address):
    for allow_private in (True, False):
        assert refusal(ipaddress.ip_address(address), allow_private=allow_private)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "fd12::1", "::ffff:127.0.0.1", "100.64.0.1"],
)
def test_private_addresses_need_permission(address):
    assert refusal(ipaddress.ip_address(address), allow_private=False)


def test_public_and_permitted_addresses_pass():
    assert refusal(ipaddress.ip_address("93.184.216.34"), allow_private=False) is None
    assert refusal(ipaddress.ip_address("2606:2800:220:1::1"), allow_private=False) is None
    assert refusal(ipaddress.ip_address("127.0.0.1"), allow_private=True) is None
    assert refusal(ipaddress.ip_address("10.1.2.3"), allow_private=True) is None


@given(st.ip_addresses())
def test_no_address_outside_the_global_range_passes(address):
    if refusal(address, allow_private=False) is None:
        assert webdav_guard._embedded(address).is_global


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "localhost", "0x7f.1", "2130706433"])
def test_loopback_is_blocked_in_every_spelling(host):
    assert code_of(Remote(f"http://{host}/dav/").test) in ("remote_blocked", "remote_unknown_host")


def test_a_name_is_judged_by_what_it_resolves_to_and_pinned(monkeypatch):
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    monkeypatch.setattr(
        webdav_guard.socket, "getaddrinfo", lambda *_a, **_k: [(2, 1, 6, "", (ip, 80)) for ip in next(answers)]
    )
    connected: list[str] = []

    class Spy(webdav_guard.httpx.BaseTransport):
        def handle_request(self, request):
            connected.append(request.url.host)
            assert request.headers["Host"] == "models.example"
            return webdav_guard.httpx.Response(404)

    transport = webdav_guard.GuardedTransport(
        webdav_guard.httpx.URL("http://models.example/"), allow_private=False, inner=Spy()
    )
    request = webdav_guard.httpx.Request("GET", "http://models.example/x")
    transport.handle_request(request)
    assert connected == ["93.184.216.34"]
    # The name now points to loopback: the second connection is refused.
    assert code_of(lambda: transport.handle_request(request)) == "remote_blocked"


@contextmanager
def rogue(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A web server on loopback that answers every request with ``answer``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def __getattr__(self, name):
            if name.startswith("do_"):
                return lambda: answer(self)
            raise AttributeError(name)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def send(handler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize(
    "target",
    ["http://localhost:1/", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "//evil.example/"],
)
def test_redirects_to_elsewhere_are_not_followed(target):
    with rogue(lambda handler: send(handler, 302, Location=target)) as url:
        remote = Remote(url, "ward", "secret", allow_private=True)
        assert code_of(remote.list) in ("remote_redirected", "remote_unreachable", "remote_blocked")
        assert code_of(lambda: remote.download("x.onnx", limit=100)) == "remote_redirected"


def endless(handler) -> None:
    handler.send_response(207)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"<a>" * 100_000)
    except OSError:
        pass


def test_endless_body_ends():
    with rogue(endless) as url:
        assert code_of(Remote(url, allow_private=True).list) == "remote_too_large"
        assert code_of(lambda: Remote(url, allow_private=True).download("x", limit=1_000_000)) == "remote_too_large"


def test_slow_body_ends(monkeypatch):
    monkeypatch.setattr(webdav, "LIST_SECONDS", 0.3)

    def drip(handler):
        handler.send_response(207)
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass

    with rogue(drip) as url:
        assert code_of(Remote(url, allow_private=True).list) == "remote_timeout"


def multistatus(count: int, prefix: str = "/m") -> bytes:
    row = "<d:response><d:href>{}{}</d:href><d:propstat><d:prop><d:resourcetype/></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    rows = "".join(row.format(prefix, i) for i in range(count))
    return f'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">{rows}</d:multistatus>'.encode()


def test_too_many_entries_are_refused():
    with rogue(lambda handler: send(handler, 207, multistatus(6000))) as url:
        assert code_of(Remote(url, allow_private=True).list) == "remote_too_large"
    with rogue(lambda handler: send(handler, 207, multistatus(80_000))) as url:
        assert code_of(Remote(url, allow_private=True).list) == "remote_too_large"


def test_entries_outside_the_folder_are_left_out():
    with rogue(lambda handler: send(handler, 207, multistatus(3, "/../../etc/m"))) as url:
        assert Remote(url, allow_private=True).list() == []


@pytest.mark.parametrize(
    "body",
    [
        b"<html>not dav</html>",
        b"",
        b"\xff\xfe\x00",
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><d:multistatus xmlns:d="DAV:">&a;</d:multistatus>',
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>',
    ],
)
def test_answers_that_are_not_webdav_are_refused(body):
    with rogue(lambda handler: send(handler, 207, body)) as url:
        assert code_of(Remote(url, allow_private=True).list) == "remote_bad_answer"


def test_compressed_answers_are_refused():
    with rogue(lambda handler: send(handler, 207, b"x", Content_Encoding="gzip")) as url:
        assert code_of(Remote(url, allow_private=True).list) == "remote_bad_answer"
