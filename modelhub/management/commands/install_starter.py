from typing import Any

from ecgportal.commands import PortalCommand
from modelhub import starter


class Command(PortalCommand):
    help = "Put the starter model that comes with the portal into the catalogue, unless it is there."

    def do(self, **options: Any) -> dict[str, Any]:
        entry = starter.install(self.user)
        return {"entry": str(entry.pk) if entry else None, "installed": entry is not None}
