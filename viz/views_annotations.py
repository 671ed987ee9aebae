"""What people mark in a record and the labels they set by hand: forms on the record page, without any script."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from datasets import annotating
from datasets.forms_annotations import AnnotationForm, LabelForm
from datasets.models import RecordAnnotation, RecordLabel
from ecgportal.errors import PortalError
from ecgportal.forms import take_error
from ecgportal.projects.access import Action
from ecgportal.views import ProjectView
from viz.views import RecordPage


def _back(request: HttpRequest, record_id: Any, place: str) -> HttpResponse:
    """Lead back to the record as it was shown: with the view and the filters of the list that it is read in."""
    query = f"?{request.GET.urlencode()}" if request.GET else ""
    return redirect(f"{reverse('viz:record', kwargs={'pk': record_id})}{query}#{place}")


class AnnotateView(RecordPage):
    """Take an annotation; one that does not fit is shown again with what is wrong."""

    needs = {"post": Action.DATA_EDIT}

    def post(self, request: HttpRequest, pk: Any) -> HttpResponse:
        form = AnnotationForm(self.object, request.POST, auto_id="annotation_%s")
        status = 422
        if form.is_valid():
            try:
                annotating.annotation_add(actor=request.user, record=self.object, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
                status = error.status
            else:
                messages.success(request, "The annotation is saved.")
                return _back(request, pk, "annotations")
        return self.shown(status, annotation_form=form)


class LabelView(RecordPage):
    """Take a label that somebody sets by hand."""

    needs = {"post": Action.DATA_EDIT}

    def post(self, request: HttpRequest, pk: Any) -> HttpResponse:
        form = LabelForm(request.POST, auto_id="label_%s")
        status = 422
        if form.is_valid():
            try:
                annotating.label_add(actor=request.user, record=self.object, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
                status = error.status
            else:
                messages.success(request, f"The label {form.cleaned_data['code']} is set.")
                return _back(request, pk, "labels-heading")
        return self.shown(status, label_form=form)


class AnnotationDeleteView(ProjectView):
    model = RecordAnnotation
    needs = {"post": Action.DATA_EDIT}
    object: RecordAnnotation

    def rows(self) -> QuerySet[Any]:
        return RecordAnnotation.objects.select_related("record__dataset__project")

    def post(self, request: HttpRequest, pk: Any) -> HttpResponse:
        annotating.annotation_delete(actor=request.user, annotation=self.object)
        messages.success(request, "The annotation is deleted.")
        return _back(request, self.object.record_id, "annotations")


class LabelDeleteView(ProjectView):
    model = RecordLabel
    needs = {"post": Action.DATA_EDIT}
    object: RecordLabel

    def rows(self) -> QuerySet[Any]:
        return RecordLabel.objects.select_related("record__dataset__project")

    def post(self, request: HttpRequest, pk: Any) -> HttpResponse:
        annotating.label_delete(actor=request.user, label=self.object)
        messages.success(request, f"The label {self.object.code} is removed.")
        return _back(request, self.object.record_id, "labels-heading")
