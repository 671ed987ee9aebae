from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from datasets import importing
from datasets.collections import registry
from datasets.models import Outcome
from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action


class Command(PortalCommand):
    help = "Import a known collection (PTB-XL, MIMIC-IV-ECG, ...) with its labels from a folder, or download it."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("collection", choices=list(registry.known()))
        parser.add_argument("--project", required=True, help="id, short name or name")
        parser.add_argument("--dataset", help="name, made when it is not there; by default the collection's title")
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--folder", help="a folder inside one of PORTAL_IMPORT_ROOTS: its path, or <root>/<folder>")
        where.add_argument(
            "--download", action="store_true", help="fetch it from PhysioNet; goes on where it broke off"
        )

    def do(self, **options: Any) -> dict[str, Any]:
        project = self.project(options["project"], Action.DATA_EDIT)
        folder = address_of(options["folder"]) if options["folder"] else None
        ingest = importing.import_by_name(
            actor=self.user, project=project, collection=options["collection"], folder=folder, name=options["dataset"] or ""
        )  # fmt: skip
        assert ingest.job is not None
        result = self.follow(ingest.job).result
        refused = ingest.items.filter(outcome=Outcome.REFUSED).values("name", "code", "message")[:1000]
        return {"dataset": str(ingest.dataset_id), **result, "refused_files": list(refused)}

    def show(self, result: dict[str, Any]) -> None:
        for item in result.pop("refused_files"):
            self.stderr.write(f"refused: {item['name']}: {item['message']}")
        for table in result.pop("tables"):
            self.stdout.write(f"{table['table']}: {table['taken']} of {table['rows']} rows, {table['labels']} labels")
        super().show(result)


def address_of(text: str) -> str:
    """Return the address of a path inside an import folder; an address stays what it is."""
    if not Path(text).is_absolute():
        return text
    path = Path(text).resolve()
    for name, root in importing.roots().items():
        if path.is_relative_to(root.resolve()):
            return f"{name}/{path.relative_to(root.resolve()).as_posix()}".removesuffix("/.")
    raise InvalidInput(f"{text} lies in no import folder. Add it to PORTAL_IMPORT_ROOTS.")
