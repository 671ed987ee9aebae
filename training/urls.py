from django.urls import path

from training import views, views_evaluations

app_name = "training"
urlpatterns = [
    path("projects/<uuid:project>/training/", views.RunListPage.as_view(), name="list"),
    path("projects/<uuid:project>/training/new/", views.RunCreatePage.as_view(), name="create"),
    path("projects/<uuid:project>/training/check/", views.RunCheckPart.as_view(), name="check"),
    path("projects/<uuid:project>/training/measure/", views.MeasureMachine.as_view(), name="measure"),
    path("projects/<uuid:project>/training/rate/", views.RateStart.as_view(), name="find_rate"),
    path("training/rates/<uuid:pk>/", views.RatePart.as_view(), name="rate"),
    path("datasets/<uuid:pk>/train/", views.TrainWithDefaults.as_view(), name="defaults"),
    path("training/<uuid:pk>/", views.RunPage.as_view(), name="detail"),
    path("training/<uuid:pk>/live/", views.RunLive.as_view(), name="live"),
    path("training/<uuid:pk>/search/", views.RunStudy.as_view(), name="search"),
    path("training/<uuid:pk>/take-trial/", views.TrialTake.as_view(), name="take_trial"),
    path("training/<uuid:pk>/curve/", views.RunStudy.as_view(kind="learning_curve"), name="curve"),
    path("training/<uuid:pk>/learning-curve/", views.LearningCurveStart.as_view(), name="learning_curve"),
    path("training/<uuid:pk>/again/", views.RunAgain.as_view(), name="again"),
    path("training/<uuid:pk>/rename/", views.RunRename.as_view(), name="rename"),
    path("training/<uuid:pk>/resume/", views.RunResume.as_view(), name="resume"),
    path("training/<uuid:pk>/delete/", views.RunDelete.as_view(), name="delete"),
    path("projects/<uuid:project>/evaluations/", views_evaluations.EvaluationListPage.as_view(), name="evaluations"),
    path("projects/<uuid:project>/evaluations/compare/", views_evaluations.ComparePage.as_view(), name="compare"),
    path("evaluations/<uuid:pk>/", views_evaluations.EvaluationPage.as_view(), name="evaluation"),
    path("evaluations/<uuid:pk>/report.html", views_evaluations.EvaluationReport.as_view(), name="report"),
    path("evaluations/<uuid:pk>/report.pdf", views_evaluations.EvaluationReport.as_view(kind="pdf"), name="report_pdf"),
    path("versions/<uuid:pk>/validation/", views_evaluations.ValidationPage.as_view(), name="validation"),
]
