"""Projects and their members."""

from __future__ import annotations

from django.db.models import OuterRef, Subquery
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from ecgportal.accounts.models import User
from ecgportal.api.strict import StrictModelFields
from ecgportal.api.viewsets import ProjectViewSet, as_uuid
from ecgportal.errors import NotFound
from ecgportal.projects import services
from ecgportal.projects.access import Action
from ecgportal.projects.models import Membership, Project, Role


class ProjectSerializer(StrictModelFields):
    role = serializers.CharField(read_only=True, source="my_role", help_text="My role in the project.")
    name = serializers.CharField(max_length=120)

    class Meta:
        model = Project
        fields = ["id", "name", "slug", "description", "keeps_identifiers", "role", "archived_at", "created_at"]
        read_only_fields = ["id", "slug", "archived_at", "created_at"]


class MemberSerializer(StrictModelFields):
    user = serializers.UUIDField(source="user_id", read_only=True)
    username = serializers.CharField(source="user.username", read_only=True)
    role = serializers.ChoiceField(choices=Role.choices)

    class Meta:
        model = Membership
        fields = ["user", "username", "role"]


class ProjectsViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet):
    """The projects I belong to."""

    queryset = Project.objects.all()
    serializer_class = ProjectSerializer
    filterset_fields = ["name", "slug"]
    needs = {
        "list": Action.PROJECT_VIEW, "retrieve": Action.PROJECT_VIEW, "partial_update": Action.PROJECT_EDIT,
        "archive": Action.PROJECT_EDIT, "members": Action.PROJECT_VIEW, "member": Action.MEMBERS_EDIT,
    }  # fmt: skip

    def _with_role(self, queryset):
        mine = Membership.objects.filter(project=OuterRef("pk"), user=self.request.user).values("role")[:1]
        return queryset.annotate(my_role=Subquery(mine))

    def get_queryset(self):
        queryset = super().get_queryset()
        return queryset if getattr(self, "swagger_fake_view", False) else self._with_role(queryset)

    def get_object(self) -> Project:
        project = super().get_object()
        return self._with_role(Project.objects.filter(pk=project.pk)).get()

    def create(self, request: Request) -> Response:
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        told = form.validated_data
        project = services.project_create(
            actor=request.user, name=told["name"], description=told.get("description", ""),
            keeps_identifiers=told.get("keeps_identifiers", False),
        )  # fmt: skip
        project.my_role = Role.OWNER  # type: ignore[attr-defined]
        return Response(self.get_serializer(project).data, status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, pk: str) -> Response:
        project = self.get_object()
        form = self.get_serializer(project, data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        services.project_update(
            actor=request.user,
            project=project,
            name=form.validated_data.get("name"),
            description=form.validated_data.get("description"),
            keeps_identifiers=form.validated_data.get("keeps_identifiers"),
        )
        return Response(self.get_serializer(project).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def archive(self, request: Request, pk: str) -> Response:
        project = self.get_object()
        services.project_archive(actor=request.user, project=project)
        return Response(self.get_serializer(project).data)

    @extend_schema(responses=MemberSerializer(many=True))
    @action(detail=True)
    def members(self, request: Request, pk: str) -> Response:
        rows = self.get_object().memberships.select_related("user")
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(MemberSerializer(page, many=True).data)

    @extend_schema(request=MemberSerializer, responses=MemberSerializer)
    @action(
        detail=True, methods=["put", "delete"], url_path=f"members/(?P<user_id>{ProjectViewSet.lookup_value_regex})"
    )
    def member(self, request: Request, pk: str, user_id: str) -> Response:
        project = self.get_object()
        user = User.objects.filter(pk=as_uuid(user_id)).first()
        if user is None or (request.method == "PUT" and not user.is_active):
            raise NotFound("There is no such user.")
        if request.method == "DELETE":
            services.member_remove(actor=request.user, project=project, user=user)
            return Response(status=status.HTTP_204_NO_CONTENT)
        form = MemberSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        membership = services.member_set(
            actor=request.user, project=project, user=user, role=form.validated_data["role"]
        )
        return Response(MemberSerializer(membership).data)
