"""Job kinds of training."""

from __future__ import annotations

from typing import Any

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.registry import handler


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


@handler("find_rate", title="Find a learning rate", queue="train")
def find_rate(context: JobContext) -> dict[str, Any]:
    from training import rating

    return rating.run(context)


@handler("evaluate", title="Evaluate a model")
def evaluate(context: JobContext) -> dict[str, Any]:
    from training import evaluating

    return evaluating.run(context)


@handler("measure_speeds", title="Measure this machine", queue="train")
def measure_speeds(context: JobContext) -> dict[str, Any]:
    from training import measuring

    return measuring.run(context)


@handler("search", title="Choose a network and train it", queue="train", max_attempts=6)
def search(context: JobContext) -> dict[str, Any]:
    from training import searching

    return searching.run(context)


@handler("learning_curve", title="Learning curve", queue="train", max_attempts=6)
def learning_curve(context: JobContext) -> dict[str, Any]:
    from training import growing

    return growing.run(context)
