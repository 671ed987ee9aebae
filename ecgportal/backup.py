"""One file that holds the whole portal: a dump of the database and the files of the data folder, or of the bucket.

The database is dumped before the files are read: a file is stored before the row that refers to it, so every row of
the dump finds its file. Prepared signals are left out; they are made again when a job needs them. A backup of a portal with a
bucket can be restored without one, and the other way round.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from ecgportal import embedded_pg, home, storage, version
from ecgportal.bucket import Bucket
from ecgportal.errors import Conflict, InvalidInput, NotFound, PortalError

FORMAT = 1
FOLDERS = ("blobs", "signals", "checkpoints", "uploads")
_KEY = "secret_key"
_DUMP, _MANIFEST = "database.dump", "manifest.json"
_SAFE = re.compile(rf"files/(?:{_KEY}|(?:{'|'.join(FOLDERS)})(?:/[A-Za-z0-9][A-Za-z0-9._-]*)+)")

Progress = Callable[[float, str], None]


@contextmanager
def database() -> Iterator[None]:
    """Have the embedded database run during the block, also when the portal does not run."""
    server = embedded_pg.EmbeddedServer() if home.uses_embedded() else None
    started = server.start() if server is not None else None
    if server is not None:
        connection.close()
        # The socket may lie elsewhere than the settings thought before there was a server.
        connection.settings_dict["HOST"] = str(server.socket_dir())
    try:
        yield
    finally:
        if started is not None and server is not None:
            connection.close()
            server.stop()


def check_target(target: Path) -> None:
    """Conflict when there is a file at ``target``, NotFound when its folder is missing."""
    if target.exists():
        raise Conflict(f"{target} is there already; a backup is never overwritten.")
    if not target.parent.is_dir():
        raise NotFound(f"There is no folder {target.parent}.")


def write(target: Path, progress: Progress) -> dict[str, Any]:
    """Write the backup; it appears whole at ``target`` (0600) or not at all."""
    check_target(target)
    with storage.backing_up(), tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as folder:
        dump, draft = Path(folder, _DUMP), Path(folder, "draft.tar")
        progress(0.0, "Dumping the database")
        _run(["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={dump}"])
        store = storage.shared()
        files = [path for path in _files() if path.is_file()] if store is None else []
        entries = _local(files) if store is None else _stored(store)
        total = max(sum(entry.size for entry in entries), 1)
        count, size = 0, 0
        os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600))
        with tarfile.open(draft, "w") as archive:
            archive.add(dump, _DUMP)
            for entry in entries:
                try:
                    _add(archive, entry, store, Path(folder, "fetched"))
                except FileNotFoundError:
                    # Deleted since the dump, together with its row or as an upload that was taken in.
                    continue
                count, size = count + 1, size + entry.size
                progress(min(0.1 + 0.9 * size / total, 1.0), f"{count} of {len(entries)} files")
            manifest = {
                "format": FORMAT, "version": version.VERSION, "created_at": timezone.now().isoformat(), "files": count, "bytes": size,
                "database_sha256": _sha256(dump), "has_key": (settings.PORTAL_HOME / _KEY).exists(),
            }  # fmt: skip
            _add_text(archive, folder, manifest)
        draft.replace(target)
    return {"backup": str(target), **manifest}


@dataclass(frozen=True)
class _Entry:
    """A file for the archive. path: None where it lies in the bucket alone."""

    key: str
    size: int
    path: Path | None


def _local(files: Iterable[Path]) -> list[_Entry]:
    return [_Entry(storage.key_of(path), path.stat().st_size, path) for path in files]


def _stored(store: Bucket) -> list[_Entry]:
    """Return what the bucket holds, and this host's key. What never changes is read from this host where it lies here, too."""
    key = settings.PORTAL_HOME / _KEY
    entries = _local([key] if key.exists() else [])
    for name in FOLDERS:
        for found in store.list(f"{name}/"):
            path = settings.PORTAL_HOME / found.key
            is_here = name in ("blobs", "signals") and path.is_file() and path.stat().st_size == found.size
            entries.append(_Entry(found.key, found.size, path if is_here else None))
    return entries


