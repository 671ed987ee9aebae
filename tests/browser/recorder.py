"""Listen to what a browser complains about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Request, Response

# A page that is left takes its open requests with it, and a download ends a navigation.
_LEFT = "net::ERR_ABORTED"
_WITHIN = {"data", "blob", "about"}


class Recorder:
    """Collects console errors (refusals by the Content-Security-Policy among them), uncaught errors, requests that
    fail or are answered with an error, and requests to any other host."""

    def __init__(self, site: str):
        self.host = urlsplit(site).netloc
        self.found: list[str] = []
        self._expected: set[int] = set()

    def watch(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on(
            "weberror",
            lambda problem: self.found.append(f"uncaught in {problem.page and problem.page.url}: {problem.error}"),
        )
        context.on("request", self._request)
        context.on("requestfailed", self._failed)
        context.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        # The same answer is told by its status below, with its address.
        if message.type == "error" and not message.text.startswith("Failed to load resource: the server responded"):
            self.found.append(f"console of {message.page and message.page.url}: {message.text}")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in _WITHIN and parts.netloc != self.host:
            self.found.append(f"foreign request: {request.url}")

    def _failed(self, request: Request) -> None:
        if _LEFT not in (request.failure or ""):
            self.found.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self._expected:
            self.found.append(f"status {response.status}: {response.request.method} {response.url}")

    @contextmanager
    def expecting(self, *statuses: int) -> Iterator[None]:
        """Let answers of these statuses pass inside the block."""
        self._expected = set(statuses)
        try:
            yield
        finally:
            self._expected = set()

    def take(self) -> list[str]:
        """Return what was found so far and forget it."""
        found, self.found = self.found, []
        return found

    def check(self) -> None:
        found = self.take()
        assert not found, "\n".join(found)
