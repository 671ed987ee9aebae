"""The address that the web server listens on, and whether something answers there."""

from __future__ import annotations

import http.client
import os
import socket


class StartError(RuntimeError):
    """The portal cannot be started; the sentence says why and what to do."""


def web_address() -> tuple[str, int]:
    """Return ``PORTAL_BIND`` and ``PORT``.

    Raises
    ------
    StartError: PORT is not a port.
    """
    given = os.environ.get("PORT") or "8000"
    if not given.isdigit() or not 0 < int(given) < 65536:
        raise StartError(f"PORT is {given!r}; it must be a number from 1 to 65535.")
    return os.environ.get("PORTAL_BIND") or "127.0.0.1", int(given)


def check_port(bind: str, port: int) -> None:
    """Raise ``StartError`` when the web server could not listen on the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise StartError(
            f"The web server cannot listen on {bind} port {port} ({error.strerror or error}). "
            "Stop the program that uses the port, or set PORT (and PORTAL_BIND) to a free address."
        ) from error


def health(bind: str, port: int, timeout_s: float = 5.0) -> int | None:
    """Return the HTTP status of ``GET /healthz``, None when nothing answers."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104
    hosts = [name.lstrip(".") for name in os.environ.get("PORTAL_ALLOWED_HOSTS", "").split(",") if name.strip("*. ")]
    connection = http.client.HTTPConnection(reachable, port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz", headers={"Host": hosts[0].strip()} if hosts else {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
