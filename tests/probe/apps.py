"""Job kinds that tests run in real processes."""

import time

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
