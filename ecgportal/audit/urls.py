from django.urls import path

from ecgportal.audit import views

app_name = "audit"
urlpatterns = [
    path("projects/<uuid:project>/audit/", views.ProjectAuditView.as_view(), name="project"),
    path("projects/<uuid:project>/audit/export/", views.ProjectAuditExportView.as_view(), name="project_export"),
    path("audit/", views.AuditView.as_view(), name="all"),
    path("audit/export/", views.AuditExportView.as_view(), name="export"),
]
