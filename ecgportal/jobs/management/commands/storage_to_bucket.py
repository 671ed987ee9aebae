from typing import Any

from ecgportal import backup
from ecgportal.audit.trail import record
from ecgportal.commands import PortalCommand, ProgressBar


class Command(PortalCommand):
    help = (
        "Bring the files of PORTAL_HOME into the bucket of PORTAL_STORAGE_URL. Stop the portal first; run again after a failure, "
        "it goes on. PORTAL_HOME may be emptied afterwards but for secret_key and postgres."
    )
    takes_user = False

    def do(self, **options: Any) -> dict[str, Any]:
        with backup.database(), ProgressBar(self.stderr, quiet=self.as_json) as bar:
            told = backup.to_bucket(bar.show)
            record("storage.moved", told["bucket"], changes={"sent": told["sent"], "damaged": len(told["damaged"])})
        return told