def _add(archive: tarfile.TarFile, entry: _Entry, store: Bucket | None, fetched: Path) -> None:
    path = entry.path
    if path is None:
        assert store is not None
        if not store.fetch(entry.key, fetched):
            raise FileNotFoundError(entry.key)
        path = fetched
    archive.add(path, f"files/{entry.key}", recursive=False)
    fetched.unlink(missing_ok=True)


def _files() -> Iterator[Path]:
    root = settings.PORTAL_HOME
    if (root / _KEY).exists():
        yield root / _KEY
    for name in FOLDERS:
        for folder, _, names in os.walk(root / name):
            yield from (Path(folder, x) for x in sorted(names) if not x.startswith(".") and not x.endswith(".part"))


def _add_text(archive: tarfile.TarFile, folder: str, manifest: dict[str, Any]) -> None:
    path = Path(folder, _MANIFEST)
    path.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    archive.add(path, _MANIFEST)


def read(source: Path, progress: Progress) -> dict[str, Any]:
    """Bring a backup back into an empty portal: no users in the database, no stored files.

    NotFound, InvalidInput (``bad_backup``) or Conflict (``not_empty``) before anything is changed.
    """
    if not source.is_file():
        raise NotFound(f"There is no file {source}.")
    _require_empty()
    root = settings.PORTAL_HOME
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=root) as text:
        folder = Path(text)
        progress(0.0, "Unpacking")
        manifest = _unpack(source, folder, progress)
        store = storage.shared()
        if store is not None:
            # Files first, as everywhere: a row names nothing that is not there.
            _into(store, folder / "files", progress)
        progress(0.9, "Restoring the database")
        connection.close()
        arguments = [
            "--clean",
            "--if-exists",
            "--no-owner",
            "--no-privileges",
            "--exit-on-error",
            "--single-transaction",
        ]
        try:
            _run(["pg_restore", *arguments, f"--dbname={_database()}", str(folder / _DUMP)])
        except PortalError:
            if store is not None:
                _empty(store)
            raise
        for path in sorted((folder / "files").iterdir()) if (folder / "files").exists() else []:
            if (root / path.name).is_dir():
                shutil.rmtree(root / path.name)
            path.replace(root / path.name)
    progress(1.0, "Restored")
    return {"restored": str(source), **manifest}


def _into(store: Bucket, root: Path, progress: Progress) -> None:
    """Bring unpacked files into an empty bucket; after an error it is empty again."""
    try:
        for path in (path for name in FOLDERS for path in sorted((root / name).rglob("*"))):
            if path.is_file() and not storage.is_made_here(path.relative_to(root)):
                store.put(path.relative_to(root).as_posix(), path)
                progress(0.87, "Bringing the files into the bucket")
    except BaseException:
        _empty(store)
        raise


def _empty(store: Bucket) -> None:
    for name in FOLDERS:
        store.delete_below(f"{name}/")


def to_bucket(progress: Progress) -> dict[str, Any]:
    """Bring the files of this host's data folder into the bucket. Run again, it goes on: what is there with the same digest is not
    sent again. Returns how many were sent, were there already, and which blobs are damaged (their bytes are not what their name
    says), which are left out."""
    store = storage.shared()
    if store is None:
        raise Conflict(
            "PORTAL_STORAGE_URL is not set. Set it to s3://bucket/prefix, where the files are to go.", code="no_bucket"
        )
    there = {found.key: found.size for found in store.list()}
    files = [
        path
        for path in _files()
        if path.name != _KEY and not storage.is_made_here(path.relative_to(settings.PORTAL_HOME))
    ]
    sent, damaged = 0, []
    for number, path in enumerate(files, start=1):
        key, digest = storage.key_of(path), _sha256(path)
        if key.startswith("blobs/") and digest != path.name:
            damaged.append(path.name)
            continue
        found = store.head(key) if there.get(key) == path.stat().st_size else None
        if found is None or found.sha256 != digest:
            store.put(key, path, digest)
            sent += 1
        progress(number / len(files), f"{number} of {len(files)} files")
    return {
        "bucket": settings.STORAGE_URL,
        "sent": sent,
        "there_already": len(files) - sent - len(damaged),
        "damaged": damaged,
    }


