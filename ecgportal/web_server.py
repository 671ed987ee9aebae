"""Hooks of the web server (``gunicorn --config python:ecgportal.web_server``)."""

from __future__ import annotations

import gc
import importlib
from typing import Any

# Needed by the first record page, and 65 MB: loaded once for all workers, before they are forked.
_SHARED = ("datasets.measure.measure", "viz.figures.filters", "scipy.signal")


def when_ready(server: Any) -> None:
    """Load what the workers share. Garbage is no longer looked for in it: each worker would get its own copy by that."""
    for name in _SHARED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
