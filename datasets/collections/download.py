"""Fetch the files of a collection from PhysioNet: what its list of checksums names, each checked, resumed where it broke off."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import httpx

from ecgportal.errors import PortalError

_CHUNK = 1 << 20
_LIST = "SHA256SUMS.txt"
_LIST_BYTES = 400_000_000
_TRIES = 5
_PAUSE_S = 2.0
_LINE = re.compile(r"([0-9a-f]{64})[ \t]+[*]?(.+)")


class DownloadFailed(PortalError):
    """What could not be fetched, why, and what to do."""

    code, status = "download_failed", 502


@dataclass(frozen=True)
class Listed:
    """A file of the list. name: relative POSIX name, checked to lead nowhere else."""

    name: str
    sha256: str


def fetch(
    client: httpx.Client, address: str, into: Path, wants: Callable[[str], bool], tell: Callable[[int, int, str], None], pause_s: float = _PAUSE_S
) -> int:  # fmt: skip
    """Bring the wanted files of ``address`` (which ends in a slash) into ``into``; returns how many were fetched now.

    A file that is there is not fetched again; what is half there goes on where it stopped. ``tell(done, total, name)`` is
    called before each file and may raise to stop. DownloadFailed names the file; what is complete stays for the next try.
    """
    into.mkdir(parents=True, exist_ok=True)
    files = [entry for entry in listed(client, address, into) if wants(entry.name)]
    if not files:
        raise DownloadFailed(f"{address} lists no file of this collection. Download it by hand into an import folder.")
    fetched = 0
    for number, entry in enumerate(files):
        tell(number, len(files), entry.name)
        target = into / entry.name
        if target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        check = partial(tell, number, len(files), entry.name)
        _fetch_one(client, address + quote(entry.name), target, entry, check, pause_s)
        fetched += 1
    return fetched


def listed(client: httpx.Client, address: str, into: Path) -> list[Listed]:
    """Return the files that the list of checksums names. Names that would lead out of the folder are left out."""
    path = into / _LIST
    if not path.is_file():
        part = path.with_name(f"{_LIST}.part")
        part.unlink(missing_ok=True)
        _tried(lambda: _stream(client, address + _LIST, part, _LIST_BYTES, lambda: None), _LIST, _PAUSE_S)
        part.replace(path)
    found = []
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            match = _LINE.fullmatch(line.rstrip("\r\n"))
            if match and _is_plain(match[2]):
                found.append(Listed(match[2], match[1]))
    return found


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and all(p not in ("..", ".") and not p.startswith(".") for p in parts)
        and name.isprintable()
        and "\\" not in name
        and ":" not in name
    )


def _fetch_one(
    client: httpx.Client, url: str, target: Path, entry: Listed, check: Callable[[], None], pause_s: float
) -> None:
    part = target.with_name(f"{target.name}.part")

    def once() -> None:
        _stream(client, url, part, None, check)
        if _digest(part) != entry.sha256:
            # What was there before may have been wrong; the next try begins anew.
            part.unlink(missing_ok=True)
            raise DownloadFailed(
                f"{entry.name} does not have the published checksum. It was discarded; start the import again."
            )

    _tried(once, entry.name, pause_s)
    part.replace(target)


def _tried(once: Callable[[], None], name: str, pause_s: float) -> None:
    """Do it, again after a pause where the connection or the server failed."""
    for number in range(_TRIES):
        try:
            return once()
        except DownloadFailed:
            if number == _TRIES - 1:
                raise
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403, 404)
            if refused or number == _TRIES - 1:
                reason = (
                    f"the server answered {error.response.status_code}"
                    if isinstance(error, httpx.HTTPStatusError)
                    else f"the connection failed ({type(error).__name__})"
                )
                raise DownloadFailed(
                    f"{name} could not be downloaded: {reason}. What is complete is kept; start the import again to go on."
                ) from error
        time.sleep(pause_s * 2**number)


def _stream(client: httpx.Client, url: str, part: Path, limit: int | None, check: Callable[[], None]) -> None:
    """Append the rest of a file to ``part``; a server that does not know ranges gives it anew."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == 416:
            # Nothing is missing; the checksum decides.
            return
        answer.raise_for_status()
        resumed = answer.status_code == 206
        size = have if resumed else 0
        with part.open("ab" if resumed else "wb") as stream:
            for chunk in answer.iter_bytes():
                check()
                size += len(chunk)
                if limit is not None and size > limit:
                    raise DownloadFailed("The list of checksums is larger than any collection's.")
                stream.write(chunk)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
