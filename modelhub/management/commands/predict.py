from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from datasets.models import Dataset
from ecgportal.commands import PortalCommand
from ecgportal.projects.access import Action, require
from modelhub import downloads
from modelhub.models import ModelVersion, PredictionRun
from modelhub.naming import version_lookup
from modelhub.services import prediction_start


class Command(PortalCommand):
    help = "Predict with a model version for all records of a dataset."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model-version", required=True, help="id, or name as in 'Net v3'")
        parser.add_argument("--dataset", required=True, help="id or name")
        parser.add_argument("--output", type=Path, help="write the predictions to this CSV file")

    def do(self, **options: Any) -> dict[str, Any]:
        name = options["model_version"]
        versions = ModelVersion.objects.select_related("model__project")
        version = self.find(versions, Action.MODEL_EDIT, name, **version_lookup(name))
        rows = Dataset.objects.filter(project=version.model.project)
        dataset = self.find(rows, Action.DATA_VIEW, options["dataset"], name__iexact=options["dataset"])
        run = prediction_start(actor=self.user, project=version.model.project, version=version, dataset=dataset)
        result = self.follow(run.job).result
        run = PredictionRun.objects.select_related("version__model", "project").get(pk=run.pk)
        if options["output"]:
            require(self.user, Action.MODEL_DOWNLOAD, run.project)
            options["output"].write_bytes(downloads.predictions_csv(run, actor=self.user).content)
        return {**result, "refused_records": run.refused, "output": str(options["output"] or "")}
