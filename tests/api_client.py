"""The portal's REST interface as an outside script uses it: a token, JSON, files."""

from __future__ import annotations

import json
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

ROOT = "/api/v1/"


class Api:
    """Each call asserts the status that the caller expects and returns the parsed body (bytes where it is no JSON)."""

    def __init__(self, token: str = "", session: Any = None):
        self.client = Client(raise_request_exception=False)
        self.headers = {"Authorization": f"Token {token}"} if token else {}
        if session is not None:
            self.client.force_login(session)

    @classmethod
    def sign_in(cls, username: str, password: str) -> Api:
        """Return the interface of a user who signed in for a token."""
        answer = cls().post("auth/token/", {"username": username, "password": password}, status=200)
        assert set(answer) == {"token", "expires_at"}
        return cls(answer["token"])

    def call(
        self, method: str, path: str, body: Any = None, *, status: int = 200, query: dict[str, Any] | None = None,
        files: dict[str, Any] | None = None, headers: dict[str, str] | None = None,
    ) -> Any:  # fmt: skip
        """Ask; ``files``: ``{field: [(name, bytes), ...]}`` makes it multipart with ``body`` as its other fields."""
        arguments: dict[str, Any] = {"headers": {**self.headers, **(headers or {})}}
        if query:
            arguments["query_params"] = query
        if files is not None:
            data = dict(body or {})
            for field, entries in files.items():
                data[field] = [SimpleUploadedFile(name, content) for name, content in entries]
            response = getattr(self.client, method)(ROOT + path, data, **arguments)
        elif method == "get":
            response = self.client.get(ROOT + path, **arguments)
        else:
            response = getattr(self.client, method)(
                ROOT + path, json.dumps(body if body is not None else {}), content_type="application/json", **arguments
            )
        content = b"".join(response.streaming_content) if response.streaming else response.content  # type: ignore[arg-type]
        assert response.status_code == status, f"{method} {path}: {response.status_code}, {content[:2000]!r}"
        self.last = response
        if response.headers.get("Content-Type", "").startswith("application/json"):
            return json.loads(content)
        return content

    def get(self, path: str, *, status: int = 200, **query: Any) -> Any:
        return self.call("get", path, status=status, query=query)

    def post(self, path: str, body: Any = None, *, status: int = 201, files: dict[str, Any] | None = None) -> Any:
        return self.call("post", path, body, status=status, files=files)

    def put(self, path: str, body: Any, *, status: int = 200) -> Any:
        return self.call("put", path, body, status=status)

    def patch(self, path: str, body: Any, *, status: int = 200) -> Any:
        return self.call("patch", path, body, status=status)

    def delete(self, path: str, *, status: int = 204) -> Any:
        return self.call("delete", path, status=status)

    def rows(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return all rows of a list, page by page, checking the form of every page."""
        found: list[dict[str, Any]] = []
        number = 1
        while True:
            page = self.get(path, page=number, **query)
            assert set(page) == {"count", "next", "previous", "results"}
            found += page["results"]
            if page["next"] is None:
                assert len(found) == page["count"]
                return found
            number += 1

    def refused(
        self, method: str, path: str, body: Any = None, *, status: int, code: str = "", **more: Any
    ) -> dict[str, Any]:
        """Return the error of a call that must fail, after checking its form."""
        error = self.call(method, path, body, status=status, **more)["error"]
        assert set(error) == {"code", "message", "fields"}, error
        assert error["code"] == (code or error["code"]) and error["code"].replace("_", "").isalnum()
        assert len(error["message"]) > 10
        assert isinstance(error["fields"], dict)
        return error
