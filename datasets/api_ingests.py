"""Uploads over REST: in pieces that can be resumed, what became of each file, and answers for what files leave open.

POST   ingests/                     {dataset, fs_hz?, unit?, lead_order?}    begins one
POST   ingests/{id}/files/          {files: [{name, size}]}                  names files; says what has arrived of each
       or multipart: files, names                                          takes many small files whole
PATCH  upload-files/{id}/           bytes; header Upload-Offset              takes the next piece of a file
POST   ingests/{id}/finish/                                                 reads them all
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from datasets import services, uploading
from datasets.models import ArrivingFile, Dataset, Ingest, IngestItem, Outcome
from ecgportal.api.parsers import ObjectParser
from ecgportal.api.strict import StrictFields, StrictModelFields, only
from ecgportal.api.viewsets import ProjectViewSet
from ecgportal.errors import InvalidInput
from ecgportal.projects.access import Action


class StreamParser(BaseParser):
    """Hands the body over as it comes, unread."""

    media_type = "application/octet-stream"

    def parse(self, stream: BinaryIO, media_type: str | None = None, parser_context: Any = None) -> BinaryIO:
        return stream


class IngestItemSerializer(StrictModelFields):
    class Meta:
        model = IngestItem
        fields = ["id", "name", "outcome", "code", "message", "asks", "record"]


class ArrivingFileSerializer(StrictModelFields):
    class Meta:
        model = ArrivingFile
        fields = ["id", "name", "size", "received"]


class DeclaredSerializer(StrictFields):
    name = serializers.CharField(max_length=4000)
    size = serializers.IntegerField(min_value=0, max_value=services.MAX_UPLOAD_BYTES)


class FilesSerializer(StrictFields):
    files = DeclaredSerializer(many=True)


class AnswersSerializer(StrictFields):
    fs_hz = serializers.FloatField(required=False)
    unit = serializers.CharField(required=False)
    lead_order = serializers.CharField(required=False, help_text="Lead names in file order, separated by commas.")


class WaitingFilesSerializer(StrictFields):
    files = serializers.ListField(
        child=serializers.CharField(), required=False, allow_empty=False,
        help_text="Names of files that wait, as the upload's items show them. Without it the answers are for all that wait.",
    )  # fmt: skip


class WaitingAnswersSerializer(WaitingFilesSerializer, AnswersSerializer):
    pass


class BeginSerializer(AnswersSerializer):
    dataset = serializers.UUIDField()


class IngestSerializer(StrictModelFields):
    state = serializers.SerializerMethodField()
    progress = serializers.FloatField(source="job.progress", default=0.0, read_only=True)
    waiting = serializers.SerializerMethodField(help_text="Files that are kept until an answer is given.")

    class Meta:
        model = Ingest
        fields = ["id", "dataset", "job", "state", "progress", "options", "source", "waiting", "created_at"]

    def get_state(self, ingest: Ingest) -> str:
        return "open" if ingest.is_open else ingest.job.state if ingest.job else "succeeded"

    def get_waiting(self, ingest: Ingest) -> int:
        return len(ingest.waiting)


def options_in(data: Any) -> dict[str, Any]:
    return services.check_read_options(data.get("fs_hz"), data.get("unit"), data.get("lead_order"))


def started(ingest: Ingest) -> Response:
    assert ingest.job is not None
    answer = {"job": ingest.job_id, "ingest": ingest.pk, "id": ingest.pk, "state": ingest.job.state}
    return Response(answer, status=status.HTTP_202_ACCEPTED)


class IngestViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    queryset = Ingest.objects.select_related("job", "dataset__project")
    serializer_class = IngestSerializer
    filterset_fields = ["dataset", "is_open"]
    parser_classes = [ObjectParser, MultiPartParser]
    needs = {
        "list": Action.DATA_VIEW, "retrieve": Action.DATA_VIEW, "items": Action.DATA_VIEW, "files": Action.DATA_VIEW,
        "create": Action.DATA_EDIT, "destroy": Action.DATA_EDIT, "files_add": Action.DATA_EDIT, "finish": Action.DATA_EDIT,
        "answers": Action.DATA_EDIT,
    }  # fmt: skip

    @extend_schema(request=BeginSerializer, responses={201: IngestSerializer})
    def create(self, request: Request) -> Response:
        """Begin an upload; its files follow in any order and are read when it is finished."""
        only(request.data, BeginSerializer().fields)
        dataset = self.find(Dataset.objects.select_related("project"), request.data.get("dataset"))
        ingest = uploading.upload_open(actor=request.user, dataset=dataset, options=options_in(request.data))
        return Response(self.get_serializer(ingest).data, status=status.HTTP_201_CREATED)

    def destroy(self, request: Request, pk: str) -> Response:
        """Discard an open upload with what has arrived of it."""
        uploading.upload_discard(actor=request.user, ingest=self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses=ArrivingFileSerializer(many=True))
    @action(detail=True, filterset_class=None, filterset_fields=None)
    def files(self, request: Request, pk: str) -> Response:
        """The files of an open upload and how much of each has arrived."""
        page = self.paginate_queryset(self.get_object().arriving.all())
        return self.get_paginated_response(ArrivingFileSerializer(page, many=True).data)

    @extend_schema(request=FilesSerializer, responses=ArrivingFileSerializer(many=True))
    @files.mapping.post
    def files_add(self, request: Request, pk: str) -> Response:
        """Name files by JSON, or send many small ones whole by multipart (``files``, and ``names`` with their folders)."""
        ingest = self.get_object()
        if sent := request.FILES.getlist("files"):
            only(request.data, ("files", "names"))
            names = request.data.getlist("names") or [file.name for file in sent]
            if len(names) != len(sent):
                raise InvalidInput("There must be one name per file.", fields={"names": f"Give {len(sent)} names."})
            rows = uploading.files_receive(ingest=ingest, files=list(zip(names, sent, strict=True)))
        else:
            form = FilesSerializer(data=request.data)
            form.is_valid(raise_exception=True)
            declared = [(entry["name"], entry["size"]) for entry in form.validated_data["files"]]
            rows = uploading.files_declare(ingest=ingest, files=declared)
        return Response(ArrivingFileSerializer(rows, many=True).data)

    @extend_schema(request=None, responses={202: OpenApiTypes.OBJECT})
    @action(detail=True, methods=["post"])
    def finish(self, request: Request, pk: str) -> Response:
        """Close the upload and read its files; the job answers per file."""
        return started(uploading.upload_finish(actor=request.user, ingest=self.get_object()))

    @extend_schema(request=WaitingAnswersSerializer, responses={202: OpenApiTypes.OBJECT})
    @action(detail=True, methods=["post"])
    def answers(self, request: Request, pk: str) -> Response:
        """Read those files again that do not say their rate, unit or lead order, with these answers."""
        ingest = self.get_object()
        form = WaitingAnswersSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        names = form.validated_data.get("files")
        options = options_in(request.data)
        return started(uploading.upload_answer(actor=request.user, ingest=ingest, options=options, names=names))

    @extend_schema(responses=IngestItemSerializer(many=True), parameters=[OpenApiParameter("outcome", str)])
    @action(detail=True, filterset_class=None, filterset_fields=None)
    def items(self, request: Request, pk: str) -> Response:
        """What became of each file."""
        items = self.get_object().items.all()
        if outcome := request.query_params.get("outcome"):
            if outcome not in Outcome.values:
                raise InvalidInput(
                    f"There is no outcome {outcome!r}.",
                    fields={"outcome": f"Choose one of {', '.join(Outcome.values)}."},
                )
            items = items.filter(outcome=outcome)
        return self.get_paginated_response(IngestItemSerializer(self.paginate_queryset(items), many=True).data)


class UploadFileViewSet(mixins.RetrieveModelMixin, ProjectViewSet):
    """One file of an open upload."""

    queryset = ArrivingFile.objects.select_related("ingest__dataset__project")
    serializer_class = ArrivingFileSerializer
    parser_classes = [StreamParser]
    needs = {"retrieve": Action.DATA_VIEW, "partial_update": Action.DATA_EDIT}

    @extend_schema(
        request={"application/octet-stream": OpenApiTypes.BINARY}, responses=ArrivingFileSerializer,
        parameters=[OpenApiParameter("Upload-Offset", int, OpenApiParameter.HEADER, required=True)],
    )  # fmt: skip
    def partial_update(self, request: Request, pk: str) -> Response:
        """Send the next piece. After a broken connection ask how much has arrived and go on there; 409 tells it, too."""
        file = self.get_object()
        offset = request.headers.get("Upload-Offset", "")
        if not offset.isdecimal() or len(offset) > 18:
            raise InvalidInput(
                "The piece does not say where it begins.", fields={"Upload-Offset": "Give a byte number."}
            )
        # A request without a body has no stream at all.
        stream = request.data if hasattr(request.data, "read") else io.BytesIO()
        row = uploading.file_receive(file=file, offset=int(offset), stream=stream)
        return Response(self.get_serializer(row).data)
