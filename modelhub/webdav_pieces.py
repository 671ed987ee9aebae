"""Upload a file so that a cut upload goes on where it stopped, on the servers that allow it.

WebDAV itself (RFC 4918) has no way to write a part of a file. Three extensions of it are spoken:

- PATCH with ``X-Update-Range`` (sabre/dav's partial updates), where ``OPTIONS`` announces it;
- PUT with ``Content-Range`` (Apache mod_dav), found out with one byte, since a server may also ignore the header
  (rclone) or refuse it (nginx, wsgidav);
- the folder of chunks of a Nextcloud, which puts them together itself.

On every other server a cut file starts again from its first byte. What was gone on with is read back and compared
before it counts: a server that wrote the bytes elsewhere is not believed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from modelhub.webdav import Progress, Remote

#: Bytes sent at a time. A Nextcloud takes no chunk below 5 MB but the last.
PIECE = 5 * 1024 * 1024
#: A Nextcloud names its chunks by numbers up to this.
MOST_CHUNKS = 10_000
#: What a server announces in its ``DAV`` header when it takes PATCH.
PARTIAL_UPDATE = "sabredav-partialupdate"
_NEXTCLOUD = re.compile(r"(?P<root>.*/remote\.php/dav)/files/(?P<user>[^/]+)(?P<folder>/.*)")

Write = Callable[["Remote", str, bytes, int, int], httpx.Response]


def send(remote: Remote, path: str, data: bytes, progress: Progress | None = None) -> int:
    """Bring ``data`` to ``path``, over whatever an earlier try with the same bytes left; returns how many bytes of it
    were there already. RemoteError when the connection breaks; what has arrived is there for the next call."""
    tell = progress or (lambda done: None)
    if len(data) > PIECE:
        have = _size(remote, path)
        if have == len(data) and _is(remote, path, data):
            return have
        chunks = _chunk_folder(remote)
        if chunks is not None:
            with chunks:
                return _send_chunks(remote, chunks, path, data, tell)
        write = _way(remote, path, data, have) if have < len(data) else None
        if write is not None and _send_pieces(remote, path, data, have, write, tell):
            return have
    remote.put(path, data, tell)
    return 0


def says_how(remote: Remote, dav_header: str) -> str:
    """Return a sentence on what becomes of a cut upload, as far as it can be told without writing."""
    if PARTIAL_UPDATE in dav_header or _NEXTCLOUD.fullmatch(remote.url.path):
        return "An upload that is cut goes on where it stopped."
    return "Whether a cut upload can go on where it stopped shows at the first large one; otherwise it starts again."


def _size(remote: Remote, path: str) -> int:
    """Return the bytes of a file; 0 when it is not there, -1 when the server does not say."""
    entry = remote.find(path)
    if entry is None:
        return 0
    return -1 if entry.size is None else entry.size


def _is(remote: Remote, path: str, data: bytes) -> bool:
    found = hashlib.sha256(remote.download(path, len(data))).digest()
    return found == hashlib.sha256(data).digest()


def _way(remote: Remote, path: str, data: bytes, have: int) -> Write | None:
    """Return how this server takes a part of a file, tried with the next byte, or None when it takes whole files only."""
    if have < 0:
        return None
    if not have:
        remote.put(path, data[:1])
        have = 1
    write = _patch if PARTIAL_UPDATE in remote.dav_header(path) else _put_range
    if not write(remote, path, data[have : have + 1], have, len(data)).is_success:
        return None
    return write if _size(remote, path) == have + 1 else None


def _patch(remote: Remote, path: str, piece: bytes, start: int, total: int) -> httpx.Response:
    headers = {
        "Content-Type": "application/x-sabredav-partialupdate",
        "X-Update-Range": f"bytes={start}-{start + len(piece) - 1}",
    }
    return remote.request("PATCH", path, content=piece, headers=headers)


def _put_range(remote: Remote, path: str, piece: bytes, start: int, total: int) -> httpx.Response:
    headers = {"Content-Range": f"bytes {start}-{start + len(piece) - 1}/{total}"}
    return remote.request("PUT", path, content=piece, headers=headers)


def _send_pieces(
    remote: Remote, path: str, data: bytes, have: int, write: Write, tell: Callable[[int], object]
) -> bool:
    """Send what is missing; False when the file is not what was sent, so that it has to be sent whole."""
    resumed, have = have > 0, max(have, 1) + 1
    tell(have)
    while have < len(data):
        piece = data[have : have + PIECE]
        if not write(remote, path, piece, have, len(data)).is_success:
            return False
        have += len(piece)
        tell(have)
    return _is(remote, path, data) if resumed else _size(remote, path) == len(data)


def _chunk_folder(remote: Remote) -> Remote | None:
    """Return the folder of a Nextcloud in which chunks are collected, or None for any other server."""
    match = _NEXTCLOUD.fullmatch(remote.url.path)
    return remote.beside(f"{match['root']}/uploads/{match['user']}/") if match else None


def _send_chunks(remote: Remote, chunks: Remote, path: str, data: bytes, tell: Callable[[int], object]) -> int:
    """Send the chunks that the server does not have, and let it put them together at ``path``."""
    size = max(PIECE, -(-len(data) // MOST_CHUNKS))
    folder = f"ecg-{hashlib.sha256(path.encode() + hashlib.sha256(data).digest()).hexdigest()[:40]}"
    headers = {"Destination": remote.address_of(path), "OC-Total-Length": str(len(data))}
    there = {}
    if chunks.find(folder) is None:
        chunks.require("MKCOL", folder, headers=headers)
    else:
        there = {entry.name: entry.size for entry in chunks.list(folder)}
    had = done = 0
    for number, start in enumerate(range(0, len(data), size), start=1):
        piece, name = data[start : start + size], f"{number:05d}"
        if there.get(name) == len(piece):
            had += len(piece)
        else:
            chunks.require("PUT", f"{folder}/{name}", content=piece, headers=headers)
        done += len(piece)
        tell(done)
    chunks.require("MOVE", f"{folder}/.file", headers=headers)
    if had and not _is(remote, path, data):
        remote.put(path, data, tell)
        return 0
    return had
