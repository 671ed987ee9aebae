"""Job kinds that tests run in real processes, and a way to be at one place in such a process.

``PROBE_AT=module:name.of.function:N`` says where: when the function is entered for the N-th time. ``PROBE_FILE`` is then
written, once for all processes; with ``PROBE_KILL=1`` the process ends itself by SIGKILL there.
"""

import functools
import importlib
import os
import signal
import time
from pathlib import Path

from django.apps import AppConfig


class ProbeConfig(AppConfig):
    name = "tests.probe"

    def ready(self):
        from ecgportal.jobs.registry import KINDS, handler

        if "probe_sleep" in KINDS:
            return

        @handler("probe_sleep", title="Sleep", max_attempts=3)
        def sleep(context):
            for step in range(int(context.payload["seconds"] * 10)):
                time.sleep(0.1)
                context.progress(min(step / 600, 1.0))
            return {"attempt": context.attempt}

        if "PROBE_AT" in os.environ:
            watch(os.environ["PROBE_AT"], Path(os.environ["PROBE_FILE"]), "PROBE_KILL" in os.environ)


def watch(where: str, told: Path, kill: bool) -> None:
    """Replace the function of ``where`` by one that notes its N-th call."""
    module, path, wanted = where.split(":")
    *way, name = path.split(".")
    owner = functools.reduce(getattr, way, importlib.import_module(module))
    real, calls = getattr(owner, name), [0]

    @functools.wraps(real)
    def entered(*args, **kwargs):
        calls[0] += 1
        if calls[0] == int(wanted) and not told.exists():
            told.touch()
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, entered)
