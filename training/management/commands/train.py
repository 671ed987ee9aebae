import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from datasets.models import Dataset, LabelMap
from datasets.selectors import label_maps_for
from ecgportal.commands import PortalCommand
from ecgportal.errors import InvalidInput, NotFound
from ecgportal.forms import count_of
from ecgportal.projects.access import Action
from modelhub.contract import PRETRAINING
from modelhub.models import ModelVersion
from modelhub.naming import version_lookup
from training.checking import check
from training.choices import DEFAULT_ARCHITECTURE
from training.costs import costs_of_networks
from training.live import duration
from training.models import StudyKind, TrainingRun
from training.services import measure_start, rate_start, run_again, run_resume, run_start, trial_take
from training.studies import study_json

# What only a new run takes.
_OF_NEW = (
    "dataset", "filter", "balanced", "cap", "split", "label_map", "classes", "task", "target", "architecture", "base_version", "mode", "set",
    "recipe", "pretraining", "name", "search", "find_rate", "check", "measure",
)  # fmt: skip
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


def aligned(lines: list[list[str]]) -> str:
    """Return rows of text as a table whose columns stand under one another."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def checked_text(checked: dict[str, Any]) -> str:
    """Return what a check found (as the interface gives it): its sentences, the classes, and what each network would cost."""
    parts = [f"{row['level']}: {row['message']}" for row in checked["findings"]]
    if checked["classes"]:
        titles = list(next(iter(checked["classes"].values())))
        rows = [[name, *(str(counts[title]) for title in titles)] for name, counts in checked["classes"].items()]
        parts.append("\n" + aligned([["Class", *(title.capitalize() for title in titles)], *rows]))
    lines = [["Network", "Name", "Parameters", "MACs in millions", "Memory in MiB", "Time at most"]]
    for row in checked["networks"]:
        memory = "" if row["memory_mib"] is None else str(row["memory_mib"])
        time = "" if row["seconds"] is None else duration(row["seconds"])
        guess = " (estimated)" if time and not row["measured"] else ""
        lines.append(
            [
                row["title"],
                row["architecture"],
                f"{row['parameters']:,}",
                f"{row['million_macs']:,}",
                memory,
                time + guess,
            ]
        )
    return "\n".join([*parts, "", aligned(lines)])


def table_of(searched: dict[str, Any]) -> str:
    """Return what a search compared (as the interface gives it) as a table of text."""
    has_alone = any(row["alone"] is not None for row in searched["trials"])
    titles = ["No.", "Start", "Settings", searched["metric"], *(["Alone"] if has_alone else []), "Seconds", "State"]
    lines = [titles]
    for row in searched["trials"]:
        score = "" if row["score"] is None else f"{row['score']:.3f}"
        if row["low"] is not None and row["high"] is not None:
            score += f" ({row['low']:.3f} to {row['high']:.3f})"
        alone = [] if not has_alone else ["" if row["alone"] is None else f"{row['alone']:.3f}"]
        lines.append(
            [str(row["number"]), row["start"], row["settings"], score, *alone, f"{row['seconds']:.0f}", row["outcome"]]
        )
    return aligned(lines)


class Command(PortalCommand):
    help = "Train a network on a dataset; the result is a model version and its evaluation on held-back subjects."

    def arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", help="id, short name or name")
        parser.add_argument(
            "--dataset",
            action="append",
            default=[],
            help="id or name; may be given several times; a new run needs it and --project",
        )
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
        parser.add_argument("--task", choices=TASKS, help=f"{TASKS[0]} by default")
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
            "--search",
            type=float,
            metavar="MINUTES",
            help="try networks and settings for so long, then train the best; prints what was compared",
        )
        earlier = parser.add_mutually_exclusive_group()
        earlier.add_argument(
            "--resume",
            metavar="RUN",
            help="go on with a failed or cancelled run: id, or name; with --project and nothing else",
        )
        earlier.add_argument("--again", metavar="RUN", help="do a run again with its choices and seed, likewise")
        earlier.add_argument(
            "--take-trial",
            nargs=2,
            metavar=("RUN", "N"),
            help="train in full what number N of a run's search tried, likewise",
        )
        parser.add_argument(
            "--find-rate", action="store_true", help="only find a learning rate on the training part; start no run"
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="only say what is wrong or risky, what it will cost, and what it would cost with each network",
        )
        parser.add_argument(
            "--measure",
            action="store_true",
            help="only measure what each network costs on this machine, for estimates; with --project and nothing else",
        )

    def do(self, **options: Any) -> dict[str, Any]:
        if options["resume"] or options["again"] or options["take_trial"]:
            return self._done(self._of_earlier(options))
        if options["measure"]:
            return self._measured(options)
        if not options["project"] or not options["dataset"]:
            raise InvalidInput(
                "A new run needs a project and a dataset.", fields={"dataset": "Give --project and --dataset."}
            )
        asked = self._asked(options)
        if options["check"]:
            found = check(**asked)
            networks = [row.to_json() for row in costs_of_networks(asked, found.split)]
            return found.to_json() | {"networks": networks}
        if options["find_rate"]:
            found = self.follow(rate_start(actor=self.user, **asked)).result
            return {name: found[name] for name in ("valley", "steepest", "suggestion", "rule", "records")}
        return self._done(run_start(actor=self.user, **asked))

    def _measured(self, options: dict[str, Any]) -> dict[str, Any]:
        """Do the job that measures this machine for a project, and return seconds per record by network."""
        if others := [name for name in _OF_NEW if options[name] and name != "measure"]:
            raise InvalidInput(
                "Measuring is of the machine, not of a run.",
                fields={others[0]: f"Leave out --{others[0].replace('_', '-')}."},
            )
        if not options["project"]:
            raise InvalidInput("Measuring needs a project.", fields={"project": "Give --project."})
        project = self.project(options["project"], Action.MODEL_EDIT)
        return self.follow(measure_start(actor=self.user, project=project)).result

    def _of_earlier(self, options: dict[str, Any]) -> TrainingRun:
        """Return the run that is gone on with, or a new one that is as an earlier one was."""
        if others := [name for name in _OF_NEW if options[name]]:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            raise InvalidInput(
                "This takes what the earlier run was asked for.",
                fields={others[0]: f"Leave out {named}, or start a new run."},
            )
        rows = TrainingRun.objects.select_related("job", "project")
        if options["project"]:
            rows = rows.filter(project=self.project(options["project"], Action.MODEL_EDIT))
        name, number = options["take_trial"] or (options["resume"] or options["again"], "")
        run = self.find(rows, Action.MODEL_EDIT, name, name__iexact=name)
        if options["take_trial"]:
            return trial_take(actor=self.user, run=run, number=count_of(number) or 0)
        return (run_resume if options["resume"] else run_again)(actor=self.user, run=run)

    def _asked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what a new run is asked to be, with its rows found."""
        project = self.project(options["project"], Action.MODEL_EDIT)
        rows = Dataset.objects.filter(project=project).select_related("project")
        datasets = [self.find(rows, Action.DATA_VIEW, name, name__iexact=name) for name in options["dataset"]]
        base = None
        if name := options["base_version"]:
            versions = ModelVersion.objects.filter(model__project=project).select_related("model")
            base = self.find(versions, Action.MODEL_VIEW, name, **version_lookup(name))
        classes = [x.strip() for x in (options["classes"] or "").split(",") if x.strip()]
        return {
            "project": project, "datasets": datasets, "label_map": label_map_named(project, options["label_map"]),
            "classes": classes or None, "task": options["task"] or TASKS[0], "target": options["target"], "architecture": options["architecture"],
            "base_version": base, "mode": options["mode"], "settings": settings_of(options["set"]), "split": settings_of(options["split"]),
            "selection": {"filter": settings_of(options["filter"]), "balanced": options["balanced"], "cap": options["cap"]}, "name": options["name"],
            "search": {"minutes": options["search"]} if options["search"] is not None else None,
            "recipe": recipe_of(options["recipe"]) if options["recipe"] else None,
            "pretraining": settings_of(options["pretraining"]) or None,
        }  # fmt: skip

    def _done(self, run: TrainingRun) -> dict[str, Any]:
        """Do a run's job and return what came out, and what its search compared."""
        result = self.follow(run.job).result
        run = TrainingRun.objects.get(pk=run.pk)
        report = getattr(run, "report", None) if result.get("evaluation") else None
        figures = {name: report.report.get(name) for name in ("n", "auroc_macro", "f1_macro")} if report else {}
        told = {
            "run": str(run.pk),
            "architecture": run.architecture,
            **result,
            "best_epoch": run.best_epoch,
            "test": figures,
        }
        searched = study_json(run, StudyKind.SEARCH)
        return told | ({"search": searched} if searched["state"] else {})

    def show(self, result: dict[str, Any]) -> None:
        if "findings" in result:
            apart = ("findings", "classes", "networks")
            super().show({name: value for name, value in result.items() if name not in apart})
            self.stdout.write(checked_text(result))
            return
        super().show({name: value for name, value in result.items() if name != "search"})
        if searched := result.get("search"):
            self.stdout.write("\n" + table_of(searched) + "\n\n" + "\n".join(searched["notes"]))
