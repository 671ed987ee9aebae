"""A bucket of an S3 service under ``PORTAL_STORAGE_URL``. The only module that talks to boto3, which is loaded with the first call.

Credentials, region, endpoint, retries and certificates are boto3's own settings: ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY`` or the machine's role, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` (for MinIO, Garage, Ceph), ``AWS_MAX_ATTEMPTS``,
``AWS_CA_BUNDLE``, and ``AWS_REQUEST_CHECKSUM_CALCULATION=when_required`` for servers that know no checksums.

Every object carries the SHA-256 of its content, which is compared when it is fetched. Files are never held in memory whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ecgportal.errors import StorageFailed

_CHUNK = 1 << 20
_LARGE = 64 << 20
_PIECE = 32 << 20
_SIDE_BY_SIDE = 8
# An object from this size on is asked for before it is sent again.
_ASKED_FROM = 8 << 20
_FETCH_TRIES = 4
_PER_DELETE = 1000
_DIGEST = "sha256"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_NOT_THERE = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {
    "403", "AccessDenied", "AuthFailure", "ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "AllAccessDisabled",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """An object of the bucket. sha256: empty where it was not asked for, or where another program put the object there."""

    key: str
    size: int
    sha256: str = ""


@cache
def parse(url: str) -> Bucket:
    """Return the bucket of ``s3://bucket`` or ``s3://bucket/prefix``. ValueError says what is wrong with the address."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if parts.scheme != "s3" or not _NAME.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise ValueError(f"{url[:200]!r} is not the address of a bucket such as s3://bucket or s3://bucket/prefix")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"the prefix {prefix[:200]!r} may have letters, digits, dots, dashes, underscores and slashes only"
        )
    return Bucket(parts.netloc, f"{prefix}/" if prefix else "")


