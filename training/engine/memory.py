"""Memory that a run keeps between its steps."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

# Parameters of the GNU library's ``mallopt``.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_AS_SELDOM_AS_POSSIBLE = 2**31 - 1
#: What the library itself arrives at in a process that frees large blocks: 32 MB, and twice that.
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}

_lock = Lock()
_users = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let the process keep the memory that a training step frees, for the next step.

    By default the GNU library gives large blocks back to the system at once, and the system hands them out anew page by
    page, each filled with zeros. A step frees and asks for some gigabytes, which takes up to half of its time. On leaving
    the memory goes back. Without the GNU library this does nothing.
    """
    global _users
    library = _gnu_library()
    if library is None:
        yield
        return
    with _lock:
        _users += 1
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _AS_SELDOM_AS_POSSIBLE)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for parameter, value in _USUAL.items():
                    library.mallopt(parameter, value)
                library.malloc_trim(0)


def _gnu_library() -> ctypes.CDLL | None:
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or not os.confstr("CS_GNU_LIBC_VERSION"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
