"""All addresses of the portal."""

from __future__ import annotations

from django.urls import include, path

from ecgportal import pages
from modelhub.dav import DavView

urlpatterns = [
    path("", pages.home, name="home"),
    path("help/", pages.help_page, name="help"),
    path("healthz", pages.healthz, name="healthz"),
    path("accounts/", include("ecgportal.accounts.urls")),
    path("projects/", include("ecgportal.projects.urls")),
    path("", include("ecgportal.jobs.urls")),
    path("", include("ecgportal.audit.urls")),
    path("", include("datasets.urls")),
    path("", include("modelhub.urls")),
    path("", include("modelhub.catalogue_urls")),
    path("", include("training.urls")),
    path("", include("viz.urls")),
    path("dash/", include("viz.dash_urls")),
    path("dav/", DavView.as_view(), name="dav"),
    path("dav/<path:path>", DavView.as_view(), name="dav_path"),
    path("api/v1/", include("ecgportal.api.urls")),
]

handler400 = "ecgportal.api.fallback.bad_request"
handler403 = "ecgportal.api.fallback.permission_denied"
handler404 = "ecgportal.api.fallback.not_found"
handler500 = "ecgportal.api.fallback.server_error"
