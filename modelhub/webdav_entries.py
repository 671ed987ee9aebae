"""Addresses and paths of a WebDAV server, and the entries of its listings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import httpx

from ecgportal.errors import RemoteError


@dataclass(frozen=True)
class RemoteEntry:
    """A file or folder on a server. path: below the remote's address, without a leading slash."""

    path: str
    is_folder: bool
    size: int | None
    modified: datetime | None
    etag: str | None

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]


def server_address(url: str) -> httpx.URL:
    """Return a server's address, or raise RemoteError (``remote_bad_url``)."""
    try:
        address = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError) as error:
        raise RemoteError("The address is not a URL.", code="remote_bad_url") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise RemoteError("The address must begin with https:// or http:// and name a server.", code="remote_bad_url")
    if address.userinfo or address.query or address.fragment:
        raise RemoteError(
            "The address must hold neither a password nor a query; enter name and password in their fields.",
            code="remote_bad_url",
        )
    return address.copy_with(path=address.path.rstrip("/") + "/")


def checked_path(path: str) -> str:
    """Return a path below the remote, or raise RemoteError (``remote_bad_path``)."""
    text = path.strip("/")
    if text and (
        len(text) > 1000
        or "\\" in text
        or re.search(r"[\x00-\x1f\x7f?#]", text)
        or any(part in ("", ".", "..") for part in unquote(text).split("/"))
    ):
        raise RemoteError(f"{path[:80]!r} is not a path on the remote.", code="remote_bad_path")
    return text


def listed_entry(row: dict[str, Any], folder: str) -> RemoteEntry | None:
    """Return an entry of a listing, or None for one that does not lie directly in the listed folder."""
    try:
        path = checked_path(str(row.get("name") or ""))
    except RemoteError:
        return None
    if not path or path.rpartition("/")[0] != folder.strip("/"):
        return None
    size = row.get("content_length")
    modified = row.get("modified")
    return RemoteEntry(
        path=path,
        is_folder=row.get("type") == "directory",
        size=size if isinstance(size, int) and size >= 0 else None,
        modified=modified if isinstance(modified, datetime) else None,
        etag=str(row["etag"])[:200] if row.get("etag") else None,
    )
