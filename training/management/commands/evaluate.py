from typing import Any

from django.core.management.base import CommandParser

from datasets.models import Dataset
from ecgportal.commands import PortalCommand
from ecgportal.projects.access import Action
from modelhub.models import ModelVersion
from modelhub.naming import version_lookup
from training.management.commands.train import label_map_named
from training.models import Evaluation
from training.services import evaluation_start


class Command(PortalCommand):
    help = "Evaluate a model version on the labelled records of a dataset."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model-version", required=True, help="id, or name as in 'Net v3'")
        parser.add_argument("--dataset", required=True, help="id or name")
        parser.add_argument("--label-map", help="id or name; that of the version's training by default")

    def do(self, **options: Any) -> dict[str, Any]:
        name = options["model_version"]
        versions = ModelVersion.objects.select_related("model__project")
        version = self.find(versions, Action.MODEL_EDIT, name, **version_lookup(name))
        project = version.model.project
        rows = Dataset.objects.filter(project=project).select_related("project")
        dataset = self.find(rows, Action.DATA_VIEW, options["dataset"], name__iexact=options["dataset"])
        label_map = label_map_named(project, options["label_map"])
        row = evaluation_start(actor=self.user, version=version, dataset=dataset, label_map=label_map)
        assert row.job is not None
        self.follow(row.job)
        report = Evaluation.objects.get(pk=row.pk).report
        return {
            "evaluation": str(row.pk),
            **{name: value for name, value in report.items() if name not in ("method", "curves")},
        }

    def show(self, result: dict[str, Any]) -> None:
        self.stdout.write(
            f"evaluation: {result['evaluation']}\nrecords: {result['n']}, subjects: {result['n_subjects']}"
        )
        for name, figure in result.items():
            if isinstance(figure, dict) and figure.get("value") is not None:
                interval = (
                    f" (95 % {figure['low']:.3f} to {figure['high']:.3f})" if figure.get("low") is not None else ""
                )
                self.stdout.write(f"{name.replace('_', ' ')}: {figure['value']:.3f}{interval}")
