import logging
import signal
import socket
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from ecgportal.jobs import runner, services

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Give jobs whose process died back to the queue, until told to stop."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="look once and end")
        parser.add_argument("--every-s", type=float, default=5.0)

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        while True:
            try:
                services.worker_beat(socket.gethostname())
                runner.recover_lost()
            except Exception:
                if options["once"]:
                    raise
                # The database may be restarting; the loop must outlive that.
                logger.exception("looking for lost jobs failed")
                connection.close()
            if options["once"] or stop.wait(options["every_s"]):
                return
