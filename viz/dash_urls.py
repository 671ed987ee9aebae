"""The routes of django-plotly-dash that the portal uses: stateless apps only, each behind ``viz.guard.dash_guard``."""

from __future__ import annotations

from django_plotly_dash import urls

from viz.dash_apps import dataset_map, ecg, evaluation, training  # noqa: F401  (each registers its app)

app_name = "the_django_plotly_dash"
urlpatterns = [
    entry
    for entry in urls.urlpatterns
    if str(entry.pattern).startswith("app/<slug:ident>/") or str(entry.pattern) == "app/<slug:ident>"
]
urlpatterns = [entry for entry in urlpatterns if "/initial/" not in str(entry.pattern)]
