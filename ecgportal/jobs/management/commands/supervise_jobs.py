import logging
import signal
import threading
import time
import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from ecgportal import home
from ecgportal.audit.context import AuditContext, acting
from ecgportal.jobs import registry, runner, services

logger = logging.getLogger(__name__)

_OWN_EVERY_S = 1.0
_HOUR_S = 3600.0


class Command(BaseCommand):
    help = "Give jobs whose process died back to the queue, start those that are for this host, and do what is due each hour, until told to stop."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="look once and end")
        parser.add_argument("--every-s", type=float, default=5.0)

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        started: dict[uuid.UUID, threading.Thread] = {}
        next_look = next_hour = 0.0
        while True:
            try:
                if options["once"] or time.monotonic() >= next_look:
                    next_look = time.monotonic() + options["every_s"]
                    services.worker_beat(home.host_name())
                    runner.recover_lost()
                if options["once"] or time.monotonic() >= next_hour:
                    next_hour = time.monotonic() + _HOUR_S
                    for function in registry.HOURLY:
                        with acting(AuditContext(channel="worker")):
                            function()
                if not options["once"]:
                    runner.start_own(started)
            except Exception:
                if options["once"]:
                    raise
                # The database may be restarting; the loop must outlive that.
                logger.exception("looking for lost jobs, or what is due each hour, failed")
                connection.close()
            if options["once"] or stop.wait(min(_OWN_EVERY_S, options["every_s"])):
                return
