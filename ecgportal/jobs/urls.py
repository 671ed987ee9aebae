from django.urls import path

from ecgportal.jobs import views

app_name = "jobs"
urlpatterns = [
    path("projects/<uuid:project>/jobs/", views.JobListView.as_view(), name="list"),
    path("jobs/<uuid:pk>/", views.JobDetailView.as_view(), name="detail"),
    path("jobs/<uuid:pk>/progress/", views.JobFragmentView.as_view(), name="fragment"),
    path("jobs/<uuid:pk>/cancel/", views.JobCancelView.as_view(), name="cancel"),
]
