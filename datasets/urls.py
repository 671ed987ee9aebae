from django.urls import path

from datasets import views, views_collections, views_labels, views_removing, views_uploads

app_name = "datasets"
urlpatterns = [
    path("projects/<uuid:project>/datasets/", views.DatasetListView.as_view(), name="list"),
    path("projects/<uuid:project>/datasets/new/", views.DatasetCreateView.as_view(), name="create"),
    path("projects/<uuid:project>/datasets/import/", views_collections.ImportView.as_view(), name="import"),
    path("datasets/<uuid:pk>/", views.DatasetDetailView.as_view(), name="detail"),
    path("datasets/<uuid:pk>/edit/", views.DatasetEditView.as_view(), name="edit"),
    path("datasets/<uuid:pk>/delete/", views.DatasetDeleteView.as_view(), name="delete"),
    path("records/<uuid:pk>/delete/", views.RecordDeleteView.as_view(), name="record_delete"),
    path("datasets/<uuid:pk>/duplicates/", views_removing.TwinsView.as_view(), name="twins"),
    path("subjects/<uuid:pk>/delete/", views_removing.SubjectDeleteView.as_view(), name="subject_delete"),
    path("datasets/<uuid:pk>/upload/", views_uploads.UploadView.as_view(), name="upload"),
    path("uploads/<uuid:pk>/discard/", views_uploads.UploadDiscardView.as_view(), name="upload_discard"),
    path("uploads/<uuid:pk>/", views_uploads.IngestView.as_view(), name="ingest"),
    path("datasets/<uuid:pk>/labels/", views_labels.LabelsView.as_view(), name="labels"),
    path("label-tables/<uuid:pk>/", views_labels.LabelImportView.as_view(), name="label_import"),
    path("label-tables/<uuid:pk>/discard/", views_labels.LabelImportDiscardView.as_view(), name="label_import_discard"),
    path("projects/<uuid:project>/label-maps/", views_labels.LabelMapListView.as_view(), name="label_maps"),
    path("projects/<uuid:project>/label-maps/new/", views_labels.LabelMapCreateView.as_view(), name="label_map_create"),
    path("label-maps/<uuid:pk>/", views_labels.LabelMapView.as_view(), name="label_map"),
    path("label-maps/<uuid:pk>/export/", views_labels.LabelMapExportView.as_view(), name="label_map_export"),
]
