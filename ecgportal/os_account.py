"""The unprivileged account that the embedded PostgreSQL runs under when the portal runs as root.

PostgreSQL refuses to run as root. Standard library only.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCOUNT_NAME = "ecgportal"

_ACL_XATTR = "system.posix_acl_access"
_ACL_VERSION = 2
_ACL_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


@dataclass(frozen=True)
class Account:
    """An account of the operating system, as ``subprocess`` and ``os.chown`` want it."""

    name: str
    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that make ``subprocess`` run as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def _lookup(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def database_account(data: Path) -> Account | None:
    """Return the account for the server over the folder ``data``; None when the portal is not root.

    An existing data folder keeps its owner. Otherwise ``ecgportal`` or ``postgres`` when the
    machine has them, a new system account ``ecgportal``, or ``nobody``, in this order.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        owner = data.stat()
        return Account(str(owner.st_uid), owner.st_uid, owner.st_gid)
    found = _lookup(ACCOUNT_NAME) or _lookup("postgres")
    if found is None and (useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")):
        subprocess.run(
            [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME],
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        found = _lookup(ACCOUNT_NAME)
    found = found or _lookup("nobody")
    if found is None or found.uid == 0:
        raise RuntimeError(
            "PostgreSQL does not run as root and no other account could be found or made. Start the portal as an "
            "ordinary user, or set DATABASE_URL to a PostgreSQL server of yours."
        )
    return found


def _may_traverse(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _with_traverse_entry(current: bytes | None, mode: int, uid: int) -> bytes:
    """Return the POSIX access list ``current`` (or the one that ``mode`` means) plus search for ``uid``."""
    if current is None:
        entries = [
            (_USER_OBJ, mode >> 6 & 7, _NO_ID),
            (_GROUP_OBJ, mode >> 3 & 7, _NO_ID),
            (_OTHER, mode & 7, _NO_ID),
        ]
    else:
        entries = list(_ACL_ENTRY.iter_unpack(current[4:]))
    entries = [entry for entry in entries if entry[0] != _MASK and (entry[0], entry[2]) != (_USER, uid)]
    entries.append((_USER, 1, uid))
    mask = 0
    for tag, permission, _ in entries:
        if tag in (_USER, _GROUP_OBJ, _GROUP):
            mask |= permission
    entries.append((_MASK, mask, _NO_ID))
    entries.sort(key=lambda entry: (entry[0], entry[2]))
    return struct.pack("<I", _ACL_VERSION) + b"".join(_ACL_ENTRY.pack(*entry) for entry in entries)


def allow_traverse(folder: Path, account: Account) -> None:
    """Let ``account`` search (not list) ``folder`` and the folders above it, where it may not yet.

    An access-list entry for this one account where the file system has access lists; else
    the folder's search bit for others.
    """
    for place in [folder, *folder.parents]:
        status = place.stat()
        if _may_traverse(status, account):
            continue
        try:
            try:
                current = os.getxattr(place, _ACL_XATTR)
            except OSError:
                current = None
            os.setxattr(place, _ACL_XATTR, _with_traverse_entry(current, status.st_mode, account.uid))
        except (OSError, AttributeError):
            place.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def allow_reading(tree: Path) -> None:
    """Make the (public) programs under ``tree`` readable for every account where a strict umask left them closed.

    The top folder tells: an installer gives all files of a package the same treatment. It is
    opened last, so that a broken off run is taken up again.
    """
    if tree.stat().st_mode & 0o005 == 0o005:
        return
    for folder, _, names in os.walk(tree, topdown=False):
        for path in [*(Path(folder, name) for name in names), Path(folder)]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            if not path.is_symlink():
                path.chmod(mode | 0o044 | (0o011 if mode & 0o100 else 0))
