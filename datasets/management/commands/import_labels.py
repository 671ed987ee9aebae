from pathlib import Path
from typing import Any

from django.core.files import File
from django.core.management.base import CommandParser

from datasets.labelling import import_start
from datasets.models import Dataset
from datasets.presenting import json_field
from ecgportal.commands import PortalCommand
from ecgportal.errors import NotFound
from ecgportal.projects.access import Action


class Command(PortalCommand):
    help = "Read a label table (CSV, TSV, XLSX or JSON) into a dataset."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path)
        parser.add_argument("--dataset", required=True, help="id or name")
        parser.add_argument("--project", help="id, short name or name; needed when several datasets have the name")
        parser.add_argument("--mapping", help="JSON that says which column is what, where the header does not tell")
        parser.add_argument("--sheet", help="the sheet of a workbook to read")

    def do(self, **options: Any) -> dict[str, Any]:
        path: Path = options["path"]
        if not path.is_file():
            raise NotFound(f"There is no file {path}.")
        rows = Dataset.objects.select_related("project")
        if options["project"]:
            rows = rows.filter(project=self.project(options["project"], Action.DATA_EDIT))
        dataset = self.find(rows, Action.DATA_EDIT, options["dataset"], name__iexact=options["dataset"])
        mapping = json_field(options["mapping"], "mapping")
        with path.open("rb") as stream:
            row = import_start(
                actor=self.user, dataset=dataset, file=File(stream, path.name), mapping=mapping, sheet=options["sheet"]
            )
        return self.follow(row.job).result

    def show(self, result: dict[str, Any]) -> None:
        for row in result.pop("rows_with_reason", []):
            self.stderr.write(f"row {row['row']}: {row['reason']}")
        result.pop("mapping", None)
        super().show(result)
