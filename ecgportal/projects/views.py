"""Pages of projects and their members."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.forms.models import model_to_dict
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views import View

from ecgportal.accounts.models import User
from ecgportal.errors import InvalidInput, NotFound, PortalError
from ecgportal.forms import take_error
from ecgportal.jobs.models import Job
from ecgportal.projects import access, overview, selectors, services
from ecgportal.projects.access import Action
from ecgportal.projects.forms import MemberForm, ProjectEditForm, ProjectFilterForm, ProjectForm
from ecgportal.projects.models import Role
from ecgportal.views import ProjectView, paginate


class ProjectListView(View):
    """The projects that I am a member of."""

    def get(self, request: HttpRequest) -> HttpResponse:
        form = ProjectFilterForm(request.GET)
        projects = selectors.mine(request.user)
        if text := form.values.get("search"):
            projects = projects.filter(name__icontains=text)
        show = form.values.get("show", "")
        if show != "all":
            projects = projects.filter(archived_at__isnull=show != "archived")
        context = {
            "filters": form,
            "page_obj": paginate(request, projects),
            "is_filtered": bool(form.values),
            "nav_active": "projects",
        }
        return render(request, "projects/list.html", context)


class ProjectCreateView(View):
    """Anyone who is signed in can create a project, and is its owner then."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return self._page(request, ProjectForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        form = ProjectForm(request.POST)
        if form.is_valid():
            try:
                project = services.project_create(actor=request.user, **form.cleaned_data)
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"The project {project.name} is created. You are its owner.")
                return redirect("projects:detail", project=project.pk)
        return self._page(request, form, status=422)

    def _page(self, request: HttpRequest, form: ProjectForm, status: int = 200) -> HttpResponse:
        return render(request, "projects/create.html", {"form": form, "nav_active": "projects"}, status=status)


class ProjectDetailView(ProjectView):
    needs = {"get": Action.PROJECT_VIEW}
    template = "projects/detail.html"
    nav_active = "overview"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        jobs = Job.objects.filter(project=self.project).select_related("created_by")[:8]
        figures = overview.figures(self.project)
        return self.page(
            figures=figures,
            next_step=overview.next_step(figures),
            jobs=jobs,
            member_count=self.project.memberships.count(),
        )


class ProjectEditView(ProjectView):
    needs = {"get": Action.PROJECT_EDIT, "post": Action.PROJECT_EDIT}
    template = "projects/edit.html"
    nav_active = "overview"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        return self.page(
            form=ProjectEditForm(initial=model_to_dict(self.project, ["name", "description", "keeps_identifiers"]))
        )

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = ProjectEditForm(request.POST)
        if form.is_valid():
            try:
                services.project_update(actor=request.user, project=self.project, **form.cleaned_data)
            except PortalError as error:
                self.project.refresh_from_db()
                take_error(form, error)
            else:
                messages.success(request, "The project is saved.")
                return redirect("projects:detail", project=self.project.pk)
        return self.page(form=form, status=422)


class ProjectArchiveView(ProjectView):
    """Ask, then put the project aside or bring it back."""

    needs = {"get": Action.PROJECT_EDIT, "post": Action.PROJECT_EDIT}
    template = "projects/archive.html"
    nav_active = "overview"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        return self.page()

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        archived = self.project.archived_at is None
        services.project_archive(actor=request.user, project=self.project, archived=archived)
        messages.success(
            request, f"{self.project.name} is archived." if archived else f"{self.project.name} is in use again."
        )
        return redirect("projects:list") if archived else redirect("projects:detail", project=self.project.pk)


class MembersView(ProjectView):
    """Who belongs to the project. POST gives a person, named by the user name, a role."""

    needs = {"get": Action.PROJECT_VIEW, "post": Action.MEMBERS_EDIT}
    template = "projects/members.html"
    nav_active = "members"

    def get(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        return self._page(MemberForm(initial={"role": Role.VIEWER}))

    def post(self, request: HttpRequest, project: uuid.UUID) -> HttpResponse:
        form = MemberForm(request.POST)
        if form.is_valid():
            try:
                user = self._user(form.cleaned_data["username"])
                services.member_set(actor=request.user, project=self.project, user=user, role=form.cleaned_data["role"])
            except PortalError as error:
                take_error(form, error)
            else:
                messages.success(request, f"{user.username} is {form.cleaned_data['role']} of {self.project.name} now.")
                return redirect("projects:members", project=self.project.pk)
        return self._page(form, status=422)

    def _user(self, username: str) -> User:
        user = User.objects.filter(username__iexact=username.strip(), is_active=True).first()
        if user is None:
            sentence = "There is no active user of this name. An administrator creates users."
            raise InvalidInput("The member cannot be added.", fields={"username": sentence})
        return user

    def _page(self, form: MemberForm, status: int = 200) -> HttpResponse:
        members = self.project.memberships.select_related("user")
        return self.page(form=form, page_obj=paginate(self.request, members), roles=Role.choices, status=status)


class MemberRemoveView(ProjectView):
    needs = {"post": Action.MEMBERS_EDIT}

    def post(self, request: HttpRequest, project: uuid.UUID, user: uuid.UUID) -> HttpResponse:
        person = User.objects.filter(pk=user).first()
        if person is None:
            raise NotFound("There is no such user.")
        services.member_remove(actor=request.user, project=self.project, user=person)
        messages.success(request, f"{person.username} is no longer a member of {self.project.name}.")
        if person.pk == request.user.pk:
            return redirect("projects:list")
        return redirect("projects:members", project=self.project.pk)


class RolesView(View):
    """The table of roles and what each may do, as the access rules hold it."""

    def get(self, request: HttpRequest) -> HttpResponse:
        rows: list[dict[str, Any]] = [
            {"action": action.value, "allowed": [action in access.ROLE_ALLOWS[role] for role in Role.values]}
            for action in Action
        ]
        return render(request, "projects/roles.html", {"rows": rows, "roles": Role.labels, "nav_active": "projects"})