@dataclass(frozen=True)
class Bucket:
    """Objects by key below a prefix. Every method raises StorageFailed with a sentence for a person. prefix: empty, or
    with a closing slash."""

    name: str
    prefix: str = ""

    def put(self, key: str, source: Path | bytes, sha256: str = "") -> None:
        """Store a file or bytes as an object; it is there whole or not at all. sha256: of the content, where it is known."""
        if isinstance(source, bytes):
            digest = sha256 or hashlib.sha256(source).hexdigest()
            with self._said(f"Writing {key}") as client:
                client.put_object(Bucket=self.name, Key=self.prefix + key, Body=source, Metadata={_DIGEST: digest})
            return
        size = source.stat().st_size
        digest = sha256 or _digest(source)
        if size >= _ASKED_FROM and self.head(key) == Stored(key, size, digest):
            return
        from boto3.s3.transfer import TransferConfig

        how = TransferConfig(
            multipart_threshold=_LARGE, multipart_chunksize=_PIECE, max_concurrency=4, use_threads=size > _LARGE
        )
        with self._said(f"Writing {key}") as client:
            extra = {"Metadata": {_DIGEST: digest}}
            client.upload_file(str(source), self.name, self.prefix + key, ExtraArgs=extra, Config=how)

    def put_all(self, files: Sequence[tuple[str, Path, str]]) -> None:
        """Store many files side by side, each ``(key, path, sha256 or "")``. After an error some may be there."""
        self._each(lambda one: self.put(*one), files)

    def fetch(self, key: str, target: Path, sha256: str = "") -> bool:
        """Bring an object to a path, where it appears whole or not at all; False when there is no such object.

        StorageFailed (``storage_damaged``) when its content is not what was put there. sha256: what it must be at least.
        """
        with self._said(f"Reading {key}") as client, _room(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as part:
                try:
                    found = self._stream(client, key, part)
                except BaseException:
                    os.unlink(part.name)
                    raise
        if found is None:
            os.unlink(part.name)
            return False
        digest, told = found
        if digest != (sha256 or told or digest) or (told and digest != told):
            os.unlink(part.name)
            raise StorageFailed(
                f"{key} in {self} is not what the portal put there: its content has changed. Bring it back from a backup.",
                code="storage_damaged",
            )
        os.chmod(part.name, 0o640)
        os.replace(part.name, target)
        return True

    def fetch_all(self, wanted: Sequence[tuple[str, Path]]) -> list[str]:
        """Bring many objects side by side; returns the keys of those that are not there."""
        missing: list[str] = []

        def one(pair: tuple[str, Path]) -> None:
            if not self.fetch(*pair):
                missing.append(pair[0])

        self._each(one, wanted)
        return missing

    def _stream(self, client: Any, key: str, part: Any) -> tuple[str, str] | None:
        """Write an object's bytes; after a broken connection it goes on where it stopped. Returns the digest of what came
        and the one that was stored with it."""
        from botocore.exceptions import BotoCoreError, ClientError

        digest, told, at, etag, tries = hashlib.sha256(), "", 0, "", 0
        while True:
            more: dict[str, str] = {"Range": f"bytes={at}-", "IfMatch": etag} if at else {}
            try:
                answer = client.get_object(Bucket=self.name, Key=self.prefix + key, **more)
            except ClientError as error:
                if _code(error) in _NOT_THERE:
                    return None
                raise
            etag, told = answer["ETag"], answer.get("Metadata", {}).get(_DIGEST, "")
            whole = at + answer["ContentLength"]
            try:
                for data in answer["Body"].iter_chunks(_CHUNK):
                    digest.update(data)
                    part.write(data)
                    at += len(data)
            except BotoCoreError:
                tries += 1
                if tries == _FETCH_TRIES:
                    raise
                continue
            if at >= whole:
                return digest.hexdigest(), told

    def read(self, key: str) -> bytes | None:
        """Return a small object's bytes, None when there is none."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "object")
            return path.read_bytes() if self.fetch(key, path) else None

    def head(self, key: str) -> Stored | None:
        """Return an object's size and digest, None when there is none."""
        from botocore.exceptions import ClientError

        with self._said(f"Looking for {key}") as client:
            try:
                answer = client.head_object(Bucket=self.name, Key=self.prefix + key)
            except ClientError as error:
                if _code(error) in _NOT_THERE:
                    return None
                raise
        return Stored(key, answer["ContentLength"], answer.get("Metadata", {}).get(_DIGEST, ""))

    def holds(self, sizes: Mapping[str, int]) -> set[str]:
        """Return those of some keys whose objects are there and have the size that is said."""
        found: set[str] = set()

        def look(pair: tuple[str, int]) -> None:
            stored = self.head(pair[0])
            if stored is not None and stored.size == pair[1]:
                found.add(pair[0])

        self._each(look, tuple(sizes.items()))
        return found

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """Yield the objects whose keys begin with a prefix, in the order of their keys, without their digests."""
        with self._said(f"Listing {prefix or 'the files'}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix + prefix)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield Stored(entry["Key"].removeprefix(self.prefix), entry["Size"])

    def folders(self, prefix: str) -> set[str]:
        """Return the names that follow a prefix (which ends with a slash) up to the next slash."""
        found: set[str] = set()
        start = self.prefix + prefix
        with self._said(f"Listing {prefix}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start, Delimiter="/")
            for page in pages:
                found.update(e["Prefix"].removeprefix(start).rstrip("/") for e in page.get("CommonPrefixes", ()))
        return found

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there do no harm."""
        waiting = list(keys)
        for start in range(0, len(waiting), _PER_DELETE):
            names = [{"Key": self.prefix + key} for key in waiting[start : start + _PER_DELETE]]
            with self._said(f"Removing {waiting[start]}") as client:
                answer = client.delete_objects(Bucket=self.name, Delete={"Objects": names, "Quiet": True})
            if failed := answer.get("Errors"):
                raise StorageFailed(
                    f"{len(failed)} of {len(names)} files could not be removed from {self}: {failed[0].get('Code')}. The "
                    "account of this portal needs the right to delete.",
                    code="storage_refused",
                )

    def delete_below(self, prefix: str) -> None:
        """Remove every object whose key begins with a prefix."""
        self.delete([found.key for found in self.list(prefix)])

    def check(self) -> None:
        """See within a few seconds whether the bucket answers and lets itself be listed."""
        with self._said("Looking at the bucket", quick=True) as client:
            client.list_objects_v2(Bucket=self.name, Prefix=self.prefix, MaxKeys=1)

    def try_out(self) -> None:
        """See that the bucket lets itself be written, read, listed and emptied."""
        self.check()
        key = f"check-{uuid.uuid4()}"
        self.put(key, b"storage check")
        self.read(key)
        self.delete([key])

    def __str__(self) -> str:
        return f"the bucket {self.name}"

    @staticmethod
    def _each(call: Any, items: Sequence[Any]) -> None:
        if len(items) < 2:
            for item in items:
                call(item)
            return
        with ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="bucket") as pool:
            waiting = [pool.submit(call, item) for item in items]
            try:
                for one in waiting:
                    one.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    @contextmanager
    def _said(self, what: str, quick: bool = False) -> Iterator[Any]:
        """Hand out the client, and say what went wrong in words for people."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = _client(os.getpid(), quick)
        except (BotoCoreError, ValueError) as error:
            raise StorageFailed(
                f"{what} failed: the settings for S3 cannot be used ({error}). Correct the AWS_... variables.",
                code="storage_refused",
            ) from error
        try:
            yield client
        except (BotoCoreError, Boto3Error, ClientError) as error:
            raise self._failure(what, client.meta.endpoint_url, error) from error

    def _failure(self, what: str, where: str, error: Exception) -> StorageFailed:
        from botocore import exceptions

        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (exceptions.ClientError, exceptions.BotoCoreError)):
            # The part of boto3 that sends large files wraps the error that it met.
            cause = cause.__cause__ or cause.__context__
        code = _code(cause) if isinstance(cause, exceptions.ClientError) else ""
        begin = f"{what} failed:"
        if code == "NoSuchBucket":
            return StorageFailed(
                f"{begin} there is no bucket {self.name} at {where}. Make it, or correct PORTAL_STORAGE_URL.",
                code="storage_no_bucket",
            )
        no_keys = (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
        )
        if code in _REFUSED or isinstance(cause, no_keys):
            return StorageFailed(
                f"{begin} {self} at {where} refuses this portal ({code or 'no credentials'}). Check AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY (or the machine's role) and that they may list, read, write and delete there.",
                code="storage_refused",
            )
        if code:
            return StorageFailed(
                f"{begin} {self} at {where} answered {code}. Look into the log of the S3 server.", code="storage_failed"
            )
        return StorageFailed(
            f"{begin} {self} at {where} does not answer ({type(cause or error).__name__}). See that the S3 server runs and that "
            "AWS_ENDPOINT_URL is right, then try again."
        )


@contextmanager
def _room(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"{target.name} could not be kept in {target.parent}: {error.strerror or error}. Make room there, or correct its owner.",
            code="storage_failed",
        ) from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def _client(process: int, quick: bool) -> Any:
    """Return the client of this process: connections must not be shared with a process that was forked."""
    import boto3
    from botocore.config import Config

    # Servers of one's own seldom have a host name for each bucket.
    own = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    more: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60}
    if quick:
        more = {"connect_timeout": 2, "read_timeout": 3, "retries": {"total_max_attempts": 1}}
    config = Config(
        s3={"addressing_style": "path" if own else "auto"},
        max_pool_connections=4 * _SIDE_BY_SIDE,
        user_agent_extra="ecg-portal",
        **more,
    )
    return boto3.session.Session().client("s3", config=config)