def _require_empty() -> None:
    for name in FOLDERS:
        folder = settings.PORTAL_HOME / name
        if folder.exists() and any(path.is_file() for path in folder.rglob("*")):
            raise Conflict(
                f"{settings.PORTAL_HOME} holds data already ({name}). Restore into an empty PORTAL_HOME.",
                code="not_empty",
            )
    store = storage.shared()
    if store is not None and any(True for name in FOLDERS for _ in store.list(f"{name}/")):
        raise Conflict(
            f"{settings.STORAGE_URL} holds files already. Restore into an empty bucket or another prefix.",
            code="not_empty",
        )
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('accounts_user') IS NOT NULL")
            if cursor.fetchone()[0]:
                cursor.execute("SELECT EXISTS (SELECT 1 FROM accounts_user)")
                if cursor.fetchone()[0]:
                    raise Conflict("The database holds users already. Restore into an empty one.", code="not_empty")
    except DatabaseError as error:
        raise PortalError(f"The database does not answer: {error}", code="database_failed") from error


def _unpack(source: Path, folder: Path, progress: Progress) -> dict[str, Any]:
    """Unpack own backups only: known names, plain files, the dump as its digest says."""
    try:
        with tarfile.open(source, "r:*") as archive:
            total = max(source.stat().st_size, 1)
            for member in archive:
                if not member.isreg() or not (member.name in (_DUMP, _MANIFEST) or _SAFE.fullmatch(member.name)):
                    raise InvalidInput(
                        f"{source} holds {member.name[:100]!r}, which no backup does.", code="bad_backup"
                    )
                archive.extract(member, folder, set_attrs=False, filter="data")
                progress(0.85 * min(member.offset_data / total, 1.0), "Unpacking")
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        is_whole = manifest["format"] == FORMAT and manifest["database_sha256"] == _sha256(folder / _DUMP)
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{source} is not a backup of a portal, or it is damaged ({error}).", code="bad_backup"
        ) from error
    if not is_whole:
        raise InvalidInput(f"{source} is damaged, or of another version of the portal.", code="bad_backup")
    found = sum(path.is_file() for path in (folder / "files").rglob("*")) if (folder / "files").exists() else 0
    if found != manifest["files"]:
        raise InvalidInput(f"{source} holds {found} files, not {manifest['files']}; it is damaged.", code="bad_backup")
    if (folder / "files" / _KEY).exists():
        (folder / "files" / _KEY).chmod(0o600)
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _database() -> str:
    return str(connection.settings_dict["NAME"])


def _program(name: str) -> str:
    """Return a program that is not older than the server: that on the path, or that of the embedded database."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        server = int(cursor.fetchone()[0]) // 10_000
    candidates = [shutil.which(name)]
    try:
        candidates.append(str(embedded_pg.programs_dir() / name))
    except embedded_pg.DatabaseError:
        # Without the embedded database there is only the path.
        candidates.append(None)
    for path in filter(None, candidates):
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"(\d+)", told.rsplit(")", 1)[-1])
        if found and int(found[1]) >= server:
            return path
    raise PortalError(
        f"{name} of PostgreSQL {server} or newer is not on this machine; install PostgreSQL's client programs.",
        code="program_missing",
    )


def _run(command: list[str]) -> None:
    """Run one of PostgreSQL's programs against the portal's database; the password stays off the command line."""
    where = connection.settings_dict
    names = {"PGHOST": "HOST", "PGPORT": "PORT", "PGUSER": "USER", "PGPASSWORD": "PASSWORD", "PGDATABASE": "NAME"}
    values = {name: str(where[key]) for name, key in names.items() if where.get(key)}
    values |= {
        f"PG{name.upper()}": str(where["OPTIONS"][name])
        for name in ("sslmode", "sslrootcert")
        if name in where["OPTIONS"]
    }
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **values}
    done = subprocess.run(
        [_program(command[0]), *command[1:]], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        said = "\n".join(done.stderr.splitlines()[-5:])
        raise PortalError(f"{command[0]} failed (status {done.returncode}): {said}", code="database_failed")
