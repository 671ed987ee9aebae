"""Job kinds of training."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job
from ecgportal.jobs.registry import Again, handler
from ecgportal.projects.access import Action


def _curve_again(job: Job) -> Again | None:
    from training.models import Study

    run = Study.objects.filter(pk=job.payload["study"]).values_list("run_id", flat=True).first()
    return Again("Back to the run", reverse("training:detail", kwargs={"pk": run}), Action.MODEL_VIEW) if run else None


def _set_up_again(job: Job) -> Again:
    return Again("Set up a run", reverse("training:create", kwargs={"project": job.project_id}), Action.MODEL_EDIT)


def _evaluate_again(job: Job) -> Again | None:
    from training.models import Evaluation

    row = Evaluation.objects.filter(pk=job.payload["evaluation"]).only("version_id").first()
    if row is None:
        return None
    address = reverse("training:evaluations", kwargs={"project": job.project_id})
    return Again("Evaluate again", f"{address}?again={row.pk}", Action.MODEL_EDIT)


def warm_up() -> None:
    from training import warming

    warming.warm_up()


@handler("train", title="Train a network", queue="train", max_attempts=6, warm_up=warm_up)
def train(context: JobContext) -> dict[str, Any]:
    from training import running

    return running.run(context)


@handler("judge_run", title="Evaluate what a cancelled run kept")
def judge_run(context: JobContext) -> dict[str, Any]:
    from training import running

    return running.judge(context)


@handler("pretrain", title="Learn without labels", queue="train", max_attempts=6)
def pretrain(context: JobContext) -> dict[str, Any]:
    from training import pretraining

    return pretraining.run(context)


@handler("find_rate", title="Find a learning rate", queue="train", again=_set_up_again)
def find_rate(context: JobContext) -> dict[str, Any]:
    from training import rating

    return rating.run(context)


@handler("evaluate", title="Evaluate a model", again=_evaluate_again)
def evaluate(context: JobContext) -> dict[str, Any]:
    from training import evaluating

    return evaluating.run(context)


@handler("measure_speeds", title="Measure this machine", queue="train", again=_set_up_again)
def measure_speeds(context: JobContext) -> dict[str, Any]:
    from training import measuring

    return measuring.run(context)


@handler("search", title="Choose a network and train it", queue="train", max_attempts=6)
def search(context: JobContext) -> dict[str, Any]:
    from training import searching

    return searching.run(context)


@handler("learning_curve", title="Learning curve", queue="train", max_attempts=6, again=_curve_again)
def learning_curve(context: JobContext) -> dict[str, Any]:
    from training import growing

    return growing.run(context)
