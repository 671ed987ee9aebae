from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from datasets.models import Dataset, Record
from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action, require
from modelhub import downloads, folder
from modelhub.answer_list import AnswerList
from modelhub.models import ModelVersion, PredictionRun
from modelhub.naming import version_lookup
from modelhub.services_predictions import prediction_start


class Command(PortalCommand):
    help = "Predict with a model version for all records of a dataset, or for the ECG files of a folder."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model-version", required=True, help="id, or name as in 'Net v3' or 'Net@champion'")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--dataset", help="id or name")
        what.add_argument("--folder", type=Path, help="ECG files; nothing of them is stored in the portal")
        parser.add_argument("--records", nargs="+", metavar="KEY", help="only these records of the dataset")
        parser.add_argument(
            "--output", type=Path, help="write the predictions to this file, by its name as .csv, .json or .sr.json; with "
            "--folder a run that was broken off goes on"
        )  # fmt: skip

    def do(self, **options: Any) -> dict[str, Any]:
        name = options["model_version"]
        versions = ModelVersion.objects.select_related("model__project")
        version = self.find(versions, Action.MODEL_EDIT, name, **version_lookup(name))
        if options["folder"]:
            return self._folder(version, options["folder"], options["output"])
        rows = Dataset.objects.filter(project=version.model.project)
        dataset = self.find(rows, Action.DATA_VIEW, options["dataset"], name__iexact=options["dataset"])
        kind = folder.kind_of(options["output"]) if options["output"] else ""
        records = self._records(dataset, options["records"] or [])
        run = prediction_start(
            actor=self.user, project=version.model.project, version=version, dataset=dataset, records=records
        )
        result = self.follow(run.job).result
        run = PredictionRun.objects.select_related("version__model", "project", "dataset", "job", "label_map").get(
            pk=run.pk
        )
        if options["output"]:
            require(self.user, Action.MODEL_DOWNLOAD, run.project)
            answers = AnswerList(run, run.label_map)
            options["output"].write_bytes(downloads.predictions_file(answers, kind, actor=self.user).content)
        return {**result, "refused_records": run.refused, "output": str(options["output"] or "")}

    def _records(self, dataset: Dataset, keys: list[str]) -> list[Record]:
        found = list(Record.objects.filter(dataset=dataset, key__in=keys)) if keys else []
        missing = sorted(set(keys) - {record.key for record in found})
        if missing:
            raise InvalidInput(f"{dataset.name} has no record {', '.join(missing[:5])}.")
        return found

    def _folder(self, version: ModelVersion, path: Path, output: Path | None) -> dict[str, Any]:
        if output is None:
            raise InvalidInput(
                "Say where the predictions go.",
                fields={"output": "Give --output FILE, ending in .csv, .json or .sr.json."},
            )
        require(self.user, Action.MODEL_DOWNLOAD, version.model.project)

        def tell(done: int, of: int) -> None:
            if not self.as_json:
                self.stderr.write(f"\r{done} of {of} files", ending="")
                self.stderr.flush()

        return {**folder.predict_folder(version, path, output, actor=self.user, tell=tell), "output": str(output)}
