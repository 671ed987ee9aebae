from django.urls import path

from ecgportal.projects import views

app_name = "projects"
urlpatterns = [
    path("", views.ProjectListView.as_view(), name="list"),
    path("new/", views.ProjectCreateView.as_view(), name="create"),
    path("roles/", views.RolesView.as_view(), name="roles"),
    path("<uuid:project>/", views.ProjectDetailView.as_view(), name="detail"),
    path("<uuid:project>/edit/", views.ProjectEditView.as_view(), name="edit"),
    path("<uuid:project>/archive/", views.ProjectArchiveView.as_view(), name="archive"),
    path("<uuid:project>/members/", views.MembersView.as_view(), name="members"),
    path("<uuid:project>/members/<uuid:user>/remove/", views.MemberRemoveView.as_view(), name="member_remove"),
]
