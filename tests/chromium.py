"""The browser of the browser tests: a Chromium of the machine."""

from __future__ import annotations

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def chromium_path() -> str | None:
    """Return the path of a Chromium (``PORTAL_CHROMIUM`` or the first one on the path), or None."""
    given = os.environ.get("PORTAL_CHROMIUM")
    return given or next((path for name in _NAMES if (path := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(
    chromium_path() is None,
    reason="no Chromium on this machine (apt install chromium, or set PORTAL_CHROMIUM to one)",
)
