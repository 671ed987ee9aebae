import hashlib
import io
import os
import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from datasets import demo
from ecgportal import storage, version
from ecgportal.accounts.models import User
from ecgportal.accounts.services import user_create
from ecgportal.errors import StorageFailed
from ecgportal.projects.models import Project


class Command(BaseCommand):
    help = "Bring the database, static files, label maps, first administrator and demonstration up to date."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            self.stdout.write("Setting up the database")
            call_command("migrate", interactive=False, verbosity=0)
        self._static_files()
        demo.sync_label_maps()
        self._first_start()

    def _static_files(self) -> None:
        """Collect static files when their source changed since the last time."""
        digest = hashlib.sha256(version.VERSION.encode())
        sources = [settings.BASE_DIR / "requirements", settings.BASE_DIR / "ecgportal" / "static"]
        for path in sorted(file for folder in sources for file in Path(folder).rglob("*") if file.is_file()):
            digest.update(str(path.relative_to(settings.BASE_DIR)).encode() + path.read_bytes())
        stamp = Path(settings.STATIC_ROOT) / ".stamp"
        if stamp.is_file() and stamp.read_text() == digest.hexdigest():
            return
        self.stdout.write("Collecting static files")
        call_command("collectstatic", interactive=False, verbosity=0)
        stamp.write_text(digest.hexdigest())

    def _first_start(self) -> None:
        """Create the first administrator and, unless ``PORTAL_DEMO=0``, the demonstration."""
        if User.objects.exists():
            return
        if (store := storage.shared()) is not None:
            # Before anything is made: a first start is made once only.
            try:
                store.try_out()
            except StorageFailed as error:
                raise CommandError(error.message) from error
        name = os.environ.get("PORTAL_ADMIN_USER") or "admin"
        password = os.environ.get("PORTAL_ADMIN_PASSWORD") or ""
        shown = password or secrets.token_urlsafe(12)
        admin = user_create(actor=None, username=name, password=shown, is_administrator=True)
        # Before the starter model, which lies in a project of its own.
        if os.environ.get("PORTAL_DEMO", "1") != "0" and not Project.objects.exists():
            self.stdout.write("Making the demonstration project")
            demo.create(actor=admin)
        call_command("install_starter", as_user=name, json=True, stdout=io.StringIO())
        self.stdout.write(
            f"\n  Administrator: {name}\n  Password:      {shown if not password else '(as given in PORTAL_ADMIN_PASSWORD)'}\n"
        )
