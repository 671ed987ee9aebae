"""Ask for the saliency of a prediction from the record's page."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from modelhub import explaining
from modelhub.models import Prediction


class SaliencyView(ProjectView):
    model = Prediction
    needs = {"post": Action.MODEL_EDIT}
    object: Prediction

    def rows(self) -> QuerySet[Any]:
        return Prediction.objects.select_related("run__project", "run__version__model", "record__dataset")

    def post(self, request: HttpRequest, pk: Any) -> HttpResponse:
        try:
            job = explaining.saliency_start(actor=request.user, prediction=self.object)
        except InvalidInput as error:
            messages.error(request, error.message)
        else:
            if job is None:
                messages.info(request, "The saliency is there: choose it above the ECG.")
            else:
                messages.success(
                    request, "The saliency is being computed. Load this page again to choose it above the ECG."
                )
        return redirect(f"{reverse('viz:record', kwargs={'pk': self.object.record_id})}#predicted-heading")
