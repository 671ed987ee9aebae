from typing import Any

from django.core.management.base import CommandParser

from ecgportal.commands import PortalCommand
from ecgportal.projects.access import Action
from training.models import StudyKind, TrainingRun
from training.services import learning_curve_start
from training.studies import study_json


class Command(PortalCommand):
    help = "Train a run again on growing parts of its training data and forecast what twice the records would bring."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("run", help="id, or name")
        parser.add_argument(
            "--repeats", type=int, default=1, help="trainings per size, each with its own part and seed"
        )

    def do(self, **options: Any) -> dict[str, Any]:
        rows = TrainingRun.objects.select_related("job", "project")
        run = self.find(rows, Action.MODEL_EDIT, options["run"], name__iexact=options["run"])
        study = learning_curve_start(actor=self.user, run=run, repeats=options["repeats"])
        self.follow(study.job)
        return study_json(run, StudyKind.LEARNING_CURVE)
