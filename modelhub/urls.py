from django.urls import path

from modelhub import views

app_name = "modelhub"
urlpatterns = [
    path("projects/<uuid:project>/models/", views.ModelListPage.as_view(), name="list"),
    path("projects/<uuid:project>/models/import/", views.ImportPage.as_view(), name="import"),
    path("projects/<uuid:project>/models/licence/", views.LicencePage.as_view(), name="licence"),
    path("versions/<uuid:pk>/", views.VersionPage.as_view(), name="version"),
    path("versions/<uuid:pk>/download/", views.VersionDownload.as_view(), name="download"),
    path("versions/<uuid:pk>/card/read/", views.CardDocument.as_view(), name="card_read"),
    path("versions/<uuid:pk>/card/", views.CardPage.as_view(), name="card"),
    path("versions/<uuid:pk>/complete/", views.VersionComplete.as_view(), name="complete"),
    path("versions/<uuid:pk>/retire/", views.VersionRetire.as_view(), name="retire"),
    path("versions/<uuid:pk>/alias/", views.VersionAlias.as_view(), name="alias"),
    path("versions/<uuid:pk>/try/", views.VersionTry.as_view(), name="try"),
    path("tried/<uuid:pk>/", views.TriedPage.as_view(), name="tried"),
    path("versions/<uuid:pk>/accept/", views.VersionAccept.as_view(), name="accept"),
    path("versions/<uuid:pk>/delete/", views.VersionDelete.as_view(), name="delete"),
    path("versions/<uuid:pk>/publish/", views.VersionPublish.as_view(), name="publish"),
    path("projects/<uuid:project>/predictions/", views.PredictionListPage.as_view(), name="predictions"),
    path("predictions/<uuid:pk>/", views.PredictionPage.as_view(), name="prediction"),
    path("predictions/<uuid:pk>/rows/", views.PredictionFile.as_view(), name="prediction_file"),
    path("predictions/<uuid:pk>/resume/", views.PredictionResume.as_view(), name="prediction_resume"),
    path("projects/<uuid:project>/exchanges/", views.ExchangePage.as_view(), name="exchanges"),
    path("exchanges/", views.ExchangeAdminPage.as_view(), name="exchange_admin"),
    path("exchanges/keys/", views.KeysPage.as_view(), name="keys"),
    path("networks/", views.NetworksPage.as_view(), name="networks"),
    path("exchanges/<uuid:pk>/", views.ExchangeEditPage.as_view(), name="exchange_edit"),
    path("exchanges/<uuid:pk>/delete/", views.ExchangeDelete.as_view(), name="exchange_delete"),
]
