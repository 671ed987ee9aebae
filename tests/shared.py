"""Where the real ECG files lie that tests may read when they are present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def _find() -> Path | None:
    given = os.environ.get("PORTAL_SHARED")
    for folder in [Path(given)] if given else [_ROOT / "shared", _ROOT.parent / "shared"]:
        if (folder / "ecg" / "expected.json").is_file():
            return folder
    return None


SHARED = _find()
needs_shared = pytest.mark.skipif(
    SHARED is None, reason="the shared ECG files are not beside the checkout (set PORTAL_SHARED to their folder)"
)


def shared_path(*parts: str) -> Path:
    """Return a path inside the shared material; tests that call it carry ``needs_shared``."""
    assert SHARED is not None
    return SHARED.joinpath(*parts)
