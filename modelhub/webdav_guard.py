"""The transport below the WebDAV client: where it may connect to, and how much it may read.

Names are resolved here, every address is judged, and the connection goes to the judged address itself: a name that
resolves differently a moment later changes nothing. Redirects pass through here as well, hop by hop.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator
from typing import NoReturn

import httpx

from ecgportal.errors import RemoteError

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_HOPS = 5

# Cloud metadata services outside the link-local range.
_METADATA = {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def refusal(address: Address, *, allow_private: bool) -> str | None:
    """Return why a connection to an address is refused, or None when it is allowed."""
    address = _embedded(address)
    if address in _METADATA or address.is_link_local or address.is_multicast or address.is_unspecified:
        return "a link-local, multicast or metadata address"
    if allow_private and (address.is_loopback or address.is_private):
        return None
    if address.is_reserved or not address.is_global:
        return "a loopback, private or reserved address"
    return None


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where there is one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def never_reached(url: str) -> str | None:
    """Return why a URL that names an address by number is never connected to, or None. Names are judged when they are
    used, since what they resolve to changes."""
    try:
        address = ipaddress.ip_address(httpx.URL(url).host.strip("[]"))
    except (ValueError, httpx.InvalidURL):
        return None
    return refusal(address, allow_private=True)


def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host; RemoteError (``remote_unknown_host``) when there are none."""
    try:
        return [ipaddress.ip_address(host.strip("[]"))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RemoteError(
            f"The server {host} cannot be found. Check the address.", code="remote_unknown_host"
        ) from error
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found))


class GuardedTransport(httpx.BaseTransport):
    """Connects to one host only, at addresses that are allowed, and limits time and bytes of each answer."""

    def __init__(self, base: httpx.URL, *, allow_private: bool, inner: httpx.BaseTransport | None = None) -> None:
        self._base = base
        self._allow_private = allow_private
        self._inner = inner or httpx.HTTPTransport(trust_env=False, retries=0)
        #: Byte and time limits of the operation in progress.
        self.max_bytes = MAX_ANSWER_BYTES
        self.deadline = float("inf")

    def start(self, *, max_bytes: int, seconds: float) -> None:
        """Set the limits for what follows: bytes of one answer, seconds for all of it."""
        self.max_bytes = max_bytes
        self.deadline = time.monotonic() + seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if request.url.scheme not in ("http", "https"):
            raise RemoteError(f"{request.url.scheme}: addresses are not followed.", code="remote_blocked")
        if host != self._base.host or (self._base.scheme == "https" and request.url.scheme != "https"):
            raise RemoteError(
                f"The server sent the request on to {request.url.scheme}://{host}, which is not the server that was "
                "entered. Enter the final address.",
                code="remote_redirected",
            )
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        address = self._allowed_address(host, port)
        request.headers.setdefault("Host", request.url.netloc.decode("ascii"))
        # Compressed answers could unpack to far more than was sent.
        request.headers["Accept-Encoding"] = "identity"
        pinned = httpx.Request(
            method=request.method,
            url=request.url.copy_with(host=str(address)),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        response = self._limited(self._inner.handle_request(pinned))
        return _plain_listing(response) if request.method == "PROPFIND" and response.status_code == 207 else response

    def close(self) -> None:
        self._inner.close()

    def _allowed_address(self, host: str, port: int) -> Address:
        addresses = resolve(host, port)
        for address in addresses:
            reason = refusal(address, allow_private=self._allow_private)
            if reason is not None:
                raise RemoteError(
                    f"The server {host} is at {address}, {reason}; the portal does not connect there. "
                    "An administrator can allow private networks for exchanges.",
                    code="remote_blocked",
                )
        return addresses[0]

    def _limited(self, response: httpx.Response) -> httpx.Response:
        if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
            response.close()
            raise RemoteError("The server sent a compressed answer that was not asked for.", code="remote_bad_answer")
        # The text of a refusal may be longer than the file that was asked for.
        limit = self.max_bytes if response.status_code < 300 else MAX_ANSWER_BYTES
        declared = response.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > limit:
            response.close()
            _too_large(limit)
        assert isinstance(response.stream, httpx.SyncByteStream)
        return httpx.Response(
            status_code=response.status_code,
            headers=response.headers,
            stream=_LimitedStream(response.stream, limit, self.deadline),
            extensions=response.extensions,
        )


class _LimitedStream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, max_bytes: int, deadline: float) -> None:
        self._inner, self._max_bytes, self._deadline = inner, max_bytes, deadline

    def __iter__(self) -> Iterator[bytes]:
        seen = 0
        for part in self._inner:
            seen += len(part)
            if seen > self._max_bytes:
                _too_large(self._max_bytes)
            if time.monotonic() > self._deadline:
                raise RemoteError("The server took too long; the transfer was ended.", code="remote_timeout")
            yield part

    def close(self) -> None:
        self._inner.close()


def _plain_listing(response: httpx.Response) -> httpx.Response:
    """Read a listing whole and refuse what is none, or what declares entities, before an XML parser sees it."""
    content = response.read()
    if b"\x00" in content or b"<!" in content.replace(b"<!--", b"") or b"multistatus" not in content:
        raise RemoteError("The server's answer is not that of a WebDAV server.", code="remote_bad_answer")
    return httpx.Response(
        response.status_code, headers=response.headers, content=content, extensions=response.extensions
    )


def _too_large(limit: int) -> NoReturn:
    raise RemoteError(f"The server's answer is larger than {limit} bytes; it was not read.", code="remote_too_large")
