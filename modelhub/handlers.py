"""Job kinds of the model hub."""

from __future__ import annotations

from typing import Any

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.registry import handler


@handler("predict", title="Predict")
def predict(context: JobContext) -> dict[str, Any]:
    from modelhub import predicting

    return predicting.run(context)


@handler("try_model", title="Try a model")
def try_model(context: JobContext) -> dict[str, Any]:
    from modelhub import trying

    return trying.run(context)


@handler("saliency", title="Explain a prediction")
def saliency(context: JobContext) -> dict[str, Any]:
    from modelhub import explaining

    return explaining.run(context)


@handler("model_import", title="Import a model", max_attempts=1)
def model_import(context: JobContext) -> dict[str, Any]:
    from modelhub import importing

    return importing.run(context)


@handler("exchange_push", title="Publish a model")
def exchange_push(context: JobContext) -> dict[str, Any]:
    from modelhub import exchange

    return exchange.push(context)


@handler("exchange_pull", title="Pull a model")
def exchange_pull(context: JobContext) -> dict[str, Any]:
    from modelhub import exchange

    return exchange.pull(context)
