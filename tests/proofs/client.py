"""A signed-in person of a proof's portal, by REST and by page."""

from __future__ import annotations

import re
import socket
from typing import Any

import httpx

PASSWORD = "a long password for a proof"
_TOKEN_FIELD = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class Refused(RuntimeError):
    """The portal answered with an error; the message has its words."""


def answered(answer: httpx.Response) -> httpx.Response:
    """Return a successful answer; Refused with what an unsuccessful one says."""
    if not answer.is_success:
        request = answer.request
        raise Refused(f"{request.method} {request.url.path}: {answer.status_code} {answer.text[:600]}")
    return answer


class Client:
    """A user of the REST interface."""

    def __init__(self, port: int):
        self.port = port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/", timeout=120)
        told = self.ask("POST", "auth/token/", {"username": "admin", "password": PASSWORD})
        self.token = told["token"]
        self.http.headers["Authorization"] = f"Token {self.token}"

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        return answered(self.http.request(method, path, json=value)).json()

    def piece(self, file_id: str, offset: int, data: bytes) -> int:
        """Send one piece; returns how many bytes of the file have arrived."""
        headers = {"Content-Type": "application/octet-stream", "Upload-Offset": str(offset)}
        answer = answered(self.http.patch(f"upload-files/{file_id}/", content=data, headers=headers))
        return int(answer.json()["received"])

    def broken_piece(self, file_id: str, offset: int, data: bytes) -> None:
        """Begin to send a piece and cut the connection after half of it."""
        head = (
            f"PATCH /api/v1/upload-files/{file_id}/ HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Token {self.token}\r\n"
            f"Content-Type: application/octet-stream\r\nUpload-Offset: {offset}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.port)) as line:
            line.sendall(head.encode() + data[: len(data) // 2])


class Pages:
    """A user of the pages, signed in as their form does it."""

    def __init__(self, port: int):
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, follow_redirects=True)
        self.send("/accounts/login/", {"username": "admin", "password": PASSWORD}, form="/accounts/login/")

    def see(self, path: str) -> str:
        """Return a page's HTML."""
        return answered(self._http.get(path)).text

    def send(self, path: str, fields: dict[str, str], *, form: str) -> str:
        """Send what a form of the page ``form`` sends; returns the page that answers."""
        found = _TOKEN_FIELD.search(self.see(form))
        if found is None:
            raise Refused(f"{form} has no form to send")
        headers = {"Referer": str(self._http.base_url)}
        return answered(self._http.post(path, data={**fields, "csrfmiddlewaretoken": found[1]}, headers=headers)).text
