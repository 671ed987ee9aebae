from django.urls import path

from modelhub import catalogue_views as views

urlpatterns = [
    path("catalogue/", views.CataloguePage.as_view(), name="catalogue"),
    path("catalogue/compare/", views.ComparePage.as_view(), name="catalogue_compare"),
    path("catalogue/<uuid:pk>/", views.EntryPage.as_view(), name="catalogue_entry"),
    path("catalogue/<uuid:pk>/copy/", views.EntryCopy.as_view(), name="catalogue_copy"),
    path("catalogue/<uuid:pk>/try/", views.EntryTry.as_view(), name="catalogue_try"),
    path("catalogue/<uuid:pk>/withdraw/", views.EntryWithdraw.as_view(), name="catalogue_withdraw"),
    path("catalogue/<uuid:pk>/decide/", views.EntryDecide.as_view(), name="catalogue_decide"),
    path("catalogue/<uuid:pk>/share/", views.EntryShare.as_view(), name="catalogue_share"),
    path("versions/<uuid:pk>/propose/", views.ProposePage.as_view(), name="catalogue_propose"),
]
