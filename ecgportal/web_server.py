"""Hooks of the web server (``gunicorn --config python:ecgportal.web_server``)."""

from __future__ import annotations

import importlib
import threading
from typing import Any

# Slow to import and needed by the first record page, not by the first answer: loaded when the server listens already.
_LATER = ("datasets.measure.measure", "viz.figures.filters", "scipy.signal")


def post_worker_init(worker: Any) -> None:
    """Load what was left for later, in each worker after it was forked."""

    def load() -> None:
        for name in _LATER:
            importlib.import_module(name)

    threading.Thread(target=load, name="later", daemon=True).start()
