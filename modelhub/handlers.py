"""Job kinds of the model hub."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from ecgportal.jobs.context import JobContext
from ecgportal.jobs.models import Job
from ecgportal.jobs.registry import Again, handler
from ecgportal.projects.access import Action


def _predict_again(job: Job) -> Again:
    """The form with the model, the dataset, the records and the map of the predictions."""
    address = reverse("modelhub:predictions", kwargs={"project": job.project_id})
    return Again("Start with other choices", f"{address}?again={job.payload['run']}", Action.MODEL_EDIT)


def _try_again(job: Job) -> Again | None:
    from modelhub.models import ModelVersion

    # A version of the catalogue may be another project's.
    if not ModelVersion.objects.filter(pk=job.payload["version"], model__project=job.project_id).exists():
        return None
    address = reverse("modelhub:version", kwargs={"pk": job.payload["version"]})
    return Again("Try another record", address, Action.MODEL_EDIT)


def _explain_again(job: Job) -> Again | None:
    from modelhub.models import Prediction

    row = Prediction.objects.filter(pk=job.payload["prediction"]).first()
    if row is None:
        return None
    return Again("Back to the record", reverse("viz:record", kwargs={"pk": row.record_id}), Action.MODEL_VIEW)


def _import_again(job: Job) -> Again:
    """The form with all that was filled in but the file; the page of the version when answers for it were refused."""
    if version := job.payload.get("version"):
        return Again("Back to the version", reverse("modelhub:version", kwargs={"pk": version}), Action.MODEL_EDIT)
    address = reverse("modelhub:import", kwargs={"project": job.project_id})
    return Again("Try again with another file", f"{address}?again={job.pk}", Action.MODEL_EDIT)


def _exchange_again(job: Job) -> Again:
    address = reverse("modelhub:exchanges", kwargs={"project": job.project_id})
    return Again("Back to the exchanges", address, Action.MODEL_EXCHANGE)


@handler("predict", title="Predict", again=_predict_again)
def predict(context: JobContext) -> dict[str, Any]:
    from modelhub import predicting

    return predicting.run(context)


@handler("try_model", title="Try a model", again=_try_again)
def try_model(context: JobContext) -> dict[str, Any]:
    from modelhub import trying

    return trying.run(context)


@handler("saliency", title="Explain a prediction", again=_explain_again)
def saliency(context: JobContext) -> dict[str, Any]:
    from modelhub import explaining

    return explaining.run(context)


@handler("model_import", title="Import a model", max_attempts=1, again=_import_again)
def model_import(context: JobContext) -> dict[str, Any]:
    from modelhub import importing

    return importing.run(context)


@handler("exchange_push", title="Publish a model", again=_exchange_again)
def exchange_push(context: JobContext) -> dict[str, Any]:
    from modelhub import exchange

    return exchange.push(context)


@handler("exchange_pull", title="Pull a model", again=_exchange_again)
def exchange_pull(context: JobContext) -> dict[str, Any]:
    from modelhub import exchange

    return exchange.pull(context)
