from django.urls import path

from modelhub import views, views_exchanges, views_predictions, views_versions

app_name = "modelhub"
urlpatterns = [
    path("projects/<uuid:project>/models/", views.ModelListPage.as_view(), name="list"),
    path("projects/<uuid:project>/models/import/", views.ImportPage.as_view(), name="import"),
    path("projects/<uuid:project>/models/licence/", views.LicencePage.as_view(), name="licence"),
    path("versions/<uuid:pk>/", views_versions.VersionPage.as_view(), name="version"),
    path("versions/<uuid:pk>/download/", views_versions.VersionDownload.as_view(), name="download"),
    path("versions/<uuid:pk>/card/read/", views_versions.CardDocument.as_view(), name="card_read"),
    path("versions/<uuid:pk>/card/", views_versions.CardPage.as_view(), name="card"),
    path("versions/<uuid:pk>/complete/", views_versions.VersionComplete.as_view(), name="complete"),
    path("versions/<uuid:pk>/retire/", views_versions.VersionRetire.as_view(), name="retire"),
    path("versions/<uuid:pk>/alias/", views_versions.VersionAlias.as_view(), name="alias"),
    path("versions/<uuid:pk>/try/", views_predictions.VersionTry.as_view(), name="try"),
    path("tried/<uuid:pk>/", views_predictions.TriedPage.as_view(), name="tried"),
    path("versions/<uuid:pk>/accept/", views_versions.VersionAccept.as_view(), name="accept"),
    path("versions/<uuid:pk>/delete/", views_versions.VersionDelete.as_view(), name="delete"),
    path("versions/<uuid:pk>/publish/", views_versions.VersionPublish.as_view(), name="publish"),
    path("projects/<uuid:project>/predictions/", views_predictions.PredictionListPage.as_view(), name="predictions"),
    path("predictions/<uuid:pk>/", views_predictions.PredictionPage.as_view(), name="prediction"),
    path("predictions/<uuid:pk>/rows/", views_predictions.PredictionFile.as_view(), name="prediction_file"),
    path("predictions/<uuid:pk>/resume/", views_predictions.PredictionResume.as_view(), name="prediction_resume"),
    path("projects/<uuid:project>/exchanges/", views_exchanges.ExchangePage.as_view(), name="exchanges"),
    path("exchanges/", views_exchanges.ExchangeAdminPage.as_view(), name="exchange_admin"),
    path("exchanges/keys/", views_exchanges.KeysPage.as_view(), name="keys"),
    path("networks/", views_exchanges.NetworksPage.as_view(), name="networks"),
    path("exchanges/<uuid:pk>/", views_exchanges.ExchangeEditPage.as_view(), name="exchange_edit"),
    path("exchanges/<uuid:pk>/delete/", views_exchanges.ExchangeDelete.as_view(), name="exchange_delete"),
]
