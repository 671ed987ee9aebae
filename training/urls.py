from django.urls import path

from training import views

app_name = "training"
urlpatterns = [
    path("projects/<uuid:project>/training/", views.RunListPage.as_view(), name="list"),
    path("projects/<uuid:project>/training/new/", views.RunCreatePage.as_view(), name="create"),
    path("datasets/<uuid:pk>/train/", views.TrainWithDefaults.as_view(), name="defaults"),
    path("training/<uuid:pk>/", views.RunPage.as_view(), name="detail"),
    path("training/<uuid:pk>/resume/", views.RunResume.as_view(), name="resume"),
    path("training/<uuid:pk>/delete/", views.RunDelete.as_view(), name="delete"),
    path("projects/<uuid:project>/evaluations/", views.EvaluationListPage.as_view(), name="evaluations"),
    path("evaluations/<uuid:pk>/", views.EvaluationPage.as_view(), name="evaluation"),
    path("evaluations/<uuid:pk>/report.html", views.EvaluationReport.as_view(), name="report"),
]
