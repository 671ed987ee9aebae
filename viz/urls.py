from django.urls import path

from viz import (
    views,
    views_annotations,
    views_beats,
    views_cohort,
    views_compare,
    views_files,
    views_insight,
    views_map,
    views_results,
    views_saliency,
)

app_name = "viz"
urlpatterns = [
    path("datasets/<uuid:pk>/insight/", views_insight.InsightView.as_view(), name="insight"),
    path("datasets/<uuid:pk>/measure/", views_insight.MeasureView.as_view(), name="measure"),
    path("datasets/<uuid:pk>/gallery/", views_cohort.GalleryView.as_view(), name="gallery"),
    path("datasets/<uuid:pk>/outliers/", views_cohort.OutliersView.as_view(), name="outliers"),
    path("datasets/<uuid:pk>/compare/", views_cohort.DatasetCompareView.as_view(), name="dataset_compare"),
    path("datasets/<uuid:pk>/maps/", views_map.MapListView.as_view(), name="maps"),
    path("maps/<uuid:pk>/", views_map.MapView.as_view(), name="map"),
    path("maps/<uuid:pk>/records/", views_map.MapRecordsView.as_view(), name="map_records"),
    path("maps/<uuid:pk>/delete/", views_map.MapDeleteView.as_view(), name="map_delete"),
    path("records/<uuid:pk>/", views.RecordPage.as_view(), name="record"),
    path("records/<uuid:pk>/ecg.svg", views_files.RecordSvg.as_view(), name="record_svg"),
    path("records/<uuid:pk>/ecg.pdf", views_files.RecordPdf.as_view(), name="record_pdf"),
    path("records/<uuid:pk>/beats/", views_beats.RecordBeats.as_view(), name="beats"),
    path("records/<uuid:pk>/compare/", views_compare.CompareView.as_view(), name="compare"),
    path("records/<uuid:pk>/annotate/", views_annotations.AnnotateView.as_view(), name="annotate"),
    path("records/<uuid:pk>/label/", views_annotations.LabelView.as_view(), name="label"),
    path("annotations/<uuid:pk>/delete/", views_annotations.AnnotationDeleteView.as_view(), name="annotation_delete"),
    path("record-labels/<uuid:pk>/delete/", views_annotations.LabelDeleteView.as_view(), name="label_delete"),
    path("record-predictions/<uuid:pk>/saliency/", views_saliency.SaliencyView.as_view(), name="saliency"),
    path(
        "training/<uuid:pk>/figures/<slug:kind>.csv",
        views_results.TrainingFile.as_view(kind="csv"),
        name="training_csv",
    ),
    path(
        "training/<uuid:pk>/figures/<slug:kind>.svg",
        views_results.TrainingFile.as_view(kind="svg"),
        name="training_svg",
    ),
    path(
        "evaluations/<uuid:pk>/figures/<slug:kind>.csv",
        views_results.EvaluationFile.as_view(kind="csv"),
        name="evaluation_csv",
    ),
    path(
        "evaluations/<uuid:pk>/figures/<slug:kind>.svg",
        views_results.EvaluationFile.as_view(kind="svg"),
        name="evaluation_svg",
    ),
]
