from django.urls import path

from viz import views

app_name = "viz"
urlpatterns = [
    path("records/<uuid:pk>/", views.RecordPage.as_view(), name="record"),
    path("records/<uuid:pk>/ecg.svg", views.RecordSvg.as_view(), name="record_svg"),
    path("records/<uuid:pk>/measurements/", views.RecordMeasurements.as_view(), name="measurements"),
    path("evaluations/<uuid:pk>/figures/<slug:kind>.csv", views.EvaluationCsv.as_view(), name="evaluation_csv"),
]
