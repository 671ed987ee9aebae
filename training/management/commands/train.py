import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from datasets.models import Dataset, LabelMap
from datasets.selectors import label_maps_for
from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput, NotFound
from ecgportal.projects.access import Action
from modelhub.contract import PRETRAINING
from modelhub.models import ModelVersion
from modelhub.naming import version_lookup
from training.checking import check
from training.choices import DEFAULT_ARCHITECTURE
from training.models import TrainingRun
from training.services import rate_start, run_start

TASKS = ("multilabel", "multiclass", "binary", "regression", PRETRAINING)


def label_map_named(project: Any, text: str | None) -> LabelMap | None:
    """Return the newest version of a map that the project can use, by id or name."""
    if not text:
        return None
    rows = label_maps_for(project).order_by("-version")
    found = next((row for row in rows if text in (str(row.pk), row.name, str(row))), None)
    if found is None:
        raise NotFound(f"{project} has no label map called {text}.")
    return found


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """Return ``name=value`` pairs as settings; values are JSON, or text where they are none."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InvalidInput(f"{pair} is no setting.", fields={"set": "Write it as epochs=10."})
        try:
            found[name.strip()] = json.loads(text)
        except ValueError:
            found[name.strip()] = text
    return found


def recipe_of(path: Path) -> Any:
    """Return the recipe in a file; InvalidInput when it cannot be read as JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is no recipe: {error}.", fields={"recipe": "Name a JSON file."}) from error


class Command(PortalCommand):
    help = "Train a network on a dataset; the result is a model version and its evaluation on held-back subjects."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, help="id, short name or name")
        parser.add_argument("--dataset", action="append", required=True, help="id or name; may be given several times")
        parser.add_argument(
            "--filter", action="append", default=[], metavar="NAME=VALUE", help="of the record list, such as age_min=18"
        )
        parser.add_argument("--balanced", action="store_true", help="equally many records of every class")
        parser.add_argument("--cap", type=int, help="at most this many records")
        parser.add_argument(
            "--split", action="append", default=[], metavar="NAME=VALUE", help="such as method=k_fold, folds=5, fold=1"
        )
        parser.add_argument("--label-map", help="id or name, such as 'PTB-XL superclass'")
        parser.add_argument("--classes", help="some of the map's classes, separated by commas; all by default")
        parser.add_argument("--task", choices=TASKS, default="multilabel")
        parser.add_argument("--target", default="", help="a numeric field such as age, for regression")
        parser.add_argument("--architecture", help=f"{DEFAULT_ARCHITECTURE} by default")
        parser.add_argument("--base-version", help="the version that is fine-tuned: id, or name as in 'Net v3'")
        parser.add_argument("--mode", help="what is trained: scratch, head, full or head_then_full")
        parser.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, such as epochs=10"
        )
        parser.add_argument("--recipe", type=Path, help="a JSON file with the version and steps that prepare a record")
        parser.add_argument(
            "--pretraining", action="append", default=[], metavar="NAME=VALUE",
            help="of the task pretraining, which learns without labels: window_s=2, ahead=2",
        )  # fmt: skip
        parser.add_argument("--name", default="", help="of the model")
        parser.add_argument(
            "--search", type=float, metavar="MINUTES", help="try networks and settings for so long, then train the best"
        )
        parser.add_argument(
            "--find-rate", action="store_true", help="only find a learning rate on the training part; start no run"
        )
        parser.add_argument(
            "--check", action="store_true", help="only say what is wrong or risky, and what it will cost"
        )

    def do(self, **options: Any) -> dict[str, Any]:
        project = self.project(options["project"], Action.MODEL_EDIT)
        rows = Dataset.objects.filter(project=project).select_related("project")
        datasets = [self.find(rows, Action.DATA_VIEW, name, name__iexact=name) for name in options["dataset"]]
        base = None
        if name := options["base_version"]:
            versions = ModelVersion.objects.filter(model__project=project).select_related("model")
            base = self.find(versions, Action.MODEL_VIEW, name, **version_lookup(name))
        classes = [x.strip() for x in (options["classes"] or "").split(",") if x.strip()]
        asked = {
            "project": project, "datasets": datasets, "label_map": label_map_named(project, options["label_map"]),
            "classes": classes or None, "task": options["task"], "target": options["target"], "architecture": options["architecture"],
            "base_version": base, "mode": options["mode"], "settings": settings_of(options["set"]), "split": settings_of(options["split"]),
            "selection": {"filter": settings_of(options["filter"]), "balanced": options["balanced"], "cap": options["cap"]}, "name": options["name"],
            "search": {"minutes": options["search"]} if options["search"] is not None else None,
            "recipe": recipe_of(options["recipe"]) if options["recipe"] else None,
            "pretraining": settings_of(options["pretraining"]) or None,
        }  # fmt: skip
        if options["check"]:
            return check(**asked).to_json()
        if options["find_rate"]:
            found = self.follow(rate_start(actor=self.user, **asked)).result
            return {name: found[name] for name in ("valley", "steepest", "suggestion", "rule", "records")}
        run = run_start(actor=self.user, **asked)
        result = self.follow(run.job).result
        run = TrainingRun.objects.get(pk=run.pk)
        report = getattr(run, "report", None) if result.get("evaluation") else None
        figures = {name: report.report.get(name) for name in ("n", "auroc_macro", "f1_macro")} if report else {}
        return {
            "run": str(run.pk),
            "architecture": run.architecture,
            **result,
            "best_epoch": run.best_epoch,
            "test": figures,
        }
