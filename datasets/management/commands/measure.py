from typing import Any

from django.core.management.base import CommandParser

from datasets.featuring import measuring_start, unmeasured
from datasets.models import Dataset
from ecgportal.commands import PortalCommand
from ecgportal.projects.access import Action


class Command(PortalCommand):
    help = "Measure the records of a dataset that are not measured yet, for distributions, outliers and maps."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dataset", required=True, help="id or name")
        parser.add_argument("--project", help="id, short name or name; needed when several datasets have the name")

    def do(self, **options: Any) -> dict[str, Any]:
        rows = Dataset.objects.select_related("project")
        if options["project"]:
            rows = rows.filter(project=self.project(options["project"], Action.DATA_EDIT))
        dataset = self.find(rows, Action.DATA_EDIT, options["dataset"], name__iexact=options["dataset"])
        if not unmeasured(dataset).exists():
            return {"dataset": str(dataset.pk), "measured": 0, "without_beats": 0}
        return self.follow(measuring_start(actor=self.user, dataset=dataset)).result
