import logging
import signal
import threading
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from ecgportal import copies, storage, tending

logger = logging.getLogger(__name__)

_ALL_EVERY_S = 86_400.0


class Command(BaseCommand):
    help = "Remove from this host and the bucket what was deleted on any host, until told to stop, and bound its copies (with PORTAL_STORAGE_URL)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="look at everything once and end")
        parser.add_argument("--every-s", type=float, default=tending.EVERY_S)

    def handle(self, *args: Any, **options: Any) -> None:
        if storage.shared() is None:
            self.stderr.write(
                "PORTAL_STORAGE_URL is not set: files lie under PORTAL_HOME only, and nothing is kept twice."
            )
            return
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        looked = looked_at_all = bounded = -float("inf")
        while True:
            try:
                now = time.monotonic()
                # After a pause longer than deletions are remembered by each look, only a look at everything will do.
                if now - looked > tending.SEEN_AGAIN.total_seconds() / 2 or now - looked_at_all > _ALL_EVERY_S:
                    tending.look_at_all()
                    looked_at_all = now
                tending.look_again()
                looked = now
                if now - bounded > copies.EVERY_S:
                    bounded = -float("inf") if copies.bound() else now
            except Exception:
                if options["once"]:
                    raise
                # The database may be restarting; the loop must outlive that.
                logger.exception("looking for deleted files failed")
                connection.close()
            if options["once"] or stop.wait(options["every_s"]):
                return
