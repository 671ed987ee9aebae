"""Sign-in by token, my tokens, and users."""

from __future__ import annotations

from django.contrib.auth import authenticate
from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from ecgportal.accounts import services
from ecgportal.accounts.models import ApiToken, User
from ecgportal.accounts.throttle import check_sign_in
from ecgportal.api.errors import body
from ecgportal.api.strict import StrictFields, StrictModelFields, StrictQuery
from ecgportal.api.viewsets import ByIdFilterBackend, IsAdministrator, ProjectViewSet
from ecgportal.errors import InvalidInput, NotFound
from ecgportal.projects.access import note_hidden


class SignInSerializer(StrictFields):
    username = serializers.CharField()
    password = serializers.CharField()
    name = serializers.CharField(required=False, default="signed in by password", max_length=80)


class SignedInSerializer(StrictFields):
    token = serializers.CharField()
    expires_at = serializers.DateTimeField()


class TokenView(StrictQuery):
    """POST signs in with name and password; DELETE revokes the token presented."""

    def get_permissions(self) -> list:
        return [AllowAny()] if self.request.method == "POST" else [IsAuthenticated()]

    @extend_schema(request=SignInSerializer, responses=SignedInSerializer)
    def post(self, request: Request) -> Response:
        form = SignInSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        check_sign_in(data["username"])
        user = authenticate(request._request, username=data["username"], password=data["password"])
        if user is None:
            sentence = "The user name or the password is wrong, or the user is not active."
            return Response(
                body("sign_in_failed", sentence),
                status=status.HTTP_401_UNAUTHORIZED,
                headers={"WWW-Authenticate": "Token"},
            )
        token, key = services.token_create(user=user, name=data["name"])
        return Response({"token": key, "expires_at": token.expires_at})

    @extend_schema(request=None, responses={204: None})
    def delete(self, request: Request) -> Response:
        if not isinstance(request.auth, ApiToken):
            raise NotFound("This request was not signed in with a token, so there is none to revoke.")
        services.token_delete(actor=request.user, token=request.auth)
        return Response(status=status.HTTP_204_NO_CONTENT)


class ApiTokenSerializer(StrictModelFields):
    token = serializers.CharField(read_only=True, required=False, help_text="The key; sent once, when it is created.")

    class Meta:
        model = ApiToken
        fields = ["id", "name", "created_at", "last_used_at", "expires_at", "token"]
        read_only_fields = ["id", "created_at", "last_used_at", "expires_at"]


class TokenViewSet(StrictQuery, mixins.ListModelMixin, mixins.DestroyModelMixin, GenericViewSet):
    """My API tokens."""

    serializer_class = ApiTokenSerializer
    queryset = ApiToken.objects.none()
    lookup_value_regex = ProjectViewSet.lookup_value_regex

    def get_queryset(self):
        if getattr(self, "swagger_fake_view", False):
            return ApiToken.objects.none()
        return ApiToken.objects.filter(user=self.request.user)

    def get_object(self) -> ApiToken:
        token = self.get_queryset().filter(pk=self.kwargs["pk"]).first()
        if token is None:
            note_hidden(ApiToken, self.request.user, pk=self.kwargs["pk"])
            raise NotFound("You have no such token.")
        return token

    def create(self, request: Request) -> Response:
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        token, key = services.token_create(user=request.user, name=form.validated_data["name"])
        return Response({**self.get_serializer(token).data, "token": key}, status=status.HTTP_201_CREATED)

    def perform_destroy(self, instance: ApiToken) -> None:
        services.token_delete(actor=self.request.user, token=instance)


class UserSerializer(StrictModelFields):
    is_administrator = serializers.BooleanField(source="is_superuser", required=False)
    password = serializers.CharField(write_only=True, required=False)
    username = serializers.CharField(max_length=150)

    class Meta:
        model = User
        fields = ["id", "username", "email", "is_active", "is_administrator", "password"]
        read_only_fields = ["id"]


class UserViewSet(StrictQuery, mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet):
    """Users of the platform; for administrators, except ``me``."""

    queryset = User.objects.all().order_by("username")
    serializer_class = UserSerializer
    filter_backends = [ByIdFilterBackend]
    filterset_fields = ["username", "is_active"]
    lookup_value_regex = ProjectViewSet.lookup_value_regex

    def get_permissions(self) -> list:
        return [IsAuthenticated()] if self.action == "me" else [IsAuthenticated(), IsAdministrator()]

    def create(self, request: Request) -> Response:
        form = self.get_serializer(data=request.data)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        if not data.get("is_active", True):
            raise InvalidInput("A new user is active.", fields={"is_active": "Create the user, then change it."})
        user = services.user_create(
            actor=request.user, username=data["username"], password=data.get("password", ""), email=data.get("email", ""),
            is_administrator=data.get("is_superuser", False),
        )  # fmt: skip
        return Response(self.get_serializer(user).data, status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, pk: str) -> Response:
        """Change a user. A new password ends the user's sessions and revokes all API tokens, as making them inactive does."""
        user = self.get_object()
        form = self.get_serializer(user, data=request.data, partial=True)
        form.is_valid(raise_exception=True)
        data = form.validated_data
        if data.get("username", user.username) != user.username:
            raise InvalidInput("A user keeps the name.", fields={"username": "Leave it out: the audit trail names it."})
        with transaction.atomic():
            user = services.user_update(
                actor=request.user,
                user=user,
                is_active=data.get("is_active"),
                email=data.get("email"),
                is_administrator=data.get("is_superuser"),
            )
            if "password" in data:
                services.password_change(actor=request.user, user=user, password=data["password"])
        return Response(self.get_serializer(user).data)

    @action(detail=False)
    def me(self, request: Request) -> Response:
        return Response(self.get_serializer(request.user).data)
