"""A line to a server that breaks: a relay on loopback that cuts its connections after so many bytes."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit


class Line:
    """url: the server's address through the relay. sent_up: bytes that went to the server since ``breaks_after``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{self._listener.getsockname()[1]}"))
        self.sent_up, self._limit = 0, None
        threading.Thread(target=self._accept, daemon=True).start()

    def breaks_after(self, count: int | None) -> None:
        """Cut the connection that carries the byte after the next ``count`` to the server; None mends the line."""
        self.sent_up, self._limit = 0, count

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.create_connection(self._target)
        with client, server, selectors.DefaultSelector() as waiting:
            waiting.register(client, selectors.EVENT_READ, server)
            waiting.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in waiting.select():
                    try:
                        data = key.fileobj.recv(65536)
                        if not data or not self._passes(key.fileobj is client, len(data)):
                            return
                        key.data.sendall(data)
                    except OSError:
                        return

    def _passes(self, upwards: bool, count: int) -> bool:
        if upwards:
            if self._limit is not None and self.sent_up + count > self._limit:
                return False
            self.sent_up += count
        return True


@contextmanager
def breaking(url: str) -> Iterator[Line]:
    """Relay to a server until the block ends."""
    line = Line(url)
    try:
        yield line
    finally:
        line.close()
